"""How results and errors leave the process: the JSON document, the lines, and nothing besides."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import Any

from rich.text import Text

from dreamer_cli.errors import DreamerError
from dreamer_cli.report import Reporter, Result, printable


def document(schema: str, result: Result | None, error: DreamerError | None) -> dict[str, Any]:
    """The JSON document of one call.

    Args:
        schema: for example `dreamer.runs.list/1`.
        result: what the command handed back, if it got that far.
        error: what went wrong, if anything did; its exit code is the call's.
    """
    head = {"schema": schema, "ok": error is None, "exit_code": error.exit_code if error else 0}
    body = plain(result.json) if result else {}
    tail = {"error": {"code": error.name, "message": _line(error.what), "hint": hint(error)}} if error else {}
    return {**head, **{key: value for key, value in body.items() if key not in head}, **tail}


def plain(value: object) -> Any:
    """A value as JSON can hold it: numbers that are not finite become None, paths texts, tuples lists."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, PurePath):
        return str(value)
    # numpy scalars and arrays, torch tensors: without importing either.
    convert = getattr(value, "tolist", None)
    return plain(convert()) if convert is not None else str(value)


def print_json(tree: Mapping[str, Any]) -> None:
    """One document: on one line, but indented for a person at a terminal."""
    write_stdout(json.dumps(tree, allow_nan=False, indent=2 if sys.stdout and sys.stdout.isatty() else None) + "\n")


def print_lines(lines: Sequence[str]) -> None:
    """The result as text."""
    if lines:
        write_stdout("".join(printable(line) + "\n" for line in lines))


def write_stdout(text: str) -> None:
    """Write and flush. A reader that has gone away (`| head`) is no error.

    Raises:
        OSError: the place that stdout leads to is full.
    """
    if sys.stdout is None:  # the process was started with stdout closed
        return
    try:
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            sys.stdout.write(text.encode(sys.stdout.encoding or "ascii", "backslashreplace").decode("ascii", "replace"))
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
    except OSError:
        discard_stdout()
        raise


def discard_stdout() -> None:
    """Let what is still buffered go nowhere: the interpreter's own flush at exit would complain."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def settle_stderr() -> None:
    """See that the interpreter's own flush at exit finds a stderr that takes what is left: else it exits with 120."""
    stream = sys.__stderr__
    if stream is None or sys.stderr is not stream:
        return
    try:
        stream.flush()
    except (OSError, ValueError):  # a full disk, or nobody reads it any more
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def print_error(report: Reporter, error: DreamerError, command: str = "") -> None:
    """The two lines on stderr, and after them the command that goes on, if there is one."""
    advice = hint(error)
    if command and advice.endswith(command):  # it follows on a line of its own, for scripts
        advice = "The command on the next line continues it."
    report.say(Text.assemble(("error  ", "bold red"), printable(_line(error.what))))
    report.say(Text.assemble(("hint   ", "cyan"), printable(advice)))
    if command:
        report.say(Text(printable(command)))


def hint(error: DreamerError) -> str:
    """What to do next; never empty, because scripts count on two lines."""
    if error.hint:
        return _line(error.hint)
    return "--help after the command lists its options." if error.exit_code == 2 else "--verbose shows more."


def _line(text: str) -> str:
    """On one line; blanks stay as they are, because they may be part of a path."""
    return " ".join(filter(None, map(str.strip, text.splitlines()))) or "no message"
