"""The suite table: which packages bring which ids, how they are installed, how Gymnasium learns of them.

A suite is a row here, plus a file in `suites/` where its package needs adapting.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium


@dataclass(frozen=True)
class Suite:
    """A family of environments.

    Attributes:
        name: as users know it, and as presets are called.
        title: what it is, in a few words.
        entry: how the entry points of its ids begin; `namespace` likewise for the ids themselves, or
            `prefixes`.
        needs: the modules that must be importable.
        spell: makes an id of a task's name, however that is spelt; None: ids are written out.
        alone: the task that the suite's name means by itself, as in `--env crafter`.
        extra: the extra of `dreamer-cli` that brings it; empty where a plain install does.
        by_hand: the pip line, where no extra can bring it.
        register: makes its ids known to Gymnasium, for packages that do not by themselves.
        builder: "module:function" that builds its environments in place of `gymnasium.make`, from an id, arguments,
            size of the picture, limit of decisions, and render mode.
        quick: known to be quick, to return and to need no watching: may run in the trainer's own process.
    """

    name: str
    title: str
    entry: str
    needs: str
    namespace: str = ""
    prefixes: tuple[str, ...] = ()
    spell: Callable[[str], str] | None = None
    alone: str = ""
    extra: str = ""
    by_hand: str = ""
    register: Callable[[], None] | None = None
    builder: str = ""
    quick: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there; nothing is imported to find out."""
        return all(importlib.util.find_spec(module) is not None for module in self.needs.split())

    @property
    def install(self) -> str:
        """The pip line that brings it."""
        return self.by_hand or pip_line(self.extra)

    def id_of(self, task: str) -> str:
        """The id that `suite:task` means: `pong`, `Pong`, `Pong-v5` are `ALE/Pong-v5`; no namespace, no change."""
        if self.spell is None or task.startswith(f"{self.namespace}/"):
            return task
        return self.spell(task)

    def claims(self, env_id: str) -> bool:
        """Whether an id is spelt as those of this suite are."""
        return env_id.startswith(tuple([f"{self.namespace}/"] if self.namespace else self.prefixes))

    def adapts(self, env_id: str) -> bool:
        """Whether an id's environment is not what `gymnasium.make` would give without dreamer."""
        return self.claims(env_id) and bool(self.builder or self.entry.startswith("dreamer_cli."))

    def owns(self, env_id: str) -> bool:
        """Whether an id belongs to this suite, known to Gymnasium by now or not."""
        if self.claims(env_id):
            return True
        spec = gymnasium.registry.get(env_id)
        return spec is not None and str(spec.entry_point).startswith(self.entry)


def pip_line(extra: str) -> str:
    """How an extra is installed."""
    return f"pip install 'dreamer-cli[{extra}]'" if extra else "pip install dreamer-cli"


def _capitals(namespace: str, version: str) -> Callable[[str], str]:
    """`space_invaders`, `SpaceInvaders` and `SpaceInvaders-v5` → `ALE/SpaceInvaders-v5`."""

    def spell(task: str) -> str:
        stem, number = task.rpartition("-v")[::2] if re.search(r"-v[0-9]+$", task) else (task, version)
        # What has capitals is spelt by someone who knows.
        name = stem if stem != stem.lower() else "".join(word.capitalize() for word in re.split("[-_]", stem))
        return f"{namespace}/{name}-v{number}"

    return spell


def _plain(namespace: str) -> Callable[[str], str]:
    """`walker-walk` and `walker_walk` → `dmc/walker-walk`: the task's own underscores stay, where it is known."""

    def spell(task: str) -> str:
        register_suites(f"{namespace}/")
        known = {_folded(env_id): env_id for env_id in gymnasium.registry if env_id.startswith(f"{namespace}/")}
        return known.get(_folded(f"{namespace}/{task}"), f"{namespace}/{task}")

    return spell


def _control(task: str) -> str:
    """`cup-catch`, as papers call it, is `dmc/ball_in_cup-catch`."""
    return _plain("dmc")(re.sub("^cup(?=[-_])", "ball_in_cup", task))


def _grid(task: str) -> str:
    """`Empty-5x5`, `empty-5x5` and `MiniGrid-Empty-5x5-v0` → `MiniGrid-Empty-5x5-v0`."""
    register_suites("MiniGrid-")
    name = task if re.search(r"-v[0-9]+$", task) else f"{task}-v0"
    known = {env_id.lower(): env_id for env_id in gymnasium.registry}
    for prefix in ("", "MiniGrid-", "BabyAI-"):
        if f"{prefix}{name}".lower() in known:
            return known[f"{prefix}{name}".lower()]
    return f"MiniGrid-{name}"


def _folded(env_id: str) -> str:
    return env_id.lower().replace("_", "-")


def _register_atari() -> None:
    ale: Any = importlib.import_module("ale_py")
    # A banner for each game on stderr otherwise.
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
    if "ALE/Pong-v5" not in gymnasium.registry:
        gymnasium.register_envs(ale)


