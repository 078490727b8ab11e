"""The manifest of a checkpoint: which files belong to it, their sizes and SHA-256, and its own."""

import hashlib
import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dreamer_cli.errors import StateError
from dreamer_cli.files import JSON_LIMIT, file_digest, json_bytes, read_json

SCHEMA, SCHEMA_VERSION = "dreamer.checkpoint", 1
MANIFEST = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def verify(path: Path, only: Collection[str] | None, known: set[tuple[str, int, int, int]]) -> dict[str, Any]:
    """Check a checkpoint directory: manifest, exact set of files, sizes, SHA-256 (of `only` these files, if given).

    Args:
        path: the directory.
        only: files whose content matters; null: all.
        known: files that were hashed before (digest, inode, size, time); added to, and not read again.

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
        key = (digest, info.st_ino, size, info.st_mtime_ns)
        if (only is None or name in only) and key not in known:
            try:
                actual = file_digest(path / name)
            except OSError as error:
                raise StateError(f"{path / name} cannot be read: {error.strerror}.") from error
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


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise StateError(f"{path} is no checkpoint directory.")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise StateError(f"{path / MANIFEST} is no manifest of a checkpoint.")
    version = manifest.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise StateError(
            f"{path} was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION}).",
            hint="pip install --upgrade dreamer-cli",
        )
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
        manifest.get("schema_version") == SCHEMA_VERSION
        and type(manifest.get("step")) is int
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
