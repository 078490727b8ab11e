"""From a plain tree to settings, and from whatever is wrong with it to one sentence and a hint.

pydantic validates; this file says it in plain words with the full dotted key, and knows what may have been meant.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from dreamer_cli.errors import ConfigError, closest, nearest
from dreamer_cli.numbers import count_hint
from dreamer_cli.registry import Registry, to_tree
from dreamer_cli.trees import FOREIGN, IF_KIND, Block, Tree, leaves
from dreamer_cli.yamlio import describe

T = TypeVar("T")

WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "null",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "too_short": "a list with at least {min_length} entries",
    "too_long": "a list with at most {max_length} entries",
    "literal_error": "{expected}",
}
MOST_SUGGESTIONS = 4
MOST_ENTRIES = 1000  # of any list in a configuration
_FIELDS: dict[type[Any], dict[str, Any]] = {}


@dataclasses.dataclass(frozen=True)
class _Wrong:
    """One thing that pydantic found. `path` leads from the root of the tree."""

    path: tuple[str | int, ...]
    kind: str
    message: str
    value: Any
    context: Mapping[str, Any]


def validate(cls: type[T], tree: Tree) -> T:
    """Settings of class `cls` from a plain tree.

    Raises:
        ConfigError: unknown key or kind, wrong type or range; the message has the dotted key.
    """
    _check_keys(cls, tree, (), cls)
    _check_values(tree)
    try:
        return TypeAdapter(cls).validate_json(json.dumps(tree))
    except ValidationError as error:
        raise _explain(list(_flatten(error, ())), tree) from error


def check_blocks(cls: type[Any], blocks: Iterable[Block]) -> None:
    """See that settings for single kinds (`kind=NAME`) name slots, kinds and keys that there are, applied or not.

    Raises:
        ConfigError: one does not.
    """
    for block in blocks:
        found = _registries(cls, block.slot.split("."))
        where = f"{block.slot}.{IF_KIND}{block.kind}"
        if not found:
            raise ConfigError(f"{where} ({block.origin}) is in no slot that has kinds.")
        registry = next((one for one in found if block.kind in one), None)
        if registry is None:
            raise found[0].refuse(block.slot, block.kind)
        fields = _fields(registry[block.kind])
        for key, value in block.settings.items():
            if key not in fields:
                _refuse_key((*block.slot.split("."), f"{IF_KIND}{block.kind}", key), value, list(fields), [], registry)


def _registries(cls: type[Any], path: list[str]) -> list[Registry]:
    """The registries of a slot, whichever members the slots above it hold."""
    classes: list[Any] = [cls]
    registries: list[Registry] = []
    for name in path:
        hints = [_fields(one)[name] for one in classes if name in _fields(one)]
        registries = [one for one in map(_registry, hints) if one is not None]
        classes = [part for part in map(_dataclass, hints) if part is not None]
        classes += [member for registry in registries for member in registry.values()]
    return registries


def leaves_of(cls: type[Any]) -> list[str]:
    """Dotted keys of all leaves of the default settings."""
    return [key for key, _ in leaves(to_tree(cls()))]


# --- unknown keys and kinds, before pydantic: it cannot suggest names


def _check_keys(
    cls: type[Any], tree: Tree, path: tuple[str, ...], root: type[Any], slot: Mapping[str, Any] | None = None
) -> None:
    """Walk the tree along the classes; `slot` is the registry that `cls` was chosen from."""
    fields = _fields(cls)
    for key, value in tree.items():
        here = (*path, key)
        if key not in fields:
            _refuse_key(here, value, list(fields), leaves_of(root), slot or {})
        registry, part = _registry(fields[key]), _dataclass(fields[key])
        if registry is not None:
            kind = _kind(here, value, registry)
            inner = {name: item for name, item in value.items() if name != "kind"}
            _check_keys(registry[kind], inner, here, root, registry)
        elif part is not None and isinstance(value, dict):
            _check_keys(part, value, here, root)
        elif part is not None and not (value is None and type(None) in typing.get_args(fields[key])):
            start = ".".join(here) + "."
            below = [name.removeprefix(start) for name in leaves_of(root) if name.startswith(start)]
            hint = f"Set one of its keys: {', '.join(below[:8])}." if below else ""
            raise ConfigError(f"{'.'.join(here)} is {describe(value)}, but must be a mapping.", hint=hint)


def _fields(cls: type[Any]) -> dict[str, Any]:
    """Names and types; kept, since reading them is most of what a check costs."""
    if cls not in _FIELDS:
        hints = typing.get_type_hints(cls, include_extras=True)
        _FIELDS[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _FIELDS[cls]


def _refuse_key(
    path: tuple[str, ...], value: Any, fields: list[str], known: list[str], slot: Mapping[str, Any]
) -> NoReturn:
    key = path[-1]
    typed = next(leaves({key: value}))[0].split(".") if isinstance(value, dict) else [key]
    # `lr` at the root, or `core.units`: keys that end alike and hold the typed parts in order.
    elsewhere = [name for name in known if name.endswith(typed[-1]) and _holds(name.split("."), typed)]
    near = nearest(key, fields)
    meant = near + elsewhere if len(near + elsewhere) <= MOST_SUGGESTIONS else near
    owners = [kind for kind, member in slot.items() if key in {field.name for field in dataclasses.fields(member)}]
    if owners:
        hint = f"{key!r} belongs to the kind {' or '.join(map(repr, owners))}. "
    elif meant:
        hint = f"Did you mean {' or '.join(map(repr, meant))}? "
    else:
        hint = ""
    listed = f"Known here: {', '.join(fields)}." if fields else "Nothing can be set here."
    raise ConfigError(f"Unknown key {'.'.join(path)}.", hint=hint + listed)


def _holds(parts: list[str], typed: list[str]) -> bool:
    """Whether `typed` occurs in `parts` in order, ending with the same name."""
    rest = iter(parts)
    return parts[-1] == typed[-1] and all(part in rest for part in typed)


def _kind(path: tuple[str, ...], value: Any, registry: Registry) -> str:
    dotted = ".".join(path)
    if not isinstance(value, dict):
        example = value if isinstance(value, str) and value in registry else next(iter(registry))
        raise ConfigError(
            f"{dotted} is {describe(value)}, but must be a mapping with a kind.", hint=f"Set {dotted}.kind={example}"
        )
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in registry:
        raise registry.refuse(dotted, kind, "missing" if "kind" not in value else describe(kind))
    return kind


def _check_values(tree: Tree) -> None:
    for key, value in leaves(tree):
        numbers = value if isinstance(value, list) else [value]
        ours = not key.startswith(f"{FOREIGN}.")  # what environments are given is their affair
        if ours and len(numbers) > MOST_ENTRIES:  # pydantic would explain every one of them
            raise ConfigError(f"{key} is a list of {len(numbers)} entries, but must be a shorter one.")
        if ours and any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{key} is {describe(value)}, but must be finite.")


def _registry(annotation: Any) -> Registry | None:
    return next((item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Registry)), None)


def _dataclass(annotation: Any) -> type[Any] | None:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((part for part in map(_dataclass, typing.get_args(annotation)) if part is not None), None)
    return annotation if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else None


# --- wrong types and ranges, in words


def _flatten(error: ValidationError, prefix: tuple[str | int, ...]) -> Iterator[_Wrong]:
    """All errors with paths from the root: a slot validates its member by itself and reports as one error."""
    for wrong in error.errors(include_url=False):
        path, context = prefix + tuple(wrong["loc"]), wrong.get("ctx", {})
        inner = context.get("error")
        if isinstance(inner, ValidationError):
            yield from _flatten(inner, path)
        else:
            yield _Wrong(path, wrong["type"], wrong["msg"], wrong.get("input"), context)


def _explain(found: list[_Wrong], tree: Tree) -> ConfigError:
    """The first error, joined by what else is said of the same key: each branch of a union complains."""
    first = found[0]
    path = _in_tree(first.path, tree)
    dotted = ".".join(map(str, path)) or "The configuration"
    inner = first.context.get("error")
    if isinstance(inner, ConfigError):
        # Errors of whole parts name the settings themselves; those of single values may not.
        named = inner.what.startswith(dotted) or not path
        return ConfigError(inner.what if named else f"{dotted}: {inner.what}", hint=inner.hint)
    if first.kind == "json_invalid":  # bytes from a command line that are no UTF-8 become lone surrogates
        return ConfigError(
            "A key or a value holds bytes that are no UTF-8 text.", hint="Check what was typed or pasted."
        )
    if first.kind == "missing" and isinstance(first.path[-1], int):
        return ConfigError(f"{dotted} is {describe(_at(path, tree))}, but must be a longer list.")
    if first.kind == "missing":
        missing = ".".join(map(str, first.path))
        return ConfigError(f"{missing} is missing.", hint=f"Set {missing}=...")
    same = [wrong for wrong in found if _in_tree(wrong.path, tree) == path]
    wanted = list(dict.fromkeys(_wanted(wrong) for wrong in same))
    what = f"{dotted} is {describe(first.value)}, but must be {' or '.join(wanted)}."
    return ConfigError(what, hint=_type_hint(first, wanted))


def _in_tree(path: tuple[str | int, ...], tree: Any) -> tuple[str | int, ...]:
    """The part of a path that leads through the tree; pydantic appends the names of a union's branches."""
    for depth, part in enumerate(path):
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return path[:depth]
    return path


def _at(path: tuple[str | int, ...], tree: Any) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _wanted(wrong: _Wrong) -> str:
    template = WANTED.get(wrong.kind)
    if template is None:
        return wrong.message[:1].lower() + wrong.message[1:]
    return template.format(
        **{key: f"{value:g}" if isinstance(value, float) else value for key, value in wrong.context.items()}
    )


def _type_hint(wrong: _Wrong, wanted: list[str]) -> str:
    value = wrong.value
    if wrong.kind == "literal_error":
        choices = str(wrong.context.get("expected", "")).replace(" or ", ", ").split(", ")
        return closest(str(value), [choice.strip("'") for choice in choices]).strip()
    if isinstance(value, str) and ("a number" in wanted or "a whole number" in wanted):
        return count_hint(value)
    if "a list" in wanted and isinstance(value, str):
        return f"Lists stand in brackets: [{value}]"
    if "true or false" in wanted:
        return "Type true or false, in small letters."
    return ""
