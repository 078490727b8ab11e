"""Files that survive a crash, and files that can be trusted: write, sync, rename; size, hash, then read.

Neither safetensors nor `torch.load` notices a flipped bit, and neither fsyncs; so durability and
integrity are made here. No torch: listing and creating runs needs this module too.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dreamer_cli.errors import ResourceError, StateError

# Whoever may write our files must not be able to fill our memory. A byte of JSON becomes at most about 12 bytes of
# numbers and texts, but a bracket or a colon some 200: both are limited. 4096 environments need half of either.
JSON_LIMIT, JSON_NODES = 8_000_000, 400_000
_BLOCK = 1 << 24  # bytes written and hashed at a time
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TEMPORARY = ".tmp-"


class DiskFullError(ResourceError):
    """There is no room for what was to be written; nothing half-written is left. Worth another try later."""


class Files:
    """Every operation that changes a disk, one method each, so that tests can record and cut them short."""

    def mkdir(self, path: Path) -> None:
        """Create a directory (its parents exist)."""
        path.mkdir()

    def write(self, path: Path, parts: Iterable[Any]) -> tuple[int, str]:
        """Create a file from buffers; returns its size and the SHA-256 of what was meant to be written."""
        digest, size = hashlib.sha256(), 0
        with path.open("xb") as file:
            for part in parts:
                view = memoryview(part).cast("B") if len(part) else memoryview(b"")
                for begin in range(0, len(view), _BLOCK):
                    block = view[begin : begin + _BLOCK]
                    digest.update(block)
                    file.write(block)
                size += len(view)
        return size, digest.hexdigest()

    def sync(self, path: Path) -> None:
        """Wait until a file's content, or a directory's list of names, is on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give another name, in one step; replaces a file, but no directory that holds anything."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Delete a file or a whole directory, if it exists."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def free(self, path: Path) -> int:
        """Bytes that can still be written beside `path`."""
        return shutil.disk_usage(path).free


FILES = Files()


def disk_error(error: OSError, path: Path) -> ResourceError:
    """The error for the user when a write to `path` failed: full, or not writable."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return DiskFullError(f"{path} could not be written: {reason}.", hint="Free some space, or lower --keep.")
    return ResourceError(f"{path} could not be written: {reason}.", hint="Check the disk and who owns the place.")


def make_directory(path: Path) -> None:
    """Make a directory inside one that exists: a run that somebody removed while it trains is not begun again.

    Raises:
        ResourceError: the one around it is gone, or cannot be written.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def require_space(path: Path, size: int, files: Files = FILES) -> None:
    """See that `size` bytes, and a fifth more, fit beside `path`.

    Raises:
        DiskFullError: they do not.
    """
    free = files.free(path)
    if free < 1.2 * size:
        raise DiskFullError(
            f"{path} has {free / 1e6:.1f} MB left, but a save needs {1.2 * size / 1e6:.1f} MB.",
            hint="Free some space, or lower --keep.",
        )


def temporary(directory: Path) -> Path:
    """A name in `directory` that nobody has, marked as unfinished."""
    return directory / f"{TEMPORARY}{uuid.uuid4().hex}"


def write_atomic(path: Path, parts: Iterable[Any], files: Files = FILES) -> tuple[int, str]:
    """Write a file so that a crash leaves the old one or the new one; returns size and SHA-256.

    Raises:
        ResourceError: the disk is full (`DiskFullError`) or the place not writable.
    """
    draft = temporary(path.parent)
    try:
        written = files.write(draft, parts)
        files.sync(draft)
        files.rename(draft, path)
        files.sync(path.parent)
    except OSError as error:
        files.remove(draft)
        raise disk_error(error, path) from error
    return written


def clean_temporaries(directory: Path, files: Files = FILES) -> None:
    """Delete what an interrupted write left behind. Only for the holder of the run's lock."""
    for path in directory.glob(f"{TEMPORARY}*"):
        files.remove(path)


def open_file(path: Path) -> io.BufferedReader:
    """Open a file for reading, if it is one: a pipe would be waited for, and a device never ends.

    Raises:
        OSError: it cannot be opened, or is something else than a file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.ENOENT, "no such file", str(path)) from error
    return open(_only_files(descriptor, path), "rb")


def open_append(path: Path) -> io.FileIO:
    """Open a file to append to, unbuffered; made if it is missing.

    Not through a link: in a run directory that somebody else made it could lead to any file of the user's.

    Raises:
        OSError: it cannot be opened, is a link, or something else than a file.
    """
    how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return open(_only_files(os.open(path, how, 0o666), path), "ab", buffering=0)


def _only_files(descriptor: int, path: Path) -> int:
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "it is a directory", str(path))
        raise OSError(errno.EINVAL, "it is a pipe or a device, no file", str(path))
    return descriptor


def read_at_most(path: Path, most: int) -> bytes:
    """The content of a file, or its first `most` + 1 bytes, which say that it is too long.

    Raises:
        OSError: it cannot be opened, or is something else than a file.
    """
    with open_file(path) as file:
        return file.read(most + 1)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; about 1 GB/s.

    Raises:
        OSError: it cannot be read, or is something else than a file.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(tree: Any) -> bytes:
    """JSON in one canonical form.

    Raises:
        ValueError: a number is not finite (it could not be read back everywhere).
        StateError: the text is too long to be loaded again.
    """
    text = json.dumps(tree, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    if problem := _too_much(text):
        raise StateError(
            f"What is to be saved could not be read back: {problem}.",
            hint="If this is a run's checkpoint: save less often (--save-every), or lower run.num_envs.",
        )
    return text


def read_json(path: Path) -> Any:
    """Parse a JSON file that may hold anything.

    Raises:
        StateError: it is absent, too long, or no JSON.
    """
    try:
        text = read_at_most(path, JSON_LIMIT)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}.") from error
    if problem := _too_much(text):
        raise StateError(f"{path} is not read: {problem}.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, or a number of 5000 digits
        where = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise StateError(f"{path} is not valid JSON ({where or type(error).__name__}).") from error


def _too_much(text: bytes) -> str:
    """Why a text would take too much memory as a tree; empty if it would not."""
    if len(text) > JSON_LIMIT:
        return f"JSON of more than {JSON_LIMIT // 1_000_000} MB"
    nodes = sum(map(text.count, (b"[", b"{", b":")))
    return f"JSON of {nodes} lists and entries, more than {JSON_NODES}" if nodes > JSON_NODES else ""
