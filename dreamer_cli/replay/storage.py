"""The replay: what was collected, as sequences to train on.

```
record       i          i+1        i+2   ...  i+T
             context    ─────── trained ───────
action       a_i ─────▶ a_i+1 ──▶ ...             Batch.action: all T+1; Batch.prev_action leaves out the last
latent       start      ◀──── refresh() ────▶     stored while acting, rewritten after each update
```
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.errors import ConfigError
from dreamer_cli.files import FILES, Files
from dreamer_cli.memory import free_memory
from dreamer_cli.registry import STRICT
from dreamer_cli.replay.archive import Archive
from dreamer_cli.replay.device_ring import DeviceRing
from dreamer_cli.replay.ring import (
    AnyRing,
    Fields,
    Plan,
    Ring,
    fits_on_device,
    locate,
    plan,
    record_fields,
)
from dreamer_cli.replay.sampling import ItemSampler
from dreamer_cli.shapes import Int
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Batch, Records, State

MOST_RECORDS = 5_000_000  # Dreamer V3's capacity
Storage = Literal["host", "device"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReplayConfig:
    """What is kept of the past, and how it is replayed.

    Attributes:
        capacity: records kept; null: the smaller of 5,000,000 and what the run's steps will collect.
        max_bytes: memory for them; null: a quarter of the free memory. The smaller of both limits holds.
        batch_size: sequences in a batch (B).
        batch_length: records of a sequence that are trained on (T); one more is read before them.
        online: replay every sequence once soon after it was collected, before sampling uniformly.
        storage: where records are kept: host (main memory), device (the GPU's), or auto: on a GPU if all of them take
            no more than half of its free memory.
    """

    capacity: int | None = None
    max_bytes: int | None = None
    batch_size: int = 16
    batch_length: int = 64
    online: bool = True
    storage: Literal["auto", "host", "device"] = "auto"

    def __post_init__(self) -> None:
        # A record's return needs the record after it.
        limits = {
            "capacity": (1, 10**12),
            "max_bytes": (1, 10**15),
            "batch_size": (1, 65_536),
            "batch_length": (2, 65_536),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise ConfigError(f"replay.{name} is {value}, but has to be {bound}.")

    def limits(self, expected_records: int, num_envs: int) -> tuple[int, int]:
        """Capacity and max_bytes as numbers, where null stands, from what the run will collect and the free memory."""
        # A run too short for one sequence is still a run.
        wanted = max(expected_records, num_envs * (self.batch_length + 1))
        capacity = min(MOST_RECORDS, wanted) if self.capacity is None else self.capacity
        return capacity, free_memory() // 4 if self.max_bytes is None else self.max_bytes

    def place(self, plan: Plan, device: torch.device) -> Storage:
        """Where a replay of this size is kept when this device trains."""
        if self.storage != "auto":
            return self.storage
        fits = device.type == "cuda" and fits_on_device(plan, torch.cuda.mem_get_info(device)[0])
        return "device" if fits else "host"


class Index(NamedTuple):
    """Where a batch came from: environment (B) and absolute id of the context record (B), int64."""

    env: np.ndarray
    start: np.ndarray


def nothing() -> None:
    """Nobody has to be waited for."""


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
        storage: keep records on the `host` or on a device. The same records, seeds and files either way.
        device: which, for storage `device`.
        pin_memory: for storage `host`: batches in page-locked memory, from which copies to a GPU run by themselves.

    Attributes:
        wait, drain, forget: called before records change, before they are saved, and before others are loaded, by
            default `nothing`; set by whoever reads in another thread (`replay/prefetch.py`).

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
        storage: Storage = "host",
        device: torch.device | str = "cpu",
        pin_memory: bool = False,
    ) -> None:
        self.plan: Plan = plan(spec, num_envs, latent, capacity, max_bytes, batch_length)
        self.spec, self.batch_size, self.batch_length = spec, batch_size, batch_length
        fields = {**record_fields(spec), **latent}
        self.storage: Storage = storage
        self.ring: AnyRing
        if storage == "device":
            self.ring = DeviceRing(num_envs, self.plan.per_env, fields, torch.device(device))
        else:
            self.ring = Ring(num_envs, self.plan.per_env, fields, pin_memory)
        self.sampler = ItemSampler(num_envs, self.plan.per_env, batch_length + 1, online, seed)
        self.wait: Callable[[], None] = nothing
        self.drain: Callable[[], None] = nothing
        self.forget: Callable[[], None] = nothing
        self._latent = tuple(latent)
        self._archive = Archive(self.ring, self.sampler, record_fields(spec), latent)

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

    @property
    def lost(self) -> int:
        """Records that damaged chunks took with them."""
        return self._archive.lost

    def add(self, env_ids: np.ndarray, records: Records, action: np.ndarray, latent: Mapping[str, np.ndarray]) -> None:
        """Append one record to each of some streams; the oldest make room.

        Args:
            env_ids: n different environments.
            records: their records, n rows.
            action: n A, what was answered to the observation; zeros where `is_last`.
            latent: n rows each, the state after seeing the observation; zeros where `is_last`.
        """
        env_ids = np.asarray(env_ids, np.int64)
        if len(set(env_ids.tolist())) != len(env_ids):
            raise ValueError("an environment adds one record at a time")
        values = {f"obs/{key}": value for key, value in records.obs.items()}
        values |= {name: getattr(records, name) for name in ("reward", "is_first", "is_last", "is_terminal")}
        self.wait()
        self.ring.write(env_ids, self.sampler.next[env_ids], {**values, "action": action, **latent})
        self.sampler.add(env_ids)

    def sample(self) -> tuple[Batch, Index]:
        """The next batch (see `Batch`), where the records are kept, and where it came from.

        Raises:
            ValueError: there is no item yet.
        """
        index = self.draw()
        return self._batch(self._readable_rows(index)), index

    def peek(self, seed: int) -> Batch:
        """A batch to look at: it changes nothing about the batches that training will see.

        Raises:
            ValueError: there is no item yet.
        """
        self._require_items()
        self.wait()
        index = Index(*self.sampler.uniform(self.batch_size, np.random.default_rng(seed)))
        return self._batch(self._readable_rows(index))

    def refresh(self, index: Index, latent: Mapping[str, np.ndarray | Tensor]) -> None:
        """Store fresher latents of a sampled batch's T trained records (B T ...); evicted records are left alone.

        Where sequences share a record, the last one's latent stays.
        """
        tensors = {name: x if isinstance(x, Tensor) else torch.from_numpy(x) for name, x in latent.items()}
        values = self._checked(tensors, len(index.env), self.batch_length)
        self.ring.refresh(index.env, index.start, self.sampler.oldest[index.env], values)

    def last_actions(self, env: int, number: int, after: int = 0) -> np.ndarray | None:
        """The last actions of an environment (number A), before the `after` newest; None if not all are held."""
        end = int(self.sampler.next[env]) - after
        begin = end - number
        if number and not any(e == env and first <= begin and end <= last for e, first, last in self.sampler.spans):
            return None
        nothing_yet = np.zeros((0, self.spec.action_width), np.float32)
        return np.concatenate([nothing_yet, *self.ring.get("action", env, begin, end)])

    # The steps of these, for whoever captures a CUDA graph of `gather`, an update and `store`.

    def draw(self) -> Index:
        """Choose the next batch. Bookkeeping on the host; the next draw is another one.

        Raises:
            ValueError: there is no item yet.
        """
        self._require_items()
        return Index(*self.sampler.draw(self.batch_size))

    def rows(self, index: Index) -> Int[Tensor, "B L"]:
        """Where the T+1 records of each sequence lie now, on the device that keeps them: for `gather` and `store`.

        Negative where `store` must not write (see `ring.locate`): a row -1 is read as row 0 and never written, so
        rows full of -1 are harmless to warm up with. Good until records are added.
        """
        oldest = self.sampler.oldest[index.env]
        return self.ring.send(locate(self.plan.per_env, index.env, index.start, self.batch_length + 1, oldest))

    def _readable_rows(self, index: Index) -> Int[Tensor, "B L"]:
        ids = index.start[:, None] + np.arange(self.batch_length + 1)
        return self.ring.send(index.env[:, None] * self.plan.per_env + ids % self.plan.per_env)

    def gather(self, rows: Int[Tensor, "B L"]) -> Batch:
        """The batch in these rows (B T+1). Captures well: fixed shapes, no look at values.

        Images stay uint8 `B T C Y X`, discrete observations become int32, `start.stoch` stays class indices
        (int64 `B S`) where it is stored so.
        """
        return self._batch(torch.maximum(rows, -1 - rows))  # whichever of the two is not negative

    def _batch(self, rows: Int[Tensor, "B L"]) -> Batch:
        # Not indexing, here and in `store`: that asks for the device's driver, also of a fake tensor (tests).
        length = rows.shape[1] - 1
        trained, context = rows.narrow(1, 1, length), rows.select(1, 0)
        obs = {key: self.ring.gather(f"obs/{key}", trained) for key in self.spec.observation}
        obs = {k: x.to(torch.int32) if self.spec.observation[k].kind == "discrete" else x for k, x in obs.items()}
        flags = {name: self.ring.gather(name, trained) for name in ("is_first", "is_last", "is_terminal")}
        # An episode that was abandoned (a crashed environment, a resume) shows only in the record that follows.
        next_is_first = flags["is_first"].narrow(1, 1, length - 1)
        flags["is_last"].narrow(1, 0, length - 1).logical_or_(next_is_first)
        start = {name: self.ring.gather(name, context) for name in self._latent}
        stoch = start["stoch"] if start["stoch"].is_floating_point() else start["stoch"].long()
        return Batch(
            obs=obs,
            action=self.ring.gather("action", rows),
            reward=self.ring.gather("reward", trained),
            start=State(start["deter"], stoch),
            **flags,
        )

    def store(self, rows: Int[Tensor, "B L"], latents: Mapping[str, Tensor]) -> None:
        """Store fresher latents (B T ...) of the trained records in these rows (B T+1), where they may be written.

        Captures well, where the records and the latents are on one device.

        Raises:
            ValueError: a latent has another shape.
        """
        length = rows.shape[1] - 1
        for name, value in self._checked(latents, rows.shape[0], length).items():
            self.ring.store(name, rows.narrow(1, 1, length), value)

    def _checked(self, latents: Mapping[str, Tensor], number: int, length: int) -> dict[str, Tensor]:
        for name in self._latent:
            expected = (number, length, *self.ring.fields[name][0])
            if latents[name].shape != expected:
                raise ValueError(f"{name} is {tuple(latents[name].shape)} instead of {expected}")
        return {name: latents[name].detach() for name in self._latent}

    def _require_items(self) -> None:
        if not len(self):
            raise ValueError("the replay holds no sequence yet")

    # On disk, see `Archive`.

    def save(self, directory: Path, files: Files = FILES) -> tuple[dict[str, np.ndarray | Tensor], dict[str, Any]]:
        """Write what is not on disk yet; the rest, latents and a JSON tree, is for the caller's checkpoint."""
        self.drain()
        return self._archive.save(directory, files)

    def load(
        self, directory: Path, latents: Mapping[str, Tensor], tree: Mapping[str, Any], max_lost: float = 0.1
    ) -> list[str]:
        """Restore what `save` wrote; returns a warning for each chunk that had to be left out."""
        self.forget()
        return self._archive.load(directory, latents, tree, max_lost)

    def prune(self, directory: Path, trees: Iterable[Mapping[str, Any]], files: Files = FILES) -> list[str]:
        """Delete chunks that neither these checkpoints (their trees) nor this replay name, and unfinished ones."""
        return self._archive.prune(directory, trees, files)
