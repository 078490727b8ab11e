"""Procgen: 16 games with generated levels, through gym3, one game for each environment.

Its packages ask for an older numpy than dreamer needs, and work with a new one: they are installed without what they
ask for, in an environment of their own (docs/how-to/suites.md).
Source: Cobbe et al. 2020 (arXiv 1912.01588); the maintained mirror is `procgen-mirror`.
"""

import importlib
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

GAMES = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot", "heist", "jumper",
    "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)  # fmt: skip


class Procgen(gymnasium.Env):
    """One game. Keyword arguments are those of `ProcgenGym3Env`: `distribution_mode`, `num_levels`, ..."""

    def __init__(self, game: str, render_mode: str | None = None, **kwargs: Any) -> None:
        package: Any = importlib.import_module("procgen")
        self.render_mode = render_mode
        if render_mode is not None:
            kwargs["render_mode"] = render_mode
        self._make = lambda seed: package.ProcgenGym3Env(num=1, env_name=game, rand_seed=seed, **kwargs)
        self.env: Any = self._make(0)
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(15)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next level; with a seed, a series of levels that depends on it alone."""
        super().reset(seed=seed)
        if seed is not None:
            self.env = self._make(seed)
        return self._shown(), {}

    def step(self, action: int) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step. The games begin anew by themselves: the last picture of an episode is never shown, so the one
        before stands for it. They do not say whether time was up, so every end counts as terminal."""
        before = self._shown()
        self.env.act(np.array([action], np.int32))
        reward, obs, first = self.env.observe()
        ended = bool(first[0])
        return before if ended else obs["rgb"][0], float(reward[0]), ended, False, {}

    def render(self) -> np.ndarray:
        """The game as people see it, uint8 (512, 512, 3)."""
        drawn: np.ndarray = self.env.get_info()[0]["rgb"]
        return drawn

    def _shown(self) -> np.ndarray:
        shown: np.ndarray = self.env.observe()[1]["rgb"][0]
        return shown


# On the class, because gymnasium.make looks there before it builds one.
Procgen.metadata = {"render_modes": ["rgb_array"], "render_fps": 15}


def register() -> None:
    """Make `procgen/coinrun` and all others known to Gymnasium."""
    for game in GAMES:
        if f"procgen/{game}" not in gymnasium.registry:
            gymnasium.register(f"procgen/{game}", f"{__name__}:Procgen", kwargs={"game": game})
