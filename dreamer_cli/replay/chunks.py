"""Records on disk: chunks that are written once and never changed.

A chunk holds stretches of some streams, one tensor a field, the stretches joined in order. Which chunks belong
together, with their SHA-256, is written in the checkpoint, so a checkpoint is a cut through the past: what was
collected after it is not part of it.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_cli.errors import StateError
from dreamer_cli.files import FILES, Files, disk_error, file_digest, make_directory, require_space, write_atomic
from dreamer_cli.replay.ring import AnyRing
from dreamer_cli.tensorfiles import read_tensors, size_of, tensor_parts

CHUNK_BYTES = 64_000_000
MOST_BYTES = 1_000_000_000  # of a chunk that is read: room for versions that write larger ones
_NAME = re.compile(r"chunk-([0-9]{8,})\.safetensors")
Span = tuple[int, int, int]  # env, first id, id after the last


def split(spans: Sequence[Span], most: int) -> Iterator[list[Span]]:
    """Divide stretches into groups of at most `most` records."""
    group: list[Span] = []
    room = most
    for env, begin, end in spans:
        at = begin
        while at < end:
            count = min(room, end - at)
            group.append((env, at, at + count))
            at, room = at + count, room - count
            if not room:
                yield group
                group, room = [], most
    if group:
        yield group


def write_chunk(
    directory: Path, ring: AnyRing, names: Collection[str], spans: Sequence[Span], files: Files = FILES
) -> dict[str, Any]:
    """Write stretches of the ring as one new chunk.

    Returns:
        Its entry for the checkpoint: name, size, sha256, spans.

    Raises:
        ResourceError: the disk is full (`DiskFullError`) or the place not writable; nothing is left behind.
    """
    arrays = {name: np.concatenate([part for span in spans for part in ring.get(name, *span)]) for name in names}
    try:
        make_directory(directory)
        require_space(directory, size_of(arrays), files)
        # Above all that exist, those of a given-up future too: a name never means two contents.
        numbers = [int(match[1]) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    except OSError as error:
        raise disk_error(error, directory) from error
    name = f"chunk-{max(numbers, default=-1) + 1:08d}.safetensors"
    size, digest = write_atomic(directory / name, tensor_parts(arrays), files)
    return {"name": name, "size": size, "sha256": digest, "spans": [list(span) for span in spans]}


def read_chunk(
    directory: Path, entry: Mapping[str, Any], ring: AnyRing, names: Collection[str]
) -> dict[str, np.ndarray]:
    """The fields of a chunk, its stretches joined, after its size and SHA-256 were checked.

    Raises:
        StateError: it is missing, damaged, or holds other fields than this replay.
    """
    path = directory / entry["name"]
    try:
        size = path.stat().st_size
        if size > MOST_BYTES or size != entry["size"] or file_digest(path) != entry["sha256"]:
            raise StateError(f"{path} is damaged.")
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}.") from error
    arrays = {name: _array(tensor) for name, tensor in read_tensors(path).items()}
    count = sum(end - begin for _, begin, end in entry["spans"])
    for name in names:
        shape, dtype = ring.fields[name]
        if name not in arrays or arrays[name].shape != (count, *shape) or arrays[name].dtype != dtype:
            raise StateError(f"{path} does not hold what this replay stores as {name}.")
    return arrays


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as numpy, which has no bfloat16: such a field is none that was written."""
    return np.empty(0) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def saved_entries(tree: Any) -> list[dict[str, Any]]:
    """The chunks that a saved replay lists, once all have the form of `write_chunk` and name no file elsewhere.

    Raises:
        StateError: they have not, or some record is named twice.
    """
    entries = tree.get("chunks") if isinstance(tree, Mapping) else None
    if not (isinstance(entries, list) and all(map(_is_sound, entries))):
        raise StateError("the checkpoint's list of replay chunks is not readable.")
    names = {entry["name"] for entry in entries}
    spans = sorted(span for entry in entries for span in entry["spans"])
    twice = any(one[0] == two[0] and one[2] > two[1] for one, two in pairwise(spans))
    if twice or len(names) < len(entries):
        raise StateError("the checkpoint's list of replay chunks names some records twice.")
    return entries


def _is_sound(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"name", "size", "sha256", "spans"}
        and isinstance(entry["name"], str)
        and _NAME.fullmatch(entry["name"]) is not None
        and isinstance(entry["spans"], list)
        and all(
            isinstance(span, list)
            and [type(number) for number in span] == [int, int, int]
            and span[0] >= 0
            and 0 <= span[1] <= span[2]
            for span in entry["spans"]
        )
    )


def delete_unnamed(directory: Path, named: Collection[str], files: Files = FILES) -> list[str]:
    """Delete the chunks that nobody names; returns their names."""
    if not directory.is_dir():
        return []
    unnamed = sorted(path.name for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.name not in named)
    for name in unnamed:
        files.remove(directory / name)
    return unnamed
