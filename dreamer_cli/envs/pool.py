"""Where the environments of a vector run: in this process, or in worker processes.

Not Gymnasium's AsyncVectorEnv: when one of its workers dies, hangs or raises in its constructor, the trainer
gets an empty EOFError or waits for ever, and closing it fails as well.
"""

import atexit
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dreamer_cli.envs.answers import Answer, Check, Crash, Crashes, gather
from dreamer_cli.envs.board import Board, Memory, board, board_bytes
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.probe import Probe
from dreamer_cli.envs.rows import Rows
from dreamer_cli.envs.state import Job
from dreamer_cli.envs.supervisor import Worker, end_all
from dreamer_cli.envs.worker import pack_jobs
from dreamer_cli.errors import EnvError
from dreamer_cli.spaces import EnvSpec

TRY_S = 20.0  # for each step of trying a saved state out


@runtime_checkable
class Pool(Protocol):
    """How the environments are run; results are left on the board.

    What goes wrong with single environments is returned, by row. They must be mended before they are used again.
    """

    board: Board

    def reset(self, rows: Sequence[int], episodes: Sequence[int], seeds: Sequence[int], check: Check) -> Crashes:
        """Begin episodes in some rows."""

    def send(self, rows: Sequence[int], check: Check) -> None:
        """Hand out the board's actions, without waiting; the board belongs to the environments until `receive`."""

    def receive(self, check: Check) -> Crashes:
        """Wait until all of them were applied."""

    def frames(self, rows: Sequence[int], check: Check) -> list[np.ndarray | None]:
        """A picture of some. Raises what goes wrong."""

    def states(self, rows: Sequence[int], check: Check) -> list[bytes | None]:
        """Ways back to now, where there are any. Raises what goes wrong."""

    def resume(
        self, jobs: dict[int, tuple[int, Job]], check: Check, say: Callable[[int, str], None]
    ) -> tuple[dict[int, str], Crashes]:
        """Go to the middle of episodes, by row: seed and job. Returns why it failed, where it did."""

    def mend(self, rows: Sequence[int], check: Check) -> Crashes:
        """Build environments anew that have crashed."""

    def close(self) -> None:
        """End them."""


class Local:
    """All environments in this process, one after the other."""

    def __init__(self, cfg: EnvConfig, render_mode: str | None, num_envs: int, spec: EnvSpec) -> None:
        self.spec = spec
        self._rows = Rows(cfg, render_mode)
        self._sent: Sequence[int] = ()
        self.board = self._rows.board = board(spec, num_envs, bytearray(board_bytes(spec, num_envs)))
        try:
            for row in range(num_envs):
                self._rows.build(row, spec)
        except BaseException:
            self.close()
            raise

    def reset(self, rows: Sequence[int], episodes: Sequence[int], seeds: Sequence[int], check: Check) -> Crashes:
        """Begin episodes in some rows."""
        jobs = {row: (episode, seed) for row, episode, seed in zip(rows, episodes, seeds, strict=True)}
        return _each(rows, lambda row: self._rows.reset(row, *jobs[row]))

    def send(self, rows: Sequence[int], check: Check) -> None:
        """The actions stand on the board."""
        self._sent = rows

    def receive(self, check: Check) -> Crashes:
        """Apply them."""
        return _each(self._sent, self._rows.step)

    def frames(self, rows: Sequence[int], check: Check) -> list[np.ndarray | None]:
        """A picture of some."""
        return [self._rows.frame(row) for row in rows]

    def states(self, rows: Sequence[int], check: Check) -> list[bytes | None]:
        """Ways back to now."""
        return [self._rows.state(row) for row in rows]

    def resume(
        self, jobs: dict[int, tuple[int, Job]], check: Check, say: Callable[[int, str], None]
    ) -> tuple[dict[int, str], Crashes]:
        """Go to the middle of episodes."""
        useless = self._try_states(jobs, check)
        whys: dict[int, str | None] = {}
        for row, (seed, job) in jobs.items():
            if row in useless:
                job, whys[row] = job._replace(state=None), useless[row]
                if not len(job.actions):
                    continue
                say(row, f"{useless[row]}; all its {len(job.actions)} actions were played again instead")
            whys[row] = self._rows.resume(row, seed, job, check, lambda text, row=row: say(row, text))  # type: ignore[misc]
        return {row: why for row, why in whys.items() if why is not None}, {}

    def _try_states(self, jobs: dict[int, tuple[int, Job]], check: Check) -> dict[int, str]:
        """Load saved states in another process first. Returns why that failed, where it did.

        They come from a file, and bytes that are none of ALE's can keep it busy for ever, in C, where nothing stops it.
        """
        useless: dict[int, str] = {}
        tried = {row: (seed, job._replace(actions=job.actions[:0])) for row, (seed, job) in jobs.items() if job.state}
        if not tried:
            return useless
        cfg, shield = replace(self._rows.cfg, on_crash="restart"), None
        try:
            for row, told in tried.items():
                if shield is None:
                    shield = Workers(cfg, None, 1, self.spec, 1, check)
                    shield.cfg = replace(cfg, timeout_s=min(cfg.timeout_s or TRY_S, TRY_S))
                failed, crashes = shield.resume({0: told}, check, lambda row, text: None)
                if crashes:
                    shield.close()
                    shield = None
                if crashes or failed:
                    useless[row] = failed.get(0) or f"its saved state cannot be used: {crashes[0].error.what}"
        finally:
            if shield is not None:
                shield.close()
        return useless

    def mend(self, rows: Sequence[int], check: Check) -> Crashes:
        """Build some anew."""
        for row in rows:
            self.board.clear(row)
        return _each(rows, lambda row: self._rows.build(row, self.spec))

    def close(self) -> None:
        """End them."""
        self._rows.close()


