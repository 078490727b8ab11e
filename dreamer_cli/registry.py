"""Parts by name: a slot of the configuration holds one member of a registry, chosen by `kind`."""

import dataclasses
import json
from collections.abc import Mapping
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


def choose(slot: str, registry: Mapping[str, type[T]], spec: Mapping[str, Any]) -> T:
    """Build the settings of the member that `spec["kind"]` names.

    Raises:
        ConfigError: no such member; pydantic's ValidationError if its settings are wrong.
    """
    settings = dict(spec)
    kind = settings.pop("kind", None)
    if kind not in registry:
        raise ConfigError(
            f"{slot}.kind is {kind!r}, which is no known choice.",
            hint=closest(str(kind), registry) + f"Known: {', '.join(registry)}.",
        )
    # Through JSON, because pydantic's strict mode takes nested dicts for dataclasses only from there.
    return TypeAdapter(registry[kind]).validate_json(json.dumps(settings))


def slot(name: str, registry: Mapping[str, type[Any]]) -> Any:
    """The type of a configuration field that holds one member of `registry`.

    Use as `core: slot("core", CORES) = BlockGRUConfig()`.
    """

    def validate(value: object) -> object:
        if isinstance(value, tuple(registry.values())):
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
            registry = next((m for m in getattr(hints[field.name], "__metadata__", ()) if isinstance(m, Mapping)), None)
            sub = to_tree(value)
            if registry is not None:
                kind = next(k for k, member in registry.items() if type(value) is member)
                sub = {"kind": kind, **sub}
            tree[field.name] = sub
        return tree
    if isinstance(settings, Mapping):
        return {key: to_tree(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [to_tree(value) for value in settings]
    return settings
