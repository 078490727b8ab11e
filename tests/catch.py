"""Catch: a ball falls, a paddle at the bottom has to be where it lands. 16x16 pixels, learnt in minutes.

Used by id, as a user's own would be: `./tests/catch.py:Catch`.
"""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

CELLS, SIDE = 8, 2  # cells in a row, pixels of a cell


class Catch(gymnasium.Env):
    """Reward 1 for a ball that was caught, -1 for one that was not, at the end of `CELLS - 1` steps.

    Who moves by chance gets about -0.7; every ball can be caught.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 8}
    observation_space = spaces.Box(0, 255, (CELLS * SIDE, CELLS * SIDE, 3), np.uint8)
    action_space = spaces.Discrete(3)  # left, stay, right

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.row = self.column = self.paddle = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.row, self.column = 0, int(self.np_random.integers(CELLS))
        self.paddle = int(self.np_random.integers(CELLS))
        return self.show(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, CELLS - 1))
        self.row += 1
        landed = self.row == CELLS - 1
        reward = (1.0 if self.paddle == self.column else -1.0) if landed else 0.0
        return self.show(), reward, landed, False, {}

    def show(self) -> np.ndarray:
        cells = np.zeros((CELLS, CELLS, 3), np.uint8)
        cells[-1, self.paddle] = (0, 255, 255)
        cells[self.row, self.column] = 255
        return cells.repeat(SIDE, 0).repeat(SIDE, 1)

    def render(self) -> np.ndarray:
        return self.show()
