"""Memory for records: one ring per environment stream, every field one array `N per_env ...`.

The record with absolute id `i` lies in row `i % per_env`. Pages are touched only when written, so a large
capacity costs nothing until it is used.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dreamer_cli.errors import ConfigError, ResourceError
from dreamer_cli.spaces import EnvSpec, ObsSpec

Fields = Mapping[str, tuple[tuple[int, ...], Any]]  # name → shape and dtype of one record's value


class Plan(NamedTuple):
    """How large a replay will be, before it is made.

    capacity: records in all; per_env: in each stream; limited_by: which limit holds; bytes: of memory when full.
    """

    capacity: int
    per_env: int
    limited_by: Literal["capacity", "max_bytes"]
    bytes_per_record: int

    @property
    def bytes(self) -> int:
        """Memory when full."""
        return self.capacity * self.bytes_per_record


def plan(spec: EnvSpec, num_envs: int, latent: Fields, capacity: int, max_bytes: int | None, batch_length: int) -> Plan:
    """Size a replay: the smaller of capacity (records) and max_bytes holds, in equal parts for all environments.

    Raises:
        ConfigError: not even one sequence of `batch_length` + 1 records fits into each part.
    """
    fields = {**record_fields(spec), **latent}
    bytes_per_record = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in fields.values())
    affordable = capacity if max_bytes is None else max_bytes // bytes_per_record
    limited_by: Literal["capacity", "max_bytes"] = "max_bytes" if affordable < capacity else "capacity"
    per_env = min(capacity, affordable) // num_envs
    if per_env < batch_length + 1:
        least = (batch_length + 1) * num_envs
        enough = least if limited_by == "capacity" else least * bytes_per_record
        value = capacity if limited_by == "capacity" else max_bytes
        raise ConfigError(
            f"replay.{limited_by}={value} is too small: each of {num_envs} environments gets room for {per_env} "
            f"records, but a sequence takes {batch_length + 1} (replay.batch_length and the one before it).",
            hint=f"Set replay.{limited_by}={enough} or more, or lower run.num_envs or replay.batch_length.",
        )
    return Plan(per_env * num_envs, per_env, limited_by, bytes_per_record)


def record_fields(spec: EnvSpec) -> dict[str, tuple[tuple[int, ...], Any]]:
    """What is stored of a record, latents apart: `obs/<key>`, action, reward and three flags."""
    fields: dict[str, tuple[tuple[int, ...], Any]] = {
        f"obs/{key}": (obs.shape, _stored_dtype(obs)) for key, obs in spec.observation.items()
    }
    fields |= {"action": ((spec.action_width,), np.float32), "reward": ((), np.float32)}
    return fields | {flag: ((), np.bool_) for flag in ("is_first", "is_last", "is_terminal")}


def _stored_dtype(obs: ObsSpec) -> str:
    """Discrete observations shrink to what their largest value needs."""
    return np.min_scalar_type(max(obs.classes) - 1).name if obs.kind == "discrete" else obs.dtype


class Ring:
    """The arrays of a replay, addressed by stream and absolute id.

    Raises:
        ResourceError: there is not so much memory.
    """

    def __init__(self, num_envs: int, per_env: int, fields: Fields) -> None:
        self.num_envs, self.per_env, self.fields = num_envs, per_env, dict(fields)
        try:
            self.arrays = {
                name: np.empty((num_envs, per_env, *shape), dtype) for name, (shape, dtype) in fields.items()
            }
        except MemoryError as error:
            raise ResourceError(
                f"no memory for a replay of {num_envs * per_env} records.",
                hint="Lower replay.capacity or replay.max_bytes.",
            ) from error

    def write(self, env_ids: np.ndarray, ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Store one record in each of these streams; every field has to be there, with exactly its shape."""
        if values.keys() != self.fields.keys():
            raise ValueError(f"records with {sorted(values)}, but the replay holds {sorted(self.fields)}")
        rows = env_ids * self.per_env + ids % self.per_env
        for name, value in values.items():
            if value.shape != (len(rows), *self.fields[name][0]):
                raise ValueError(
                    f"{name} is {value.shape}, but {len(rows)} records of {self.fields[name][0]} are added"
                )
            self._flat(name)[rows] = value

    def gather(self, name: str, env: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
        """Collect a field of the records `ids` (B L) of streams `env` (B) into `out` (B L ...)."""
        rows = env[:, None] * self.per_env + ids % self.per_env
        # mode="clip": "raise" would go through a second buffer. All rows are in range.
        np.take(self._flat(name), rows, axis=0, out=out, mode="clip")

    def _flat(self, name: str) -> np.ndarray:
        """A field with one axis of rows, env * per_env + row, to gather with one number a record."""
        array = self.arrays[name]
        return array.reshape(-1, *array.shape[2:])

    def rows(self, env: int, begin: int, end: int) -> Iterator[tuple[slice, slice]]:
        """Where the records [begin, end) of a stream lie: rows of its ring, and the matching part of the range."""
        at = begin
        while at < end:
            row = at % self.per_env
            count = min(end - at, self.per_env - row)
            yield slice(row, row + count), slice(at - begin, at - begin + count)
            at += count

    def get(self, name: str, env: int, begin: int, end: int) -> list[np.ndarray]:
        """Views of the records [begin, end) of a stream, in order."""
        return [self.arrays[name][env, rows] for rows, _ in self.rows(env, begin, end)]

    def put(self, name: str, env: int, begin: int, values: np.ndarray) -> None:
        """Overwrite the records from `begin` on."""
        for rows, part in self.rows(env, begin, begin + len(values)):
            self.arrays[name][env, rows] = values[part]


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its control group (a container's limit)."""
    limits = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    for limit, used in [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ]:
        numbers = [int(line) for path in (limit, used) for line in _lines(path) if line.isdecimal()]
        if len(numbers) == 2:
            limits.append(max(0, numbers[0] - numbers[1]))
    if not limits:  # macOS tells no more than the size of the memory
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(limits)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().split("\n")
    except OSError:
        return []
