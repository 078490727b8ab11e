"""What stands beside a checkpoint's data: its manifest (files, sizes, SHA-256, and its own), and which one is best."""

import hashlib
import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dreamer_cli import migrate
from dreamer_cli.errors import StateError
from dreamer_cli.files import JSON_LIMIT, file_digest, json_bytes, read_json

SCHEMA, SCHEMA_VERSION = "dreamer.checkpoint", 1
MANIFEST, BEST = "manifest.json", "best.json"
RANK = {"training": 0, "evaluation": 1}  # an evaluation says more than any number of training episodes
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def verify(
    path: Path,
    only: Collection[str] | None,
    known: set[tuple[str, int, int, int]],
    limits: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Check a checkpoint directory: manifest, exact set of files, sizes, SHA-256 (of `only` these files, if given).

    Args:
        path: the directory.
        only: files whose content matters; null: all.
        known: files that were hashed before (digest, inode, size, time); added to, and not read again.
        limits: file → most bytes that it can rightly have; what is larger is refused before it is read.

    Returns:
        The manifest.

    Raises:
        StateError: something is wrong; the message names the file.
    """
    manifest = _read_manifest(path)
    try:
        present = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(path)}
    except OSError as error:
        raise StateError(f"{path} cannot be listed: {error.strerror}.") from error
    expected = manifest["files"]
    if odd := present.keys() ^ {MANIFEST, *expected}:
        raise StateError(f"{path / min(odd)} is {'missing' if min(odd) in expected else 'no part of the checkpoint'}.")
    for name, (size, digest) in expected.items():
        info = present[name]
        if not stat.S_ISREG(info.st_mode) or info.st_size != size:
            raise StateError(f"{path / name} has {info.st_size} bytes instead of {size}.")
        if limits and size > limits.get(name, size):
            raise StateError(f"{path / name} has {size} bytes, but this run's has at most {limits[name]}.")
        key = (digest, info.st_ino, size, info.st_mtime_ns)
        if (only is None or name in only) and key not in known:
            try:
                actual = file_digest(path / name)
            except OSError as error:
                raise StateError(f"{path / name} cannot be read: {error.strerror or error}.") from error
            if actual != digest:
                raise StateError(f"{path / name} is damaged: its SHA-256 differs from the manifest.")
            known.add(key)
    return manifest


def manifest_bytes(step: int, versions: Mapping[str, str], written: Mapping[str, list[Any]]) -> bytes:
    """The manifest's text. written: file → [size, SHA-256]."""
    rest = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "step": step,
        "versions": dict(versions),
        "files": dict(written),
    }
    return json_bytes({**rest, "sha256": hashlib.sha256(json_bytes(rest)).hexdigest()})


def is_ours(path: Path) -> bool:
    """Whether a directory holds a manifest that we wrote; whether the files fit it is another question."""
    try:
        manifest = read_json(path / MANIFEST)
    except StateError:
        return False
    return isinstance(manifest, dict) and manifest.get("schema") == SCHEMA


def read_version(path: Path) -> int:
    """The schema version of a checkpoint directory; today's where its manifest does not say.

    What it names is then still taken for named, so that a damaged manifest makes nobody delete replay chunks.
    """
    try:
        return int(_read_manifest(path)["schema_version"])
    except StateError:
        return SCHEMA_VERSION


def read_best(directory: Path) -> dict[str, Any] | None:
    """What `best.json` says: `{"step", "score", "by"}`; nothing if there is none, or none that makes sense.

    Raises:
        StateError: it is there, but cannot be read.
    """
    if not os.path.lexists(directory / BEST):
        return None
    best = read_json(directory / BEST)
    sound = (
        isinstance(best, dict)
        and type(best.get("step")) is int
        and best["step"] >= 0
        and type(best.get("score")) in (int, float)
        and abs(best["score"]) < 1e300  # neither NaN nor an integer that no float can hold
        and best.get("by") in tuple(RANK)
    )
    return {key: best[key] for key in ("step", "score", "by")} if sound else None


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise StateError(f"{path} is no checkpoint directory.")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise StateError(f"{path / MANIFEST} is no manifest of a checkpoint.")
    migrate.check_version(manifest.get("schema_version"), SCHEMA_VERSION, migrate.CHECKPOINT, str(path))
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    try:
        digest = hashlib.sha256(json_bytes(rest)).hexdigest()
    except ValueError as error:  # NaN, which we never write
        raise StateError(f"{path / MANIFEST} is damaged: {error}.") from error
    if digest != manifest.get("sha256"):
        raise StateError(f"{path / MANIFEST} is damaged: its SHA-256 differs.")
    if not _is_sound(manifest):
        raise StateError(f"{path / MANIFEST} does not say what a manifest has to say.")
    return manifest


def _is_sound(manifest: Mapping[str, Any]) -> bool:
    """Types of all fields; the digest proves that nothing was damaged, not that the writer meant well."""
    files, versions = manifest.get("files"), manifest.get("versions")
    return (
        type(manifest.get("step")) is int
        and manifest["step"] >= 0
        and isinstance(versions, dict)
        and all(isinstance(version, str) for version in versions.values())
        and isinstance(files, dict)
        and all(
            NAME.fullmatch(name)
            and isinstance(entry, list)
            and len(entry) == 2
            and type(entry[0]) is int
            and isinstance(entry[1], str)
            and (entry[0] <= JSON_LIMIT or not name.endswith(".json"))
            for name, entry in files.items()
        )
    )
