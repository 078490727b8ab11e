"""One call of `dreamer`: its flags, its reporter, its outcome; and the frame around every command."""

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.exceptions import TyperException

from dreamer_cli.cli.failures import explain
from dreamer_cli.errors import DreamerError
from dreamer_cli.report import Reporter, Result, printable

PANEL = "Output"
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only the result, warnings and errors.", rich_help_panel=PANEL)
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More detail; tracebacks.", rich_help_panel=PANEL)]
Json = Annotated[bool, typer.Option("--json", help="The result as one JSON document.", rich_help_panel=PANEL)]


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
    schema: str = "dreamer/1"
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

    def run(self, function: Callable[[], Result]) -> None:
        """Call a command; whatever happens becomes `result` or `error`."""
        self.started = True
        try:
            with stdout_to_stderr(self.is_process):
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
        if not self.error.hint:
            self.error.hint = f"The traceback is in {path}." if path else "--verbose shows the traceback."


def command(function: Callable[..., Result]) -> Callable[..., None]:
    """What Typer registers for `function(session, ...options) -> Result`: the same options and the common flags."""

    def run(typer_context: typer.Context, quiet: bool, verbose: bool, json: bool, **options: Any) -> None:
        session: Session = typer_context.obj
        session.flags(quiet, verbose, json)
        session.run(lambda: function(session, **options))

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(function).parameters.values())[1:]
    common = [
        inspect.Parameter(name, keyword, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose), ("json", Json))
    ]
    parameters = [
        inspect.Parameter("typer_context", keyword, annotation=typer.Context),
        *(parameter.replace(kind=keyword) for parameter in own),
        *common,
    ]
    # Typer reads the signature, not the code: this is how options are shared without repeating them.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = function.__doc__
    run.__name__ = function.__name__
    return run


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
