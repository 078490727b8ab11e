"""Writes the pages of docs/reference/ that can be read off the code: `make docs`.

`tests/test_docs.py` compares the committed pages with what this file makes of the code as it is now.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import pydantic.fields

from dreamer_cli import metrics, presets, yamlio
from dreamer_cli.cli.app import app
from dreamer_cli.commands.presets import records
from dreamer_cli.config import Config
from dreamer_cli.errors import DreamerError
from dreamer_cli.registry import Registry, to_tree
from dreamer_cli.trees import leaves

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
MARK = "<!-- Written by `make docs`; edits here are lost. -->"


def pages() -> dict[str, str]:
    """File name → text of every generated page."""
    made = {
        "commands.md": commands(),
        "configuration.md": configuration(),
        "exit-codes.md": exit_codes(),
        "metrics.md": metrics.reference_page(),
        "presets.md": preset_page(),
    }
    return {name: f"{MARK}\n\n{text.rstrip()}\n" for name, text in made.items()}


def main() -> None:
    """Write every page, and name those that changed."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        path = REFERENCE / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


def cell(text: str) -> str:
    """A text inside a table: one line, no bars."""
    return " ".join(text.split()).replace("|", "\\|")


def rows(header: str, lines: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> list[str]:
    """A Markdown table; `header` has its titles with bars between."""
    titles = header.split("|")
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *(f"| {' | '.join(line)} |" for line in lines), ""]


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS = """\
# Commands

What every command prints, reads and means is on this page; what `--json` prints is in [json.md](json.md), and what a
command exits with in [exit-codes.md](exit-codes.md). `dreamer COMMAND --help` shows the same options in the terminal.

## Rules for every command

- **Standard output is the result, standard error is everything else**: plan, progress, warnings, errors. `train` prints
  the run directory, `imagine` and `export` the files that they wrote, one a line, `evaluate` its table.
- **Errors are two lines** on standard error: `error  what was wrong`, and `hint   what to type`. The traceback is in
  the run's `logs/`, and on the screen with `--verbose`.
- `-q`, `-v` and `--json` may stand before or after the command.
- **Colour** follows `NO_COLOR` and `FORCE_COLOR`. Away from a terminal there is none, and progress is a plain line now
  and then: `time key=value ...`.
- **Numbers** are written as people write them: `400000`, `400_000`, `4e5`, `400k`, `1.5M`. `k`, `M` and `G` count;
  `s`, `m`, `h` and `d` are times, and stand only where a time is allowed: `--steps 1m` is refused.
- **RUN** is a run directory, a checkpoint directory inside one, the name of a run under the runs root, or `@last`, the
  run that was started most recently. The runs root is `--runs-dir`, else `$DREAMER_RUNS`, else `./runs`.
- **Steps** are environment steps as papers count them: one action that is repeated four times is four steps. What is
  stored and replayed is counted in **records**, one per decision and one more per reset.
- **Completion** for the shell: `dreamer --install-completion`.

The order in which settings are merged is on the page of [presets](presets.md); the settings themselves are on that of
the [configuration](configuration.md).
"""


def commands() -> str:
    """Every command with its arguments and options, from the Typer app itself."""
    context = app.make_context("dreamer", [], resilient_parsing=True)
    lines = [COMMANDS, "## dreamer", "", *_options(app, context)]
    for name, command in app.commands.items():
        members = getattr(command, "commands", None)
        for verb, member in (members or {"": command}).items():
            path = f"{name} {verb}".strip()
            inner = member.make_context(f"dreamer {path}", [], resilient_parsing=True)
            lines += [f"## {path}", "", *_usage(path, member), str(member.help), "", *_options(member, inner)]
    return "\n".join(lines)


def _usage(path: str, command: Any) -> list[str]:
    arguments = "".join(f" {param.metavar}" for param in command.params if param.param_type_name == "argument")
    return ["```", f"dreamer {path}{arguments} [OPTIONS]", "```", ""]


