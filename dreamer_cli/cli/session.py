"""One call of `dreamer`: its flags, its reporter, its outcome; and the frame around every command."""

import contextlib
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.exceptions import TyperException

from dreamer_cli.cli.failures import explain
from dreamer_cli.errors import DreamerError, Preempted
from dreamer_cli.report import Reporter, Result, printable, shell_line
from dreamer_cli.requests import Checkpoint

PANEL = "Output"
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only the result, warnings and errors.", rich_help_panel=PANEL, metavar="")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="More detail; tracebacks.", rich_help_panel=PANEL, metavar="")
]
Json = Annotated[
    bool, typer.Option("--json", help="The result as one JSON document.", rich_help_panel=PANEL, metavar="")
]


@dataclass
class Session:
    """What one call of `main` knows; travels as the context's `obj`.

    Attributes:
        argv: what was typed after `dreamer`.
        is_process: whether this is a process of its own, whose file descriptor 1 may be redirected.
        started: whether parsing succeeded and a command began.
    """

    argv: tuple[str, ...]
    is_process: bool = False
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    started: bool = False
    result: Result | None = None
    error: DreamerError | None = None
    _reporter: Reporter | None = field(default=None, repr=False)

    @property
    def asked_for_json(self) -> bool:
        """Whether `--json` was typed anywhere; for errors that come before parsing is done."""
        typed = self.argv[: self.argv.index("--")] if "--" in self.argv else self.argv
        return self.json or (not self.started and "--json" in typed)

    @property
    def report(self) -> Reporter:
        """The reporter, made on first use: only then are all flags known."""
        if self._reporter is None:
            verbose = self.verbose or (not self.started and not {"-v", "--verbose"}.isdisjoint(self.argv))
            self._reporter = Reporter(quiet=self.quiet, verbose=verbose, json=self.asked_for_json)
        return self._reporter

    def flags(self, quiet: bool, verbose: bool, json: bool) -> None:
        """Take in the flags of one level: before the verb, between, or after it."""
        self.quiet |= quiet
        self.verbose |= verbose
        self.json |= json

    def opens(self, run: str, runs_dir: Path | None, checkpoint: Checkpoint | None, verb: str) -> None:
        """Find RUN before torch loads, so that a typo costs no seconds; a crash leaves its traceback in the run.

        Raises:
            StateError, UsageError: see `find_checkpoint`.
        """
        from dreamer_cli.findrun import find_checkpoint

        found, _ = find_checkpoint(run, runs_dir, checkpoint)
        self.report.open_log(found.logs / f"{verb}.log", notes=False)

    def run(self, function: Callable[[], Result]) -> None:
        """Call a command; whatever happens becomes `result` or `error`."""
        self.started = True
        try:
            with stdout_to_stderr(self.is_process), early_signals(self.is_process, self.argv):
                self.result = function()
            self.error = self.result.error
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Take an exception as the outcome; its traceback goes to the run's log, and with --verbose to stderr."""
        self.error = explain(error)
        expected = isinstance(error, DreamerError)
        if isinstance(error, TyperException):
            return
        trace = "".join(traceback.format_exception(error))
        path = self.report.log(trace, crash=not expected)
        if self.report.verbose:
            self.report.say(Text(printable(trace)))
        if not expected and not self.error.hint:
            self.error.hint = f"The traceback is in {path}." if path else "--verbose shows the traceback."


def command(function: Callable[..., Result]) -> Callable[..., None]:
    """What Typer registers for `function(session, ...options) -> Result`: the same options and the common flags."""

    def run(typer_context: Any, quiet: bool, verbose: bool, json: bool, **options: Any) -> None:
        session: Session = typer_context.obj
        session.flags(quiet, verbose, json)
        session.run(lambda: function(session, **options))

    own = list(inspect.signature(function).parameters.values())[1:]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose), ("json", Json))
    ]
    run.__doc__, run.__name__ = function.__doc__, function.__name__
    return takes_context(run, [*own, *common])


def takes_context(
    function: Callable[..., None], options: Sequence[inspect.Parameter] | None = None
) -> Callable[..., None]:
    """Tell Typer that the first parameter is its context, and optionally which options the others are.

    Typer reads the signature, not the code: this is how options are shared without repeating them. The context is
    not annotated in the source, because what Typer hands over is no instance of `typer.Context`.
    """
    first, *others = inspect.signature(function).parameters.values()
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (first.replace(annotation=typer.Context), *(others if options is None else options))
    ]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


@contextlib.contextmanager
def stdout_to_stderr(is_process: bool) -> Iterator[None]:
    """While a command works, what environments and libraries print must not mix with the result.

    In a process of its own the descriptor itself is led away, so that C code and env workers follow.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if not is_process:
            yield
            return
        try:
            kept = os.dup(1)
        except OSError:  # started with stdout closed: nothing can reach it
            yield
            return
        try:
            with contextlib.suppress(OSError):  # no stderr either
                os.dup2(2, 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


@contextlib.contextmanager
def early_signals(is_process: bool, argv: Sequence[str]) -> Iterator[None]:
    """Before a command watches signals itself (torch takes seconds to load) they end it with code 75, too.

    Nothing has begun by then, so raising is safe; later `StopSignal` takes over.
    """
    again = shell_line("dreamer", *argv)
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker ends as the system says
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Preempted(f"Stopped by {signal.Signals(number).name}.", hint=f"Type it again: {again}")

    old = {}
    names = ("SIGTERM", "SIGUSR1", "SIGHUP") if is_process else ()
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            old[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
