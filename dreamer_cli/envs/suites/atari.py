"""Atari 2600 games as the papers play them, one at a time or many at once; the same pictures from both.

```
one decision   the action is held for `frameskip` frames ──▶ the larger of the last two ──▶ area mean ──▶ rows x columns
one episode    0 to `noop_max` frames of doing nothing first; ends with the game, at a lost life if asked, or in time
```
`Screen` is one game below Gymnasium's wrappers; `envs/native.py` has many, stepped by ALE in C++.
Source: Machado et al. 2018 (arXiv 1709.06009); the area filter is ALE's own, where the papers' code is bilinear.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_cli.errors import ConfigError, closest

FRAME_LIMIT, ENDLESS = 108_000, 2**31 - 1  # half an hour, and more than anybody plays
USUAL_SIZE = 64, 64
# What else `ale_py.AtariEnv` takes of an action, a sound or a game.
GAME_KNOWS = ("obs_type", "mode", "difficulty", "continuous", "continuous_action_threshold", "sound_obs")
# What of a protocol an environment of ALE plays by itself.
ALE_KNOWS = ("frameskip", "repeat_action_probability", "full_action_space", "max_num_frames_per_episode")


class Protocol(NamedTuple):
    """How a game is played. The names are those of ALE's own environments, and of `--env-kwarg`.

    Attributes:
        frameskip: frames that an action is held for; of a range, low and high, each decision draws one (high excluded).
        repeat_action_probability: chance of each frame that the action of the frame before is held instead ("sticky").
        full_action_space: all 18 actions of the console, instead of those that have an effect in the game.
        noop_max: an episode begins with 0 to so many frames of doing nothing.
        maxpool: the larger of the last two frames, because many games draw some things in every other frame only.
        grayscale: one channel instead of three.
        episodic_life: a lost life ends the episode, and the next begins a new game.
        max_num_frames_per_episode: after so many frames an episode is cut off, those of doing nothing not counted; 0:
            never.
    """

    frameskip: int | tuple[int, int] = 4
    repeat_action_probability: float = 0.25
    full_action_space: bool = False
    noop_max: int = 0
    maxpool: bool = False
    grayscale: bool = False
    episodic_life: bool = False
    max_num_frames_per_episode: int = FRAME_LIMIT

    @property
    def frames(self) -> int:
        """Of one decision; of a range its mean."""
        skip = self.frameskip
        return skip if isinstance(skip, int) else round((skip[0] + skip[1] - 1) / 2)


def protocol(kwargs: Mapping[str, Any], decisions: int | None = None) -> tuple[Protocol, dict[str, Any]]:
    """What is asked for, and the arguments that are left for the environment of ALE.

    decisions: after so many an episode is cut off, too.

    Raises:
        ConfigError: a value of another type, or one that cannot be.
    """
    own = {name: value for name, value in kwargs.items() if name in Protocol._fields}
    for name, value in own.items():
        wanted = type(Protocol._field_defaults[name])
        fits = type(value) is wanted or (wanted is float and type(value) is int) or _is_range(name, value)
        if not fits or (not isinstance(value, (list, tuple)) and value < 0):
            raise ConfigError(f"{name} is {value!r}.", hint=f"Known for {name}: {wanted.__name__}s from 0 on.")
    if "frameskip" in own and not isinstance(own["frameskip"], int):
        own["frameskip"] = tuple(own["frameskip"])
    if own.get("max_num_frames_per_episode") == 0:  # as ALE has it
        own["max_num_frames_per_episode"] = ENDLESS
    asked = Protocol(**own)
    if asked.frames < 1:
        raise ConfigError(f"frameskip is {asked.frameskip}.", hint="At least 1; of a range [low, high], high excluded.")
    if asked.repeat_action_probability > 1:
        raise ConfigError(f"repeat_action_probability is {asked.repeat_action_probability:g}.", hint="From 0 to 1.")
    if decisions is not None:
        limit = min(asked.max_num_frames_per_episode, decisions * asked.frames)
        asked = asked._replace(max_num_frames_per_episode=limit)
    return asked, {name: value for name, value in kwargs.items() if name not in own}


def _is_range(name: str, value: Any) -> bool:
    return (
        name == "frameskip"
        and isinstance(value, (list, tuple))
        and [type(entry) for entry in value] == [int, int]
        and 0 < value[0] < value[1]
    )


def shows_screen(kwargs: Mapping[str, Any]) -> bool:
    """Whether the game is to be seen, and steered by its buttons: not so by its memory, sound, or a stick's angle."""
    return kwargs.get("obs_type", "rgb") != "ram" and not kwargs.get("sound_obs") and not kwargs.get("continuous")


