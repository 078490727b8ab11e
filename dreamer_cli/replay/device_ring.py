"""Records in the memory of a device: sampling is a gather there, refreshing a scatter, and nothing waits.

`gather` and `store` are tensors in, tensors out, of fixed shapes, without a look at their values: a CUDA graph may
capture them. Whatever comes from the host is small and travels through page-locked memory, without waiting.
"""

import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dreamer_cli.replay.ring import Fields, check_values, locate, no_memory, stretches
from dreamer_cli.shapes import Int

# torch gathers and copies signed numbers on every device, unsigned ones of several bytes not: the same bits, then.
_SIGNED = {"uint16": "int16", "uint32": "int32", "uint64": "int64"}
_WIDER = {"uint16": (torch.int32, 0xFFFF), "uint32": (torch.int64, 0xFFFFFFFF)}  # and the bits to keep
_ALIGNED = 16  # bytes: where a field may begin in a packed copy
_ROW_BYTES = 8  # of int64


class DeviceRing:
    """Records on a device, see `AnyRing`. One row more than there are records takes what must not be written.

    Args:
        device: any torch device.

    Raises:
        ResourceError: there is not so much memory.
    """

    def __init__(self, num_envs: int, per_env: int, fields: Fields, device: torch.device) -> None:
        self.per_env, self.fields, self.device = per_env, dict(fields), device
        self.spare = num_envs * per_env
        try:
            self.flat = {
                name: torch.empty((self.spare + 1, *shape), dtype=_dtype(dtype), device=device)
                for name, (shape, dtype) in fields.items()
            }
        except RuntimeError as error:  # OutOfMemoryError is one
            raise no_memory(self.spare) from error
        self._words = {name: _as_words(flat) for name, flat in self.flat.items()}

    def write(self, env_ids: np.ndarray, ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Store one record in each of these streams: one copy to the device, then one scatter a field."""
        count = len(env_ids)
        check_values(self.fields, count, values)
        places, total = [], count * _ROW_BYTES  # the rows first, then field by field
        for name, (shape, dtype) in self.fields.items():
            total = -(-total // _ALIGNED) * _ALIGNED
            size = count * math.prod(shape) * np.dtype(dtype).itemsize
            places.append((name, slice(total, total + size)))
            total += size
        packed = torch.empty(total, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        host = packed.numpy()
        host[: count * _ROW_BYTES].view(np.int64)[:] = env_ids * self.per_env + ids % self.per_env
        for name, place in places:
            host[place].view(self.fields[name][1])[:] = values[name].reshape(-1)
        there = packed.to(self.device, non_blocking=True)
        rows = there[: count * _ROW_BYTES].view(torch.int64)
        for name, place in places:
            flat = self.flat[name]
            flat.index_copy_(0, rows, there[place].view(flat.dtype).view(count, *flat.shape[1:]))

    def send(self, rows: Int[np.ndarray, "B L"]) -> Int[Tensor, "B L"]:
        """Rows on the device."""
        tensor = torch.from_numpy(rows)
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)

    def gather(self, name: str, rows: Int[Tensor, "*rows"]) -> Tensor:
        """A field of the records in these rows, `*rows ...`; unsigned numbers of 2 or 4 bytes come as wider signed."""
        flat = self.flat[name]
        found = self._words[name].index_select(0, rows.reshape(-1))
        value = found.view(flat.dtype).view(*rows.shape, *flat.shape[1:])
        wider, mask = _WIDER.get(np.dtype(self.fields[name][1]).name, (None, 0))
        return value if wider is None else value.to(wider) & mask

    def store(self, name: str, rows: Int[Tensor, "B T"], values: Tensor) -> None:
        """Overwrite a field (B T ...) in those of these rows that may be written."""
        flat = self.flat[name]
        # Only the spare row, which nobody reads, is written more than once: the result does not depend on the order.
        rows_written = rows.masked_fill(rows < 0, self.spare)
        values = values.to(flat.device, flat.dtype).reshape(-1, *flat.shape[1:])
        flat.index_copy_(0, rows_written.reshape(-1), values)

    def refresh(self, env: np.ndarray, start: np.ndarray, oldest: np.ndarray, values: Mapping[str, Tensor]) -> None:
        """Overwrite fields (B T ...) of the T records after `start` (B) in streams `env` (B), evicted ones apart."""
        length = next(iter(values.values())).shape[1]
        rows = self.send(locate(self.per_env, env, start, length + 1, oldest))
        for name, tensor in values.items():
            self.store(name, rows.narrow(1, 1, length), tensor)

    def get(self, name: str, env: int, begin: int, end: int) -> list[np.ndarray]:
        """Copies of the records [begin, end) of a stream, in order; waits for the device."""
        dtype, own = self.fields[name][1], self.flat[name][env * self.per_env : (env + 1) * self.per_env]
        return [own[rows].cpu().numpy().view(dtype) for rows, _ in stretches(self.per_env, begin, end)]

    def put(self, name: str, env: int, begin: int, values: np.ndarray) -> None:
        """Overwrite the records from `begin` on."""
        dtype, own = self.fields[name][1], self.flat[name][env * self.per_env : (env + 1) * self.per_env]
        tensor = _from_numpy(np.ascontiguousarray(values, dtype))
        for rows, part in stretches(self.per_env, begin, begin + len(values)):
            own[rows] = tensor[part].to(own.device)

    def first_rows(self, name: str, env: int, count: int) -> Tensor:
        """A view of the first rows of a stream, in the dtype that files have."""
        rows = self.flat[name][env * self.per_env : env * self.per_env + count]
        return rows.view(torch.from_numpy(np.empty(0, self.fields[name][1])).dtype)


def _from_numpy(array: np.ndarray) -> Tensor:
    """The same bits, signed where torch needs it."""
    return torch.from_numpy(array.view(_SIGNED.get(array.dtype.name, array.dtype)))


@functools.cache
def _dtype(dtype: np.typing.DTypeLike) -> torch.dtype:
    """What numbers of a numpy dtype are kept as."""
    return _from_numpy(np.empty(0, dtype)).dtype


def _as_words(flat: Tensor) -> Tensor:
    """Rows as the widest integers that divide them: a gather's work goes by numbers, not by bytes."""
    width = math.prod(flat.shape[1:])
    lines = flat.view(len(flat), width)
    for word in (torch.int64, torch.int32, torch.int16):
        if width and word.itemsize >= flat.itemsize and width * flat.itemsize % word.itemsize == 0:
            return lines.view(word)
    return lines
