"""The suite table: which packages bring which ids, how they are installed, how Gymnasium learns of them.

A suite is a row here, plus a file in `suites/` where its package needs adapting.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium


@dataclass(frozen=True)
class Suite:
    """A family of environments.

    Attributes:
        name: as users know it, and as presets are called.
        title: what it is, in a few words.
        entry: how the entry points of its ids begin; `namespace` likewise for the ids themselves.
        needs: the module that must be importable.
        extra: the extra of `dreamer-cli` that brings it; empty where a plain install does.
        register: makes its ids known to Gymnasium, for packages that do not by themselves.
    """

    name: str
    title: str
    entry: str
    needs: str
    namespace: str = ""
    extra: str = ""
    register: Callable[[], None] | None = None

    @property
    def installed(self) -> bool:
        """Whether its package is there; nothing is imported to find out."""
        return importlib.util.find_spec(self.needs) is not None

    @property
    def install(self) -> str:
        """The pip line that brings it."""
        return pip_line(self.extra)

    def owns(self, env_id: str) -> bool:
        """Whether an id belongs to this suite, known to Gymnasium by now or not."""
        if self.namespace and env_id.startswith(f"{self.namespace}/"):
            return True
        spec = gymnasium.registry.get(env_id)
        return spec is not None and str(spec.entry_point).startswith(self.entry)


def pip_line(extra: str) -> str:
    """How an extra is installed."""
    return f"pip install 'dreamer-cli[{extra}]'" if extra else "pip install dreamer-cli"


def _register_atari() -> None:
    ale: Any = importlib.import_module("ale_py")
    # A banner for each game on stderr otherwise.
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
    if "ALE/Pong-v5" not in gymnasium.registry:
        gymnasium.register_envs(ale)


def _register_minatar() -> None:
    importlib.import_module("dreamer_cli.envs.suites.minatar").register()


SUITES = (
    Suite("classic", "CartPole and other small control tasks", "gymnasium.envs.classic_control", "gymnasium"),
    Suite("toy-text", "tables: FrozenLake, Taxi, Blackjack", "gymnasium.envs.toy_text", "gymnasium"),
    Suite("box2d", "LunarLander, BipedalWalker, CarRacing", "gymnasium.envs.box2d", "Box2D", extra="box2d"),
    Suite("mujoco", "Gymnasium's robots: Hopper, Ant, Humanoid", "gymnasium.envs.mujoco", "mujoco", extra="mujoco"),
    Suite("atari", "Atari 2600 games", "ale_py", "ale_py", namespace="ALE", register=_register_atari),
    Suite(
        "minatar",
        "five Atari games on a 10x10 grid",
        "dreamer_cli.envs.suites.minatar",
        "minatar",
        namespace="MinAtar",
        extra="minatar",
        register=_register_minatar,
    ),
)


def suite_of(env_id: str) -> Suite | None:
    """The suite that an id belongs to, or None for ids from elsewhere."""
    return next((suite for suite in SUITES if suite.owns(env_id)), None)


def register_suites() -> None:
    """Make the ids of every installed suite known to Gymnasium."""
    for suite in SUITES:
        if suite.register is not None and suite.installed:
            suite.register()
