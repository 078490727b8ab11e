"""Checkpoints: directories that are whole or absent, checked byte by byte before anything is taken from them.

```
checkpoints/
  000012000/            weights.safetensors ... state.json ... manifest.json: {file: [size, sha256]}, sha256 of itself
  best.json             which step scored best, and by what
  .tmp-<random>/        unfinished, or on its way out
  .replaced-<step>-<random>/   the one that a new one of the same step takes the place of
```
Written in a temporary directory, synced, then renamed: a crash at any moment leaves the old checkpoints or
the new one. No pointer file, no pickle: the newest is the highest step whose manifest verifies.
"""

import logging
import math
import os
import platform
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer_cli import manifest as manifests
from dreamer_cli import migrate
from dreamer_cli.errors import DivergedError, StateError
from dreamer_cli.files import (
    FILES,
    Files,
    clean_temporaries,
    disk_error,
    json_bytes,
    make_directory,
    read_json,
    require_space,
    temporary,
    write_atomic,
)
from dreamer_cli.manifest import BEST, MANIFEST, RANK, SCHEMA_VERSION
from dreamer_cli.tensorfiles import Arrays, as_tensor, read_tensors, size_of, tensor_parts

LOG = logging.getLogger(__name__)
_STEP = re.compile(r"[0-9]{9,}")
_REPLACED = re.compile(r"\.replaced-([0-9]{9,})-[0-9a-f]+")


class Loaded(NamedTuple):
    """What a checkpoint held. tensors: file → name → tensor on the CPU; trees: file → JSON; versions: who wrote it."""

    step: int
    path: Path
    tensors: dict[str, dict[str, Tensor]]
    trees: dict[str, Any]
    versions: dict[str, str]


