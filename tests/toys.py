"""Environments of the tests: small, exactly predictable, and some of them broken on purpose.

Used by id, as a user's own would be: `toy("Timeline")` is `/.../tests/toys.py:Timeline`.
"""

import contextlib
import copy
import os
import re
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_cli.envs.make import EnvConfig


def toy(name: str) -> str:
    """The environment id of a class in this file."""
    return f"{Path(__file__).resolve()}:{name}"


def toy_config(name: str, **kwargs: Any) -> EnvConfig:
    """The configuration of a toy; `kwargs` go to its constructor."""
    return EnvConfig(id=toy(name), kwargs=kwargs)


class Toy(gymnasium.Env):
    """Runs for `length` steps; the reward is 1 at every step. What it shows is sampled from its space."""

    observation_space: spaces.Space = spaces.Box(-1, 1, (3,), np.float32)
    action_space: spaces.Space = spaces.Discrete(3)

    def __init__(self, length: int = 5) -> None:
        # Of its own: sampling from a space that several environments share would mix their random numbers.
        self.observation_space = copy.deepcopy(type(self).observation_space)
        self.length = length
        self.t = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.t += 1
        return self.show(), self.reward(action), self.t >= self.length, False, {}

    def show(self) -> Any:
        return self.observation_space.sample()

    def reward(self, action: Any) -> float:
        return 1.0


class Telling(Toy):
    """Tells of every step how far it came, and of every other episode whether it was good; counts in `step`."""

    episode_info = ("steps", "good")

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.good = not getattr(self, "good", True)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"steps": self.t, **({"good": True} if self.good else {})}


class Timeline(Toy):
    """Everything can be worked out by hand: shows [t, start], rewards 10 t + action.

    Ends after `length` steps, as `ends` says: terminated, truncated, or both at once. `start` comes from the seed,
    and the action is one of three, counted from 5.
    """

    observation_space = spaces.Box(0, 1e6, (2,), np.float64)
    action_space = spaces.Discrete(3, start=5)

    def __init__(self, length: int = 3, ends: str = "terminated", vary: bool = False) -> None:
        super().__init__(length)
        self.shortest, self.ends, self.vary = length, ends, vary
        self.start = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        gymnasium.Env.reset(self, seed=seed)
        self.start = int(self.np_random.integers(1000))
        self.length = self.shortest + (self.start % 3 if self.vary else 0)
        self.t = 0
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, reward, over, _, info = super().step(action)
        return obs, reward, over and self.ends != "truncated", over and self.ends != "terminated", info

    def show(self) -> Any:
        return np.array([self.t, self.start], np.float64)

    def reward(self, action: Any) -> float:
        return 10.0 * self.t + action


class Counting(gymnasium.Env):
    """Shows (a number of its episode, the step in it); episode k lasts `lengths[k % n]` steps, reward is the step."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.episode, self.step_ = lengths, -1, 0
        self.mark = 0

    def _obs(self) -> np.ndarray:
        return np.array([self.mark, self.step_], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.episode, self.step_, self.mark = self.episode + 1, 0, (seed or 0) % 10007
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.step_ += 1
        done = self.step_ == self.lengths[self.episode % len(self.lengths)]
        return self._obs(), float(self.step_), done, False, {}


class Everything(Toy):
    """A Dict with one of each kind, nested, with names that are taken and keys that cannot be learnt from."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (16, 24, 3), np.uint8),
            "joints": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
            "height": spaces.Box(-1, 1, (), np.float64),
            "gear": spaces.Discrete(4, start=-1),
            "hand": spaces.Dict({"fingers": spaces.MultiDiscrete([2, 5]), "open": spaces.MultiBinary(3)}),
            "pair": spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (1,)))),
            "reward": spaces.Box(-1, 1, (1,)),
            "mission": spaces.Text(8),
            "path": spaces.Sequence(spaces.Discrete(3)),
        }
    )
    action_space = spaces.Dict(
        {
            "walk": spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32)),
            "arm": spaces.Dict({"grip": spaces.Discrete(2), "keys": spaces.MultiBinary(2)}),
            "dial": spaces.MultiDiscrete([3, 4]),
        }
    )


class MultiDiscreteToy(Toy):
    """Acts by two dials."""

    action_space = spaces.MultiDiscrete([3, 2], start=[1, 0])


class MultiBinaryToy(Toy):
    """Acts by a board of switches."""

    action_space = spaces.MultiBinary((2, 2))


class Continuous(Toy):
    """Acts with numbers between uneven bounds."""

    action_space = spaces.Box(np.array([-3.0, 0.5], np.float32), np.array([1.0, 0.7], np.float32))


class Unbounded(Toy):
    """Its action has no bounds."""

    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Channels(Toy):
    """A picture of any shape; pixel values are as given."""

    def __init__(self, shape: list[int], dtype: str = "uint8", high: float = 255, length: int = 5) -> None:
        super().__init__(length)
        self.observation_space = spaces.Box(0, high, tuple(shape), np.dtype(dtype).type)


