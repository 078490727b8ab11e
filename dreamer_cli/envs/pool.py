"""Where the environments of a vector run: all in this process, or a process each.

Not Gymnasium's AsyncVectorEnv: when one of its workers dies, hangs or raises in its constructor, the trainer
gets an empty EOFError or waits for ever, and closing it fails as well.
"""

import atexit
import contextlib
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.worker import Board, board, board_bytes, build, close_quietly, reset_row, serve, step_row
from dreamer_cli.errors import EnvError
from dreamer_cli.spaces import EnvSpec

POLL_S, CLOSE_S = 1.0, 2.0


class Pool(Protocol):
    """How the environments are run; results are left on the board."""

    board: Board

    def reset(self, rows: np.ndarray, seeds: Sequence[int], check_stop: Callable[[], None]) -> None:
        """Begin episodes in some rows."""

    def send(self) -> None:
        """Hand out the board's actions, without waiting; the board belongs to the environments until `receive`."""

    def receive(self, check_stop: Callable[[], None]) -> None:
        """Wait until all of them were applied."""

    def frames(self, rows: Sequence[int], check_stop: Callable[[], None]) -> list[np.ndarray | None]:
        """A picture of some."""

    def close(self) -> None:
        """End them."""


class Local:
    """All environments in this process, one after the other."""

    def __init__(self, cfg: EnvConfig, render_mode: str | None, num_envs: int, spec: EnvSpec) -> None:
        self.board = board(spec, num_envs, bytearray(board_bytes(spec, num_envs)))
        self.envs = [build(cfg, render_mode, number, spec) for number in range(num_envs)]

    def reset(self, rows: np.ndarray, seeds: Sequence[int], check_stop: Callable[[], None]) -> None:
        """Begin episodes in some rows."""
        for row, seed in zip(rows, seeds, strict=True):
            reset_row(self.envs[row], self.board, seed)

    def send(self) -> None:
        """The actions stand on the board."""

    def receive(self, check_stop: Callable[[], None]) -> None:
        """Apply them."""
        for env in self.envs:
            step_row(env, self.board)

    def frames(self, rows: Sequence[int], check_stop: Callable[[], None]) -> list[np.ndarray | None]:
        """A picture of some."""
        return [self.envs[row].frame() for row in rows]

    def close(self) -> None:
        """End them."""
        while self.envs:
            close_quietly(self.envs.pop())


class Workers:
    """Every environment in a process of its own.

    Processes come from a fork server, which imports Gymnasium once: eight workers answer after 0.8 s (2 cores),
    against 5.7 s when each starts from nothing (spawn). Plain fork would copy torch's threads' locks.
    """

    def __init__(self, cfg: EnvConfig, render_mode: str | None, num_envs: int, spec: EnvSpec) -> None:
        context = start_context()
        memory = context.RawArray("b", board_bytes(spec, num_envs))
        self.board = board(spec, num_envs, memory)
        self.cfg = cfg
        self.processes: list[Any] = []
        self.pipes: list[Any] = []
        self._sent_at = 0.0
        atexit.register(self.close)
        try:
            for number in range(num_envs):
                ours, theirs = context.Pipe()
                arguments = (cfg, render_mode, number, num_envs, spec, memory, theirs)
                process = context.Process(target=serve, args=arguments, name=f"env-{number}", daemon=True)
                with _nameless_main():
                    process.start()
                theirs.close()
                self.processes.append(process)
                self.pipes.append(ours)
            self._collect(range(num_envs), lambda: None)
        except BaseException:
            self.close()
            raise

    def reset(self, rows: np.ndarray, seeds: Sequence[int], check_stop: Callable[[], None]) -> None:
        """Begin episodes in some rows."""
        for row, seed in zip(rows, seeds, strict=True):
            self._send(int(row), "reset", seed)
        self._collect([int(row) for row in rows], check_stop)

    def send(self) -> None:
        """Hand out the board's actions; every worker begins at once."""
        for number in range(len(self.pipes)):
            self._send(number, "step", None)
        self._sent_at = time.monotonic()

    def receive(self, check_stop: Callable[[], None]) -> None:
        """Wait until all of them were applied; `env.timeout_s` counts from `send`."""
        self._collect(range(len(self.pipes)), check_stop, self._sent_at)

    def frames(self, rows: Sequence[int], check_stop: Callable[[], None]) -> list[np.ndarray | None]:
        """A picture of some."""
        for number in rows:
            self._send(number, "frame", None)
        return self._collect(rows, check_stop)

    def _send(self, number: int, command: str, argument: Any) -> None:
        # A dead worker is found when its answer is awaited, where the reason is looked up.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipes[number].send((command, argument))

    def _collect(self, numbers: Sequence[int], check_stop: Callable[[], None], since: float | None = None) -> list[Any]:
        """The answers of some workers, which were asked now, or `since`.

        Raises:
            EnvError: an environment raised, a worker died, or took longer than `env.timeout_s`.
        """
        patience = Patience(self.cfg.timeout_s or math.inf, check_stop, since)
        return [self._receive(number, patience) for number in numbers]

    def _receive(self, number: int, patience: "Patience") -> Any:
        pipe, process = self.pipes[number], self.processes[number]
        while not pipe.poll(POLL_S):
            if not process.is_alive() and not pipe.poll(0):
                raise self._died(number, patience)
            if patience.spent():
                raise EnvError(
                    f"{self.cfg.id}, environment {number}: no answer for {self.cfg.timeout_s:g} s.",
                    hint="env.timeout_s sets the limit; 0 waits for ever.",
                )
        try:
            kind, answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._died(number, patience) from None
        if kind == "error":
            what, hint, trace = answer
            error = EnvError(what, hint)
            error.add_note(f"In the worker of environment {number}:\n{trace}")
            raise error
        return answer

    def _died(self, number: int, patience: "Patience") -> EnvError:
        # A scheduler that ends the whole job ends the workers first: then this is no fault of the environment.
        patience.check_stop()
        process = self.processes[number]
        process.join(CLOSE_S)
        code = process.exitcode
        hint = "Often memory ran out: try fewer --num-envs." if code == -9 else "--vec sync runs it in this process."
        return EnvError(f"{self.cfg.id}, environment {number}: its process died with exit code {code}.", hint=hint)

    def close(self) -> None:
        """Ask, wait two seconds, then kill; join all of them, so that none is left."""
        atexit.unregister(self.close)
        for number in range(len(self.pipes)):
            self._send(number, "close", None)
        patient_until = time.monotonic() + CLOSE_S
        for process in self.processes:
            process.join(max(0.0, patient_until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.pipes:
            pipe.close()
        self.processes, self.pipes = [], []


class Patience:
    """Counts how long an answer is awaited, but not while this process itself was stopped (Ctrl-Z).

    Being stopped shows as a gap between two polls. An update that ran since the question is such a gap, too: of a very
    long one `2 * POLL_S` count, and a worker that hangs is found that much later.

    Args:
        since: `time.monotonic()` of the question; None: now.
    """

    def __init__(self, limit_s: float, check_stop: Callable[[], None], since: float | None = None) -> None:
        self.limit_s, self.check_stop = limit_s, check_stop
        self.waited_s, self.at = 0.0, time.monotonic() if since is None else since

    def spent(self) -> bool:
        """Asked after every poll: whether the limit is reached."""
        self.check_stop()
        now = time.monotonic()
        self.waited_s += min(now - self.at, 2 * POLL_S)
        self.at = now
        return self.waited_s >= self.limit_s


def start_context() -> Any:
    """How worker processes are started: from a fork server where there is one, else anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dreamer_cli.envs.worker"])
    return context


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
