"""YAML that means what it looks like, and can do nothing but mean it.

PyYAML reads `1e-4` as text, `010` as 8, `no` as false and lets the last of two equal keys win. Here the parser's
events are turned into plain dicts, lists and scalars without its constructors: tags, anchors and aliases are
refused, so nothing that was read can run code or unfold into gigabytes.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dreamer_cli.errors import ConfigError
from dreamer_cli.files import read_at_most
from dreamer_cli.numbers import NUMBER, WHOLE, read_number

MAX_BYTES = 250_000
MAX_DEPTH = 50
MOST_SHOWN = 30  # entries of a list in an error message

# libyaml where PyYAML was built with it: so much takes 0.2 s instead of 4 s. Tests run both.
PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

CONSTANTS = {
    "": None,
    "~": None,
    "null": None,
    "true": True,
    "false": False,
    ".inf": math.inf,
    "+.inf": math.inf,
    "-.inf": -math.inf,
    ".nan": math.nan,
}


def read_scalar(text: str) -> str | int | float | bool | None:
    """What a plain (unquoted) scalar means: null, true, false, a number as people type it, else text."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    number = read_number(text)
    return text if number is None else number


def load(text: str | bytes, source: str = "the YAML") -> Any:
    """The one document in `text` as dicts with text keys, lists and scalars; None if it is empty.

    Raises:
        ConfigError: no YAML, or YAML that is refused; the message names `source` and the line.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source} is larger than {MAX_BYTES:,} bytes.", hint="A configuration takes a few thousand.")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return _Builder(text, source).document()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line} is no YAML: {error.problem}.") from error
    # PyYAML lets bad escapes, bad directives and lone surrogates through as ValueError and its kin.
    except (yaml.YAMLError, ValueError, OverflowError, IndexError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{source} is no YAML: {str(error).splitlines()[0] if str(error) else error!r}.") from error


def load_file(path: Path) -> dict[str, Any]:
    """The mapping in a file; an empty file is an empty mapping.

    Raises:
        ConfigError: no such file, not readable, no YAML, or no mapping.
    """
    try:
        content = read_at_most(path, MAX_BYTES)  # never a pipe, never all of /dev/zero
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    tree = load(content, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {describe(tree)}, but wants `key: value` lines.")
    return tree


def load_value(text: str, source: str = "the value") -> Any:
    """One value as typed behind `KEY=`: a scalar, or a list or mapping in brackets.

    Raises:
        ConfigError: no YAML, or a block mapping or list, which nobody means on a command line.
    """
    value = load(text, source)
    if isinstance(value, dict | list) and text.lstrip()[:1] not in ("{", "["):
        raise ConfigError(
            f"{source} reads as {describe(value)}.", hint="Put quotes around text, brackets around lists and mappings."
        )
    return value


def _is_short(value: Any) -> bool:
    """Whether writing it out takes no time: few entries, nothing nested deeply."""
    lists = [value]
    for part in lists:  # grows on the way
        lists += [inner for inner in part if isinstance(inner, list)][:MOST_SHOWN]
        if len(part) > MOST_SHOWN or len(lists) > MOST_SHOWN or any(isinstance(inner, dict) for inner in part):
            return False
    return True


def describe(value: Any) -> str:
    """A value for an error message: as YAML, shortened."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list) and (not value or not _is_short(value) or len(dump_value(value)) > 60):
        return "a list" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else dump_value(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Builder:
    """Parser events → plain values. Its recursion is bounded by MAX_DEPTH."""

    def __init__(self, text: str, source: str) -> None:
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=PARSER)
        self.source = source

    def document(self) -> Any:
        next(self.events)  # the stream's start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), depth=0)
        next(self.events)  # the document's end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.refuse(event, "holds a second document", "One file, one document: leave out the `---` between.")
        return value

    def value(self, event: yaml.Event, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise self.refuse(event, f"uses the alias *{event.anchor}", "Write the value out; quote it if text.")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.anchor is not None:
                raise self.refuse(event, f"sets the anchor &{event.anchor}", "Write the value out; quote it if text.")
            if event.tag is not None:
                raise self.refuse(event, f"uses the tag {event.tag}", "Plain values only; quote it if it is text.")
        if isinstance(event, yaml.ScalarEvent):
            return read_scalar(event.value) if event.implicit[0] else event.value
        if depth >= MAX_DEPTH:
            raise self.refuse(event, f"is nested deeper than {MAX_DEPTH} levels")
        return self.mapping(depth) if isinstance(event, yaml.MappingStartEvent) else self.sequence(depth)

    def mapping(self, depth: int) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.value(event, depth + 1)
            if isinstance(event, yaml.ScalarEvent):
                key = event.value  # `1`, `on` and `null` are names here, no values
            if not isinstance(key, str):
                raise self.refuse(event, f"has {describe(key)} as a key", "Keys are text.")
            if key in tree:
                raise self.refuse(event, f"sets the key {key!r} twice", "Keep one of them.")
            tree[key] = self.value(next(self.events), depth + 1)
        return tree

    def sequence(self, depth: int) -> list[Any]:
        values = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self.value(event, depth + 1))
        return values

    def refuse(self, event: yaml.Event, what: str, hint: str = "") -> ConfigError:
        mark = event.start_mark
        line = f", line {mark.line + 1}," if mark is not None else ""
        return ConfigError(f"{self.source}{line} {what}.", hint=hint)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this module or a YAML 1.1 reader would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _float(dumper: _Dumper, value: float) -> yaml.ScalarNode:
    if math.isfinite(value):
        # `1.0e+16` would be read back as an int: such floats are written out.
        text = f"{value:.1f}" if abs(value) < 1e18 and value == math.floor(value) else repr(value)
        if "." not in text:
            text = text.replace("e", ".0e")  # YAML 1.1 readers take `4e-05` for text
    else:
        text = ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    # PyYAML writes NEL and its kin into single quotes, where they come back as blanks; double quotes escape them.
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


def _list(dumper: _Dumper, values: list[Any] | tuple[Any, ...]) -> yaml.SequenceNode:
    flat = not any(isinstance(value, dict | list | tuple) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flat or None)


_Dumper.add_representer(float, _float)
_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, _list)
# Besides PyYAML's own patterns, which stay: they make it quote `on`, `no` and dates for other readers.
for _tag, _pattern in (("int", WHOLE.pattern), ("float", rf"{NUMBER.pattern}|[-+]?\.inf|\.nan")):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None)


def dump(tree: Any) -> str:
    """YAML text that `load` reads back to an equal tree, types included; keys keep their order.

    Raises:
        ConfigError: something in the tree is neither dict, list nor scalar.
    """
    try:
        return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"This cannot be written as YAML: {error}.") from error


def dump_value(value: Any) -> str:
    """One value on one line, as it could stand behind `KEY=`."""
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf, default_flow_style=True
    )
    return text.removesuffix("\n").removesuffix("\n...")
