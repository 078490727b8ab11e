"""The replay on disk: what is new as chunks, the rest as tensors and JSON for the caller's checkpoint.

Files are the same wherever the records are kept, so a run may go on with them somewhere else.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamer_cli.errors import StateError
from dreamer_cli.files import FILES, DiskFullError, Files, clean_temporaries
from dreamer_cli.replay import chunks
from dreamer_cli.replay.ring import AnyRing
from dreamer_cli.replay.sampling import ItemSampler

# A checkpoint lists its chunks. Where saves are frequent, more than so many that are small, or that hold little of each
# stream, are joined. Sizes in bytes.
MOST_SMALL, SMALL_CHUNK, SMALL_SPAN = 64, 1_000_000, 65_536
MOST_RECORDS = 1 << 53  # that any run collects; ids beyond are damage
RESTORE = "Restore the checkpoint from a backup, or start a new run from these weights with --init-from."


class Archive:
    """What of a replay is on disk.

    Attributes:
        lost: records that damaged chunks took with them.

    Args:
        ring, sampler: of the replay.
        stored, latent: names of the fields that go into chunks, and of those that change and go into checkpoints.
    """

    def __init__(self, ring: AnyRing, sampler: ItemSampler, stored: Collection[str], latent: Collection[str]) -> None:
        self.ring, self.sampler = ring, sampler
        self.lost = 0
        self._stored, self._latent = tuple(stored), tuple(latent)
        self._chunks: list[dict[str, Any]] = []
        self._saved = np.zeros(sampler.num_envs, np.int64)  # the ids below are in chunks, or were evicted before

    def save(self, directory: Path, files: Files = FILES) -> tuple[dict[str, np.ndarray | Tensor], dict[str, Any]]:
        """Write the records that are not on disk yet as chunks; the rest is for the caller's checkpoint.

        Returns:
            Latents (views of the ring, not copies, tensors where it is on a device: `name.env` → rows), and a JSON tree
            with everything else: the list of chunks and the state of the choice.

        Raises:
            ResourceError: the disk is full (`DiskFullError`) or not writable; the next save tries again.
        """
        fresh = [(env, max(begin, int(self._saved[env])), end) for env, begin, end in self.sampler.spans]
        per_record = sum(
            math.prod(shape) * np.dtype(dtype).itemsize
            for shape, dtype in (self.ring.fields[name] for name in self._stored)
        )
        for group in chunks.split(fresh, max(1, chunks.CHUNK_BYTES // per_record)):
            self._chunks.append(chunks.write_chunk(directory, self.ring, self._stored, group, files))
            for env, _, end in group:
                self._saved[env] = end
        oldest = self.sampler.oldest
        self._chunks = [c for c in self._chunks if any(end > oldest[env] for env, _, end in c["spans"])]
        self._join_small(directory, chunks.CHUNK_BYTES // per_record, files)
        filled = np.minimum(self.sampler.next, self.ring.per_env).tolist()
        latents = {
            f"{name}.{env}": self.ring.first_rows(name, env, count)
            for name in self._latent
            for env, count in enumerate(filled)
        }
        return latents, {**self.sampler.state(), "chunks": list(self._chunks), "lost": self.lost}

    def _join_small(self, directory: Path, most: int, files: Files) -> None:
        """Write many small chunks again as a few large ones, so that the list of them stays short.

        From memory, where their records are. The old files stay until no checkpoint names them (`prune`), so a crash
        at any moment leaves every checkpoint as it was.
        """
        small = [entry for entry in self._chunks if entry["size"] < max(SMALL_CHUNK, SMALL_SPAN * len(entry["spans"]))]
        if len(small) <= MOST_SMALL:
            return
        oldest = self.sampler.oldest
        spans = [(env, max(begin, int(oldest[env])), end) for entry in small for env, begin, end in entry["spans"]]
        joined: list[dict[str, Any]] = []
        try:
            for group in chunks.split(_merge(spans), max(1, most)):
                joined.append(chunks.write_chunk(directory, self.ring, self._stored, group, files))
        except DiskFullError:  # the small ones are as good; there may be room at the next save
            for entry in joined:
                files.remove(directory / entry["name"])
            return
        gone = {entry["name"] for entry in small}
        self._chunks = [entry for entry in self._chunks if entry["name"] not in gone] + joined

    def load(
        self, directory: Path, latents: Mapping[str, Tensor], tree: Mapping[str, Any], max_lost: float = 0.1
    ) -> list[str]:
        """Restore what `save` wrote, exactly; with another capacity, the newest records that fit. Writes nothing.

        A chunk that is damaged or missing is left out: no sequence spans the gap.

        Args:
            directory: where the chunks lie.
            latents, tree: as `save` returned them.
            max_lost: the largest share of records that may be lost.

        Returns:
            One warning per chunk that was left out; `lost` counts the records.

        Raises:
            StateError: too much is lost, or this was another replay.
        """
        self._check(tree, latents)
        per_env = min(self.ring.per_env, tree["per_env"])
        following = np.array(tree["next"], np.int64)
        oldest = np.maximum(following - per_env, 0)
        found, kept, warnings, lost = [], [], [], 0
        for entry in tree["chunks"]:
            wanted = [(env, max(begin, int(oldest[env])), end) for env, begin, end in entry["spans"]]
            try:
                arrays = chunks.read_chunk(directory, entry, self.ring, self._stored)
            except StateError as error:
                gone = sum(max(0, end - begin) for _, begin, end in wanted)
                lost += gone
                warnings.append(f"{error.what} {gone} records of the replay are lost.")
                continue
            kept.append(entry)
            at = 0
            for (env, begin, end), (_, first, _) in zip(wanted, entry["spans"], strict=True):
                for name in self._stored if begin < end else ():
                    self.ring.put(name, env, begin, arrays[name][at + begin - first : at + end - first])
                at += end - first
                found.append((env, begin, end))
        total = lost + sum(max(0, end - begin) for _, begin, end in found)
        if lost > max_lost * total:
            raise StateError(
                f"{lost} of {total} records of the replay in {directory} are lost: {warnings[0]}",
                hint="Restore the files from a backup, or start a new run from these weights with --init-from.",
            )
        self._load_latents(latents, tree["per_env"], found)
        try:
            self.sampler.load(dict(tree), _merge(found))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise StateError("the saved replay does not say how it goes on.", hint=RESTORE) from error
        self._chunks, self._saved, self.lost = kept, following, tree["lost"] + lost
        return warnings

    def prune(self, directory: Path, trees: Iterable[Mapping[str, Any]], files: Files = FILES) -> list[str]:
        """Delete chunks that neither these checkpoints (their trees) nor this replay name, and unfinished ones.

        Only for the holder of the run's lock: after a load (a future that was given up), and after a save.
        """
        named = {entry["name"] for tree in [*trees, {"chunks": self._chunks}] for entry in tree["chunks"]}
        clean_temporaries(directory, files)
        return chunks.delete_unnamed(directory, named, files)

    def _check(self, tree: Mapping[str, Any], latents: Mapping[str, Tensor]) -> None:
        """See that a saved replay has this one's form, and that nothing in it leads to another place or size."""
        sound = (
            isinstance(tree, Mapping)
            and {"next", "per_env", "chunks", "lost", "queue"} <= tree.keys()
            and isinstance(tree["next"], list)
            and all(type(number) is int and 0 <= number < MOST_RECORDS for number in [*tree["next"], tree["lost"]])
            and type(tree["per_env"]) is int
            and 0 < tree["per_env"] < MOST_RECORDS
            and isinstance(tree["queue"], list)
            and all(_is_item(item, len(tree["next"])) for item in tree["queue"])
        )
        if not sound:
            raise StateError("the saved replay is not readable.", hint=RESTORE)
        if len(tree["next"]) != self.sampler.num_envs:
            raise StateError(
                f"the saved replay has {len(tree['next'])} environments instead of {self.sampler.num_envs}.",
                hint=f"Continue with --num-envs {len(tree['next'])}.",
            )
        spans = [span for entry in chunks.saved_entries(tree) for span in entry["spans"]]
        if any(env >= len(tree["next"]) or end > tree["next"][env] for env, _, end in spans):
            raise StateError("the checkpoint's list of replay chunks names records that never were.", hint=RESTORE)
        for name in self._latent:
            shape, dtype = self.ring.fields[name]
            for env, number in enumerate(tree["next"]):
                saved = latents.get(f"{name}.{env}")
                rows = min(number, tree["per_env"])
                same = saved is not None and saved.dtype == torch.from_numpy(np.empty(0, dtype)).dtype
                if saved is None or saved.shape != (rows, *shape) or not same:
                    raise StateError(f"the saved replay does not hold what this model stores as {name}.")

    def _load_latents(self, latents: Mapping[str, Tensor], per_env: int, spans: list[chunks.Span]) -> None:
        for env, begin, end in spans:
            for at in range(begin, end, 4096):
                ids = np.arange(at, min(at + 4096, end))
                for name in self._latent:
                    self.ring.put(name, env, at, latents[f"{name}.{env}"].numpy()[ids % per_env])


def _is_item(item: Any, num_envs: int) -> bool:
    """Whether something is the environment and the first id of a sequence."""
    numbers = isinstance(item, list) and [type(number) for number in item] == [int, int]
    return numbers and 0 <= item[0] < num_envs and 0 <= item[1] < MOST_RECORDS


def _merge(spans: list[chunks.Span]) -> list[chunks.Span]:
    """Stretches in order, those that touch joined; empty ones left out."""
    merged: list[chunks.Span] = []
    for env, begin, end in sorted(span for span in spans if span[1] < span[2]):
        if merged and merged[-1][0] == env and merged[-1][2] >= begin:
            merged[-1] = (env, merged[-1][1], end)
        else:
            merged.append((env, begin, end))
    return merged
