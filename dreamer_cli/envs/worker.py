"""Environments in a process of their own: the worker's side.

Commands and short answers go through a channel, observations over the board. Nothing here, and nothing that is imported
from here, loads torch: a worker starts in a fraction of a second and stays small.
"""

import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dreamer_cli.envs.board import Memory, board, board_bytes
from dreamer_cli.envs.channel import BadMessage, Channel, Gone
from dreamer_cli.envs.compliance import findings
from dreamer_cli.envs.hygiene import become_worker
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.rows import Rows
from dreamer_cli.envs.state import Job
from dreamer_cli.envs.wrappers import MEMORY_HINT, seconds_per_step
from dreamer_cli.errors import DreamerError
from dreamer_cli.spaces import EnvSpec

Answer = tuple[Any, bytes]


def serve(cfg: EnvConfig, render_mode: str | None, memory: Memory, end: socket.socket, max_bytes: int | None) -> None:
    """The life of a worker: answer questions until `close`, or until the trainer is gone.

    A question is `{"do": name, ...}`, for some rows mostly. The answer is `{"value": ..., "failed": {row: error}}`: the
    environments of one worker fail one by one, and others go on. Errors are text, `[what, hint, traceback]`.
    """
    become_worker(max_bytes)
    channel = Channel(end)
    service = _Service(Rows(cfg, render_mode), memory)
    try:
        while True:
            question, blob = channel.wait()
            name = question.pop("do")
            if name == "close":
                break
            value, blob = service.actions[name](blob, **question)
            channel.send({"value": value, "failed": service.failed}, blob)
            service.failed = {}
    except (Gone, BadMessage):
        return  # the trainer is gone, nobody is left to tell
    service.rows.close()


class _Service:
    """Every question that a worker answers, as a method."""

    def __init__(self, rows: Rows, memory: Memory) -> None:
        self.rows, self.memory = rows, memory
        self.failed: dict[int, tuple[str, str, str]] = {}
        self.spec: EnvSpec | None = None
        self.actions: dict[str, Callable[..., Answer]] = {
            "build": self.build,
            "measure": self.measure,
            "findings": self.findings,
            "board": self.board,
            "reset": self.reset,
            "step": self.step,
            "frames": self.frames,
            "states": self.states,
            "resume": self.resume,
        }

    def build(self, _: bytes, rows: Sequence[int]) -> Answer:
        """Build environments; the spaces of the last one are the answer."""
        for row in rows:
            self.spec = self._try(row, self.rows.build, row, self.spec) or self.spec
        return self.spec.to_json() if self.spec is not None else None, b""

    def measure(self, _: bytes, row: int) -> Answer:
        """Seconds of one decision. The environment has played then, so it is built anew."""
        seconds = self._try(row, seconds_per_step, self.rows.envs[row])
        self._try(row, self.rows.build, row, self.spec)
        return seconds, b""

    def findings(self, _: bytes) -> Answer:
        """What the environment does against its own word."""
        return self._try(0, findings, self.rows.cfg), b""

    def board(self, _: bytes, spec: Any, num_envs: int) -> Answer:
        """From now on results go to the board."""
        self.spec = EnvSpec.from_json(spec)
        self.rows.board = board(self.spec, num_envs, self.memory.map(board_bytes(self.spec, num_envs)))
        self.memory.close()
        return None, b""

    def reset(self, _: bytes, rows: Sequence[tuple[int, int, int]]) -> Answer:
        """Begin episodes: (row, number of the episode, seed) each."""
        for row, episode, seed in rows:
            self._try(row, self.rows.reset, row, episode, seed)
        return None, b""

    def step(self, _: bytes, rows: Sequence[int]) -> Answer:
        """Apply the actions that stand on the board."""
        for row in rows:
            self._try(row, self.rows.step, row)
        return None, b""

    def frames(self, _: bytes, rows: Sequence[int]) -> Answer:
        """Pictures: their shapes, null for none, and their bytes."""
        frames = [self._try(row, self.rows.frame, row) for row in rows]
        shapes = [None if frame is None else frame.shape for frame in frames]
        return shapes, b"".join(frame.tobytes() for frame in frames if frame is not None)

    def states(self, _: bytes, rows: Sequence[int]) -> Answer:
        """Ways back to now: their sizes, null for none, and their bytes."""
        states = [self._try(row, self.rows.state, row) for row in rows]
        sizes = [None if state is None else len(state) for state in states]
        return sizes, b"".join(state for state in states if state is not None)

    def resume(self, blob: bytes, rows: Sequence[tuple[int, int]], jobs: Sequence[Any]) -> Answer:
        """Back to the middle of episodes: (row, seed) and a packed job each. Reasons by row, and what to warn of."""
        reasons: dict[int, str | None] = {}
        said: list[tuple[int, str]] = []
        for (row, seed), job in zip(rows, unpack_jobs(jobs, blob), strict=True):
            told: list[str] = []
            reasons[row] = self._try(row, self.rows.resume, row, seed, job, lambda: None, told.append)
            said += [(row, text) for text in told]
        return {"reasons": {row: why for row, why in reasons.items() if why is not None}, "said": said}, b""

    def _try(self, row: int, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except DreamerError as err:
            self.failed[row] = (err.what, err.hint, traceback.format_exc())
        except MemoryError as err:  # in this package's own code, beside an environment that took all there was
            what = f"{self.rows.cfg.id}, environment {row}: {type(err).__name__}: {err}"
            self.failed[row] = (what, MEMORY_HINT, traceback.format_exc())
        return None


def pack_jobs(jobs: Sequence[Job]) -> tuple[list[Any], bytes]:
    """Jobs as JSON and bytes."""
    heads, parts = [], []
    for job in jobs:
        actions = np.ascontiguousarray(job.actions, np.float32)
        heads.append([job.episode, actions.shape, None if job.state is None else len(job.state), job.digest])
        parts += [actions.tobytes(), job.state or b""]
    return heads, b"".join(parts)


def unpack_jobs(heads: Sequence[Any], blob: bytes) -> list[Job]:
    """The inverse of `pack_jobs`."""
    jobs, at = [], 0
    for episode, shape, size, digest in heads:
        actions = np.frombuffer(blob, np.float32, int(np.prod(shape)), at).reshape(shape)
        at += actions.nbytes
        state = None if size is None else blob[at : at + size]
        at += size or 0
        jobs.append(Job(episode, actions, state, digest))
    return jobs
