"""The replay: what was collected, as sequences to train on.

```
record       i          i+1        i+2   ...  i+T
             context    ─────── trained ───────
action       a_i ─────▶ a_i+1 ──▶ ...             Batch.action: all T+1; Batch.prev_action leaves out the last
latent       start      ◀──── refresh() ────▶     stored while acting, rewritten after each update
```
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.errors import ConfigError, StateError
from dreamer_cli.files import FILES, DiskFullError, Files, clean_temporaries
from dreamer_cli.registry import STRICT
from dreamer_cli.replay import chunks
from dreamer_cli.replay.ring import Fields, Plan, Ring, free_memory, plan, record_fields
from dreamer_cli.replay.sampling import ItemSampler
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Batch, Records, State

MOST_RECORDS = 5_000_000  # Dreamer V3's capacity
# A checkpoint lists its chunks. Where saves are frequent, more than so many that are small, or that hold little of each
# stream, are joined. Sizes in bytes.
MOST_SMALL, SMALL_CHUNK, SMALL_SPAN = 64, 1_000_000, 65_536


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReplayConfig:
    """What is kept of the past, and how it is replayed.

    Attributes:
        capacity: records kept; null: the smaller of 5,000,000 and what the run's steps will collect.
        max_bytes: memory for them; null: a quarter of the free memory. The smaller of both limits holds.
        batch_size: sequences in a batch (B).
        batch_length: records of a sequence that are trained on (T); one more is read before them.
        online: replay every sequence once soon after it was collected, before sampling uniformly.
    """

    capacity: int | None = None
    max_bytes: int | None = None
    batch_size: int = 16
    batch_length: int = 64
    online: bool = True

    def __post_init__(self) -> None:
        # A record's return needs the record after it.
        for name, least in (("capacity", 1), ("max_bytes", 1), ("batch_size", 1), ("batch_length", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"replay.{name} is {value}, but has to be at least {least}.")

    def limits(self, expected_records: int, num_envs: int) -> tuple[int, int]:
        """Capacity and max_bytes as numbers, where null stands, from what the run will collect and the free memory."""
        # A run too short for one sequence is still a run.
        wanted = max(expected_records, num_envs * (self.batch_length + 1))
        capacity = min(MOST_RECORDS, wanted) if self.capacity is None else self.capacity
        return capacity, free_memory() // 4 if self.max_bytes is None else self.max_bytes


class Index(NamedTuple):
    """Where a batch came from: environment (B) and absolute id of the context record (B), int64."""

    env: np.ndarray
    start: np.ndarray


class Replay:
    """Streams of records, one per environment, and batches of sequences from them.

    Args:
        spec: the environment's observations and actions.
        num_envs: streams.
        latent: `deter` and `stoch` → shape and dtype of what is stored per record; `stoch` as integers are class
            indices (uint8, uint16), as floats the sample itself.
        capacity, max_bytes: in records and bytes; the smaller holds.
        batch_size, batch_length: B and T.
        online: fresh sequences first.
        seed: of the choice of sequences.
        pin_memory: batches in page-locked memory, from which copies to a GPU run by themselves.

    Raises:
        ConfigError: the limits leave no room for one sequence per environment.
        ResourceError: there is not so much memory.
    """

    def __init__(
        self,
        spec: EnvSpec,
        num_envs: int,
        latent: Fields,
        *,
        capacity: int = MOST_RECORDS,
        max_bytes: int | None = None,
        batch_size: int = 16,
        batch_length: int = 64,
        online: bool = True,
        seed: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.plan: Plan = plan(spec, num_envs, latent, capacity, max_bytes, batch_length)
        self.spec, self.batch_size, self.batch_length = spec, batch_size, batch_length
        self.ring = Ring(num_envs, self.plan.per_env, {**record_fields(spec), **latent})
        self.sampler = ItemSampler(num_envs, self.plan.per_env, batch_length + 1, online, seed)
        self.lost = 0  # records that damaged chunks took with them
        self._latent = tuple(latent)
        self._stored = tuple(record_fields(spec))
        self._pin_memory = pin_memory
        self._chunks: list[dict[str, Any]] = []
        self._saved = np.zeros(num_envs, np.int64)  # the ids below are in chunks, or were evicted before

    def __len__(self) -> int:
        """Items: sequences that can be sampled."""
        return len(self.sampler)

    @property
    def records(self) -> int:
        """Records held."""
        return self.sampler.records

    @property
    def capacity(self) -> int:
        """Records that fit."""
        return self.plan.capacity

    @property
    def bytes_per_record(self) -> int:
        """Memory of one record, latents included."""
        return self.plan.bytes_per_record

    @property
    def limited_by(self) -> str:
        """Which limit holds: `capacity` or `max_bytes`."""
        return self.plan.limited_by

    def add(self, env_ids: np.ndarray, records: Records, action: np.ndarray, latent: Mapping[str, np.ndarray]) -> None:
        """Append one record to each of some streams; the oldest make room.

        Args:
            env_ids: n different environments.
            records: their records, n rows.
            action: n A, what was answered to the observation; zeros where `is_last`.
            latent: n rows each, the state after seeing the observation; zeros where `is_last`.
        """
        env_ids = np.asarray(env_ids, np.int64)
        if len(np.unique(env_ids)) != len(env_ids):
            raise ValueError("an environment adds one record at a time")
        values = {f"obs/{key}": value for key, value in records.obs.items()}
        values |= {name: getattr(records, name) for name in ("reward", "is_first", "is_last", "is_terminal")}
        self.ring.write(env_ids, self.sampler.next[env_ids], {**values, "action": action, **latent})
        self.sampler.add(env_ids)

    def sample(self) -> tuple[Batch, Index]:
        """The next batch (see `Batch`), on the CPU, and where it came from.

        Images stay uint8 `B T C Y X`, discrete observations become int32, `start.stoch` stays class indices
        (int64 `B S`) where it is stored so.

        Raises:
            ValueError: there is no item yet.
        """
        if not len(self):
            raise ValueError("the replay holds no sequence yet")
        env, start = self.sampler.draw(self.batch_size)
        return self._batch(env, start), Index(env, start)

    def peek(self, seed: int) -> Batch:
        """A batch to look at: it changes nothing about the batches that training will see.

        Raises:
            ValueError: there is no item yet.
        """
        if not len(self):
            raise ValueError("the replay holds no sequence yet")
        return self._batch(*self.sampler.uniform(self.batch_size, np.random.default_rng(seed)))

    def _batch(self, env: np.ndarray, start: np.ndarray) -> Batch:
        ids = start[:, None] + np.arange(self.batch_length + 1)
        trained = ids[:, 1:]
        obs = {
            key: self._gather(f"obs/{key}", env, trained, torch.int32 if kind.kind == "discrete" else None)
            for key, kind in self.spec.observation.items()
        }
        flags = {name: self._gather(name, env, trained) for name in ("is_first", "is_last", "is_terminal")}
        # An episode that was abandoned (a crashed environment, a resume) shows only in the record that follows.
        flags["is_last"][:, :-1] |= flags["is_first"][:, 1:]
        begin = {name: self._gather(name, env, start[:, None])[:, 0] for name in self._latent}
        stoch = begin["stoch"] if begin["stoch"].is_floating_point() else begin["stoch"].long()
        return Batch(
            obs=obs,
            action=self._gather("action", env, ids),
            reward=self._gather("reward", env, trained),
            start=State(begin["deter"], stoch),
            **flags,
        )

    def refresh(self, index: Index, latent: Mapping[str, np.ndarray | Tensor]) -> None:
        """Store fresher latents of a sampled batch's T trained records (B T ...); evicted records are left alone."""
        for name in self._latent:
            value = latent[name]
            if isinstance(value, Tensor):
                value = value.detach().cpu()
                # numpy has no bfloat16.
                value = (value.float() if value.is_floating_point() else value).numpy()
            expected = (len(index.env), self.batch_length, *self.ring.fields[name][0])
            if value.shape != expected:
                raise ValueError(f"{name} is {tuple(value.shape)} instead of {expected}")
            oldest = self.sampler.oldest
            for row, (env, start) in enumerate(zip(index.env.tolist(), index.start.tolist(), strict=True)):
                gone = min(max(0, int(oldest[env]) - (start + 1)), self.batch_length)
                self.ring.put(name, env, start + 1 + gone, value[row, gone:])

    def _gather(self, name: str, env: np.ndarray, ids: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        shape, kind = self.ring.fields[name]
        # numpy's memory, not torch's: it reuses freed pages, where torch.empty faults in new ones (1.6 ms against
        # 13 ms for 16 x 64 images of 64 x 64 x 3). Page-locked memory is reused by torch itself.
        out = torch.from_numpy(np.empty((*ids.shape, *shape), kind))
        if self._pin_memory:
            out = torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
        self.ring.gather(name, env, ids, out.numpy())
        return out if dtype is None else out.to(dtype)

    # On disk.

    def save(self, directory: Path, files: Files = FILES) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Write the records that are not on disk yet as chunks; the rest is for the caller's checkpoint.

        Returns:
            Latents (views of the ring, not copies: `name.env` → rows), and a JSON tree with everything else:
            the list of chunks and the state of the choice.

        Raises:
            ResourceError: the disk is full (`DiskFullError`) or not writable; the next save tries again.
        """
        fresh = [(env, max(begin, int(self._saved[env])), end) for env, begin, end in self.sampler.spans]
        per_record = self.bytes_per_record - sum(
            int(np.prod(shape)) * np.dtype(dtype).itemsize
            for shape, dtype in (self.ring.fields[name] for name in self._latent)
        )
        for group in chunks.split(fresh, max(1, chunks.CHUNK_BYTES // per_record)):
            self._chunks.append(chunks.write_chunk(directory, self.ring, self._stored, group, files))
            for env, _, end in group:
                self._saved[env] = end
        oldest = self.sampler.oldest
        self._chunks = [c for c in self._chunks if any(end > oldest[env] for env, _, end in c["spans"])]
        self._join_small(directory, chunks.CHUNK_BYTES // per_record, files)
        filled = np.minimum(self.sampler.next, self.plan.per_env).tolist()
        latents = {
            f"{name}.{env}": self.ring.arrays[name][env, :count]
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
        per_env = min(self.plan.per_env, tree["per_env"])
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
        self.sampler.load(dict(tree), _merge(found))
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
        """See that a saved replay has this one's form."""
        if len(tree["next"]) != self.sampler.num_envs:
            raise StateError(
                f"the saved replay has {len(tree['next'])} environments instead of {self.sampler.num_envs}.",
                hint=f"Continue with --num-envs {len(tree['next'])}.",
            )
        for entry in tree["chunks"]:
            chunks.check_entry(entry)
        for name in self._latent:
            shape, dtype = self.ring.fields[name]
            for env, number in enumerate(tree["next"]):
                saved = latents.get(f"{name}.{env}")
                rows = min(number, tree["per_env"])
                if saved is None or saved.shape != (rows, *shape) or saved.numpy().dtype != dtype:
                    raise StateError(f"the saved replay does not hold what this model stores as {name}.")

    def _load_latents(self, latents: Mapping[str, Tensor], per_env: int, spans: list[chunks.Span]) -> None:
        for env, begin, end in spans:
            for at in range(begin, end, 4096):
                ids = np.arange(at, min(at + 4096, end))
                for name in self._latent:
                    self.ring.put(name, env, at, latents[f"{name}.{env}"].numpy()[ids % per_env])


def _merge(spans: list[chunks.Span]) -> list[chunks.Span]:
    """Stretches in order, those that touch joined; empty ones left out."""
    merged: list[chunks.Span] = []
    for env, begin, end in sorted(span for span in spans if span[1] < span[2]):
        if merged and merged[-1][0] == env and merged[-1][2] >= begin:
            merged[-1] = (env, merged[-1][1], end)
        else:
            merged.append((env, begin, end))
    return merged
