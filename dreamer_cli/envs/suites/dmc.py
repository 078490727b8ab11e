"""DeepMind Control: the tasks of dm_control's suite as Gymnasium environments, `dmc/walker-walk`.

Numbers of the body are a Dict of vectors, as the suite has them; `--pixels` draws. Episodes have the suite's own limit
of 1000 steps, a cut-off and no end: rewards would go on.
Source: Tassa et al. 2018 (arXiv 1801.00690); cameras as in Dreamer V3, official code.
"""

import importlib
import warnings
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_cli.errors import ConfigError, EnvError

# Domain → tasks, as `dm_control.suite.ALL_TASKS` has them: importing it takes seconds, and a screen.
TASKS = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
CAMERAS = {"quadruped": 2}  # of all others 0
FILM_SIZE = 240, 320  # rows, columns of a picture that nobody asked to be of another size
HEADLESS = "Set MUJOCO_GL=egl (apt install libegl1 libegl-mesa0) or osmesa (libosmesa6); dreamer doctor tries it."


class Control(gymnasium.Env):
    """One task.

    Args:
        domain, task: as the suite calls them.
        camera: number of the camera that draws; None: the one that papers use.
        fast_render: draw without shadows, reflections and smoothed edges, several times as quickly. The pictures are
            others then, and so are scores: they compare with no published ones.
        render_mode: `rgb_array`, or None.
        options: for the task's constructor.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        camera: int | None = None,
        fast_render: bool = False,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        suite: Any = importlib.import_module("dm_control.suite")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Some draw the body itself, once and for all: from a seed, so that it is the same in every process.
            self.env = suite.load(domain, task, task_kwargs={"random": 0, **options})
        cameras = int(self.env.physics.model.ncam)
        self.camera = CAMERAS.get(domain, 0) if camera is None else camera
        if not -1 <= self.camera < max(1, cameras):
            raise ConfigError(
                f"camera={camera} is none of {domain}'s {cameras}.", hint="-1 is the free camera, 0 the first."
            )
        self.fast, self.render_mode = fast_render, render_mode
        self._softened = False
        self.observation_space = spaces.Dict(
            {
                key: spaces.Box(-np.inf, np.inf, spec.shape or (1,), np.float32)
                for key, spec in self.env.observation_spec().items()
                if int(np.prod(spec.shape))
            }
        )
        action = self.env.action_spec()
        self.action_space = spaces.Box(
            np.broadcast_to(np.float32(action.minimum), action.shape),
            np.broadcast_to(np.float32(action.maximum), action.shape),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode that depends on the seed alone."""
        super().reset(seed=seed)
        if seed is not None:
            self.env.task.random.seed(seed)
        return self._shown(self.env.reset()), {}

    def step(self, action: np.ndarray) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of control. An end with a discount of 0 is terminal, any other a cut-off."""
        now = self.env.step(np.asarray(action, np.float64))
        ended = bool(now.last())
        terminated = ended and now.discount == 0
        return self._shown(now), float(now.reward or 0.0), terminated, ended and not terminated, {}

    def _shown(self, now: Any) -> dict[str, np.ndarray]:
        return {
            key: np.asarray(now.observation[key], np.float32).reshape(space.shape)
            for key, space in self.observation_space.spaces.items()  # type: ignore[attr-defined]
        }

    def render(self) -> np.ndarray:
        """A picture of now, uint8 (240, 320, 3)."""
        return self.dreamer_picture(FILM_SIZE)

    def dreamer_picture(self, size: tuple[int, int]) -> np.ndarray:
        """The same, of (rows, columns); drawn at that size, not made smaller.

        Raises:
            EnvError: nothing can be drawn on this machine.
        """
        flags: dict[str, Any] = {}
        if self.fast:
            if not self._softened:
                quality = self.env.physics.model.vis.quality
                quality.offsamples = quality.shadowsize = 0
                self._softened = True
            flags = {"render_flag_overrides": {"shadow": False, "reflection": False}}
        try:
            drawn: np.ndarray = self.env.physics.render(*size, camera_id=self.camera, **flags)
        except (ImportError, RuntimeError, AttributeError) as err:
            raise EnvError(f"MuJoCo cannot draw here: {err}", hint=HEADLESS) from err
        return drawn

    def close(self) -> None:
        """Give the renderer back."""
        self.env.close()


# On the class, because gymnasium.make looks there before it builds one.
Control.metadata = {"render_modes": ["rgb_array"], "render_fps": 40}


def register() -> None:
    """Make `dmc/cartpole-swingup` and all others known to Gymnasium."""
    for domain, tasks in TASKS.items():
        for task in tasks:
            env_id = f"dmc/{domain}-{task}"
            if env_id not in gymnasium.registry:
                gymnasium.register(env_id, f"{__name__}:Control", kwargs={"domain": domain, "task": task})