def _options(command: Any, context: Any) -> list[str]:
    """One table per help panel, in the order of the terminal's help."""
    panels: dict[str, list[tuple[str, ...]]] = {}
    for param in command.get_params(context):
        panel = getattr(param, "rich_help_panel", None) or "Options"
        if param.param_type_name == "argument":
            panels.setdefault("Arguments", []).append((f"`{param.metavar}`", cell(param.help or "")))
        else:
            panels.setdefault(panel, []).append((_names(param), cell(param.help or "")))
    lines = []
    for panel, found in panels.items():
        lines += rows(f"{panel}|", found)
    return lines


def _names(param: Any) -> str:
    words = sorted(param.opts, key=lambda name: (name.startswith("--"), name))
    names = ", ".join(f"`{name}`" for name in [*words, *param.secondary_opts])
    return f"{names} `{cell(param.metavar)}`" if param.metavar else names


# ── configuration ───────────────────────────────────────────────────────────────────────────────────────────

CONFIGURATION = """\
# Configuration

Every setting there is, at its default: what Dreamer V3 uses, at 12 million parameters. Set one with
`-s KEY=VALUE` (`-s behaviour.horizon=20`), several in a [preset](../how-to/write-a-preset.md). A run's `config.yaml`
holds all of them, and `dreamer inspect RUN --origin` says where each came from.

Unknown keys, wrong types and values out of range are refused (exit code 2), with the nearest known key as a hint.
A key that holds a part has a `kind`. Naming another kind drops what the slot had inherited, because the settings of
one part mean nothing to another.
"""


def configuration() -> str:
    """Every key of the tree with its default, what it takes, and what the docstring of its part says."""
    lines = [CONFIGURATION, *_part("", Config())]
    lines += ["## `loss_scales`", "", "Weights of the losses. A loss without a weight is an error.", ""]
    lines += rows(
        "key|default", [(f"`loss_scales.{key}`", f"`{value:g}`") for key, value in Config().loss_scales.items()]
    )
    return "\n".join(lines)


def _part(path: str, settings: Any) -> list[str]:
    """The section of one part, then those of the parts in it."""
    cls = type(settings)
    about, meanings = documented(cls)
    hints = cls.__annotations__
    own: list[tuple[str, ...]] = []
    inner: list[str] = []
    for field in dataclasses.fields(cls):
        key, value = f"{path}.{field.name}".lstrip("."), getattr(settings, field.name)
        registry = _registry(hints[field.name])
        if registry is not None:
            kind = registry.kind_of(value)
            kinds = ", ".join(f"`{name}`" for name in registry)
            own.append((f"`{key}.kind`", f"`{kind}`", kinds, cell(meanings[field.name])))
            for name, member in registry.items():
                inner += _member(key, name, value if name == kind else member(), is_default=name == kind)
        elif dataclasses.is_dataclass(value):
            inner += _part(key, value)
        elif key != "loss_scales":
            own.append((f"`{key}`", f"`{_plain(value)}`", cell(takes(hints[field.name])), cell(meanings[field.name])))
    lines = []
    if own:
        title = f"`{path}`" if path else "The root"
        file = Path(inspect.getfile(cls)).resolve().relative_to(ROOT).as_posix()
        lines += [f"## {title}", "", f"{about} ([{file}](../../{file}))", ""]
        lines += rows("key|default|takes|meaning", own)
    return lines + inner


def _member(key: str, kind: str, settings: Any, is_default: bool) -> list[str]:
    """The section of one member of a slot; only those that have settings get one."""
    if not dataclasses.fields(settings):
        return []
    lines = _part(key, settings)
    if lines and lines[0].startswith(f"## `{key}`"):
        lines[0] = f"## `{key}`: {kind}"
    return lines


def documented(cls: type) -> tuple[str, dict[str, str]]:
    """A part's docstring: its first paragraph, and the meaning of each key under `Attributes:`."""
    text = inspect.getdoc(cls) or ""
    about = " ".join(text.split("\n\n")[0].split())
    block = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    meanings: dict[str, str] = {}
    for line in (block[1] if block else "").splitlines():
        if found := re.match(r"    (\w+): (.*)", line):
            name, meanings[found[1]] = found[1], found[2]
        elif line.strip():
            meanings[name] += " " + line.strip()
    # In YAML and on the command line None is written null.
    return about, {key: meaning.rstrip(".").replace("None", "null") for key, meaning in meanings.items()}


