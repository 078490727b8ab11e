"""Stopping in good order: signals and deadlines set a flag, the loops look at it.

No handler saves or prints, and none raises outside `at_once`: whoever polls the flag decides what must be finished
first. Torch is not imported here, so that the handlers can be installed before torch has loaded (which takes seconds).
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Literal

from dreamer_cli.errors import Interrupted, Preempted

Reason = Literal["interrupted", "preempted"]

# Windows has neither SIGHUP nor SIGUSR1.
HANDLED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))

AGAIN = "Nothing was begun that could be lost; the same command starts anew."

# `timeout -s INT` and job launchers signal both the process and its group: the same request arrives
# twice within microseconds. A person needs longer than this for a second Ctrl-C.
BOUNCE_S = 0.1


class StopNow(BaseException):
    """Raised out of a signal's handler, inside `StopSignal.at_once`."""


class StopSignal:
    """A request to stop, by signal or because the time is up.

        with StopSignal(max_time_s=3600) as stop:
            while not stop.requested: ...

    The first SIGINT asks for `interrupted` (exit 130); SIGTERM, SIGUSR1, SIGHUP and the deadline ask
    for `preempted` (exit 75). Whatever came first names the reason. A second SIGINT ends the process at
    once: that is safe, because checkpoints appear by a rename and are either whole or absent.

    Args:
        max_time_s: seconds from now until the deadline; None for no deadline.
        clock: seconds, monotonic.
    """

    def __init__(self, max_time_s: float | int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reason: Reason | None = None
        self._cause = ""
        self._interrupted_at: float | None = None
        self._old: dict[int, Any] = {}
        self._pid = os.getpid()
        self._at_once = False
        self.max_time(max_time_s)

    def max_time(self, seconds: float | int | None) -> None:
        """Set the deadline, in seconds from now; None takes it away."""
        self._deadline = None if seconds is None else self._clock() + seconds

    def install(self) -> "StopSignal":
        """Put the handlers in place. Outside the main thread only the deadline works, as Python demands."""
        if self._old or threading.current_thread() is not threading.main_thread():
            return self
        self._pid = os.getpid()
        for number in HANDLED:
            # nohup asks that closing the terminal is not noticed.
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._old[number] = signal.signal(number, self._handle)
        if hasattr(signal, "SIGXFSZ"):
            # A file at its size limit becomes an OSError that saving knows how to handle.
            self._old[signal.SIGXFSZ] = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        return self

    def restore(self) -> None:
        """Put the old handlers back; the reason stays readable."""
        for number, handler in self._old.items():
            # None: the old handler was not installed from Python and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old.clear()

    def __enter__(self) -> "StopSignal":
        return self.install()

    def __exit__(self, *exc: object) -> None:
        self.restore()

    @property
    def requested(self) -> Reason | None:
        """Why to stop, or None. Cheap enough to ask at every environment step and every update."""
        if self._reason is None and self._deadline is not None and self._clock() >= self._deadline:
            self._request("preempted", "--max-time")
        return self._reason

    @property
    def cause(self) -> str:
        """What asked: `Ctrl-C`, a signal's name, `--max-time`; empty if nothing did."""
        return self._cause if self.requested else ""

    def check(self) -> None:
        """For loops that have nothing to save.

        Raises:
            Interrupted, Preempted: if a stop was requested.
        """
        if self.requested == "interrupted":
            raise Interrupted("stopped by Ctrl-C", hint=AGAIN)
        if self.requested == "preempted":
            cause = "--max-time is used up" if self._cause == "--max-time" else f"stopped by {self._cause}"
            raise Preempted(cause, hint=AGAIN)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For long work that nothing depends on, and that looks at no flag: a request breaks it off wherever it is.

        The deadline is not noticed until its end.

        Raises:
            Interrupted, Preempted: a stop was requested, before or meanwhile. Inside it is a `StopNow`, which no
                `except Exception` of a library takes for its own.
        """
        self._at_once = True
        try:
            if self.requested:
                raise StopNow
            yield
        except StopNow:
            self.check()
            raise
        finally:
            self._at_once = False

    def _request(self, reason: Reason, cause: str) -> None:
        if self._reason is None:
            self._reason, self._cause = reason, cause

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            _behave_as_worker(number)
            return
        if number == signal.SIGINT:
            now = self._clock()
            if self._interrupted_at is not None and now - self._interrupted_at > BOUNCE_S:
                _stop_at_once()
            self._interrupted_at = self._interrupted_at if self._interrupted_at is not None else now
            self._request("interrupted", "Ctrl-C")
        else:
            self._request("preempted", signal.Signals(number).name)
        if self._at_once:
            self._at_once = False  # the second of two signals must not meet whoever cleans up
            raise StopNow


def _behave_as_worker(number: int) -> None:
    """In a forked child, which inherits the handlers: Ctrl-C is the parent's business, the rest is the system's."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _stop_at_once() -> None:
    """End this process and its workers without another line of cleaning up."""
    for child in multiprocessing.active_children():
        child.kill()
    # A live display hides the cursor; without this it would stay hidden in the user's shell.
    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""
    with contextlib.suppress(OSError):  # nobody may be reading any more, and it changes nothing
        os.write(2, show_cursor + b"\nstopped at once; the last checkpoint is whole\n")
    os._exit(130)