def build(
    env_id: str, kwargs: Mapping[str, Any], size: tuple[int, int] | None, decisions: int | None, mode: str | None
) -> gymnasium.Env:
    """One game.

    Args:
        env_id: as Gymnasium knows it, `ALE/Pong-v5`.
        kwargs: entries of `Protocol`, and what `ale_py.AtariEnv` takes.
        size: (rows, columns) of the picture.
        decisions: after so many an episode is cut off.

    Raises:
        ConfigError: a game cannot be played like this.
    """
    drawn: dict[str, Any] = {"render_mode": mode} if mode is not None else {}
    known = [*Protocol._fields, *GAME_KNOWS]
    for name in kwargs:
        if name not in known:
            raise ConfigError(
                f"{env_id} has no argument {name!r}.", hint=closest(name, known) + f"Known: {', '.join(known)}."
            )
    if not shows_screen(kwargs):
        limit: dict[str, Any] = {} if decisions is None else {"max_episode_steps": decisions}
        played, left = protocol(kwargs)
        # What the suite's preset says of pictures and idle frames has no meaning here.
        own = {name: getattr(played, name) for name in ALE_KNOWS if name in kwargs}
        game = gymnasium.make(env_id, disable_env_checker=True, **limit, **drawn, **left, **own)
        game.unwrapped.decision_frames = played.frames  # type: ignore[attr-defined]
        return game
    asked, left = protocol(kwargs, decisions)
    if left.pop("obs_type", "rgb") == "grayscale":
        asked = asked._replace(grayscale=True)
    game = gymnasium.make(
        env_id,
        disable_env_checker=True,
        frameskip=1,
        repeat_action_probability=asked.repeat_action_probability,
        full_action_space=asked.full_action_space,
        max_num_frames_per_episode=0,  # counted above
        **drawn,
        **left,
    )
    return Screen(game.unwrapped, asked, size or USUAL_SIZE)


class Screen(gymnasium.Wrapper):
    """One game of ALE, frame by frame below, decision by decision above.

    Bit for bit what ALE's own vector of games shows from the same seed, sticky actions, idle frames and all; so it has
    its oddities, too: the frame in which an episode ends is not seen, and `noop_max` itself is never drawn.

    Args:
        env: `ale_py.AtariEnv` itself.
        size: (rows, columns) of the picture.
    """

    def __init__(self, env: gymnasium.Env, asked: Protocol, size: tuple[int, int]) -> None:
        super().__init__(env)
        game: Any = env
        self.ale, self.buttons, self.load_game = game.ale, game._action_set, game.load_game
        self.asked, self.area = asked, Area(self.ale.getScreenDims(), size)
        self.decision_frames = asked.frames
        self.observation_space = spaces.Box(0, 255, (*size, 1 if asked.grayscale else 3), np.uint8)
        self.grab = self.ale.getScreenGrayscale if asked.grayscale else self.ale.getScreenRGB
        self.last = self.last_but_one = np.zeros(())  # frames of the newest decision
        self._elapsed_steps = 0  # frames; called as TimeLimit calls its own

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new game, and a random number of frames of doing nothing."""
        if seed is not None:  # as the vector of games does it, which AtariEnv does not; nor twice, it takes 0.1 s
            self.env.unwrapped.np_random = np.random.Generator(np.random.PCG64(seed))
            self.ale.setInt("random_seed", seed)
            self.load_game()
        _, info = self.env.reset(options=options)
        for _ in range(idle_frames(int(self.np_random.integers(1 << 31)) if seed is None else seed, self.asked)):
            self.ale.act(0)
            if self.ale.game_over():
                self.ale.reset_game()
        self._elapsed_steps = 0
        self.last = self.grab()
        self.last_but_one = np.zeros_like(self.last)
        return self._picture(), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One decision; rewards of its frames are added up, and never clipped."""
        ale, button, asked = self.ale, self.buttons[action], self.asked
        total, lives, over = 0.0, ale.lives(), False
        skip = asked.frameskip
        for left in reversed(range(skip if isinstance(skip, int) else int(self.np_random.integers(*skip)))):
            total += ale.act(button)
            self._elapsed_steps += 1
            over = ale.game_over() or (asked.episodic_life and 0 < ale.lives() < lives)
            if over or self._elapsed_steps >= asked.max_num_frames_per_episode:
                break
            if left == 1 and asked.maxpool:
                self.last_but_one = self.grab()
            elif left == 0:
                self.last = self.grab()
        truncated = not over and self._elapsed_steps >= asked.max_num_frames_per_episode
        return self._picture(), total, over, truncated, {"lives": ale.lives()}

    def _picture(self) -> np.ndarray:
        if self.asked.maxpool:
            self.last = np.maximum(self.last, self.last_but_one)
        return self.area(self.last if self.last.ndim == 3 else self.last[..., None])


