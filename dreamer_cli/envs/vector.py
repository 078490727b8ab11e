"""N environments stepped together: in this process, or in a process each.

The contract is that of Gymnasium's vector environments with autoreset disabled: an episode's last observation
is returned as it is, and every episode begins with an explicit, seeded reset.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.pool import Local, Pool, Workers
from dreamer_cli.envs.wrappers import DreamerEnv, seconds_per_step
from dreamer_cli.errors import DivergedError
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Records

# A step through a pipe costs 0.1 ms and more on a busy machine; below this a process of its own does not pay.
ASYNC_FROM_S = 1e-3


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The seed of one episode: the same on every machine, and different for every run, environment and episode."""
    # 31 bits: some environments hand it to C.
    return int(np.random.SeedSequence((seed, env, episode)).generate_state(1)[0] >> 1)


class VectorEnv:
    """N environments, one record of each at a time.

    Attributes:
        spec: what the agent is built from.
        vec: how they are stepped, `sync` or `async`; both give the same records, bit for bit.
        step_s: seconds of one decision of one environment, where `auto` measured it, else None.
        episodes: N int64, episodes begun so far; may be set (resume): the next reset counts on from there.
        check_stop: called every second that a worker keeps the trainer waiting; may raise to stop waiting.

    Args:
        seed: with the number of environment and episode it seeds each episode.
        vec: None takes `cfg.vec`.
        render_mode: `rgb_array` if `render` is to draw more than image observations.

    Raises:
        EnvError: as `make_env`; later from `reset` and `receive`, after which everything is closed.
    """

    def __init__(
        self,
        cfg: EnvConfig,
        num_envs: int,
        seed: int,
        vec: Literal["auto", "sync", "async"] | None = None,
        render_mode: str | None = None,
    ) -> None:
        cfg = absolute(cfg)
        self.cfg, self.num_envs, self.seed = cfg, num_envs, seed
        self.step_s: float | None = None
        probe = make_env(cfg, render_mode)
        self.spec: EnvSpec = probe.spec_dreamer
        self.vec = self._choose(vec or cfg.vec, probe)
        probe.close()
        pools: dict[str, type[Local] | type[Workers]] = {"sync": Local, "async": Workers}
        self._pool: Pool = pools[self.vec](cfg, render_mode, num_envs, self.spec)
        self.episodes = np.zeros(num_envs, np.int64)
        self.check_stop: Callable[[], None] = lambda: None
        self._ended = np.ones(num_envs, bool)
        self._closed = self._sent = False

    def _choose(self, vec: Literal["auto", "sync", "async"], probe: DreamerEnv) -> Literal["sync", "async"]:
        if vec != "auto":
            return vec
        if self.num_envs == 1 or cores() == 1:
            return "sync"
        self.step_s = seconds_per_step(probe)
        return "async" if self.step_s > ASYNC_FROM_S else "sync"

    def reset(self, mask: np.ndarray | None = None) -> Records:
        """Begin a new episode in the masked environments (N bool; all if None); other rows are stale."""
        self._require_idle()
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        seeds = [episode_seed(self.seed, int(i), int(self.episodes[i])) for i in rows]
        self._run(lambda: self._pool.reset(rows, seeds, self.check_stop))
        self.episodes[rows] += 1
        self._ended[rows] = False
        is_first = np.zeros(self.num_envs, bool)
        is_first[rows] = True
        return self._records(is_first)

    def step(self, action: np.ndarray) -> Records:
        """Apply flat actions (N A): `send`, and `receive` at once."""
        self.send(action)
        return self.receive()

    def send(self, action: np.ndarray) -> None:
        """Begin to apply flat actions (N A), without waiting; `receive` must follow before anything else.

        Rows with `is_last` must be reset before the next actions. Environments in processes of their own step from
        here on, those in this process in `receive`.

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
        self._run(self._pool.send)
        self._sent = True

    def receive(self) -> Records:
        """What followed from the actions that were sent.

        Raises:
            EnvError: an environment raised, died, or took longer than `env.timeout_s`, which counts from `send`.
        """
        if not self._sent:
            raise RuntimeError("no actions were sent")
        self._run(lambda: self._pool.receive(self.check_stop))
        self._sent = False
        records = self._records(np.zeros(self.num_envs, bool))
        self._ended = records.is_last.copy()
        return records

    def render(self, envs: Sequence[int] | None = None) -> list[np.ndarray] | None:
        """A picture of some environments (all if None), uint8 (rows, columns, 3); None if there is nothing to see."""
        self._require_idle()
        numbers = range(self.num_envs) if envs is None else envs
        frames = self._run(lambda: self._pool.frames(numbers, self.check_stop))
        return None if any(frame is None for frame in frames) else frames

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
