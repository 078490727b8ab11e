"""MinAtar: five Atari games on a 10x10 grid, one bool channel for each kind of object.

Source: Young & Tian 2019 (arXiv 1903.03176). The package's own ids are kept; its wrapper is mended in three
places: importing it loads seaborn and with it matplotlib and pandas (4 s in every worker), pictures need them
too, and its sticky actions remember the last action of the episode before.
"""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from dreamer_cli.spaces import as_rgb

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
ACTIONS = {"n": "noop", "l": "left", "u": "up", "r": "right", "d": "down", "f": "fire"}


@contextmanager
def _without(*modules: str) -> Iterator[None]:
    """Let `import` fail for modules that are not loaded yet; MinAtar then does without them, and says so."""
    hidden = [name for name in modules if name not in sys.modules]
    level = logging.root.manager.disable
    try:
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python marks a blocked module
        logging.disable(logging.WARNING)
        yield
    finally:
        logging.disable(level)
        for name in hidden:
            del sys.modules[name]


class MinAtar(gymnasium.Env):
    """One game; keyword arguments are those of MinAtar's own environment."""

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        with _without("matplotlib", "seaborn"):
            package: Any = importlib.import_module("minatar.gym")
        self.env = package.BaseEnv(**kwargs)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a game that depends on the seed alone."""
        self.env.game.last_action = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: int) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step; games have no time limit of their own."""
        return self.env.step(action)

    def render(self) -> np.ndarray:
        """The grid, one colour for each kind of object, uint8 (80, 80, 3)."""
        grid = np.moveaxis(self.env.game.state().astype(np.uint8) * 255, -1, 0)
        return np.kron(as_rgb(grid), np.ones((8, 8, 1), np.uint8))

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, in order."""
        keys = self.env.game.env.action_map
        return [ACTIONS[keys[index]] for index in self.env.action_set]


# On the class, because gymnasium.make looks there before it builds one.
MinAtar.metadata = {"render_modes": ["rgb_array"], "render_fps": 10}


def register() -> None:
    """Make `MinAtar/Breakout-v0` (all six actions) and `-v1` (only those with an effect), ... known to Gymnasium."""
    for game in GAMES:
        for version, minimal in (("v0", False), ("v1", True)):
            env_id = f"MinAtar/{game.title().replace('_', '')}-{version}"
            if env_id not in gymnasium.registry:
                gymnasium.register(
                    env_id, f"{__name__}:MinAtar", kwargs={"game": game, "use_minimal_action_set": minimal}
                )
