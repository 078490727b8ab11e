"""Parts by name: a slot of the configuration holds one member of a registry, chosen by `kind`."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter

from dreamer_cli.errors import ConfigError, closest

# Every part's settings: unknown keys and wrong types are refused, nothing changes after loading.
STRICT = ConfigDict(extra="forbid", strict=True)

# Numbers with their ranges, for fields of settings.
# Upper ends are far beyond any use: a file that asks for a million layers is told so, and not obeyed for hours.
Count = Annotated[int, Field(ge=0, le=10**15)]
AtLeastOne = Annotated[int, Field(ge=1, le=10**15)]
Layers = Annotated[int, Field(ge=1, le=100)]
Units = Annotated[int, Field(ge=1, le=65_536)]
Choices = Annotated[int, Field(ge=2, le=65_536)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

T = TypeVar("T")


class Registry(Mapping[str, type[Any]]):
    """kind → the class of its settings, in the order in which they are listed.

    A member that lives in a file of its own is named as `module:Class`, and imported when it is first asked for: so a
    new part is one file and one line here, and nobody waits for parts that are not used.

    Args:
        members: kind → class, or where it is.
        refused: kinds that someone might ask for → why there is no such member.
    """

    def __init__(self, members: Mapping[str, type[Any] | str], refused: Mapping[str, str] | None = None) -> None:
        self.members = dict(members)
        self.refused = dict(refused or {})

    def __getitem__(self, kind: str) -> type[Any]:
        member = self.members[kind]
        if isinstance(member, str):
            module, _, name = member.partition(":")
            member = self.members[kind] = getattr(import_module(module), name)
        return member

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def kind_of(self, settings: Any) -> str | None:
        """The kind of these settings; None if they are no member's."""
        # By name first: to compare classes, all of them would have to be imported.
        wanted = f"{type(settings).__module__}:{type(settings).__qualname__}"
        known = (kind for kind, member in self.members.items() if member in (type(settings), wanted))
        return next(known, None)

    def refuse(self, slot: str, kind: object, shown: str = "") -> ConfigError:
        """The error for a kind that is no member; `shown` is how to write it."""
        reason = self.refused.get(kind) if isinstance(kind, str) else None
        if reason is not None:
            return ConfigError(f"{slot}.kind is {kind!r}: {reason}", hint=f"Known: {', '.join(self)}.")
        what = shown or ("missing" if kind is None else repr(kind))
        return ConfigError(
            f"{slot}.kind is {what}, but must be a known one.",
            hint=closest(str(kind), self) + f"Known: {', '.join(self)}.",
        )


def choose(slot: str, registry: Registry, spec: Mapping[str, Any]) -> Any:
    """Build the settings of the member that `spec["kind"]` names.

    Raises:
        ConfigError: no such member; pydantic's ValidationError if its settings are wrong.
    """
    settings = dict(spec)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in registry:
        raise registry.refuse(slot, kind)
    # Through JSON, because pydantic's strict mode takes nested dicts for dataclasses only from there.
    return TypeAdapter(registry[kind]).validate_json(json.dumps(settings))


def slot(name: str, registry: Registry) -> Any:
    """The type of a configuration field that holds one member of `registry`.

    Use as `core: slot("core", CORES) = BlockGRUConfig()`.
    """

    def validate(value: object) -> object:
        if registry.kind_of(value) is not None:
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{name} is {value!r}, but wants a mapping with a kind.",
                hint=f"For example {name}: {{kind: {next(iter(registry))}}}",
            )
        return choose(name, registry, value)

    return Annotated[Any, PlainValidator(validate), registry]


def to_tree(settings: Any) -> Any:
    """Settings as plain dicts, lists and scalars, with `kind` where a slot chose a member.

    The inverse of validation: `TypeAdapter(Config).validate_json(json.dumps(to_tree(cfg)))` equals `cfg`.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        tree = {}
        hints = type(settings).__annotations__
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            registry = next(
                (m for m in getattr(hints[field.name], "__metadata__", ()) if isinstance(m, Registry)), None
            )
            sub = to_tree(value)
            if registry is not None:
                sub = {"kind": registry.kind_of(value), **sub}
            tree[field.name] = sub
        return tree
    if isinstance(settings, Mapping):
        return {key: to_tree(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [to_tree(value) for value in settings]
    return settings
