"""The one environment contract: whatever the environment is, the agent meets a `DreamerEnv`.

Values are checked here, in the process that runs the environment, where the step and the episode are known:
what passes this border is finite, and has the declared shape and type.
"""

import contextlib
import math
import sys
import time
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_cli.envs.actions import ActionCodec, action_names
from dreamer_cli.envs.observations import (
    FLOAT32_MAX,
    USUAL_IMAGE,
    BadValue,
    ObservationCodec,
    Size,
    plain_name,
    resize,
)
from dreamer_cli.errors import DreamerError, EnvError
from dreamer_cli.spaces import EnvSpec, ObsSpec, as_rgb

MEMORY_HINT = "env.max_bytes is what each worker may take; fewer --num-envs leave more to each."
OLD_API = "Gymnasium's API: reset returns (obs, info), step (obs, reward, terminated, truncated, info)."


class Repeat(gymnasium.Wrapper):
    """Applies every action `times` times, sums the rewards, and stops where the episode ends."""

    def __init__(self, env: gymnasium.Env, times: int) -> None:
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One decision: up to `times` environment steps."""
        total = 0.0
        for _ in range(self.times):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


class Pixels(gymnasium.Wrapper):
    """Shows the rendered picture as key `image`, instead of the observation or beside it.

    Args:
        keep: the environment's own observation stays; its `image`, if it has one, becomes `own_image`.
        size: (rows, columns) of the picture.

    Raises:
        EnvError: the environment renders no picture.
    """

    def __init__(self, env: gymnasium.Env, keep: bool, size: Size | None, env_id: str) -> None:
        super().__init__(env)
        self.size = size or USUAL_IMAGE
        self.env_id = env_id
        own: dict[str, spaces.Space] = {}
        if keep and isinstance(env.observation_space, spaces.Dict):
            own = dict(env.observation_space.spaces)
        elif keep:
            own = {plain_name(env.observation_space): env.observation_space}
        # An image of the environment's own makes room: `image` is what is rendered.
        self.names = {key: "own_image" if key == "image" else key for key in own}
        picture = spaces.Box(0, 255, (*self.size, 3), np.uint8)
        self.observation_space = spaces.Dict([("image", picture), *((self.names[k], s) for k, s in own.items())])
        drawn: Any = getattr(env.unwrapped, "dreamer_picture", None)
        # Some draw at any size, so that nothing has to be made smaller, and films can have another one.
        self._draw = (lambda: drawn(self.size)) if callable(drawn) else lambda: self.env.render()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and render the first picture."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._shown(obs), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and render."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(obs), reward, terminated, truncated, info

    def _shown(self, obs: Any) -> dict[str, Any]:
        shown = {"image": self._picture()}
        if self.names:
            plain = not isinstance(self.env.observation_space, spaces.Dict)
            shown |= {name: obs if plain else obs[key] for key, name in self.names.items()}
        return shown

    def _picture(self) -> np.ndarray:
        hint = "Leave out --pixels, or give the environment an rgb_array render mode."
        try:
            frame = as_frame(self._draw())
        except DreamerError:
            raise
        except Exception as err:
            raise EnvError(f"{self.env_id} renders no picture: {type(err).__name__}: {err}", hint=hint) from err
        if frame is None:
            raise EnvError(f"{self.env_id} renders no picture: render() gave no rows x columns x 3 array.", hint=hint)
        if frame.shape[:2] == self.size:
            return frame
        return np.moveaxis(resize(np.moveaxis(frame, -1, 0), self.size), 0, -1)


class DreamerEnv(gymnasium.Wrapper):
    """Observations as a flat dict of settled arrays, the action as one flat float32 vector, every value checked.

    `info` is dropped, for it can be anything, also what no process can send. But numbers in it that the environment
    names in an attribute `episode_info`, say `("success",)`, are kept of every episode's last step, to be logged.

    Attributes:
        spec_dreamer: what the agent is built from.
        number: which environment of a vector this is, for messages; None where there is one only.
        episode, steps: how many episodes were begun, and decisions in this one; may be set, for messages.
        told: the numbers of `spec_dreamer.told`, of the episode that ended last; NaN where one is missing.
    """

    def __init__(self, env: gymnasium.Env, env_id: str, repeat: int = 1, size: Size | None = None) -> None:
        super().__init__(env)
        self.env_id = env_id
        self.observations = ObservationCodec(env.observation_space, size, env_id)
        self.actions = ActionCodec.from_space(env.action_space, env_id, action_names(env))
        self.spec_dreamer = EnvSpec(
            observation=self.observations.specs,
            action=self.actions.parts,
            repeat=repeat,
            left_out=self.observations.left_out,
            told=_told(env),
        )
        self.told = np.full(len(self.spec_dreamer.told), np.nan, np.float32)
        self.observation_space = spaces.Dict({key: _space(spec) for key, spec in self.observations.specs.items()})
        self.action_space = spaces.Box(-np.inf, np.inf, (self.actions.width,), np.float32)
        self.number: int | None = None
        self.episode = self.steps = 0
        self._last: dict[str, np.ndarray] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode.

        Raises:
            EnvError: the environment raised, or broke its contract.
        """
        self.episode += 1
        self.steps = 0
        result = self._guard("reset", lambda: self.env.reset(seed=seed, options=options))
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._broken("reset() did not return (observation, info)", OLD_API)
        return self._settle(result[0]), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Apply one flat action (A,); the reward is finite and fits float32.

        Raises:
            EnvError: the environment raised, or broke its contract.
        """
        self.steps += 1
        result = self._guard("step", lambda: self.env.step(self.actions.decode(action)))
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._broken("step() did not return five values", OLD_API)
        obs, reward, terminated, truncated, info = result
        if len(self.told) and (terminated or truncated):
            self.told[:] = [_number(info, name) for name in self.spec_dreamer.told]
        return self._settle(obs), self._reward(reward), bool(terminated), bool(truncated), {}

    def frame(self) -> np.ndarray | None:
        """A picture of now, uint8 (rows, columns, 3): rendered, else the first image observed, else None."""
        if self.render_mode == "rgb_array":
            frame = as_frame(self._guard("render", self.env.render))
            if frame is not None:
                return frame
        key = next((key for key, spec in self.observations.specs.items() if spec.kind == "image"), None)
        return as_rgb(self._last[key]) if key in self._last else None

    def _guard(self, what: str, call: Any) -> Any:
        """Run the environment's code; what it raises becomes an `EnvError` with the traceback as its cause."""
        try:
            # Standard output is for results: what an environment prints goes where warnings go.
            with contextlib.redirect_stdout(sys.stderr):
                return call()
        except DreamerError:
            raise
        # An environment must not end the training in silence. Ctrl-C is a flag while it runs, and raises nothing.
        except (Exception, SystemExit, KeyboardInterrupt) as err:
            hint = MEMORY_HINT if isinstance(err, MemoryError) else "The traceback is shown by --verbose."
            raise self._broken(f"{what}() raised {type(err).__name__}: {err}", hint) from err

    def _settle(self, obs: Any) -> dict[str, np.ndarray]:
        try:
            self._last = self.observations.read(obs)
        except BadValue as err:
            raise self._broken(str(err), "`dreamer envs check` tries the environment out.") from None
        return self._last

    def _reward(self, reward: Any) -> float:
        try:
            value = float(reward if isinstance(reward, (float, int)) else np.asarray(reward).reshape(()))
        except (TypeError, ValueError):
            raise self._broken(f"the reward is {reward!r}, which is no number") from None
        if not math.isfinite(value):
            raise self._broken(f"the reward is {value}")
        return min(max(value, -FLOAT32_MAX), FLOAT32_MAX)

    def _broken(self, what: str, hint: str = "") -> EnvError:
        where = f"step {self.steps} of episode {self.episode}"
        where += "" if self.number is None else f" in environment {self.number}"
        return EnvError(f"{self.env_id}, {where}: {what}", hint=hint)