def _by(module: str) -> Callable[[], None]:
    """`register()` of a module in `suites/`."""
    return lambda: importlib.import_module(f"dreamer_cli.envs.suites.{module}").register()


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
        spell=_capitals("ALE", "5"),
        register=_register_atari,
        builder="dreamer_cli.envs.suites.atari:build",
        quick=True,
    ),
    Suite(
        "dmc",
        "DeepMind Control: bodies simulated by MuJoCo",
        "dreamer_cli.envs.suites.dmc",
        "dm_control",
        namespace="dmc",
        spell=_control,
        extra="dmc",
        register=_by("dmc"),
    ),
    Suite(
        "minigrid",
        "mazes, keys and doors on a grid",
        "minigrid.envs",
        "minigrid",
        prefixes=("MiniGrid-", "BabyAI-"),
        spell=_grid,
        extra="minigrid",
        register=_by("minigrid"),
        builder="dreamer_cli.envs.suites.minigrid:build",
    ),
    Suite(
        "minatar",
        "five Atari games on a 10x10 grid",
        "dreamer_cli.envs.suites.minatar",
        "minatar",
        namespace="MinAtar",
        spell=_capitals("MinAtar", "1"),
        extra="minatar",
        register=_by("minatar"),
        quick=True,
    ),
    Suite(
        "crafter",
        "survival in a world of blocks, 22 achievements",
        "dreamer_cli.envs.suites.crafter",
        "crafter",
        namespace="crafter",
        spell=_plain("crafter"),
        alone="reward",
        extra="crafter",
        register=_by("crafter"),
    ),
    Suite(
        "procgen",
        "16 games whose levels are generated",
        "dreamer_cli.envs.suites.procgen",
        "procgen gym3 cffi gym",
        namespace="procgen",
        spell=_plain("procgen"),
        by_hand="pip install --no-deps procgen-mirror gym3 cffi pycparser gym gym-notices",
        register=_by("procgen"),
    ),
)


def canonical(env_id: str) -> str:
    """An id as Gymnasium knows it, where it was written as `suite:task`; a suite's name wins over a module's."""
    name, colon, task = env_id.partition(":")
    suite = next((suite for suite in SUITES if suite.name == name), None)
    if suite is None or not (colon or suite.alone):
        return env_id
    return suite.id_of(task or suite.alone)


def suite_of(env_id: str) -> Suite | None:
    """The suite that an id belongs to, or None for ids from elsewhere."""
    return next((suite for suite in SUITES if suite.owns(env_id)), None)


def built_in(env_id: str) -> bool:
    """Whether an id may run in the trainer's own process: what is registered under it comes from a quick suite.

    The spelling says nothing, for anybody may register an id, and put wrappers around it.
    """
    register_suites(env_id)
    if env_id not in gymnasium.registry:
        register_suites()
    spec = gymnasium.registry.get(env_id)
    if spec is None or not isinstance(spec.entry_point, str) or spec.additional_wrappers:
        return False
    module = spec.entry_point.partition(":")[0]
    return any(suite.quick and (module == suite.entry or module.startswith(f"{suite.entry}.")) for suite in SUITES)


def register_suites(env_id: str | None = None) -> dict[str, str]:
    """Make ids known to Gymnasium: of the installed suite that claims an id, or of all.

    Importing a suite's package takes time, and may fail.

    Returns:
        Suite → why its package cannot be imported.
    """
    broken: dict[str, str] = {}
    for suite in SUITES:
        if suite.register is None or not suite.installed or not (env_id is None or suite.claims(env_id)):
            continue
        try:
            suite.register()
        except Exception as error:  # whatever an import runs
            broken[suite.name] = f"{type(error).__name__}: {error}"
    return broken


def ids_of(suite: Suite | None) -> list[str]:
    """Ids that are registered, of every version; of None: those of no suite, and not of Gymnasium itself."""
    if suite is not None:
        return [env_id for env_id in gymnasium.registry if suite.owns(env_id)]
    return [
        env_id
        for env_id, spec in gymnasium.registry.items()
        if suite_of(env_id) is None and not _module(spec.entry_point).startswith(("gymnasium.", "shimmy."))
    ]


def _module(entry_point: Any) -> str:
    """Where an entry point leads; Gymnasium's own retired ids have functions that only raise."""
    return entry_point if isinstance(entry_point, str) else str(getattr(entry_point, "__module__", ""))


def newest(ids: Sequence[str], suite: Suite | None = None) -> list[str]:
    """Of ids that differ in their version only, the highest; of a suite with a namespace, only what is in it."""
    best: dict[str, tuple[int, str]] = {}
    for env_id in ids:
        if suite is not None and suite.namespace and not env_id.startswith(f"{suite.namespace}/"):
            continue
        match = re.fullmatch(r"(.*)-v(\d+)", env_id)
        stem, version = (match[1], int(match[2])) if match else (env_id, 0)
        best[stem] = max(best.get(stem, (-1, "")), (version, env_id))
    return [env_id for _, env_id in best.values()]


def all_newest() -> list[str]:
    """Every id that can be trained on here, without older versions, sorted; none of what cannot be imported."""
    register_suites()
    installed: list[Suite | None] = [suite for suite in SUITES if suite.installed]
    return sorted(env_id for suite in [*installed, None] for env_id in newest(ids_of(suite), suite))
