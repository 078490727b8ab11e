"""N environments stepped together: in this process, or in worker processes.

The contract is that of Gymnasium's vector environments with autoreset disabled: an episode's last observation
is returned as it is, and every episode begins with an explicit, seeded reset.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dreamer_cli.envs.answers import Crash, Crashes
from dreamer_cli.envs.catalog import built_in
from dreamer_cli.envs.make import EnvConfig, Vec, make_env
from dreamer_cli.envs.native import Native, require_native, why_not
from dreamer_cli.envs.pool import Local, Pool, Workers
from dreamer_cli.envs.probe import open_probe
from dreamer_cli.envs.state import Job, observation_digest
from dreamer_cli.envs.trial import quickest
from dreamer_cli.envs.wrappers import seconds_per_step
from dreamer_cli.errors import DivergedError, EnvError
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Records

__all__ = ["Job", "VectorEnv", "absolute", "cores", "episode_seed", "observation_digest", "probe"]

# A round through a channel costs 0.1 ms and more on a busy machine: quicker environments stay in this process, slower
# ones go to several, and what lies between is tried out.
ASYNC_ABOVE_S, SYNC_BELOW_S = 1e-4, 3e-3
RESTARTS, WITHIN_S = 3, 600.0


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The seed of one episode: the same on every machine, and different for every run, environment and episode."""
    # 31 bits: some environments hand it to C.
    return int(np.random.SeedSequence((seed, env, episode)).generate_state(1)[0] >> 1)


def probe(cfg: EnvConfig, check_stop: Callable[[], None] = lambda: None) -> EnvSpec:
    """What an environment shows and takes; what is not built in is built in a process of its own.

    Raises:
        EnvError: as `make_env`; or the process died, or took longer than `env.timeout_s`.
    """
    cfg = absolute(cfg)
    if built_in(cfg.id or "") or cfg.id is None:
        env = make_env(cfg)
        env.close()
        return env.spec_dreamer
    found = open_probe(cfg, None, False, check_stop)
    found.close()
    return found.spec


