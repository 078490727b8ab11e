"""The middle of an episode, brought back in another process.

```
reset(seed) ─ a0 a1 ... a63 ─▶ snapshot ─ a64 ... a99 ─▶ now      played again from the reset: always possible
                                  └───────── saved ─────────┘      or from a snapshot: quicker, where there is one
```
Whichever way, what is seen in the end must be what was seen then, bit for bit.

Only ALE has snapshots, of its emulator. They are not the whole truth: the action that sticky actions would repeat, the
last picture, and for one game of 104 (Miniature Golf) more is missing. So the action before is played until it surely
is the one that sticks, then the snapshot is restored. It is never of now, but of some decisions ago; playing those
again draws the picture, and the emulator must then be in the very state that it was in. If it is not (one time in a
thousand an older action stuck until then), the episode is played again from its reset.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from dreamer_cli.envs.suites.atari import Screen
from dreamer_cli.envs.wrappers import DreamerEnv, Pixels, Repeat

# Wrappers whose whole state is known here. Any other may hide some, as a stack of frames does.
KNOWN = (DreamerEnv, Repeat, Pixels, Screen, TimeLimit, OrderEnforcing, PassiveEnvChecker)
APART = 32  # decisions between snapshots; a snapshot costs a seventh of a decision
NEGLIGIBLE = 1e-15  # chance that an action before the snapshot still sticks
GAME = slice(28, 74)  # of an emulator's bytes: the game's MD5 and the name of the first device
LARGEST = 1 << 20  # bytes of a saved state; those of ALE take 15 kB, and 0.1 kB for each number of an action


class Job(NamedTuple):
    """The middle of an episode, to be brought back.

    episode: its number in the environment, from 0; it decides the seed. actions: n A float32, all that were taken in
    it; may be empty beside a state, which is then the only way back. state: of `VectorEnv.states`.
    digest: `observation_digest` of the last observation.
    """

    episode: int
    actions: np.ndarray
    state: bytes | None
    digest: str


class _Snapshot(NamedTuple):
    """Before the decision `at`: the emulator, the steps that each TimeLimit has counted, the generator of numpy.

    before: A float32, the action of the decision before.
    """

    at: int
    before: np.ndarray
    emulator: Any
    elapsed: list[int]
    generator: dict[str, Any]


class Trail:
    """Follows an environment that has snapshots: keeps the last two, and the actions since.

    `of` makes one, or None where the environment has none.

    Args:
        limits: those below `env`, from the outermost in.
        sticks: after so many decisions of the same action it is the one that would be repeated.
    """

    def __init__(self, env: DreamerEnv, limits: list[TimeLimit | Screen], sticks: int) -> None:
        self._env, self._limits, self._sticks, self._apart = env, limits, sticks, max(APART, sticks)
        self._ale_env: Any = env.unwrapped
        self._snapshots: list[_Snapshot] = []
        self._actions: list[np.ndarray] = []  # since the first of the snapshots

    @classmethod
    def of(cls, env: DreamerEnv) -> "Trail | None":
        """Of an ALE game below nothing but known wrappers."""
        layer: Any = env
        limits: list[TimeLimit | Screen] = []
        while type(layer) in KNOWN:
            limits += [layer] if isinstance(layer, (TimeLimit, Screen)) else []
            layer = layer.env
        ale = sys.modules.get("ale_py.env")  # not imported: no game, no need
        if ale is None or type(layer) is not ale.AtariEnv:
            return None
        game: Any = layer
        sticks = float(game.ale.getFloat("repeat_action_probability"))
        skip = game._frameskip if isinstance(game._frameskip, int) else int(game._frameskip[0])
        frames = math.log(NEGLIGIBLE) / math.log(sticks) if 0 < sticks < 1 else 0.0
        if sticks >= 1 or frames > 1000 or game.np_random.bit_generator.state["bit_generator"] != "PCG64":
            return None
        return cls(env, limits, math.ceil(frames / skip))

    def began(self) -> None:
        """An episode was reset."""
        self._snapshots.clear()
        self._actions.clear()

    def stepped(self, action: np.ndarray) -> None:
        """A decision was taken."""
        if self._snapshots:
            self._actions.append(action.copy())
        if self._env.steps % self._apart:
            return
        if len(self._snapshots) == 2:
            old = self._snapshots.pop(0)
            del self._actions[: self._snapshots[0].at - old.at]
        elapsed = [int(limit._elapsed_steps or 0) for limit in self._limits]
        emulator = self._ale_env.ale.cloneState(include_rng=True)
        generator = self._ale_env.np_random.bit_generator.state
        self._snapshots.append(_Snapshot(self._env.steps, action.copy(), emulator, elapsed, generator))

    def save(self) -> bytes | None:
        """JSON in one line, then the emulator's bytes; None while the episode is young and quickly played again."""
        if not self._snapshots or self._env.steps - self._snapshots[0].at < self._apart:
            return None
        start = self._snapshots[0]
        header = {
            "at": start.at,
            "before": start.before.astype(np.float64).tolist(),
            "elapsed": start.elapsed,
            "generator": start.generator,
            "actions": np.stack(self._actions).astype(np.float64).tolist(),
            "now": self._emulator_digest(),
        }
        return json.dumps(header).encode() + b"\n" + start.emulator.serialize()

    def load(self, state: bytes, played: Callable[[np.ndarray], Any]) -> int:
        """Go to the snapshot, and from there to now; the episode must just have been reset. Returns its decisions.

        Args:
            played: takes one action (A,), and raises `Lost` if the episode ends with it.

        Raises:
            ValueError: this is no saved state, or none of this game, or it leads elsewhere.
        """
        header, emulator = _parse(state)
        try:
            at, actions = header["at"], np.array(header["actions"], np.float64).astype(np.float32)
            before = np.array(header["before"], np.float64).astype(np.float32)
            elapsed = [int(steps) for steps in header["elapsed"]]
            usual = self._ale_env.ale.cloneState(include_rng=True).serialize()
            # The length varies with the digits of ALE's random numbers, which it writes as text.
            fits = type(at) is int and 0 < at < 1 << 31 and abs(len(emulator) - len(usual)) <= 1024
            fits = fits and emulator[GAME] == usual[GAME]
            fits = fits and len(elapsed) == len(self._limits) and actions.shape[1:] == (self._env.actions.width,)
            fits = fits and before.shape == (self._env.actions.width,)
            if not fits or not np.isfinite(actions).all() or not np.isfinite(before).all():
                raise ValueError("it does not fit this environment")
            for _ in range(self._sticks):
                played(before)
            # The module's own class: a state of another game, or a broken one, raises here or is refused below.
            restored = sys.modules["ale_py"].ALEState(emulator)
            self._ale_env.ale.restoreState(restored)
            self._ale_env.np_random.bit_generator.state = header["generator"]
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, SystemError) as err:  # the last: nanobind
            raise ValueError(f"{type(err).__name__}: {err}") from err
        for limit, steps in zip(self._limits, elapsed, strict=True):
            limit._elapsed_steps = steps
        self._env.steps = at
        self._snapshots[:] = [_Snapshot(at, before, restored, elapsed, header["generator"])]
        self._actions.clear()
        for action in actions:
            played(action)
        if self._emulator_digest() != header.get("now"):
            raise ValueError("it leads elsewhere")
        return self._env.steps

    def _emulator_digest(self) -> str:
        return hashlib.sha256(self._ale_env.ale.cloneState(include_rng=True).serialize()).hexdigest()


class Lost(Exception):
    """An episode did not come back as it was; the text says how."""


def observation_digest(obs: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of one environment's observation, as the agent sees it: keys, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for key in sorted(obs):
        value = np.asarray(obs[key])
        digest.update(json.dumps([key, value.dtype.str, list(value.shape)]).encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _parse(state: bytes) -> tuple[dict[str, Any], bytes]:
    header, line, emulator = state.partition(b"\n")
    if len(state) > LARGEST or not line:
        raise ValueError("it is no saved state")
    try:
        tree = json.loads(header)
    except (ValueError, RecursionError) as err:
        raise ValueError("it is no saved state") from err
    if not isinstance(tree, dict):
        raise ValueError("it is no saved state")
    return tree, emulator
