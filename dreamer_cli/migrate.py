"""Older files in today's form: one step a version, so that each release writes down only what it changed.

Every file that is kept carries a `schema_version`. Whoever changes what a file means raises the version where the
file is written, and adds the step that leads there to its chain: `{1: one_to_two}`. Chains never shrink: runs of
every released version stay readable (`tests/fixtures/golden_run` is one of this release).
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

from dreamer_cli.errors import StateError

T = TypeVar("T")
Chain = Mapping[int, Callable[[T], T]]  # version → the step to the next version


class Content(NamedTuple):
    """What was read of a checkpoint: file → name → tensor, file → JSON. Files that were not asked for are absent."""

    tensors: dict[str, dict[str, Any]]
    trees: dict[str, Any]


def _parts_of_the_family(tree: dict[str, Any]) -> dict[str, Any]:
    """1 → 2: the decoder stands beside the objective; what had one form only has a kind now."""
    tree = deepcopy(tree)
    world, behaviour = tree.get("world", {}), tree.get("behaviour", {})
    world.get("encoder", {}).pop("blocks", None)
    if "decoder" in world.get("objective", {}):
        world["decoder"] = world["objective"].pop("decoder")
    if "cont" in world:
        world["cont"] = {"kind": "head", **world["cont"]}
    if behaviour:
        slow = {
            new: behaviour.pop(old)
            for old, new in (("slow_rate", "rate"), ("slow_weight", "weight"))
            if old in behaviour
        }
        behaviour |= {"kind": "actor_critic"} | ({"slow_critic": {"kind": "regulariser", **slow}} if slow else {})
        actor = behaviour.get("actor", {})
        bounds = {name: actor.pop(name) for name in ("min_std", "max_std") if name in actor}
        if bounds:
            actor["continuous"] = {"kind": "bounded_normal", **bounds}
    return tree


CHECKPOINT: dict[int, Callable[[Content], Content]] = {}
RUN: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # run.json
# config.yaml, before it is validated
CONFIG: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _parts_of_the_family}
CONFIG_VERSION = 2


def check_version(version: Any, newest: int, chain: Chain[T], what: str) -> int:
    """A version that this program reads.

    Args:
        version: as the file has it; newest: that this program writes; chain: steps from older ones.
        what: names the file in errors.

    Raises:
        StateError: it is newer, no version at all, or so old that no step leads on.
    """
    if type(version) is not int or version < 1:
        raise StateError(f"{what} does not say which version of dreamer wrote it.", hint="Restore it from a backup.")
    if version > newest:
        raise StateError(
            f"{what} was written by a newer version of dreamer (schema {version}, this one knows {newest}).",
            hint="pip install --upgrade dreamer-cli",
        )
    if any(older not in chain for older in range(version, newest)):
        raise StateError(
            f"{what} has schema {version}, which is too old for this version of dreamer.",
            hint="Use the version of dreamer that wrote it.",
        )
    return version


def migrate(content: T, version: Any, newest: int, chain: Chain[T], what: str) -> T:
    """Lead what was read from its version to the newest, step by step; the arguments are those of `check_version`.

    Raises:
        StateError: as `check_version`, or what was read is not what its version says.
    """
    for older in range(check_version(version, newest, chain, what), newest):
        try:
            content = chain[older](content)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise StateError(
                f"{what} does not hold what schema {older} has.", hint="Restore it from a backup."
            ) from error
    return content


def migrate_config(tree: dict[str, Any], what: str) -> dict[str, Any]:
    """The settings of an older config.yaml as today's; any other tree as it is, for validation to judge.

    Raises:
        StateError: as `migrate`.
    """
    version = tree.get("schema_version")
    if type(version) is not int or not 1 <= version < CONFIG_VERSION:
        return tree
    migrated: dict[str, Any] = migrate(tree, version, CONFIG_VERSION, CONFIG, what)
    return {**migrated, "schema_version": CONFIG_VERSION}
