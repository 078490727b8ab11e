"""Ends workers, and all that their environments have started, once the trainer is gone: also after `kill -9` of it.

A worker may hang in C and then runs nothing of its own any more; what its environment has started survives it anyway.
So one small process beside the trainer knows the process groups of all workers. It runs this file as a program, in
the bare interpreter: nothing but the standard library may be imported here.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading


class Guardian:
    """The trainer's side: starts the process with the first group, and tells it of every group."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def watch(self, group: int) -> None:
        """End this process group when this process ends."""
        with self._lock:
            self._groups.add(group)
            self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """It has ended."""
        with self._lock:
            self._groups.discard(group)
            self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        if self._process is not None and self._process.poll() is None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
                return
        if not self._groups:
            return
        # None yet, or somebody killed it. In a session of its own, out of reach of Ctrl-C and of the workers' ends.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"+{group}\n" for group in self._groups).encode())
        self._process.stdin.flush()


GUARDIAN = Guardian()


def end_group(group: int) -> None:
    """Kill a process group, if anything of it is left."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already; or no longer ours
            os.killpg(group, signal.SIGKILL)


def _main() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):  # schedulers send them to every process of a job
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        end_group(group)


if __name__ == "__main__":
    _main()
