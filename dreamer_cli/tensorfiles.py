"""Tensors in files: the safetensors format, written from memory without a copy, and read with suspicion."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dreamer_cli.errors import StateError
from dreamer_cli.files import open_file

Arrays = Mapping[str, Tensor | np.ndarray]

HEADER_LIMIT = 2_000_000  # bytes; the latents of a replay with 4096 environments need half of it
_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def as_tensor(value: Tensor | np.ndarray) -> Tensor:
    """A contiguous tensor in main memory; the same memory where it already is one."""
    if isinstance(value, np.ndarray):
        # ascontiguousarray would turn a single number into a list of one.
        value = torch.from_numpy(value if value.flags.c_contiguous else value.copy(order="C"))
    return value.detach().to("cpu").contiguous()


def size_of(arrays: Arrays) -> int:
    """Bytes of all values, without header."""
    return sum(value.nbytes for value in arrays.values())


def most_bytes(arrays: Arrays, copies: int = 1) -> int:
    """What a file of these tensors takes at most: data, some so many times over (an optimiser's), and the header."""
    return copies * size_of(arrays) + HEADER_LIMIT + 8


def tensor_parts(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> Iterator[Any]:
    """A safetensors file as a sequence of buffers (header first), for `Files.write`.

    One tensor at a time leaves the device, and none is copied that already lies in main memory:
    a replay's latents may fill half of it. The library's own `save_file` copies all, and does not fsync.

    Raises:
        StateError: so many tensors could not be read back.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, value in arrays.items():
        dtype = value.dtype if isinstance(value, Tensor) else torch.from_numpy(np.empty(0, value.dtype)).dtype
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + value.nbytes],
        }
        offset += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts aligned
    if len(text) > HEADER_LIMIT:
        raise StateError(f"{len(arrays)} tensors in one file are more than can be read back.")
    yield len(text).to_bytes(8, "little") + text
    for value in arrays.values():
        if value.nbytes:
            yield as_tensor(value).reshape(-1).view(torch.uint8).numpy()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU; no larger than the file.

    Raises:
        StateError: it cannot be read as one.
    """
    try:
        with open_file(path) as file:
            header = int.from_bytes(file.read(8), "little")
        if header > HEADER_LIMIT:  # the library allows 100 MB, which take seconds and a gigabyte
            raise StateError(f"{path} is no readable safetensors file (a header of {header} bytes).")
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise StateError(f"{path} is no readable safetensors file ({error}).") from error


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], what: str = "the checkpoint") -> None:
    """Copy tensors into a module, once all names, shapes and dtypes agree.

    Raises:
        StateError: they do not; the module is unchanged, and the message names what differs.
    """
    own = module.state_dict()
    require_fit(own, tensors, what)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def require_fit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str = "the checkpoint") -> None:
    """See that tensors have exactly these names, shapes and dtypes; `own` may be without memory (device `meta`).

    Raises:
        StateError: they have not; the message names what differs.
    """
    differences = [f"{name} is missing" for name in own if name not in tensors]
    differences += [f"{name} is unknown" for name in tensors if name not in own]
    for name in own:
        if name in tensors:
            (mine, theirs) = own[name], tensors[name]
            if mine.shape != theirs.shape:
                differences.append(f"{name} is {tuple(theirs.shape)} instead of {tuple(mine.shape)}")
            elif mine.dtype != theirs.dtype:
                differences.append(f"{name} is {theirs.dtype} instead of {mine.dtype}")
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise StateError(
            f"{what} does not fit this model: {shown}.",
            hint="Use the settings that it was trained with (config.yaml of the run).",
        )
