"""Records on disk: chunks that are written once and never changed.

A chunk holds stretches of some streams, one tensor a field, the stretches joined in order. Which chunks belong
together, with their SHA-256, is written in the checkpoint, so a checkpoint is a cut through the past: what was
collected after it is not part of it.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_cli.errors import StateError
from dreamer_cli.files import FILES, Files, disk_error, file_digest, require_space, write_atomic
from dreamer_cli.replay.ring import AnyRing
from dreamer_cli.tensorfiles import read_tensors, size_of, tensor_parts

CHUNK_BYTES = 64_000_000
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
        directory.mkdir(parents=True, exist_ok=True)
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
        if path.stat().st_size != entry["size"] or file_digest(path) != entry["sha256"]:
            raise StateError(f"{path} is damaged.")
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror}.") from error
    arrays = {name: tensor.numpy() for name, tensor in read_tensors(path).items()}
    count = sum(end - begin for _, begin, end in entry["spans"])
    for name in names:
        shape, dtype = ring.fields[name]
        if name not in arrays or arrays[name].shape != (count, *shape) or arrays[name].dtype != dtype:
            raise StateError(f"{path} does not hold what this replay stores as {name}.")
    return arrays


def check_entry(entry: Any) -> None:
    """See that a saved entry has the form that `write_chunk` gives it, and names no file elsewhere.

    Raises:
        StateError: it has not.
    """
    sound = (
        isinstance(entry, dict)
        and entry.keys() == {"name", "size", "sha256", "spans"}
        and _NAME.fullmatch(str(entry["name"]))
        and all(len(span) == 3 and all(type(number) is int for number in span) for span in entry["spans"])
    )
    if not sound:
        raise StateError("the checkpoint's list of replay chunks is not readable.")


def delete_unnamed(directory: Path, named: Collection[str], files: Files = FILES) -> list[str]:
    """Delete the chunks that nobody names; returns their names."""
    if not directory.is_dir():
        return []
    unnamed = sorted(path.name for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.name not in named)
    for name in unnamed:
        files.remove(directory / name)
    return unnamed
