"""Memory for records: one ring per environment stream, every field one array `N per_env ...`.

The record with absolute id `i` of stream `e` lies in row `e * per_env + i % per_env`, one number for where it is.
Pages are touched only when written, so a large capacity costs nothing until it is used.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dreamer_cli.errors import ConfigError, ResourceError
from dreamer_cli.replay.buffers import Buffers
from dreamer_cli.shapes import Int
from dreamer_cli.spaces import EnvSpec, ObsSpec

# Which limit holds, for people.
LIMITS = {
    "capacity": "what the run collects, or replay.capacity",
    "max_bytes": "replay.max_bytes, by default a share of free memory",
}
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


def fits_on_device(plan: Plan, free_bytes: int, share: float = 0.5) -> bool:
    """Whether a full replay takes no more than this share of a device's free memory; the rest is for training."""
    return plan.bytes <= share * free_bytes


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


def check_values(fields: Fields, count: int, values: Mapping[str, np.ndarray]) -> None:
    """See that `count` records have every field, with exactly its shape.

    Raises:
        ValueError: they have not.
    """
    if values.keys() != fields.keys():
        raise ValueError(f"records with {sorted(values)}, but the replay holds {sorted(fields)}")
    for name, value in values.items():
        if value.shape != (count, *fields[name][0]):
            raise ValueError(f"{name} is {value.shape}, but {count} records of {fields[name][0]} are added")


def stretches(per_env: int, begin: int, end: int) -> Iterator[tuple[slice, slice]]:
    """Where the records [begin, end) of a stream lie: rows of its ring, and the matching part of the range."""
    at = begin
    while at < end:
        row = at % per_env
        count = min(end - at, per_env - row)
        yield slice(row, row + count), slice(at - begin, at - begin + count)
        at += count


def locate(
    per_env: int, env: Int[np.ndarray, " B"], start: Int[np.ndarray, " B"], length: int, oldest: Int[np.ndarray, " B"]
) -> Int[np.ndarray, "B L"]:
    """Rows of `length` records from `start` on, which say too whether they may be written: if not, it is -1 - row.

    Not written are the context (column 0), evicted records (below `oldest`), and of a record that several sequences
    share all but the last one's, so that in which order a device writes does not matter.
    """
    ids = start[:, None] + np.arange(length)
    rows = env[:, None] * per_env + ids % per_env
    may_write = ids >= oldest[:, None]
    trained = np.where(may_write, rows, -1)[:, 1:].reshape(-1)
    order = np.argsort(trained, kind="stable")  # B ascending runs, which it merges
    last = np.ones(len(trained), bool)
    last[order[:-1]] = trained[order[:-1]] != trained[order[1:]]
    may_write[:, 1:] &= last.reshape(len(rows), -1)
    may_write[:, 0] = False
    return np.where(may_write, rows, -1 - rows)