class VectorEnv:
    """N environments, one record of each at a time.

    Attributes:
        spec: what the agent is built from.
        vec: how they are stepped, `sync`, `async` or `native`; all give the same records, bit for bit.
        step_s: seconds of one decision of one environment, where `auto` measured it, else None.
        rates: decisions per second of each way that `auto` tried; empty where one was clearly best.
        episodes: N int64, episodes begun so far; may be set (resume): the next reset counts on from there.
        crashed: N bool, which records of the last `receive` are empty, because the environment crashed and was
            restarted; only where `env.on_crash` is `restart`.
        restarts: how often that was, and an episode cut off.
        check_stop: called several times a second while an environment keeps the trainer waiting; may raise to stop
            waiting, which closes everything.
        warn: told of every restart.

    Args:
        seed: with the number of environment and episode it seeds each episode.
        vec: None takes `cfg.vec`.
        render_mode: `rgb_array` if `render` is to draw more than image observations.

    Raises:
        EnvError: as `make_env`; later from `reset`, `receive` and others, after which everything is closed.
    """

    def __init__(
        self,
        cfg: EnvConfig,
        num_envs: int,
        seed: int,
        vec: Vec | None = None,
        render_mode: str | None = None,
        *,
        check_stop: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        cfg = absolute(cfg)
        self.cfg, self.num_envs, self.seed = cfg, num_envs, seed
        self.check_stop, self.warn = check_stop, warn
        self.step_s: float | None = None
        self.rates: dict[Vec, float] = {}
        self.vec: Vec = "sync"
        self._pool = self._open(vec or cfg.vec, render_mode)
        self.episodes = np.zeros(num_envs, np.int64)
        self.crashed = np.zeros(num_envs, bool)
        self.restarts = 0
        self._restarted_at: list[deque[float]] = [deque() for _ in range(num_envs)]
        self._ended = np.ones(num_envs, bool)
        self._lost = np.zeros(num_envs, bool)  # cut off between two steps, along with another; `receive` says so
        self._closed = self._sent = False

    def _open(self, vec: Vec, render_mode: str | None) -> Pool:
        cfg, first = self.cfg, None
        if vec == "native":
            require_native(cfg)
        several = vec == "auto" and self.num_envs > 1
        measured = several and cores() > 1
        if cfg.id is None or built_in(cfg.id):
            env = make_env(cfg, render_mode)
            self.spec: EnvSpec = env.spec_dreamer
            self.step_s = seconds_per_step(env) if measured else None
            env.close()
        else:
            first = open_probe(cfg, render_mode, measured, self.check_stop)
            self.spec, self.step_s = first.spec, first.step_s

        def workers(number: int) -> Pool:
            return Workers(cfg, render_mode, self.num_envs, self.spec, number, self.check_stop, first)

        ways: dict[Vec, Callable[[], Pool]] = {
            "sync": (lambda: workers(1)) if first else lambda: Local(cfg, render_mode, self.num_envs, self.spec),
            "async": lambda: workers(cfg.workers or cores()),
            "native": lambda: Native(cfg, self.num_envs, self.spec, cfg.workers or 0),
        }
        if vec == "auto":
            names: list[Vec] = ["sync"]
            if self.step_s is not None and self.step_s > ASYNC_ABOVE_S:
                names = ["async"] if self.step_s > SYNC_BELOW_S or first else ["sync", "async"]
            # Films are of what environments render, which the vector of games does not.
            names += ["native"] if several and render_mode is None and why_not(cfg) is None else []
            ways = {name: ways[name] for name in names}
        else:
            ways = {vec: ways[vec]}
        if len(ways) > 1:
            self.vec, pool, self.rates = quickest(ways, self.spec, self.num_envs, self.check_stop)
            return pool
        ((self.vec, build),) = ways.items()
        return build()

    def reset(self, mask: np.ndarray | None = None) -> Records:
        """Begin a new episode in the masked environments (N bool; all if None); other rows are stale.

        Where an environment crashes in it and is restarted, the episode after that is begun.
        """
        self._require_idle()
        rows = list(range(self.num_envs)) if mask is None else np.flatnonzero(mask).tolist()
        self._run(lambda: self._reset(rows))
        self._ended[rows] = self._lost[rows] = False
        is_first = np.zeros(self.num_envs, bool)
        is_first[rows] = True
        return self._records(is_first)

    def _reset(self, rows: Sequence[int]) -> None:
        self._ended[list(rows)] = True  # they are not lost, whatever happens
        left = list(rows)
        while left:
            episodes = self.episodes[left].tolist()
            seeds = [episode_seed(self.seed, row, episode) for row, episode in zip(left, episodes, strict=True)]
            crashes = self._pool.reset(left, episodes, seeds, self.check_stop)
            self._restart(crashes)
            self.episodes[left] += 1  # not where that raised: the same episode is still to begin
            left = [row for row in rows if row in crashes]

    def step(self, action: np.ndarray) -> Records:
        """Apply flat actions (N A): `send`, and `receive` at once."""
        self.send(action)
        return self.receive()

    def send(self, action: np.ndarray) -> None:
        """Begin to apply flat actions (N A), without waiting; `receive` must follow before anything else.

        Rows with `is_last` must be reset before the next actions. Environments in worker processes step from here on,
        those in this process in `receive`.

        Raises:
            DivergedError: an action is not finite.
        """
        self._require_idle()
        if self._ended.any():
            raise RuntimeError(f"environments {np.flatnonzero(self._ended).tolist()} ended and were not reset")
        if action.shape != self._pool.board.action.shape:
            raise ValueError(f"actions have shape {action.shape}, expected {self._pool.board.action.shape}")
        if not np.isfinite(action).all():
            raise DivergedError("The policy's action is not finite.", hint="Try a smaller optim.lr.")
        self._pool.board.action[:] = action
        rows = np.flatnonzero(~self._lost).tolist()
        self._run(lambda: self._pool.send(rows, self.check_stop))
        self._sent = True

    def receive(self) -> Records:
        """What followed from the actions that were sent.

        The record of an environment that crashed and was restarted is empty, and its last one; see `crashed`.

        Raises:
            EnvError: an environment raised, died, or took longer than `env.timeout_s` for one step.
        """
        if not self._sent:
            raise RuntimeError("no actions were sent")
        self._run(lambda: self._restart(self._pool.receive(self.check_stop)))
        self._sent = False
        self.crashed, self._lost = self._lost, np.zeros(self.num_envs, bool)
        records = self._records(np.zeros(self.num_envs, bool))
        if self.crashed.any():
            for array in (*records.obs.values(), records.reward, records.is_terminal):
                array[self.crashed] = 0
            records.is_last[self.crashed] = True
        self._ended = records.is_last.copy()
        return records

    def told(self, row: int) -> dict[str, float]:
        """What an environment tells of the episode that the last `receive` ended: numbers by name, if there are any."""
        values = zip(self.spec.told, self._pool.board.told[row].tolist(), strict=True)
        return {name: value for name, value in values if math.isfinite(value)}

    def render(self, envs: Sequence[int] | None = None) -> list[np.ndarray] | None:
        """A picture of some environments (all if None), uint8 (rows, columns, 3); None if there is nothing to see."""
        self._require_idle()
        numbers = range(self.num_envs) if envs is None else envs
        frames = self._run(lambda: self._pool.frames(list(numbers), self.check_stop))
        return None if any(frame is None for frame in frames) else frames

    def states(self) -> list[bytes | None]:
        """N quick ways back to now, for `resume`; None where there is none, the episode has ended, or all is closed.

        Takes no time, and is asked when a run is stopped: the request to stop must not end this, too.
        """
        self._require_idle()
        if self._closed:
            return [None] * self.num_envs
        rows = np.flatnonzero(~self._ended & ~self._lost).tolist()
        try:
            found = dict(zip(rows, self._pool.states(rows, lambda: None), strict=True))
        except EnvError:  # a worker has died; the next step will find it, and say what becomes of that
            found = {}
        return [found.get(row) for row in range(self.num_envs)]

    def resume(self, jobs: Mapping[int, Job]) -> dict[int, str]:
        """Bring environments back into the middle of an episode, by row. Returns why that failed, where it did.

        They go on from there as they would have; `env.timeout_s` counts for every step. Those that failed must be
        reset, and begin the next episode.
        """
        self._require_idle()
        told = {row: (episode_seed(self.seed, row, job.episode), job) for row, job in jobs.items()}

        def say(row: int, text: str) -> None:
            self.warn(f"{self.cfg.id}, environment {row}: {text}")

        def run() -> tuple[dict[int, str], Crashes]:
            self._ended[list(jobs)] = True
            failed, crashes = self._pool.resume(told, self.check_stop, say)
            return failed, self._restart(crashes)

        failed, crashes = self._run(run)
        failed |= {row: crash.error.what for row, crash in crashes.items() if row in jobs}
        for row, job in jobs.items():
            self.episodes[row] = job.episode + 1
            self._ended[row] = row in failed
        return failed

    def close(self) -> None:
        """End every environment and its process; may be called twice, and never waits longer than seconds."""
        self._closed = True
        self._pool.close()

    def __enter__(self) -> "VectorEnv":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _restart(self, crashes: Crashes) -> Crashes:
        """Restart what has crashed, or raise.

        Raises:
            EnvError: `env.on_crash` is `fail`, or it happened too often.
        """
        todo = crashes
        while todo:
            self._allow(todo.items())
            for row in todo:
                self._lost[row] = not self._ended[row]
            todo = self._pool.mend(list(todo), self.check_stop)  # its constructor may crash, too
        return crashes

    def _allow(self, crashes: Iterable[tuple[int, Crash]]) -> None:
        now = time.monotonic()
        for row, (error, guilty) in crashes:
            if self.cfg.on_crash == "fail":
                raise error
            self.restarts += 1
            if not guilty:
                continue
            recent = self._restarted_at[row]
            while recent and now - recent[0] > WITHIN_S:
                recent.popleft()
            if len(recent) == RESTARTS:
                often = f"It was restarted {RESTARTS} times within {WITHIN_S / 60:g} minutes before."
                raise EnvError(f"{error.what} {often}", error.hint) from error
            recent.append(now)
            self.warn(f"{error.what.rstrip('.')}. It is restarted, and its episode cut off.")

    def _require_idle(self) -> None:
        """While environments step, the board is theirs, and their next answer belongs to that step."""
        if self._sent and not self._closed:
            raise RuntimeError("what the environments answer to the last actions was not received")

    def _run(self, call: Callable[[], Any]) -> Any:
        if self._closed:
            raise RuntimeError(f"{self.cfg.id} was closed")
        try:
            return call()
        except BaseException:
            # Workers may be anywhere in their step: none of them can be used again.
            self.close()
            raise

    def _records(self, is_first: np.ndarray) -> Records:
        now = self._pool.board
        return Records(
            obs={key: value.copy() for key, value in now.obs.items()},
            reward=now.reward.copy(),
            is_first=is_first,
            is_last=now.terminated | now.truncated,
            is_terminal=now.terminated.copy(),  # of both at once, terminated counts: nothing follows
        )


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def absolute(cfg: EnvConfig) -> EnvConfig:
    """A file named from the current directory, so that workers find it whatever theirs is."""
    place, _, name = (cfg.id or "").rpartition(":")
    return replace(cfg, id=f"{Path(place).expanduser().resolve()}:{name}") if place.endswith(".py") else cfg
