"""Every error that a user may meet: what was wrong, what to do next, and the exit code.

The numbers are a contract with shell scripts (`docs/reference/exit-codes.md`); anything that is not
a `DreamerError` is a bug and exits 1.
"""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """The sentence `Did you mean 'x'? `, or nothing if no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


class DreamerError(Exception):
    """An error with a sentence for the user; printed as two lines, never as a traceback.

    Args:
        what: what was wrong, naming the thing that was wrong.
        hint: what to type or change next; may be empty.
    """

    name = "failed"
    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class UsageError(DreamerError):
    """A bad option or argument."""

    name, exit_code = "usage", 2


class ConfigError(UsageError, ValueError):
    """A bad setting. A `ValueError` too, so that pydantic keeps the path of the key that raised it."""


class EnvError(DreamerError):
    """The environment is unknown, cannot be imported, breaks its contract, or an extra is missing."""

    name, exit_code = "environment", 3


class StateError(DreamerError):
    """A run or a checkpoint is missing, damaged, incompatible, or locked by another process."""

    name, exit_code = "state", 4


class ResourceError(DreamerError):
    """The device is absent, memory ran out, or a place cannot be written."""

    name, exit_code = "resources", 5


class GateError(DreamerError):
    """A bound that the user asked for (`--min-return`, `--verify`) was not met."""

    name, exit_code = "gate", 6


class DivergedError(DreamerError):
    """Training produced NaN or Inf; the last good checkpoint stays."""

    name, exit_code = "diverged", 7


class Preempted(DreamerError):
    """Asked to stop by a signal or by `--max-time`; what could be saved was saved."""

    name, exit_code = "preempted", 75


class Interrupted(DreamerError):
    """Stopped by Ctrl-C."""

    name, exit_code = "interrupted", 130
