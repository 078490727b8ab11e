"""The suite table: which packages bring which ids, how they are installed, how Gymnasium learns of them.

A suite is a row here, plus a file in `suites/` where its package needs adapting.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium

from dreamer_cli.errors import EnvError

# Suites that have their names already, but no row below yet.
LATER = ("dmc", "minigrid", "crafter", "procgen")


@dataclass(frozen=True)
class Suite:
    """A family of environments.

    Attributes:
        name: as users know it, and as presets are called.
        title: what it is, in a few words.
        entry: how the entry points of its ids begin; `namespace` likewise for the ids themselves.
        needs: the module that must be importable.
        version: of a task that is named without one, `v5`; only where `namespace` is set.
        extra: the extra of `dreamer-cli` that brings it; empty where a plain install does.
        register: makes its ids known to Gymnasium, for packages that do not by themselves.
        quick: known to be quick, to return and to need no watching: may run in the trainer's own process.
    """

    name: str
    title: str
    entry: str
    needs: str
    namespace: str = ""
    version: str = ""
    extra: str = ""
    register: Callable[[], None] | None = None
    quick: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there; nothing is imported to find out."""
        return importlib.util.find_spec(self.needs) is not None

    @property
    def install(self) -> str:
        """The pip line that brings it."""
        return pip_line(self.extra)

    def id_of(self, task: str) -> str:
        """The id that `suite:task` means: `pong`, `Pong`, `Pong-v5` are `ALE/Pong-v5`; no namespace, no change."""
        if not self.namespace or task.startswith(f"{self.namespace}/"):
            return task
        stem, version = task.rpartition("-v")[::2] if re.search(r"-v[0-9]+$", task) else (task, self.version[1:])
        # space_invaders → SpaceInvaders; what has capitals is spelt by someone who knows.
        name = stem if stem != stem.lower() else "".join(word.capitalize() for word in re.split("[-_]", stem))
        return f"{self.namespace}/{name}-v{version}"

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
    Suite("classic", "CartPole and small control tasks", "gymnasium.envs.classic_control", "gymnasium", quick=True),
    Suite("toy-text", "tables: FrozenLake, Taxi, Blackjack", "gymnasium.envs.toy_text", "gymnasium", quick=True),
    Suite("box2d", "LunarLander, BipedalWalker, CarRacing", "gymnasium.envs.box2d", "Box2D", extra="box2d"),
    Suite("mujoco", "Gymnasium's robots: Hopper, Ant, Humanoid", "gymnasium.envs.mujoco", "mujoco", extra="mujoco"),
    Suite(
        "atari",
        "Atari 2600 games",
        "ale_py",
        "ale_py",
        namespace="ALE",
        version="v5",
        register=_register_atari,
        quick=True,
    ),
    Suite(
        "minatar",
        "five Atari games on a 10x10 grid",
        "dreamer_cli.envs.suites.minatar",
        "minatar",
        namespace="MinAtar",
        version="v1",
        extra="minatar",
        register=_register_minatar,
        quick=True,
    ),
)


def canonical(env_id: str) -> str:
    """An id as Gymnasium knows it, where it was written as `suite:task`; a suite's name wins over a module's.

    Raises:
        EnvError: the suite comes with a later release.
    """
    name, colon, task = env_id.partition(":")
    if name in LATER:
        raise EnvError(
            f"{env_id}: the suite {name} is not in this release yet.",
            hint="An id that its package registers with Gymnasium works as it is; so does yours: -e ./file.py:Class",
        )
    suite = next((suite for suite in SUITES if suite.name == name), None) if colon else None
    return env_id if suite is None else suite.id_of(task)


def suite_of(env_id: str) -> Suite | None:
    """The suite that an id belongs to, or None for ids from elsewhere."""
    return next((suite for suite in SUITES if suite.owns(env_id)), None)


def built_in(env_id: str) -> bool:
    """Whether an id may run in the trainer's own process: what is registered under it comes from a quick suite.

    The spelling says nothing, for anybody may register an id, and put wrappers around it.
    """
    register_suites()
    spec = gymnasium.registry.get(env_id)
    if spec is None or not isinstance(spec.entry_point, str) or spec.additional_wrappers:
        return False
    module = spec.entry_point.partition(":")[0]
    return any(suite.quick and (module == suite.entry or module.startswith(f"{suite.entry}.")) for suite in SUITES)


def register_suites() -> None:
    """Make the ids of every installed suite known to Gymnasium."""
    for suite in SUITES:
        if suite.register is not None and suite.installed:
            suite.register()