def _told(env: gymnasium.Env) -> tuple[str, ...]:
    """Names of what is told at the end of an episode; an attribute of another type means something else."""
    names = getattr(env.unwrapped, "episode_info", ())
    plain = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
    return tuple(dict.fromkeys(names)) if plain else ()


def _number(info: Any, name: str) -> float:
    try:
        return float(info[name])
    except (KeyError, TypeError, ValueError):
        return math.nan


def as_frame(rendered: Any) -> np.ndarray | None:
    """What `render()` gave as a uint8 (rows, columns, 3) picture, or None if it is none.

    Accepts a list of frames (the last one), grey pictures, an alpha channel, and floats from 0 to 1.
    """
    if isinstance(rendered, (list, tuple)) and rendered:
        rendered = rendered[-1]
    frame = np.asarray(rendered)
    if frame.dtype.kind not in "biuf" or frame.ndim not in (2, 3) or not frame.size:
        return None
    if frame.dtype.kind in "bf":
        frame = np.round(np.clip(frame, 0, 1) * 255)
    frame = np.clip(frame, 0, 255).astype(np.uint8)
    frame = np.repeat(frame[..., None], 3, -1) if frame.ndim == 2 else frame
    if frame.shape[-1] == 1:
        frame = np.repeat(frame, 3, -1)
    return np.ascontiguousarray(frame[..., :3]) if frame.shape[-1] in (3, 4) else None


def seconds_per_step(env: DreamerEnv, steps: int = 50, limit_s: float = 1.0) -> float:
    """What one decision under random actions usually takes: the median, so that a busy machine matters less."""
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    done = False
    times: list[float] = []
    while len(times) < steps and sum(times) < limit_s:
        if done:
            env.reset(seed=len(times))
        action = rng.uniform(-1, 1, env.actions.width).astype(np.float32)
        began = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        times.append(time.perf_counter() - began)
        done = terminated or truncated
    return float(np.median(times))


def _space(spec: ObsSpec) -> spaces.Space:
    if spec.kind == "image":
        return spaces.Box(0, 255, spec.shape, np.uint8)
    if spec.kind == "discrete":
        # The highest class of each entry, inclusive.
        return spaces.Box(np.zeros(spec.shape, np.int32), np.array(spec.classes, np.int32) - 1, dtype=np.int32)
    return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)