class Workers:
    """Environments in worker processes, several to each, in ranges of rows.

    Args:
        num_workers: at most as many processes.
        first: a process that has built environment 0 already, to be used here.
    """

    def __init__(
        self,
        cfg: EnvConfig,
        render_mode: str | None,
        num_envs: int,
        spec: EnvSpec,
        num_workers: int,
        check: Check = lambda: None,
        first: Probe | None = None,
    ) -> None:
        self.cfg, self.render_mode, self.spec, self.num_envs = cfg, render_mode, spec, num_envs
        self._memory = first.memory if first else Memory()
        self._workers: list[Worker] = [first.worker] if first else []
        self._asked: list[Worker] = []
        atexit.register(self.close)
        try:
            self._memory.grow(board_bytes(spec, num_envs))
            self.board = board(spec, num_envs, self._memory.map(board_bytes(spec, num_envs)))
            ranges = np.array_split(np.arange(num_envs), min(num_workers, num_envs))
            for number, rows in enumerate(ranges):
                if number < len(self._workers):
                    self._workers[number].rows = rows.tolist()
                else:
                    self._workers.append(Worker(cfg, render_mode, rows.tolist(), self._memory))
            built = [0] if first else []
            crashes = self._prepare(self._workers, [row for row in range(num_envs) if row not in built], check)
            for crash in crashes.values():
                raise crash.error
        except BaseException:
            self.close()
            raise

    def reset(self, rows: Sequence[int], episodes: Sequence[int], seeds: Sequence[int], check: Check) -> Crashes:
        """Begin episodes in some rows."""
        jobs = {row: (row, episode, seed) for row, episode, seed in zip(rows, episodes, seeds, strict=True)}
        asked = self._ask("reset", rows, check, lambda mine: [jobs[row] for row in mine])
        return self._gather(asked, check)[1]

    def send(self, rows: Sequence[int], check: Check) -> None:
        """Hand out the board's actions; every worker begins at once."""
        self._asked = self._ask("step", rows, check)

    def receive(self, check: Check) -> Crashes:
        """Wait until all of them were applied."""
        return self._gather(self._asked, check)[1]

    def frames(self, rows: Sequence[int], check: Check) -> list[np.ndarray | None]:
        """A picture of some."""
        found: dict[int, np.ndarray] = {}
        for worker, (shapes, blob) in self._settled(self._ask("frames", rows, check), check).items():
            at = 0
            for row, shape in zip([row for row in rows if row in worker.rows], shapes, strict=True):
                if shape is not None:
                    size = math.prod(shape)
                    found[row] = np.frombuffer(blob, np.uint8, size, at).reshape(shape).copy()
                    at += size
        return [found.get(row) for row in rows]

    def states(self, rows: Sequence[int], check: Check) -> list[bytes | None]:
        """Ways back to now."""
        found: dict[int, bytes] = {}
        for worker, (sizes, blob) in self._settled(self._ask("states", rows, check), check).items():
            at = 0
            for row, size in zip([row for row in rows if row in worker.rows], sizes, strict=True):
                if size is not None:
                    found[row] = blob[at : at + size]
                    at += size
        return [found.get(row) for row in rows]

    def resume(
        self, jobs: dict[int, tuple[int, Job]], check: Check, say: Callable[[int, str], None]
    ) -> tuple[dict[int, str], Crashes]:
        """Go to the middle of episodes; all workers at once."""
        asked = []
        for worker in self._workers:
            mine = [row for row in worker.rows if row in jobs]
            if mine:
                heads, blob = pack_jobs([jobs[row][1] for row in mine])
                worker.ask("resume", check, blob, rows=[(row, jobs[row][0]) for row in mine], jobs=heads)
                asked.append(worker)
        answers, crashes = self._gather(asked, check)
        for value, _ in answers.values():
            for row, text in value["said"]:
                say(int(row), str(text))
        return {int(row): why for value, _ in answers.values() for row, why in value["reasons"].items()}, crashes

    def mend(self, rows: Sequence[int], check: Check) -> Crashes:
        """Build some anew, in a new process where the old one is no more."""
        anew: list[Worker] = []
        for number, worker in enumerate(self._workers):
            if worker.ended:
                self._workers[number] = Worker(self.cfg, self.render_mode, worker.rows, self._memory)
                anew.append(self._workers[number])
        for row in rows:
            self.board.clear(row)
        return self._prepare(anew, rows, check)

    def close(self) -> None:
        """End all processes, and what they have started."""
        atexit.unregister(self.close)
        end_all([worker for worker in self._workers if not worker.ended])
        self._workers = []
        self._memory.close()

    def _prepare(self, workers: Sequence[Worker], rows: Sequence[int], check: Check) -> Crashes:
        """Show new workers the board, and let some rows be built."""
        for worker in workers:
            worker.ask("board", check, spec=self.spec.to_json(), num_envs=self.num_envs)
        _, crashes = self._gather(list(workers), check)
        left = [row for row in rows if row not in crashes]
        return crashes | self._gather(self._ask("build", left, check), check)[1]

    def _ask(
        self,
        name: str,
        rows: Sequence[int],
        check: Check,
        told: Callable[[list[int]], Any] = lambda mine: mine,
    ) -> list[Worker]:
        """Ask those workers that have some of the rows."""
        wanted, asked = set(rows), []
        for worker in self._workers:
            mine = [row for row in worker.rows if row in wanted]
            if mine:
                worker.ask(name, check, rows=told(mine))
                asked.append(worker)
        return asked

    def _settled(self, asked: list[Worker], check: Check) -> dict[Worker, Answer]:
        """Answers to questions that must not go wrong."""
        answers, crashes = self._gather(asked, check)
        for crash in crashes.values():
            raise crash.error
        return answers

    def _gather(self, asked: list[Worker], check: Check) -> tuple[dict[Worker, Answer], Crashes]:
        return gather(asked, self.cfg, check, self.board)


def _each(rows: Sequence[int], call: Callable[[int], Any]) -> Crashes:
    crashes: Crashes = {}
    for row in rows:
        try:
            call(row)
        except EnvError as err:
            crashes[row] = Crash(err)
    return crashes