@runtime_checkable
class AnyRing(Protocol):
    """Where records are kept."""

    fields: dict[str, tuple[tuple[int, ...], Any]]
    per_env: int

    def write(self, env_ids: np.ndarray, ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Store one record in each of these streams.

        Raises:
            ValueError: a field is missing, or has another shape.
        """

    def send(self, rows: Int[np.ndarray, "B L"]) -> Int[Tensor, "B L"]:
        """Rows as a tensor, where the records are."""

    def gather(self, name: str, rows: Int[Tensor, "*rows"]) -> Tensor:
        """A field of the records in these rows, `*rows ...`."""

    def store(self, name: str, rows: Int[Tensor, "B T"], values: Tensor) -> None:
        """Overwrite a field (B T ...) in these rows, as `locate` gives them: not in the negative ones."""

    def refresh(self, env: np.ndarray, start: np.ndarray, oldest: np.ndarray, values: Mapping[str, Tensor]) -> None:
        """Overwrite fields (B T ...) of the T records after `start` (B) in streams `env` (B).

        Evicted records, below `oldest` (B), are left alone. Of a record that sequences share, the last value stays.
        """

    def get(self, name: str, env: int, begin: int, end: int) -> list[np.ndarray]:
        """The records [begin, end) of a stream, in order, in parts; perhaps views."""

    def put(self, name: str, env: int, begin: int, values: np.ndarray) -> None:
        """Overwrite the records of a stream from `begin` on."""

    def first_rows(self, name: str, env: int, count: int) -> np.ndarray | Tensor:
        """A view of the first rows of a stream, to save."""


class Ring:
    """Records in main memory, see `AnyRing`.

    Args:
        pin_memory: gather into page-locked memory, from which copies to a GPU run by themselves.

    Raises:
        ResourceError: there is not so much memory.
    """

    def __init__(self, num_envs: int, per_env: int, fields: Fields, pin_memory: bool = False) -> None:
        self.per_env, self.fields, self.pin_memory = per_env, dict(fields), pin_memory
        self._buffers = Buffers()
        try:
            self.arrays = {
                name: np.empty((num_envs, per_env, *shape), dtype) for name, (shape, dtype) in fields.items()
            }
        except MemoryError as error:
            raise no_memory(num_envs * per_env) from error

    def write(self, env_ids: np.ndarray, ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Store one record in each of these streams."""
        check_values(self.fields, len(env_ids), values)
        rows = env_ids * self.per_env + ids % self.per_env
        for name, value in values.items():
            self._flat(name)[rows] = value

    def send(self, rows: Int[np.ndarray, "B L"]) -> Int[Tensor, "B L"]:
        """Rows as a tensor."""
        return torch.from_numpy(rows)

    def gather(self, name: str, rows: Int[Tensor, "*rows"]) -> Tensor:
        """A field of the records in these rows, `*rows ...`, as it is stored."""
        flat, where = self._flat(name), rows.numpy()
        shape = (*where.shape, *flat.shape[1:])
        if self.pin_memory:  # torch uses such memory again by itself
            out = torch.empty(shape, dtype=torch.from_numpy(flat[:0]).dtype, pin_memory=True)
        else:
            out = torch.from_numpy(self._buffers.take(shape, flat.dtype))
        # mode="clip": "raise" would go through a second buffer. All rows are in range.
        np.take(flat, where, axis=0, out=out.numpy(), mode="clip")
        return out

    def store(self, name: str, rows: Int[Tensor, "B T"], values: Tensor) -> None:
        """Overwrite a field (B T ...) in those of these rows that may be written."""
        where = rows.numpy()
        self._flat(name)[where[where >= 0]] = _to_numpy(values)[where >= 0]

    def refresh(self, env: np.ndarray, start: np.ndarray, oldest: np.ndarray, values: Mapping[str, Tensor]) -> None:
        """Overwrite fields of the T records after `start`, sequence by sequence: by slices, which are plain copies."""
        length = next(iter(values.values())).shape[1]
        parts = []
        for line, (stream, context, least) in enumerate(
            zip(env.tolist(), start.tolist(), oldest.tolist(), strict=True)
        ):
            begin, base = max(context + 1, least), stream * self.per_env
            for rows, part in stretches(self.per_env, begin, context + 1 + length):
                times = slice(begin - context - 1 + part.start, begin - context - 1 + part.stop)
                parts.append((slice(base + rows.start, base + rows.stop), line, times))
        for name, tensor in values.items():
            flat, array = self._flat(name), _to_numpy(tensor)
            for rows, line, times in parts:
                flat[rows] = array[line, times]

    def _flat(self, name: str) -> np.ndarray:
        """A field with one axis of rows."""
        array = self.arrays[name]
        return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])

    def get(self, name: str, env: int, begin: int, end: int) -> list[np.ndarray]:
        """Views of the records [begin, end) of a stream, in order."""
        return [self.arrays[name][env, rows] for rows, _ in stretches(self.per_env, begin, end)]

    def put(self, name: str, env: int, begin: int, values: np.ndarray) -> None:
        """Overwrite the records from `begin` on."""
        for rows, part in stretches(self.per_env, begin, begin + len(values)):
            self.arrays[name][env, rows] = values[part]

    def first_rows(self, name: str, env: int, count: int) -> np.ndarray:
        """A view of the first rows of a stream."""
        return self.arrays[name][env, :count]


def _to_numpy(x: Tensor) -> np.ndarray:
    """On the CPU, as numpy, which has no bfloat16."""
    return (x.float() if x.is_floating_point() else x).detach().cpu().numpy()


def no_memory(records: int) -> ResourceError:
    """What to say where a replay cannot be allocated."""
    return ResourceError(
        f"no memory for a replay of {records} records.", hint="Lower replay.capacity or replay.max_bytes."
    )
