"""Policy ↔ environments → replay: one record of each environment a round, and the counting.

```
begin    now ──▶ policy ──▶ envs.send(action), replay.add(now, action, latent)
         ┊                       environments step; whoever calls may do something else
finish   envs.receive() ──▶ next now
              │ is_last
              ▼
         replay.add(last, no action, no latent) ··▶ reset, as the next round begins
```
An episode of n decisions gives n + 1 records: its reset, and what followed each decision. Those that were acted on are
stored as the round begins, so what is learnt in the middle of it lacks nothing but the ends of episodes that it brings.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import StateError
from dreamer_cli.structs import Records


@runtime_checkable
class Driver(Protocol):
    """A policy as the collector calls it; `initial` makes what is carried into the first call."""

    def initial(self, num_envs: int) -> Any: ...

    def __call__(self, records: Records, carry: Any) -> tuple[np.ndarray, Mapping[str, np.ndarray], Any]:
        """Records of N environments and the carry → actions N A, latents N ... to store, the next carry."""


@runtime_checkable
class Memory(Protocol):
    """What the collector needs of a replay."""

    def add(self, env_ids: np.ndarray, records: Records, action: np.ndarray, latent: Mapping[str, np.ndarray]) -> None:
        """Append one record to each of some streams."""


class Ended(NamedTuple):
    """An episode that has ended.

    Attributes:
        env, episode: in which environment, and its number there, from 0.
        ret: sum of rewards.
        length: environment steps, action repeat counted.
        step: environment steps of the whole run when it ended.
        seconds: wall seconds since the collector was made.
    """

    env: int
    episode: int
    ret: float
    length: int
    step: int
    seconds: float


class _Round(NamedTuple):
    """What a round that has begun will need in the end: actions N A, latents N ..., and the next carry."""

    action: np.ndarray
    latent: Mapping[str, np.ndarray]
    carry: Any


class Collector:
    """Plays in all environments at once and stores every record.

    Attributes:
        env_steps: environment steps taken, as papers count them: decisions times action repeat.
        records: records stored, those of resets and of last observations included.
        episodes: episodes ended.
        now: the records of the last round, with the last ones of episodes; None before the first round, in the middle
            of one, and after a failed one.
    """

    def __init__(self, envs: VectorEnv, replay: Memory) -> None:
        self.envs, self.replay = envs, replay
        self.env_steps = self.records = self.episodes = 0
        self.now: Records | None = None
        self._carry: Any = None
        self._under_way: _Round | None = None
        self._returns = np.zeros(envs.num_envs)
        self._decisions = np.zeros(envs.num_envs, np.int64)
        self._everyone = np.arange(envs.num_envs)
        self._began = time.monotonic()

    def step(self, driver: Driver) -> list[Ended]:
        """One round: every environment takes one decision. Returns the episodes that ended in it; see `finish`."""
        self.begin(driver)
        return self.finish()

    @property
    def asked(self) -> int:
        """Environment steps taken, and those of a round that is under way."""
        return self.env_steps + (self.envs.num_envs * self.envs.spec.repeat if self._under_way else 0)

    def begin(self, driver: Driver) -> None:
        """Decide, and send the environments on their way; `finish` must follow."""
        if self._under_way:
            raise RuntimeError("the round before is not finished")
        now, self.now = self._reset_ended(self.now), None
        carry = driver.initial(self.envs.num_envs) if self._carry is None else self._carry
        action, latent, carry = driver(now, carry)
        self.envs.send(action)  # first: workers step while their records are stored
        self._add(self._everyone, now, action, latent)
        self._under_way = _Round(action, latent, carry)

    def finish(self) -> list[Ended]:
        """Take in what followed. Returns the episodes that ended.

        Raises:
            EnvError: see `VectorEnv.receive`; what was decided is stored, the next round begins with resets.
        """
        if self._under_way is None:
            raise RuntimeError("no round has begun")
        (action, latent, carry), self._under_way = self._under_way, None
        after = self.envs.receive()
        self.env_steps += self.envs.num_envs * self.envs.spec.repeat
        self._returns += after.reward
        self._decisions += 1
        ended: list[Ended] = []
        if after.is_last.any():
            rows = np.flatnonzero(after.is_last)
            # The policy does not answer a last observation: nothing acts on it, and the next record blanks the memory.
            empty = {name: np.zeros((len(rows), *value.shape[1:]), value.dtype) for name, value in latent.items()}
            self._add(rows, _rows(after, rows), np.zeros((len(rows), action.shape[1]), np.float32), empty)
            ended = [self._end(int(row)) for row in rows]
        self.now, self._carry = after, carry
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Counters, as JSON. Episodes that are under way are not saved: after a resume new ones begin."""
        if self._under_way:
            raise RuntimeError("half a round cannot be saved")
        return {
            "env_steps": self.env_steps,
            "records": self.records,
            "episodes": self.episodes,
            "begun": self.envs.episodes.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a saved state; the next round begins with resets.

        Raises:
            StateError: it was saved with another number of environments.
        """
        if len(state["begun"]) != self.envs.num_envs:
            raise StateError(
                f"The run was collecting in {len(state['begun'])} environments, not in {self.envs.num_envs}.",
                hint=f"--num-envs {len(state['begun'])}",
            )
        self.env_steps, self.records, self.episodes = state["env_steps"], state["records"], state["episodes"]
        self.envs.episodes[:] = state["begun"]
        self.now = self._carry = None

    def _reset_ended(self, now: Records | None) -> Records:
        """Reset what has ended, or everything where nothing is known to go on.

        Not at the end of a round: a reset may be interrupted, and nobody would hear of the episodes that ended.
        """
        if now is None:
            self._returns[:] = self._decisions[:] = 0
            return self.envs.reset()
        return now.updated(self.envs.reset(now.is_last), now.is_last) if now.is_last.any() else now

    def _add(self, rows: np.ndarray, records: Records, action: np.ndarray, latent: Mapping[str, np.ndarray]) -> None:
        self.replay.add(rows, records, action, latent)
        self.records += len(rows)

    def _end(self, row: int) -> Ended:
        ended = Ended(
            env=row,
            episode=int(self.envs.episodes[row]) - 1,
            ret=float(self._returns[row]),
            length=int(self._decisions[row]) * self.envs.spec.repeat,
            step=self.env_steps,
            seconds=time.monotonic() - self._began,
        )
        self._returns[row] = self._decisions[row] = 0
        self.episodes += 1
        return ended


def _rows(records: Records, rows: np.ndarray) -> Records:
    obs = {key: value[rows] for key, value in records.obs.items()}
    return Records(obs, *(column[rows] for column in records[1:]))