class Checkpoints:
    """The checkpoints of one run. Readers may list and load at any time; only the holder of the lock saves.

    Args:
        directory: `run/checkpoints`; created by the first save.
        keep: how many of the newest stay; the best one stays as well.
        versions: more versions to note in the manifest, e.g. `{"dreamer": "0.1"}`.
        warn: told about damage that was stepped over.
        files: the layer that changes the disk.
        limits: file → most bytes that it can have; a larger one is damage, and not read. Whoever knows the model knows
            (`tensorfiles.most_bytes`).
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 3,
        versions: Mapping[str, str] | None = None,
        warn: Callable[[str], None] = LOG.warning,
        files: Files = FILES,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.directory = directory
        self.limits = dict(limits or {})
        self.keep = max(1, keep)
        self._versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        self._versions |= versions or {}
        self._warn = warn
        self._files = files
        # Files whose digest was right once need not be read again for it (a replay's latents may be large).
        self._verified: set[tuple[str, int, int, int]] = set()

    def steps(self) -> list[int]:
        """Steps of all checkpoint directories, damaged ones too, ascending."""
        try:
            names = [entry.name for entry in os.scandir(self.directory) if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
            return []
        except OSError as error:
            raise StateError(f"{self.directory} cannot be listed: {error.strerror}.") from error
        return sorted(int(name) for name in names if _STEP.fullmatch(name) and name == _name(int(name)))

    def path(self, step: int) -> Path:
        """Where the checkpoint of this step lies, or would lie."""
        return self.directory / _name(step)

    # Writing: for the holder of the run's lock only.

    def save(
        self,
        step: int,
        tensors: Mapping[str, Arrays],
        trees: Mapping[str, Any],
        finite: Collection[str] = ("weights.safetensors",),
    ) -> Path:
        """Write a checkpoint, then let the ones go that are no longer kept.

        Args:
            step: environment steps so far; names the directory.
            tensors: file name → name → tensor, of any device and dtype.
            trees: file name → JSON.
            finite: files in which no number may be NaN or infinite.

        Returns:
            The committed directory.

        Raises:
            DivergedError: a number is not finite; nothing was written.
            DiskFullError: there is no room for it; nothing is left behind.
            ResourceError: the place cannot be written.
        """
        for name in {**tensors, **trees}:
            if not manifests.NAME.fullmatch(name) or name == MANIFEST:
                raise ValueError(f"{name!r} is no name for a file in a checkpoint")
        _require_finite({name: tensors[name] for name in finite if name in tensors})
        texts = {name: json_bytes(tree) for name, tree in trees.items()}
        final, draft = self.path(step), temporary(self.directory)
        try:
            make_directory(self.directory)
            size = sum(map(size_of, tensors.values())) + sum(map(len, texts.values()))
            require_space(self.directory, size, self._files)
            self._files.mkdir(draft)
            parts = {name: tensor_parts(arrays) for name, arrays in tensors.items()}
            written = {}
            for name, content in {**parts, **{name: iter([text]) for name, text in texts.items()}}.items():
                written[name] = list(self._files.write(draft / name, content))
                self._files.sync(draft / name)
            self._files.write(draft / MANIFEST, [manifests.manifest_bytes(step, self._versions, written)])
            self._files.sync(draft / MANIFEST)
            self._files.sync(draft)
            replaced = self._make_way(final)
            self._files.rename(draft, final)
            self._files.sync(self.directory)
        except BaseException as error:
            self._files.remove(draft)
            if isinstance(error, OSError):
                raise disk_error(error, final) from error
            raise
        if replaced is not None:
            self._remove(replaced)
        self._retain(step)
        return final

    def mark_best(self, step: int, score: float, by: Literal["training", "evaluation"]) -> bool:
        """Note in `best.json` that this checkpoint scored best, if it did. An evaluation outranks training episodes."""
        old = self.best()
        if not math.isfinite(score):
            return False
        if old is not None and (RANK[old["by"]], old["score"]) >= (RANK[by], score):
            return False
        best = {"step": step, "score": float(score), "by": by}
        write_atomic(self.directory / BEST, [json_bytes(best)], self._files)
        return True

    def forget_beyond(self, step: int) -> bool:
        """Drop a `best.json` that names a later step: a future that a resume gave up, and that scores no more.

        Returns:
            Whether there was one.

        Raises:
            ResourceError: the place cannot be written.
        """
        best = self.best()
        if best is None or best["step"] <= step:
            return False
        try:
            self._files.remove(self.directory / BEST)
            self._files.sync(self.directory)
        except OSError as error:
            raise disk_error(error, self.directory / BEST) from error
        return True

    def clean(self) -> None:
        """Undo what interrupted saves and deletions left behind; call it before looking for the newest.

        A checkpoint that was put aside, and whose successor never came, gets its name back.
        """
        clean_temporaries(self.directory, self._files)
        for aside in sorted(self.directory.glob(".replaced-*")):
            match = _REPLACED.fullmatch(aside.name)
            if match and not os.path.lexists(self.path(int(match[1]))):
                self._files.rename(aside, self.path(int(match[1])))
                self._files.sync(self.directory)
            elif match and manifests.is_ours(aside):
                self._remove(aside)

    def _make_way(self, final: Path) -> Path | None:
        """Put aside what already has this name: the same step saved again, or damaged and stepped over by a resume.

        Two renames are not one: until the second, the step is there under the first one's name only, from which
        `clean` brings it back.
        """
        if not os.path.lexists(final):
            return None
        if not manifests.is_ours(final):
            # Not known to be ours, so not ours to delete.
            self._files.rename(
                final, temporary(self.directory).with_name(f"damaged-{final.name}-{os.urandom(4).hex()}")
            )
            return None
        aside = self.directory / f".replaced-{final.name}-{os.urandom(8).hex()}"
        self._files.rename(final, aside)
        return aside

    def _remove(self, path: Path) -> None:
        """Delete a directory of ours, which looks unfinished from the first moment on."""
        aside = temporary(self.directory)
        self._files.rename(path, aside)
        self._files.remove(aside)

    def _retain(self, newest: int) -> None:
        """Delete all but the newest N and the best.

        Steps beyond the one just saved belong to a future that a resume gave up; counting them as newest
        would delete what was just saved.
        """
        steps = self.steps()
        best = self.best()
        kept = {step for step in steps if step <= newest}
        kept = set(sorted(kept)[-self.keep :]) | ({best["step"]} & kept if best else set())
        for step in steps:
            if step not in kept and manifests.is_ours(self.path(step)):
                try:
                    self._remove(self.path(step))
                except OSError as error:
                    self._warn(f"the old checkpoint {self.path(step)} could not be deleted: {error.strerror}")

    # Reading: never writes, needs no lock.

    def best(self) -> dict[str, Any] | None:
        """What `best.json` says: `{"step", "score", "by"}`; nothing if there is none, or none that makes sense."""
        try:
            return manifests.read_best(self.directory)
        except StateError as error:
            self._warn(error.what)
            return None

    def candidates(self, only: Collection[str] | None = None) -> Iterator[Path]:
        """Checkpoints that verify (of `only` these files), newest first; others are stepped over with a warning."""
        seen: set[int] = set()
        for _ in range(2):  # once more, if a running training deleted one just now
            vanished = False
            for step in reversed(self.steps()):
                if step in seen:
                    continue
                seen.add(step)
                try:
                    self.verify(self.path(step), only)
                except StateError as error:
                    vanished = vanished or not self.path(step).exists()
                    if self.path(step).exists():
                        self._warn(f"skipped a damaged checkpoint: {error.what}")
                else:
                    yield self.path(step)
            if not vanished:
                return

    def latest(self, only: Collection[str] | None = None) -> Path | None:
        """The newest checkpoint that verifies; nothing if there is no checkpoint at all.

        Raises:
            StateError: there are some, but all are damaged.
        """
        path = next(self.candidates(only), None)
        if path is None and self.steps():
            raise StateError(
                f"no checkpoint in {self.directory} is whole.",
                hint="Restore one from a backup, or start a new run.",
            )
        return path

    def choose(self, which: str | int = "best", only: Collection[str] | None = None) -> Path:
        """The checkpoint that `--checkpoint best|last|STEP` means, verified; `best` is `last` where nothing was scored.

        Args:
            only: files that matter; a reader of the weights need not hash a replay of many gigabytes.

        Raises:
            StateError: there is no such checkpoint, or it is damaged.
        """
        if which == "best" and (best := self.best()) is not None:
            try:
                self.verify(self.path(best["step"]), only)
            except StateError as error:
                self._warn(f"the best checkpoint is not usable, taking the last: {error.what}")
            else:
                return self.path(best["step"])
        if which in ("best", "last"):
            path = self.latest(only)
            if path is None:
                raise StateError(f"{self.directory} holds no checkpoint yet.", hint="Train for longer, then try again.")
            return path
        known = self.steps()
        if not str(which).isdecimal() or int(which) not in known:
            raise StateError(
                f"there is no checkpoint {which} in {self.directory}.",
                hint=f"There are: {', '.join(['best', 'last', *map(str, known)])}." if known else "It holds none yet.",
            )
        self.verify(self.path(int(which)), only)
        return self.path(int(which))

    def read(self, which: str | int = "best", only: Collection[str] | None = None) -> Loaded:
        """`choose` and `load`, once more if a running training deleted the chosen one in between."""
        path = self.choose(which, only)
        try:
            return self.load(path, only)
        except StateError:
            if path.exists():
                raise
        return self.load(self.choose(which, only), only)

    def trees(self, name: str, up_to: int | None = None) -> list[Any]:
        """The JSON of this name from every checkpoint up to a step; left out where it cannot be read."""
        found = []
        for step in self.steps():
            path = self.path(step)
            if up_to is None or step <= up_to:
                try:
                    version = manifests.read_version(path)
                    content = self._migrate(migrate.Content({}, {name: read_json(path / name)}), version, path)
                    found.append(content.trees[name])
                except StateError as error:
                    self._warn(error.what)
        return found

    def verify(self, path: Path, only: Collection[str] | None = None) -> dict[str, Any]:
        """Check a directory, the SHA-256 of `only` some files: see `manifest.verify`; returns the manifest."""
        manifest = manifests.verify(path, only, self._verified, self.limits)
        if path.name != _name(manifest["step"]):
            raise StateError(f"{path} holds another step than its name says.")
        return manifest

    def load(self, path: Path, only: Collection[str] | None = None) -> Loaded:
        """Read a checkpoint, or `only` some of its files (acting needs no optimiser and no replay).

        Raises:
            StateError: it is damaged, of a newer version, or lacks a file of `only`.
        """
        manifest = self.verify(path, only)
        files = manifest["files"]
        if missing := set(only or ()) - files.keys():
            raise StateError(f"{path} holds no {min(missing)}.")
        names = sorted(files if only is None else only)
        tensors = {name: read_tensors(path / name) for name in names if name.endswith(".safetensors")}
        trees = {name: read_json(path / name) for name in names if name.endswith(".json")}
        content = self._migrate(migrate.Content(tensors, trees), manifest["schema_version"], path)
        return Loaded(manifest["step"], path, *content, manifest["versions"])

    def _migrate(self, content: migrate.Content, version: Any, path: Path) -> migrate.Content:
        return migrate.migrate(content, version, SCHEMA_VERSION, migrate.CHECKPOINT, str(path))


def _name(step: int) -> str:
    return f"{step:09d}"


def _require_finite(files: Mapping[str, Arrays]) -> None:
    for arrays in files.values():
        for name, value in arrays.items():
            tensor = as_tensor(value)
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise DivergedError(
                    f"{name} is no longer finite, so no checkpoint was written.",
                    hint="The last good checkpoint stays. Try a smaller optim.lr.",
                )
