"""`main`: one call from arguments to exit code."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from typer.exceptions import Abort, TyperException

from dreamer_cli.cli.app import app, verbs
from dreamer_cli.cli.output import document, print_error, print_json, print_lines, settle_stderr
from dreamer_cli.cli.session import Session
from dreamer_cli.errors import Preempted
from dreamer_cli.report import Result, shell_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the only function that prints results and errors.

    Args:
        argv: the arguments after `dreamer`; None means this process's own.
    """
    session = Session(tuple(sys.argv[1:] if argv is None else argv), is_process=argv is None)
    if sys.stderr is None:  # started with stderr closed
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  lives as long as the process
    # Threads that wait for work sleep: spinning, they would take the cores from each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # pygame greets on import, in every environment worker.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    code = _parse_and_call(session)
    try:
        return _print(session, code)
    except OSError as error:  # stdout leads to a full disk
        session.fail(error)
        print_error(session.report, session.error) if session.error else None
        return session.error.exit_code if session.error else 1
    finally:
        if session.is_process:
            settle_stderr()


def _parse_and_call(session: Session) -> int:
    """Let Typer parse and the command work; returns the exit code of what printed by itself (help, completion)."""
    captured = io.StringIO()
    # Help and completion print by themselves; in --json their text becomes a field.
    catch = contextlib.redirect_stdout(captured) if session.asked_for_json else contextlib.nullcontext()
    try:
        with catch:
            code = app(session.argv, prog_name="dreamer", standalone_mode=False, obj=session)
        if code == 130 and not session.started:
            session.fail(KeyboardInterrupt())
    except SystemExit as stop:
        # Completion ends the process; so does Rich when nobody reads the help any more, which is no failure.
        return stop.code if isinstance(stop.code, int) and "_DREAMER_COMPLETE" in os.environ else 0
    except (TyperException, Exception, KeyboardInterrupt) as error:
        session.fail(KeyboardInterrupt() if isinstance(error, Abort) else error)
    if captured.getvalue() and session.result is None and session.error is None:
        session.result = Result({"help": captured.getvalue()})
    return 0


def _print(session: Session, code: int) -> int:
    error, result = session.error, session.result
    if session.asked_for_json:
        print_json(document(_schema(session.argv), result, error))
    elif result is not None:
        print_lines(result.text)
    if error is not None:
        again = shell_line("dreamer", *session.argv) if error.exit_code == Preempted.exit_code else ""
        print_error(session.report, error, result.command if result else again)
        return error.exit_code
    return code


def _schema(argv: Sequence[str]) -> str:
    """`dreamer.runs.list/1` for `dreamer -q runs list --json`; `dreamer/1` for no known command."""
    # Before a command there are only flags, so the first words without a dash are the verbs.
    words = [word for word in argv if not word.startswith("-")]
    known: dict[str, Any] = verbs()
    path = ["dreamer"]
    for word in words:
        if word not in known:
            break
        path.append(word)
        known = known[word]
    if path == ["dreamer", "train"] and "--plan" in argv:
        path = ["dreamer", "plan"]
    return ".".join(path) + "/1"