class Wordless(Toy):
    """Shows text only."""

    observation_space = spaces.Text(8)


class Drawn(Toy):
    """Renders a red picture of 30 x 200, which turns greener with every step."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  # Gymnasium's way

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> np.ndarray:
        frame = np.zeros((30, 200, 3), np.uint8)
        frame[..., 0], frame[..., 1] = 255, 10 * self.t
        return frame


class Faulty(Toy):
    """Breaks its contract at step `at` (0: in reset), in one of many ways.

    Args:
        only_episode: of this object, from 1; 0: in every one.
        once: a file that is made then, and keeps it from happening again.
        child: a program is started, which sleeps; its process id is written there.
    """

    def __init__(self, fault: str, at: int = 2, only_episode: int = 0, once: str = "", child: str = "") -> None:
        if fault == "constructor":
            raise ZeroDivisionError("no engine")
        if fault == "constructor_hangs":
            time.sleep(3600)
        if fault == "constructor_dies":
            os._exit(9)
        super().__init__(10)
        self.fault, self.at, self.only_episode, self.once = fault, at, only_episode, once
        self.episode, self.broken = 0, False
        if child:
            Path(child).write_text(str(subprocess.Popen(["sleep", "3600"]).pid))
        if fault == "object":
            self.observation_space = spaces.Dict({"thing": spaces.Box(-1, 1, (3,), np.float32)})

    def show(self) -> Any:
        good = np.zeros(3, np.float32)
        self.episode += self.t == 0
        self.broken = self.t == self.at and self.only_episode in (0, self.episode) and self.first()
        if not self.broken:
            return {"thing": good} if self.fault == "object" else good
        match self.fault:
            case "nan":
                return np.array([0, np.nan, 1], np.float32)
            case "inf":
                return np.array([0, np.inf, 1], np.float32)
            case "shape":
                return np.zeros(4, np.float32)
            case "object":
                return {"thing": np.array([None, 1, "x"], object)}
            case "missing":
                return {}
            case "raises":
                raise ZeroDivisionError("the engine fell off")
            case "unpicklable":
                raise type("Local", (Exception,), {})(lambda: 0)
            case "exits":
                raise SystemExit(3)
            case "dies":
                os._exit(17)
            case "hangs":
                time.sleep(3600)
            case "hangs_in_c":  # holds the interpreter's lock: no signal handler, no other thread runs
                re.fullmatch("(a+)+b", "a" * 40)
            case "hogs":
                self.hoard = [np.empty(1 << 22) for _ in range(1 << 18)]  # 8 TB
            case "babbles":  # into every socket that is open, the channel to the trainer too
                for fd in range(3, 64):
                    with contextlib.suppress(OSError):
                        os.write(fd, b"x" * 64 if stat.S_ISSOCK(os.fstat(fd).st_mode) else b"")
                time.sleep(3600)
        return good

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        result = super().step(action)
        return result[:4] if self.fault == "old_api" and self.broken else result

    def first(self) -> bool:
        """Whether this has not happened yet, in any process."""
        try:
            return not self.once or Path(self.once).open("x").close() is None
        except FileExistsError:
            return False

    def reward(self, action: Any) -> Any:
        if not self.broken:
            return 1.0
        return {"nan_reward": float("nan"), "no_reward": None, "huge_reward": 1e300}.get(self.fault, 1.0)


class Dicey(Timeline):
    """Rolls dice that no seed decides."""

    def show(self) -> Any:
        return np.array([self.t, os.getpid() * 1e-3 + time.perf_counter() % 1], np.float64)


class Chatty(Toy):
    """Prints at every step, as many do."""

    def reward(self, action: Any) -> float:
        print("step!")
        return 1.0


class Slow(Toy):
    """Takes 3 ms a step, or what it is told to, which pays for a process of its own."""

    def __init__(self, length: int = 5, seconds: float = 0.003) -> None:
        super().__init__(length)
        self.seconds = seconds

    def reward(self, action: Any) -> float:
        time.sleep(self.seconds)
        return 1.0


class SlowToBuild(Toy):
    """Waits in its constructor."""

    def __init__(self) -> None:
        time.sleep(600)


class Breakable(Timeline):
    """Fails in the middle of its fifth episode, as long as a certain file is there."""

    def __init__(self, flag: str) -> None:
        super().__init__(length=4, vary=True)
        self.flag, self.begun = Path(flag), 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.begun += 1
        return super().reset(seed=seed)

    def reward(self, action: Any) -> float:
        if self.begun == 5 and self.t == 3 and self.flag.exists():
            raise RuntimeError("the wheel came off")
        return super().reward(action)


def made_by_a_function(length: int = 4) -> gymnasium.Env:
    """Not a class, but it makes one."""
    return Toy(length)


NOT_AN_ENV = object