def idle_frames(seed: int, asked: Protocol) -> int:
    """Drawn as by C++: `uniform_int_distribution(0, noop_max - 1)` of a `mt19937`, with Lemire's method."""
    if asked.noop_max < 2:
        return 0
    draw = np.random.RandomState(seed)
    product = int(draw.randint(1 << 32, dtype=np.uint64)) * asked.noop_max
    while product % (1 << 32) < -(1 << 32) % asked.noop_max:
        product = int(draw.randint(1 << 32, dtype=np.uint64)) * asked.noop_max
    return product >> 32


class Area:
    """uint8 (rows, columns, C) → (rows, columns, C) of another size, by area: the mean of what lies beneath a pixel.

    In the order and precision of OpenCV, which ALE uses, so that means between two numbers are rounded alike, too.
    """

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        (rows, columns), (self.rows, self.columns) = before, after
        self.blocks = (rows // after[0], columns // after[1])
        self.whole = rows % after[0] == 0 and columns % after[1] == 0
        self.down, self.across = taps(rows, self.rows), taps(columns, self.columns)

    def __call__(self, screen: np.ndarray) -> np.ndarray:
        """Rounded to the nearest; between two, to the even one, but of blocks of 2x2 to the larger one."""
        channels = screen.shape[2]
        if self.whole:
            tall, wide = self.blocks
            blocks = screen.reshape(self.rows, tall, self.columns, wide, channels)
            total = blocks.sum((1, 3), dtype=np.int32)
            if self.blocks == (2, 2):
                return ((total + 2) >> 2).astype(np.uint8)
            return np.rint(total.astype(np.float32) * np.float32(1 / (tall * wide))).astype(np.uint8)
        narrow = _weigh(screen.astype(np.float32), self.across, 1)
        return np.rint(_weigh(narrow, self.down, 0)).astype(np.uint8)


def _weigh(picture: np.ndarray, taps: Sequence[tuple[np.ndarray, np.ndarray]], axis: int) -> np.ndarray:
    """Sums along an axis, term by term, since the order decides the last bit."""
    total: Any = 0
    for index, weight in taps:
        total = total + picture.take(index, axis) * (weight[:, None, None] if axis == 0 else weight[:, None])
    return np.asarray(total)


@cache
def taps(before: int, after: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """What lies beneath each of `after` new pixels, from first to last: (index of the old pixel, its share), each
    `after` long; who has fewer old pixels beneath him has shares of 0 at the end.

    An old pixel of which less than a thousandth lies beneath is left out.
    """
    scale = before / after
    found: list[list[tuple[int, float]]] = []
    for new in range(after):
        begin = new * scale
        end = begin + scale
        first, last = math.ceil(begin), min(math.floor(end), before - 1)
        first = min(first, last)
        cell = min(scale, before - begin)
        beneath = [(first - 1, (first - begin) / cell)] if first - begin > 1e-3 else []
        beneath += [(old, 1 / cell) for old in range(first, last)]
        beneath += [(last, min(end - last, 1.0, cell) / cell)] if end - last > 1e-3 else []
        found.append(beneath)
    most = max(map(len, found))
    padded = np.array([[*beneath, *[(0, 0.0)] * (most - len(beneath))] for beneath in found])
    return tuple((padded[:, i, 0].astype(np.intp), padded[:, i, 1].astype(np.float32)) for i in range(most))
