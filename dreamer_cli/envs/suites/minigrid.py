"""MiniGrid: what is seen of the grid as numbers or as a picture.

```
view=grid   the 7x7 cells before the agent: kind, colour and state of each, as classes; and the direction it faces
view=rgb    the same cells drawn, 56x56
view=full   the whole grid drawn, and resized
```
The mission is a text, and left out; where it differs between episodes, a task cannot be told from another.
Source: Chevalier-Boisvert et al. 2023 (arXiv 2306.13831).
"""

import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_cli.errors import ConfigError

VIEWS = ("grid", "rgb", "full")
TILE = 8  # pixels of a cell


class Cells(gymnasium.ObservationWrapper):
    """The cells that are seen, each entry as one of its classes; and the direction."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        known: Any = importlib.import_module("minigrid.core.constants")
        own: Any = env.observation_space
        rows, columns, _ = own["image"].shape
        classes = [len(known.OBJECT_TO_IDX), len(known.COLOR_TO_IDX), len(known.STATE_TO_IDX)]
        # An agent that is seen, or a door's state, may be numbered beyond the tables: see the test.
        counts = np.tile(np.array(classes, np.int64), (rows, columns, 1))
        self.observation_space = spaces.Dict({"cells": spaces.MultiDiscrete(counts), "direction": own["direction"]})

    def observation(self, observation: Any) -> dict[str, Any]:
        """Without the mission."""
        return {"cells": observation["image"].astype(np.int64), "direction": observation["direction"]}


def build(
    env_id: str, kwargs: Mapping[str, Any], size: tuple[int, int] | None, decisions: int | None, mode: str | None
) -> gymnasium.Env:
    """One maze.

    Args:
        kwargs: `view`, and what the environment takes.

    Raises:
        ConfigError: no such view.
    """
    left = dict(kwargs)
    view = left.pop("view", "grid")
    if view not in VIEWS:
        raise ConfigError(f"view is {view!r}.", hint=f"Known: {', '.join(VIEWS)}.")
    if decisions is not None:
        left["max_episode_steps"] = decisions
    env = gymnasium.make(env_id, disable_env_checker=True, render_mode=mode, **left)
    if view == "grid":
        return Cells(env)
    wrappers: Any = importlib.import_module("minigrid.wrappers")
    drawn = wrappers.RGBImgPartialObsWrapper if view == "rgb" else wrappers.RGBImgObsWrapper
    return wrappers.ImgObsWrapper(drawn(env, tile_size=TILE))


def register() -> None:
    """Importing the package does it."""
    importlib.import_module("minigrid")
