"""Options that several commands share: how they are spelled, read, and completed."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dreamer_cli.devices import KNOWN as DEVICES
from dreamer_cli.devices import parse_device
from dreamer_cli.errors import UsageError, closest
from dreamer_cli.numbers import parse_cadence, parse_count, parse_duration, parse_float
from dreamer_cli.requests import OVERLAYS, Checkpoint

MAX_SEED = 2**32 - 1
SOURCES = ("env", "replay", "prior")  # of a dream's context


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """A Typer option; help panels make long commands readable. `parser` reads texts; defaults stay as they are."""
    if parse := more.pop("parser", None):
        more["parser"] = lambda value: parse(value) if isinstance(value, str) else value
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


def flag(*names: str, help: str, panel: str | None = None) -> Any:
    """An option without a value."""
    return option(*names, help=help, panel=panel, metavar="")


def count(*names: str, help: str, minimum: int = 0, maximum: int = 10**18, **more: Any) -> Any:
    """An option that takes a whole number: 400000, 400_000, 4e5, 400k."""
    name = max(names, key=len)

    def parse(text: str) -> int:
        value = parse_count(text, name, minimum)
        if value > maximum:
            raise UsageError(f"{name} is {text}, but must be at most {maximum}.")
        return value

    return option(*names, help=help, parser=parse, **{"metavar": "N", **more})


def real(*names: str, help: str, minimum: float | None = None, **more: Any) -> Any:
    """An option that takes any finite number."""
    name = max(names, key=len)

    def parse(text: str) -> float:
        value = parse_float(text, name)
        if minimum is not None and value < minimum:
            raise UsageError(f"{name} is {text}, but must be at least {minimum:g}.")
        return value

    return option(*names, help=help, parser=parse, **more)


def choice(*names: str, among: Sequence[str], help: str, **more: Any) -> Any:
    """An option that takes one of a few words; a typo gets the nearest one as hint."""
    name = max(names, key=len)

    def parse(text: str) -> str:
        if text not in among:
            raise UsageError(
                f"{name} is {text!r}, which is no known choice.",
                hint=closest(text, among) + f"Known: {', '.join(among)}.",
            )
        return text

    return option(
        *names,
        help=help,
        parser=parse,
        autocompletion=complete_from(lambda: among),
        **{"metavar": "|".join(among), **more},
    )


def place(*names: str, help: str, **more: Any) -> Any:
    """An option that takes a path."""
    name = max(names, key=len)

    def parse(text: str) -> Path:
        if not text or "\0" in text:
            raise UsageError(f"{name} is {text!r}, which is no path.")
        return Path(text)

    return option(*names, help=help, parser=parse, **{"metavar": "FILE", **more})


def duration(*names: str, help: str, **more: Any) -> Any:
    """An option that takes a time: 30s, 10m, 11h30m."""
    return option(*names, help=help, parser=partial(parse_duration, what=max(names, key=len)), **more)


def cadence(*names: str, help: str, **more: Any) -> Any:
    """An option that takes steps or a time; steps come out as int, a time as its text."""
    name = max(names, key=len)

    def parse(text: str) -> int | str:
        steps = parse_cadence(text, name).steps
        return text.strip() if steps is None else steps

    return option(*names, help=help, parser=parse, **more)


def device(help: str, **more: Any) -> Any:
    """`--device`."""
    completion = complete_from(lambda: DEVICES)
    return option("--device", metavar="DEVICE", help=help, parser=parse_device, autocompletion=completion, **more)


def parse_checkpoint(text: str) -> Checkpoint:
    """`best`, `last`, or the step of a checkpoint.

    Raises:
        UsageError: anything else.
    """
    if text == "best" or text == "last":
        return "best" if text == "best" else "last"
    try:
        return parse_count(text, "--checkpoint", 0)
    except UsageError as error:
        raise UsageError(
            f"--checkpoint is {text!r}.", hint=closest(text, ("best", "last")) + "Known: best, last, or a step."
        ) from error


def parse_image_size(text: str) -> tuple[int, int]:
    """Rows and columns from `64x64`.

    Raises:
        UsageError: anything else.
    """
    rows, x, columns = text.partition("x")
    try:
        size = parse_count(rows, "--image-size", 8), parse_count(columns if x else rows, "--image-size", 8)
    except UsageError as error:
        raise UsageError(f"--image-size is {text!r}.", hint="Rows and columns, 8 to 1024: 64x64") from error
    if max(size) > 1024:
        raise UsageError(f"--image-size is {text!r}.", hint="Rows and columns, 8 to 1024: 64x64")
    return size


def parse_source(text: str) -> str | Path:
    """One of `SOURCES`, or a file.

    Raises:
        UsageError: anything else.
    """
    if text in SOURCES:
        return text
    if text.endswith(".npz") and "\0" not in text:
        return Path(text)
    raise UsageError(
        f"--source is {text!r}.", hint=closest(text, SOURCES) + f"Known: {', '.join(SOURCES)}, or a file FILE.npz."
    )


def parse_overlay(text: str) -> tuple[str, ...]:
    """Some of `OVERLAYS`, joined by commas, or `none`.

    Raises:
        UsageError: anything else.
    """
    names = () if text == "none" else tuple(text.split(","))
    for name in names:
        if name not in OVERLAYS:
            raise UsageError(
                f"--overlay names {name!r}.", hint=closest(name, OVERLAYS) + f"Known: {', '.join(OVERLAYS)}; or none."
            )
    return tuple(dict.fromkeys(names))


def complete_from(names: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """A completion that offers these names; whatever goes wrong, it offers nothing and says nothing."""

    def complete(incomplete: str) -> list[str]:
        try:
            return [name for name in names() if name.startswith(incomplete)]
        except Exception:  # a traceback in the middle of the prompt helps nobody
            return []

    return complete


def run_names() -> list[str]:
    """Runs under the default root, newest last, and `@last`."""
    from dreamer_cli.findrun import list_runs, runs_root

    return ["@last", *(str(run.path) for run in list_runs(runs_root()))]


def preset_names() -> list[str]:
    """All presets by name."""
    from dreamer_cli import presets

    return presets.names()


Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run directory, checkpoint directory, name of a run, or @last.",
        autocompletion=complete_from(run_names),
        show_default=False,
    ),
]
RunsDir = Annotated[
    Path | None, place("--runs-dir", metavar="DIR", help="Where runs are looked up ($DREAMER_RUNS, ./runs).")
]
CheckpointOption = Annotated[
    Any,
    option(
        "--checkpoint",
        metavar="best|last|STEP",
        parser=parse_checkpoint,
        help="Which checkpoint (best if one was scored, else last).",
        autocompletion=complete_from(lambda: ("best", "last")),
    ),
]
Device = Annotated[str | None, device(help="auto, cpu, cuda, cuda:1 or mps (auto).")]
Seed = Annotated[int | None, count("--seed", maximum=MAX_SEED, help="Seed of everything random (the run's own).")]
EnvKwarg = Annotated[
    list[str] | None,
    option("--env-kwarg", metavar="K=V", help="Argument of the environment; repeatable."),
]
