"""Every error that a user may meet: what was wrong, what to do next, and the exit code.

The numbers are a contract with shell scripts (`docs/reference/exit-codes.md`); anything that is not
a `DreamerError` is a bug and exits 1.
"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Known names that `name` is a typo or two away from; all that are equally close, since the typo may be any's."""
    known = list(known)
    limit = max(1, len(name) // 3)
    distances = {other: _edits(name, other) for other in known if abs(len(name) - len(other)) <= limit}
    best = min(distances.values(), default=limit + 1)
    if best <= limit:
        return [other for other, distance in distances.items() if distance == best]
    return difflib.get_close_matches(name, known, n=1)


def closest(name: str, known: Iterable[str]) -> str:
    """The sentence `Did you mean 'x'? `, or nothing if no known name is close."""
    close = nearest(name, known)
    return f"Did you mean {' or '.join(map(repr, close))}? " if close else ""


def _edits(a: str, b: str) -> int:
    """Characters to insert, drop, replace or swap with their neighbour (optimal string alignment)."""
    before, above = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        row = [i]
        for j in range(1, len(b) + 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                row[j] = min(row[j], before[j - 2] + 1)
        before, above = above, row
    return above[-1]


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
