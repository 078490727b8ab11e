"""One worker process, seen from the trainer: started, asked, and ended with all that its environments have started."""

import contextlib
import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from dreamer_cli.envs.board import Memory
from dreamer_cli.envs.channel import Channel, Gone
from dreamer_cli.envs.guardian import GUARDIAN, end_group
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.worker import serve
from dreamer_cli.memory import free_memory

POLL_S = 0.2  # between two looks whether to stop
CLOSE_S, CLOSE_BUSY_S = 2.0, 0.2  # what an idle environment may take to close; one that runs will hardly hear of it


class Worker:
    """A process that runs some environments.

    Processes come from a fork server, which imports Gymnasium once: eight workers answer after 0.8 s (2 cores), against
    5.7 s when each starts from nothing (spawn). Plain fork would copy torch's threads' locks.

    Attributes:
        rows: of its environments.
        busy: whether a question is not answered.
        ended: whether it is no more.
    """

    def __init__(self, cfg: EnvConfig, render_mode: str | None, rows: Sequence[int], memory: Memory) -> None:
        self.rows = list(rows)
        self.busy = self.ended = False
        self._code: int | None = None
        context = start_context()
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        limit = cfg.max_bytes if cfg.max_bytes is not None else free_memory() // 2
        # Not a daemon in multiprocessing's sense, which could have no processes of its own: some environments do.
        self.process = context.Process(
            target=serve, args=(cfg, render_mode, memory, theirs, limit), name=f"env-{rows[0]}", daemon=False
        )
        try:
            with _nameless_main(), _deaf():
                self.process.start()
            self.pid = int(self.process.pid)
            GUARDIAN.watch(self.pid)  # it leads a group of its own, of the same number
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()

    def ask(self, name: str, check_stop: Callable[[], None], blob: bytes = b"", **arguments: Any) -> None:
        """Send a question, see `worker.serve`; one that has ended is found when its answer is awaited."""
        if self.ended:
            return
        self.busy = True
        # A dead worker is found when its answer is awaited, where the reason is looked up.
        with contextlib.suppress(Gone):
            self.channel.send({"do": name, **arguments}, blob, check_stop)

    def poll(self) -> tuple[Any, bytes] | None:
        """The answer, if it has come.

        Raises:
            BadMessage, Gone: as `Channel.poll`.
        """
        if self.ended:
            raise Gone
        answer = self.channel.poll()
        self.busy = self.busy and answer is None
        return answer

    def dismiss(self) -> None:
        """Ask it to end; `end` must follow."""
        with contextlib.suppress(Gone, OSError):
            self.channel.send({"do": "close"}, check_stop=_impatient)

    def end(self, patient_until: float = 0.0) -> int | None:
        """Let it end until then (`time.monotonic`), then kill it, and its whole group in any case.

        Returns:
            the exit code; None if even the system cannot end it.
        """
        if self.ended:
            return self._code
        self.ended = True
        self.process.join(max(0.0, patient_until - time.monotonic()))
        code: int | None = self.process.exitcode
        if code is None:
            self.process.kill()
        end_group(self.pid)
        self.process.join(CLOSE_S)
        self.channel.close()
        code = self._code = self.process.exitcode
        GUARDIAN.forget(self.pid)
        if code is not None:
            self.process.close()
        return code


def end_all(workers: Sequence[Worker]) -> None:
    """Ask all, wait two seconds for those that listen, then kill; none is left."""
    now = time.monotonic()
    for worker in workers:
        worker.dismiss()
    for worker in workers:
        worker.end(now + (CLOSE_BUSY_S if worker.busy else CLOSE_S))


class Patience:
    """Counts how long an answer is awaited, but not while this process itself was stopped (Ctrl-Z).

    Being stopped shows as a long gap between two looks, of which `2 * POLL_S` count.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.waited_s, self.at = 0.0, time.monotonic()
        self._progress: Any = None

    def spent(self, progress: Any) -> bool:
        """Asked at every look: whether nothing has moved for the limit; `progress` changes with every step done."""
        now = time.monotonic()
        self.waited_s = 0.0 if progress != self._progress else self.waited_s + min(now - self.at, 2 * POLL_S)
        self.at, self._progress = now, progress
        return self.waited_s >= self.limit_s


def start_context() -> Any:
    """How worker processes are started: from a fork server where there is one, else anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dreamer_cli.envs.worker"])
    return context


def _impatient() -> None:
    raise Gone


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Whatever is started here does not hear signals to the whole group, as schedulers and closing terminals send them.

    The fork server would die of them, and its workers with it, before the trainer has saved. Blocked signals are
    inherited (workers unblock theirs); those to this process come a moment later.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1")]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _nameless_main() -> Iterator[None]:
    """Keep a starting worker from importing the program that starts it, which it does not need.

    That would cost every worker 0.3 s for the command line, seconds for a script that imports torch, and run a
    script without a `__main__` guard once more.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
