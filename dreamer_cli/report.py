"""What a command tells the user: `Result` goes to stdout, everything a `Reporter` prints to stderr.

A leaf, so that commands can use it without knowing the command line. On a terminal progress is a
bar; elsewhere it is one plain `time key=value ...` line every 30 s or 1 %, whichever comes later.
"""

import contextlib
import math
import os
import shlex
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from dreamer_cli.errors import DreamerError
from dreamer_cli.files import open_append

LINE_SECONDS = 30.0
LINE_FRACTION = 0.01
BAR_SECONDS = 0.1  # bars are redrawn by hand: a refresh thread would be copied into forked env workers


@dataclass(frozen=True)
class Result:
    """What a command hands back to the command line.

    Attributes:
        json: the fields of the `--json` document, beside `schema`, `ok`, `exit_code` and `error`, which are added.
        text: the lines for stdout without `--json`.
        error: set if the command did its work and must still exit with a code (a gate missed, preempted):
            the result is printed *and* the error.
        command: printed alone as the last line on stderr: what to type to go on (exit 75 and 130).
    """

    json: Mapping[str, Any]
    text: Sequence[str] = ()
    error: DreamerError | None = None
    command: str = ""


def printable(text: str) -> str:
    """Text with control characters spelled out, so that no name or message can steer a terminal."""
    return "".join(c if _is_harmless(c) or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _is_harmless(c: str) -> bool:
    """Also the blanks that Python does not call printable, and the joiners that emoji and many scripts need."""
    return c.isprintable() or c in "\u200c\u200d" or unicodedata.category(c) == "Zs"


def shell_line(*words: str) -> str:
    """Words as a command on one line, which a shell takes apart into just these words.

    What is no plain text (a line feed, bytes that are no UTF-8) becomes `$'...'`, which all but the oldest shells know.
    """
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if all(map(_is_harmless, word)):
        return shlex.quote(word)
    escaped = {"\\": "\\\\", "'": "\\'"}
    parts = (escaped.get(c, c) if _is_harmless(c) else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in word)
    return f"$'{''.join(parts)}'"


def show_number(value: object) -> str:
    """A number as progress shows it: four digits, no trailing zeros."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pairs(fields: Mapping[str, object]) -> str:
    return " ".join(f"{key}={show_number(value)}".replace("\n", " ") for key, value in fields.items())


class _Console(Console):
    """Rich's console, but for a reader that has gone away: Rich would point stdout at nothing and exit."""

    def on_broken_pipe(self) -> None:
        """Fall silent; the work goes on."""
        self.quiet = True


def is_terminal(stream: Any) -> bool:
    """Whether a person may be looking at the stream."""
    return not stream.closed and stream.isatty()


def make_console(stream: Any, plain: bool = False) -> Console:
    """A console that follows NO_COLOR, FORCE_COLOR and TERM; `plain` never colours what is no terminal.

    Decided here, because Rich knows more variables (TTY_COMPATIBLE) that would send escapes into a pipe.
    """
    forced = bool(os.environ.get("FORCE_COLOR")) and not plain
    return _Console(
        file=stream, force_terminal=is_terminal(stream) or forced, highlight=False, soft_wrap=True, markup=False
    )


class Task:
    """One running progress display; made by `Reporter.progress`."""

    def __init__(self, reporter: "Reporter", description: str, total: int | None, completed: int) -> None:
        self.description, self.total, self.completed = description, total, completed
        self.fields: dict[str, object] = {}
        self._reporter = reporter
        self._said, self._said_at = completed, reporter.clock()

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count `n` more; `fields` (return=12.5, loss=...) replace those shown under the same names."""
        self.completed += n
        self.fields.update(fields)
        self._reporter._show(self)

    def due(self, now: float) -> bool:
        """Whether a plain line may be printed: 30 s *and* 1 % have gone by since the last."""
        enough = LINE_FRACTION * self.total if self.total else 0
        return now - self._said_at >= LINE_SECONDS and self.completed - self._said >= enough

    def line(self, now: float) -> str:
        """The plain line: `time key=value ...`, which tools can read back."""
        self._said, self._said_at = self.completed, now
        name = "_".join(self.description.split()) or "done"
        done = {name: self.completed if self.total is None else f"{self.completed}/{self.total}"}
        stamp = datetime.now().isoformat(timespec="seconds")
        return f"{stamp} {_pairs(done | self.fields)}"


@dataclass
class Reporter:
    """Notes, warnings and progress on stderr.

    Attributes:
        quiet: only warnings are printed.
        verbose: details are printed too.
        json: stdout will carry JSON; colour is left out even where FORCE_COLOR asks for it.
        stream: where to print; None means stderr as it is when the reporter is made.
        clock: seconds, monotonic; replaced in tests.
    """

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    stream: Any = None
    clock: Any = time.monotonic
    console: Console = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stream = self.stream or sys.stderr
        self.console = make_console(stream, plain=self.json)
        # Bars move the cursor: colour in a pipe may be forced, bars never are.
        self._draws = is_terminal(stream) and self.console.is_interactive
        self._bars: Progress | None = None
        self._drawn_at = -math.inf
        self._tasks: dict[int, TaskID] = {}
        self._log: Path | None = None
        self._log_notes = False
        # While a training is on display, tasks show there: (description, done, total or 0), and "" at their end.
        self.stage: Callable[[str, int, int], None] | None = None

    def note(self, text: str) -> None:
        """Something worth knowing; hidden by --quiet."""
        self.log(text)
        if not self.quiet:
            self.say(Text(printable(text)))

    def detail(self, text: str) -> None:
        """Something that only --verbose shows."""
        self.log(text)
        if self.verbose and not self.quiet:
            self.say(Text(printable(text), "dim"))

    def warn(self, text: str) -> None:
        """Something that may spoil the result; shown even with --quiet."""
        self.log(f"warning: {text}")
        self.say(Text.assemble(("warn   ", "yellow"), printable(text)))

    def say(self, text: Text) -> None:
        """Print whatever the flags are; a closed pipe or a full disk must not end a training run."""
        # A stream that can no longer be written leaves nobody to tell: OSError, or ValueError once it is closed.
        with contextlib.suppress(OSError, ValueError):
            self.console.print(text)

    def open_log(self, path: Path, notes: bool = True) -> None:
        """From now on tracebacks go to this file, and with `notes` everything that is said."""
        self._log, self._log_notes = path, notes

    def log(self, text: str, crash: bool = False) -> Path | None:
        """Append to the log file, if one is open; returns its path if the text is there now.

        A log that cannot be written never stops the work that it describes: it is switched off.
        """
        if self._log is None or not (crash or self._log_notes):
            return None
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open_append(self._log) as file:
                line = f"{datetime.now().isoformat(timespec='seconds')} {text}\n"
                file.write(line.encode(errors="backslashreplace"))
        except OSError as err:
            path, self._log = self._log, None
            if self._log_notes:
                self.warn(f"no longer writing {path}: {err.strerror or err}")
            return None
        return self._log

    @contextlib.contextmanager
    def progress(self, description: str, total: int | None = None, completed: int = 0) -> Iterator[Task]:
        """Show how far something has come.

        Args:
            description: a word or two; the key of the plain line.
            total: what `completed` counts up to; None if unknown.
            completed: where counting starts (a resumed run).
        """
        task = Task(self, description, total, completed)
        outermost = self._bars is None and self.stage is None and self._draws and not self.quiet
        if outermost:
            self._bars = _bars(self.console)
            self._bars.start()
        if self._bars is not None:
            self._tasks[id(task)] = self._bars.add_task(
                printable(description), total=total, completed=completed, fields=""
            )
        if self.stage is not None:
            self.stage(description, completed, total or 0)
        try:
            yield task
        finally:
            self._close(task, outermost)

    def _close(self, task: Task, outermost: bool) -> None:
        if self.stage is not None:
            self.stage("", 0, 0)
        if self._bars is None:
            return
        bar = self._tasks.pop(id(task))
        if outermost:
            self._bars.update(bar, completed=task.completed, fields=printable(_pairs(task.fields)))
            self._bars.stop()
            self._bars = None
        else:
            self._bars.remove_task(bar)

    def _show(self, task: Task) -> None:
        now = self.clock()
        if self.stage is not None:
            self.stage(task.description, task.completed, task.total or 0)
        elif self._bars is not None:
            if now - self._drawn_at >= BAR_SECONDS:
                self._drawn_at = now
                shown = printable(_pairs(task.fields))
                self._bars.update(self._tasks[id(task)], completed=task.completed, fields=shown, refresh=True)
        elif task.due(now):
            line = task.line(now)
            self.log(line)
            if not self.quiet:
                self.say(Text(printable(line)))


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[fields]}", style="dim"),
        console=console,
        auto_refresh=False,
    )
