"""The board that trainer and workers share: one row for each environment, results in and actions out.

It lies over memory without a name, so that nothing is left in /dev/shm, however the processes end. A worker is
started before its spaces are known: it is handed the memory while that is empty, and it grows once they are.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np

from dreamer_cli.spaces import EnvSpec


class Board(NamedTuple):
    """Arrays with one row for each of N environments.

    obs: key → N ...; reward: N float32; terminated, truncated: N bool; action: N A float32, written by the trainer.
    turn: N int64, counted up as an environment's code is entered and as it is left: odd while it runs.
    told: N M float32, what environments tell of an episode that has just ended.
    at: N 2 int64, the episode (from 1; 0: none) and the step in it, or the one that runs.
    """

    obs: dict[str, np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    action: np.ndarray
    turn: np.ndarray
    at: np.ndarray
    told: np.ndarray

    def write(self, row: int, obs: dict[str, np.ndarray], reward: float, terminated: bool, truncated: bool) -> None:
        """Fill one row."""
        for key, value in obs.items():
            self.obs[key][row] = value
        self.reward[row] = reward
        self.terminated[row] = terminated
        self.truncated[row] = truncated

    def clear(self, row: int) -> None:
        """Zeros: nothing was observed, and nothing runs; and nothing is told."""
        for array in (*self.obs.values(), *self[1:4], *self[5:]):
            array[row] = 0
        self.told[row] = np.nan


class Memory:
    """Memory that processes share, from when they start; it is handed to them as an argument."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _nameless_file() if fd is None else fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _handed_over, (reduction.DupFd(self.fd),)  # type: ignore[attr-defined,unused-ignore]  # not on Windows

    def grow(self, size: int) -> None:
        """Set its size; by the trainer, once."""
        os.ftruncate(self.fd, size)

    def map(self, size: int) -> mmap.mmap:
        """See it."""
        return mmap.mmap(self.fd, size)

    def close(self) -> None:
        """What was mapped stays until it is no longer used."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def board_bytes(spec: EnvSpec, num_envs: int) -> int:
    """Memory that a board takes."""
    return sum(_padded(shape, dtype) for _, shape, dtype in _fields(spec, num_envs))


def board(spec: EnvSpec, num_envs: int, memory: Any) -> Board:
    """Lay a board over `board_bytes` of memory, shared or not."""
    arrays, offset = {}, 0
    for name, shape, dtype in _fields(spec, num_envs):
        arrays[name] = np.ndarray(shape, dtype, memory, offset)
        offset += _padded(shape, dtype)
    own = [arrays.pop(name) for name in list(arrays) if name.startswith("/")]
    return Board(arrays, *own)


def _fields(spec: EnvSpec, num_envs: int) -> Iterator[tuple[str, tuple[int, ...], np.dtype]]:
    for key, obs in spec.observation.items():
        yield key, (num_envs, *obs.shape), np.dtype(obs.dtype)
    # No key of an observation begins with a slash: it joins the names of a path.
    yield "/reward", (num_envs,), np.dtype(np.float32)
    yield "/terminated", (num_envs,), np.dtype(np.bool_)
    yield "/truncated", (num_envs,), np.dtype(np.bool_)
    yield "/action", (num_envs, spec.action_width), np.dtype(np.float32)
    yield "/turn", (num_envs,), np.dtype(np.int64)
    yield "/at", (num_envs, 2), np.dtype(np.int64)
    yield "/told", (num_envs, len(spec.told)), np.dtype(np.float32)


def _padded(shape: tuple[int, ...], dtype: np.dtype) -> int:
    # Every array begins on a cache line of its own, which also suits every dtype.
    return -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dreamer-envs")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _handed_over(duplicate: Any) -> Memory:
    return Memory(duplicate.detach())