def _registry(hint: Any) -> Registry | None:
    return next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Registry)), None)


def takes(hint: Any) -> str:
    """What values a field accepts, in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(takes(arg) for arg in get_args(hint))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if hasattr(hint, "__metadata__"):
        bounds = ", ".join(_bounds(hint.__metadata__))
        return f"{takes(hint.__origin__)} {bounds}".strip()
    if get_origin(hint) is tuple:
        return "[" + ", ".join("..." if arg is Ellipsis else takes(arg) for arg in get_args(hint)) + "]"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, "mapping")


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    signs = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}
    for item in metadata:
        for bound in item.metadata if isinstance(item, pydantic.fields.FieldInfo) else ():
            if type(bound) in signs:
                yield f"{signs[type(bound)]} {dataclasses.astuple(bound)[0]}"


def _plain(value: Any) -> str:
    return yamlio.dump_value(to_tree(value))


# ── exit codes ──────────────────────────────────────────────────────────────────────────────────────────────

EXIT_CODES = """\
# Exit codes

Scripts may rely on these numbers. With `--json` the document carries the same number as `exit_code`, and its name as
`error.code`.
"""


def exit_codes() -> str:
    """The table of exit codes, from the error classes."""
    classes = {cls.exit_code: cls for cls in [DreamerError, *DreamerError.__subclasses__()]}
    found = [("0", "ok", "Finished. Also: already complete.")]
    for code, cls in sorted(classes.items()):
        said = (
            "An unexpected exception: a bug. Its traceback is in the run's `logs/`." if code == 1 else cls.__doc__ or ""
        )
        found.append((str(code), cls.name, cell(said)))
    more = [
        "75 follows SIGTERM, SIGUSR1, SIGHUP and `--max-time`; 130 follows Ctrl-C. When `train` ends with either, the",
        "checkpoint is saved, the run directory is on standard output, and the last line of standard error is the",
        "command that continues the run. A second Ctrl-C stops at once; the last checkpoint is whole even then.",
    ]
    return "\n".join([EXIT_CODES, *rows("code|name|when", found), *more])


# ── presets ─────────────────────────────────────────────────────────────────────────────────────────────────

PRESETS = """\
# Presets

`dreamer presets list` prints this list, `dreamer presets show NAME` what a preset leads to. Parameters are measured:
for 24 numbers in and 6 continuous actions out (vector), and for 64x64x3 in and 18 discrete actions out (pixels).

Settings are merged in this order, later wins:

1. `base`: every key at its default
2. the algorithm (`dreamerv3` if none is named)
3. the size, if none is named: 1m for vectors, 12m with images
4. the suite's preset, chosen by the environment's id (left out with `-c`)
5. `-c FILE`
6. `-p NAME|FILE`, left to right
7. `--size`
8. the other options
9. `-s KEY=VALUE`
"""
KIND_TITLES = {"algorithm": "Algorithms", "size": "Sizes", "suite": "Suites", "overlay": "Overlays"}


def preset_page() -> str:
    """Every preset by kind, and the keys that it sets."""
    lines = [PRESETS]
    found = records()
    for kind, title in KIND_TITLES.items():
        table = [
            (
                f"[`{r['name']}`](../../presets/{r['name']}.yaml)",
                cell(r["title"]),
                *_counted(r),
                cell(r["source"] or ""),
            )
            for r in found
            if r["kind"] == kind
        ]
        lines += [f"## {title}", "", *rows("name|what it is|vector|pixels|source", table)]
    lines += ["## What they set", ""]
    for record in found:
        preset = presets.find(record["name"])
        keys = "\n".join(f"{key}: {yamlio.dump_value(value)}" for key, value in leaves(preset.tree))
        envs = preset.about.get("envs")
        lines += [f"### {preset.name}", ""]
        lines += [f"For {', '.join(f'`{pattern}`' for pattern in envs)}.", ""] if envs else []
        lines += ["```yaml", keys, "```", ""]
    return "\n".join(lines)


def _counted(record: Mapping[str, Any]) -> tuple[str, str]:
    counted = record["parameters"] or {}
    return tuple(f"{counted[key]:,}" if counted.get(key) else "" for key in ("vector", "pixels"))  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
