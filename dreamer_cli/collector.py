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

What is saved lets another process go on in the middle of every episode, and of a round: see `state_dict`.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from dreamer_cli.envs.vector import Job, VectorEnv, observation_digest
from dreamer_cli.errors import StateError
from dreamer_cli.structs import Records


@runtime_checkable
class Driver(Protocol):
    """A policy as the collector calls it; `initial` makes what is carried into the first call."""

    def initial(self, num_envs: int) -> Any: ...

    def __call__(self, records: Records, carry: Any) -> tuple[np.ndarray, Mapping[str, np.ndarray], Any]:
        """Records of N environments and the carry → actions N A, latents N ... to store, the next carry."""


@runtime_checkable
class Packer(Protocol):
    """What turns the carry into named tensors, to save, and back."""

    def pack(self, carry: Any) -> Mapping[str, Tensor]: ...

    def unpack(self, tensors: Mapping[str, Tensor], num_envs: int) -> Any: ...


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
        told: numbers by name that the environment tells of it.
    """

    env: int
    episode: int
    ret: float
    length: int
    step: int
    seconds: float
    told: Mapping[str, float]


class _Round(NamedTuple):
    """A round that has begun: what was seen, actions N A, latents N ..., and the next carry."""

    seen: Records
    action: np.ndarray
    latent: Mapping[str, np.ndarray]
    carry: Any


class Collector:
    """Plays in all environments at once and stores every record.

    Attributes:
        env_steps: environment steps taken, as papers count them: decisions times action repeat.
        records: records stored, those of resets and of last observations included.
        episodes: episodes ended.
        now: the records of the last round, with the last ones of episodes; None before the first round, and in the
            middle of one.
    """

    def __init__(self, envs: VectorEnv, replay: Memory) -> None:
        self.envs, self.replay = envs, replay
        self.env_steps = self.records = self.episodes = 0
        self.now: Records | None = None
        self._carry: Any = None
        self._round: _Round | None = None
        self._returns = np.zeros(envs.num_envs)
        self._decisions = np.zeros(envs.num_envs, np.int64)
        # What these environments answer next follows from nothing that was stored; see `_give_up`.
        self._astray = np.zeros(envs.num_envs, bool)
        self._everyone = np.arange(envs.num_envs)
        self._began = time.monotonic()

    def step(self, driver: Driver) -> list[Ended]:
        """One round: every environment takes one decision. Returns the episodes that ended in it; see `finish`."""
        self.begin(driver)
        return self.finish()

    @property
    def asked(self) -> int:
        """Environment steps taken, and those of a round that is under way."""
        return self.env_steps + (self.envs.num_envs * self.envs.spec.repeat if self._round else 0)

    @property
    def under_way(self) -> bool:
        """Whether a round has begun and is not finished."""
        return self._round is not None

    def begin(self, driver: Driver) -> None:
        """Decide, and send the environments on their way; `finish` must follow.

        Raises:
            EnvError, Preempted, Interrupted: from a reset, see `VectorEnv`; nothing has changed.
        """
        if self._round:
            raise RuntimeError("the round before is not finished")
        now = self._reset_ended(self.now)
        carry = driver.initial(self.envs.num_envs) if self._carry is None else self._carry
        action, latent, carry = driver(now, carry)
        self.envs.send(action)  # first: workers step while their records are stored
        self._add(self._everyone, now, action, latent)
        self.now, self._round = None, _Round(now, action, latent, carry)

    def finish(self) -> list[Ended]:
        """Take in what followed. Returns the episodes that ended.

        Raises:
            EnvError, Preempted, Interrupted: see `VectorEnv.receive`. The round stays as it is, to be saved.
        """
        if self._round is None:
            raise RuntimeError("no round has begun")
        _, action, latent, carry = self._round
        after = self.envs.receive()
        self.env_steps += self.envs.num_envs * self.envs.spec.repeat
        self._returns += after.reward
        self._decisions += 1
        ended: list[Ended] = []
        if self._astray.any():
            after = after._replace(is_last=after.is_last | self._astray)
        if after.is_last.any():
            # A crash leaves no last observation; that the episode broke off shows in the record that follows.
            rows = np.flatnonzero(after.is_last & ~self.envs.crashed & ~self._astray)
            # The policy does not answer a last observation: nothing acts on it, and the next record blanks the memory.
            empty = {name: np.zeros((len(rows), *value.shape[1:]), value.dtype) for name, value in latent.items()}
            if len(rows):
                self._add(rows, _rows(after, rows), np.zeros((len(rows), action.shape[1]), np.float32), empty)
            ended = [self._end(int(row)) for row in np.flatnonzero(after.is_last & ~self._astray)]
            self._returns[self._astray] = self._decisions[self._astray] = 0
            self._astray[:] = False
        self.now, self._carry, self._round = after, carry, None
        return ended

    # ── to save, and to go on from ──────────────────────────────────────────────────────────────────────

    def state_dict(self) -> dict[str, Any]:
        """What is counted, as JSON: the run's counters, and those of the episodes under way."""
        return {
            "env_steps": self.env_steps,
            "records": self.records,
            "episodes": self.episodes,
            "begun": self.envs.episodes.tolist(),
            "returns": self._returns.tolist(),
            "decisions": self._decisions.tolist(),
        }

    def arrays(self, packer: Packer) -> dict[str, np.ndarray | Tensor]:
        """What belongs to `state_dict`, as arrays: the last records, what the policy carries, a round under way,
        and the state of each environment that can tell it."""
        own: dict[str, np.ndarray | Tensor] = {}
        states: list[bytes | None] = []
        if self._round is not None:  # the environments are in the middle of their step, and cannot tell
            seen, action, latent, carry = self._round
            own |= {"round/action": action, **{f"round/latent/{name}": value for name, value in latent.items()}}
        elif self.now is not None:
            seen, carry, states = self.now, self._carry, self.envs.states()
        else:
            return {}
        own |= {f"obs/{key}": value for key, value in seen.obs.items()}
        own |= {name: getattr(seen, name) for name in ("reward", "is_first", "is_last", "is_terminal")}
        own |= {f"carry/{name}": value for name, value in packer.pack(carry).items()}
        return own | {f"env/{i}": np.frombuffer(x, np.uint8) for i, x in enumerate(states) if x is not None}

    def load(
        self,
        state: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        packer: Packer,
        actions: Callable[[int, int, int], np.ndarray | None],
    ) -> list[str]:
        """Go on from what `state_dict` and `arrays` gave: every environment in the middle of its episode.

        Args:
            actions: (environment, number, after): so many of its last actions, before the `after` newest; None if they
                are gone. An environment that cannot tell its state is brought back by them.

        Returns:
            One sentence for each episode that could not be brought back; it is given up, the next one begins.

        Raises:
            StateError: it was saved with another number of environments, or with other spaces.
            EnvError, Preempted, Interrupted: see `VectorEnv.resume`.
        """
        count = self.envs.num_envs
        if len(state["begun"]) != count:
            raise StateError(
                f"The run was collecting in {len(state['begun'])} environments, not in {count}.",
                hint=f"--num-envs {len(state['begun'])}",
            )
        self.env_steps, self.records, self.episodes = state["env_steps"], state["records"], state["episodes"]
        self.envs.episodes[:] = state["begun"]
        self._returns[:], self._decisions[:] = state["returns"], state["decisions"]
        if not tensors:
            return []
        carry = packer.unpack(_below("carry/", tensors), count)
        arrays = {name: value.numpy() for name, value in tensors.items() if not name.startswith("carry/")}
        seen, under_way = self._seen(arrays), "round/action" in arrays
        jobs: dict[int, Job] = {}
        lost: dict[int, str] = {}
        for row in np.flatnonzero(~seen.is_last).tolist():
            digest = observation_digest({key: value[row] for key, value in seen.obs.items()})
            state_of_it = arrays[f"env/{row}"].tobytes() if f"env/{row}" in arrays else None
            past = actions(row, int(self._decisions[row]), int(under_way))
            if past is None and state_of_it is None:
                lost[row] = "its actions are no longer in the replay"
                continue
            past = np.zeros((0, self.envs.spec.action_width), np.float32) if past is None else past
            jobs[row] = Job(state["begun"][row] - 1, past, state_of_it, digest)
        lost |= self.envs.resume(jobs)
        if under_way:
            self._give_up(lost)
            self.envs.send(arrays["round/action"])
            self._round = _Round(seen, arrays["round/action"], _below("round/latent/", arrays), carry)
        else:
            for row in lost:
                seen.is_last[row] = True
                self._returns[row] = self._decisions[row] = 0
            self.now, self._carry = seen, carry
        return [
            f"environment {row}: its episode {state['begun'][row] - 1} cannot go on ({why}), a new one begins"
            for row, why in sorted(lost.items())
        ]

    def _give_up(self, lost: Mapping[int, str]) -> None:
        """In the middle of a round every environment has to step: those that are lost do it in a new episode, which
        begins once more after it. Its answer belongs to no record."""
        self._astray[list(lost)] = True
        if lost:
            self.envs.reset(self._astray)

    def _seen(self, arrays: Mapping[str, np.ndarray]) -> Records:
        """The saved records, whose shapes and types are those of the environments.

        Raises:
            StateError: they are not.
        """
        count, spec = self.envs.num_envs, self.envs.spec
        expected: dict[str, tuple[tuple[int, ...], Any]] = {
            f"obs/{key}": ((count, *obs.shape), np.dtype(obs.dtype)) for key, obs in spec.observation.items()
        }
        expected |= {"reward": ((count,), np.dtype(np.float32))}
        expected |= {flag: ((count,), np.dtype(np.bool_)) for flag in ("is_first", "is_last", "is_terminal")}
        if "round/action" in arrays:
            expected["round/action"] = ((count, spec.action_width), np.dtype(np.float32))
        for name, form in expected.items():
            if name not in arrays or (arrays[name].shape, arrays[name].dtype) != form:
                raise StateError(f"The saved {name} of the environments is not what they show and take.")
        obs = {key: arrays[f"obs/{key}"].copy() for key in spec.observation}
        return Records(obs, *(arrays[name].copy() for name in ("reward", "is_first", "is_last", "is_terminal")))

    def _reset_ended(self, now: Records | None) -> Records:
        """Reset what has ended, or everything before the first round.

        Not at the end of a round: a reset may be interrupted, and nobody would hear of the episodes that ended.
        """
        if now is None:
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
            told=self.envs.told(row),
        )
        self._returns[row] = self._decisions[row] = 0
        self.episodes += 1
        return ended


def _rows(records: Records, rows: np.ndarray) -> Records:
    obs = {key: value[rows] for key, value in records.obs.items()}
    return Records(obs, *(column[rows] for column in records[1:]))


def _below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Those whose name begins so, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
