"""One environment in a process of its own, and the board that it shares with the trainer.

The board has one row for each environment; commands and short answers go through a pipe. Nothing here, and
nothing that is imported from here, loads torch: a worker starts in a fraction of a second and stays small.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection, parent_process
from typing import Any, NamedTuple

import numpy as np

from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.wrappers import DreamerEnv
from dreamer_cli.errors import DreamerError, EnvError
from dreamer_cli.spaces import EnvSpec


class Board(NamedTuple):
    """Arrays with one row for each of N environments.

    obs: key → N ...; reward: N float32; terminated, truncated: N bool; action: N A float32, written by the trainer.
    """

    obs: dict[str, np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    action: np.ndarray


def board_bytes(spec: EnvSpec, num_envs: int) -> int:
    """Memory that a board takes."""
    return sum(_padded(shape, dtype) for _, shape, dtype in _fields(spec, num_envs))


def board(spec: EnvSpec, num_envs: int, memory: Any) -> Board:
    """Lay a board over `board_bytes` of memory, shared or not."""
    arrays, offset = {}, 0
    for name, shape, dtype in _fields(spec, num_envs):
        arrays[name] = np.ndarray(shape, dtype, memory, offset)
        offset += _padded(shape, dtype)
    own = {name: arrays.pop(name) for name in ("/reward", "/terminated", "/truncated", "/action")}
    return Board(arrays, *own.values())


def _fields(spec: EnvSpec, num_envs: int) -> Iterator[tuple[str, tuple[int, ...], np.dtype]]:
    for key, obs in spec.observation.items():
        yield key, (num_envs, *obs.shape), np.dtype(obs.dtype)
    # No key of an observation begins with a slash: it joins the names of a path.
    yield "/reward", (num_envs,), np.dtype(np.float32)
    yield "/terminated", (num_envs,), np.dtype(np.bool_)
    yield "/truncated", (num_envs,), np.dtype(np.bool_)
    yield "/action", (num_envs, spec.action_width), np.dtype(np.float32)


def _padded(shape: tuple[int, ...], dtype: np.dtype) -> int:
    size = int(np.prod(shape)) * dtype.itemsize
    return -(-size // 64) * 64  # rows of different arrays share no cache line


def build(cfg: EnvConfig, render_mode: str | None, number: int, spec: EnvSpec) -> DreamerEnv:
    """Build environment `number` of a vector.

    Raises:
        EnvError: also if its spaces are not those of the first one.
    """
    env = make_env(cfg, render_mode)
    env.number = number
    if env.spec_dreamer != spec:
        raise EnvError(
            f"{cfg.id} does not always have the same spaces.",
            hint="One agent needs one observation and one action space: fix them with --env-kwarg.",
        )
    return env


def reset_row(env: DreamerEnv, rows: Board, seed: int) -> None:
    """Begin an episode and write its first observation."""
    obs, _ = env.reset(seed=seed)
    _write(env, rows, obs, 0.0, False, False)


def step_row(env: DreamerEnv, rows: Board) -> None:
    """Apply the action that stands on the board, and write what follows."""
    obs, reward, terminated, truncated, _ = env.step(rows.action[env.number])
    _write(env, rows, obs, reward, terminated, truncated)


def _write(
    env: DreamerEnv, rows: Board, obs: dict[str, np.ndarray], reward: float, terminated: bool, truncated: bool
) -> None:
    for key, value in obs.items():
        rows.obs[key][env.number] = value
    rows.reward[env.number] = reward
    rows.terminated[env.number] = terminated
    rows.truncated[env.number] = truncated


def close_quietly(env: DreamerEnv) -> None:
    """Close; an environment that fails while it is put away can do no harm any more, and must not hide an error."""
    with contextlib.suppress(Exception):
        env.close()


def serve(
    cfg: EnvConfig, render_mode: str | None, number: int, num_envs: int, spec: EnvSpec, memory: Any, pipe: Any
) -> None:
    """The life of a worker: build the environment, answer commands until `close` or until the trainer is gone.

    Commands are (`reset`, seed), (`step`, None), (`frame`, None), (`close`, None). Answers are (`ok`, value) or
    (`error`, (what, hint, traceback)): text, because an environment's exception may not survive pickling.
    """
    _become_worker()
    try:
        rows = board(spec, num_envs, memory)
        env = _answer(pipe, lambda: build(cfg, render_mode, number, spec), lambda built: None)
        if env is None:
            return
        actions: dict[str, Callable[[Any], Any]] = {
            "reset": lambda seed: reset_row(env, rows, seed),
            "step": lambda _: step_row(env, rows),
            "frame": lambda _: env.frame(),
        }
        while True:
            command, argument = pipe.recv()
            if command == "close":
                break
            _answer(pipe, lambda: actions[command](argument), lambda value: value)  # noqa: B023  # called at once
        close_quietly(env)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the trainer is gone, nobody is left to tell


def _answer(pipe: Any, call: Callable[[], Any], shown: Callable[[Any], Any]) -> Any:
    try:
        value = call()
    except DreamerError as err:
        pipe.send(("error", (err.what, err.hint, traceback.format_exc())))
        return None
    pipe.send(("ok", shown(value)))
    return value


def _become_worker() -> None:
    """Leave signals to the trainer, stdout to its result, and end with it."""
    # Ctrl-C and `timeout` signal the whole group, schedulers every process of a job. The trainer still wants
    # to finish its step and save; it ends its workers itself, with SIGKILL where asking does not help.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            # A handler, not SIG_IGN, which the programs that some environments start would inherit.
            signal.signal(getattr(signal, name), lambda number, frame: None)
    # Forked workers inherit one state of numpy's global generator; environments that still use it would all play alike.
    np.random.seed()  # noqa: NPY002
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Needed while the environment hangs in its own code: an idle worker sees the closed pipe."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
