"""Crafter: survive in a world of blocks, and achieve 22 things.

`crafter/reward` pays for every new achievement and for health, `crafter/noreward` nothing. What was achieved in an
episode is told with its end, as `achievement_collect_coal` and so on, 0 or 1.
Source: Hafner 2021 (arXiv 2109.06780), official code, whose API is that of old gym.
"""

import contextlib
import importlib
import io
from collections import defaultdict
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

ACHIEVEMENTS = (
    "collect_coal", "collect_diamond", "collect_drink", "collect_iron", "collect_sapling", "collect_stone",
    "collect_wood", "defeat_skeleton", "defeat_zombie", "eat_cow", "eat_plant", "make_iron_pickaxe", "make_iron_sword",
    "make_stone_pickaxe", "make_stone_sword", "make_wood_pickaxe", "make_wood_sword", "place_furnace", "place_plant",
    "place_stone", "place_table", "wake_up",
)  # fmt: skip
FILM = 512


class Crafter(gymnasium.Env):
    """One world."""

    episode_info = tuple(f"achievement_{name}" for name in ACHIEVEMENTS)

    def __init__(self, reward: bool = True, render_mode: str | None = None, **kwargs: Any) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # old gym says that it is old
            package: Any = importlib.import_module("crafter")
        self._make = lambda seed: package.Env(reward=reward, seed=seed, **kwargs)
        self.env: Any = self._make(0)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, self.env.observation_space.shape, np.uint8)
        self.action_space = spaces.Discrete(int(self.env.action_space.n))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new world, which depends on the seed alone."""
        super().reset(seed=seed)
        if seed is not None:
            self.env = self._make(seed)
        shown = self.env.reset()
        world = self.env._world
        world._chunks = _in_order(world)
        return shown, {}

    def step(self, action: int) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step; a death ends the episode, and 10 000 steps cut it off."""
        obs, reward, done, info = self.env.step(int(action))
        dead = bool(done) and info["discount"] == 0
        achieved = {f"achievement_{name}": float(count > 0) for name, count in info["achievements"].items()}
        return obs, float(reward), dead, bool(done) and not dead, achieved

    def render(self) -> np.ndarray:
        """The world, uint8 (512, 512, 3)."""
        drawn: np.ndarray = self.env.render((FILM, FILM))
        return drawn

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, in order."""
        return list(self.env.action_names)


class _Ordered(dict):
    """A set that remembers its order: from Crafter's own, chance picks by where things lie in memory."""

    def add(self, thing: Any) -> None:
        self[thing] = None

    def remove(self, thing: Any) -> None:
        del self[thing]


def _in_order(world: Any) -> dict[Any, _Ordered]:
    """What stands in each part of the world, in the order in which it was put there."""
    chunks: dict[Any, _Ordered] = defaultdict(_Ordered, {key: _Ordered() for key in world._chunks})
    for thing in world.objects:
        chunks[world.chunk_key(thing.pos)].add(thing)
    return chunks


# On the class, because gymnasium.make looks there before it builds one.
Crafter.metadata = {"render_modes": ["rgb_array"], "render_fps": 10}


def register() -> None:
    """Make `crafter/reward` and `crafter/noreward` known to Gymnasium."""
    for name, pays in (("reward", True), ("noreward", False)):
        if f"crafter/{name}" not in gymnasium.registry:
            gymnasium.register(f"crafter/{name}", f"{__name__}:Crafter", kwargs={"reward": pays})
