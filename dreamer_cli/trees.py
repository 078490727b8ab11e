"""Configuration as plain dicts: laying one tree over another, and remembering who set what."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, TypeGuard

from dreamer_cli import yamlio
from dreamer_cli.errors import ConfigError

Tree = dict[str, Any]

# In a layer, settings that hold only where the slot's kind is the named one: `latent: {kind=gaussian: {size: 8}}`.
IF_KIND = "kind="

# What stands below belongs to the environment: a `kind` there is no slot of ours.
FOREIGN = "env.kwargs"


class Block(NamedTuple):
    """Settings of a layer for a slot that holds one kind."""

    slot: str
    kind: str
    settings: Tree
    origin: str


def merge(
    tree: Tree,
    origins: dict[str, str],
    overlay: Tree,
    origin: str,
    prefix: str = "",
    blocks: list[Block] | None = None,
) -> None:
    """Lay `overlay` over `tree`, in place.

    Mappings merge key by key; anything else is replaced. Naming another `kind` in a slot drops what the slot
    inherited, since those settings belonged to another part. An empty mapping empties. What stands below
    `kind=NAME` is laid over a slot while it holds this kind: also one that a later layer gives it, below what that
    layer says of it. So one layer fits many algorithms.

    Args:
        origins: dotted key of every leaf → which layer set it; follows the tree.
        prefix: dotted key of `tree` itself, with its dot.
        blocks: what stood below `kind=NAME` in this layer and those before it; grows.

    Raises:
        ConfigError: what stands below `kind=NAME` is no mapping, or names another kind.
    """
    blocks = [] if blocks is None else blocks
    for key, value in _that_hold(tree, overlay, origin, prefix, blocks):
        dotted = f"{prefix}{key}"
        inherited = tree.get(key)
        if not _is_branch(value) or not _is_branch(inherited) or _names_another_kind(dotted, inherited, value):
            for old in [known for known in origins if known == dotted or known.startswith(f"{dotted}.")]:
                del origins[old]
            tree[key] = {} if _is_branch(value) else deepcopy(value)
            if _is_branch(value) and "kind" in value and _is_branch(inherited):
                merge(tree[key], origins, {"kind": value["kind"]}, origin, f"{dotted}.")
                for block in [one for one in blocks if (one.slot, one.kind) == (dotted, str(value["kind"]))]:
                    merge(tree[key], origins, block.settings, block.origin, f"{dotted}.", list(blocks))
        if _is_branch(value):
            merge(tree[key], origins, value, origin, f"{dotted}.", blocks)
        else:
            origins[dotted] = origin


def _that_hold(tree: Tree, overlay: Tree, origin: str, prefix: str, blocks: list[Block]) -> Iterator[tuple[str, Any]]:
    """What of a layer applies to a tree: everything but settings for another kind than it has, or is given here."""
    if prefix.startswith(f"{FOREIGN}."):
        yield from overlay.items()
        return
    kind = overlay.get("kind", tree.get("kind"))
    yield from ((key, value) for key, value in overlay.items() if not key.startswith(IF_KIND))
    for key, value in overlay.items():
        if not key.startswith(IF_KIND):
            continue
        if not isinstance(value, dict) or "kind" in value:
            what = "names another kind" if isinstance(value, dict) else f"is {yamlio.describe(value)}"
            raise ConfigError(f"{prefix}{key} {what}, but must be a mapping of settings for this kind.")
        blocks.append(Block(prefix.removesuffix("."), key.removeprefix(IF_KIND), value, origin))
        if key == f"{IF_KIND}{kind}":
            yield from value.items()


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is no mapping, or an empty one."""
    for key, value in tree.items():
        if _is_branch(value):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nest(key: str, value: Any) -> Tree:
    """`a.b`, 1 → {a: {b: 1}}."""
    first, dot, rest = key.partition(".")
    return {first: nest(rest, value) if dot else value}


def parse_settings(settings: Sequence[str], option: str = "--set") -> Tree:
    """One tree from `KEY=VALUE` texts; of two that set the same key, the later wins.

    One tree rather than one layer each, so that `core.units=256 core.kind=gru` means the same in either order.

    Raises:
        ConfigError: no `=`, no key, or a value that is no YAML.
    """
    tree: Tree = {}
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(part and part == part.strip() for part in key.split(".")):
            examples = {"--set": "-s optim.lr=1e-4", "--plan": "--plan candidates=100"}
            example = examples.get(option, f"{option} gravity=9.8")
            raise ConfigError(f"{option} {text!r} is no KEY=VALUE.", hint=f"For example {example}")
        merge(tree, {}, nest(key, yamlio.load_value(value, f"{option} {key}")), "")
    return tree


def _is_branch(value: Any) -> TypeGuard[Tree]:
    return isinstance(value, dict) and bool(value)


def _names_another_kind(dotted: str, inherited: Tree, overlay: Tree) -> bool:
    if f"{dotted}.".startswith(f"{FOREIGN}."):
        return False
    return "kind" in overlay and "kind" in inherited and overlay["kind"] != inherited["kind"]
