"""From the replay to the learner and back: batches on its device, fresh latents into storage.

```
trainer   take 1 · update 1 · store 1   take 2 · update 2 · store 2   take 3 · update 3 · store 3
          │ draw 2                      │ draw 3                      │ draw 4
worker    └─ gather 2 ───┐              └─ latents 1, gather 3 ──┐    └─ latents 2, gather 4 ...
                         └ copied ────▶ 2                        └──▶ 3
```
With `Prefetch`, a batch is therefore of what had been collected one update earlier, and the states that it begins in
lack the latents of the update just before it. Nothing depends on how fast the thread is, nor on what is saved when.

What an update that was skipped says of its records is not stored. Whether it was is known on the learner's device;
that, too, comes back without anybody waiting for it.
"""

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamer_cli.replay.sampling import Choice
from dreamer_cli.replay.storage import Index, Replay, nothing
from dreamer_cli.structs import Batch, State


@runtime_checkable
class Feed(Protocol):
    """Batches for a learner: `take`, an update, `store`; and again."""

    def serve(self, learner: Any) -> None:
        """Say to whom. A learner on the records' own device reads and writes them itself (`fetch` and `keep`)."""

    def take(self) -> Any:
        """The next batch, on the learner's device; or where it lies there, for `fetch`.

        Raises:
            ValueError: the replay holds no sequence yet.
        """

    def store(self, latents: Mapping[str, Tensor], sound: Tensor | None = None) -> None:
        """Keep the fresh latents (B T ...) of the batch that was taken last; not where `sound` (a bool) is false."""

    def drain(self) -> None:
        """Have everything stored; the batches that follow are the same. The replay asks for this before it is saved."""

    def close(self) -> None:
        """Drain, and end what runs beside. The replay stays as it is."""


def build_feed(replay: Replay, device: torch.device) -> Feed:
    """What suits where the records are and where learning is."""
    if replay.storage == "device":
        return DeviceFeed(replay)
    return Prefetch(replay, device) if device.type == "cuda" else Direct(replay, device)


class Direct:
    """Everything at once, in order: for learning on the CPU, and to compare with."""

    def __init__(self, replay: Replay, device: torch.device) -> None:
        self._replay, self._device = replay, device
        self._index: Index | None = None

    def serve(self, learner: Any) -> None:
        """Whoever asks."""

    def take(self) -> Batch:
        """The next batch, on the learner's device."""
        batch, self._index = self._replay.sample()
        return batch.to(self._device)

    def store(self, latents: Mapping[str, Tensor], sound: Tensor | None = None) -> None:
        """Write the fresh latents of the batch that was taken last."""
        index = _taken(self._index)
        if sound is None or bool(sound):
            self._replay.refresh(index, latents)

    def drain(self) -> None:
        """Nothing is under way."""

    close = drain


class DeviceFeed:
    """Records on the learner's device: an update reads and writes them there, and nothing waits."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def serve(self, learner: Any) -> None:
        """Reading and writing become part of the update, and of its recording, if there is one."""
        learner.fetch, learner.keep = self._replay.gather, self._keep

    def _keep(self, rows: Tensor, latents: Mapping[str, Tensor], sound: Tensor) -> None:
        """The same form whether the update was sound or not: rows that must not be written are negative."""
        self._replay.store(torch.where(sound, rows, torch.minimum(rows, -1 - rows)), latents)

    def take(self) -> Tensor:
        """The rows of the next batch (B T+1); see `Replay.rows`."""
        return self._replay.rows(self._replay.draw())

    def store(self, latents: Mapping[str, Tensor], sound: Tensor | None = None) -> None:
        """The update has done it."""

    def drain(self) -> None:
        """The device's own order is enough."""

    close = drain


class _Ahead(NamedTuple):
    """A batch on its way: what was chosen, and the worker's promise of it and of the event of its copy."""

    choice: Choice
    work: "Future[tuple[Batch, Any]]"


class _Fresh(NamedTuple):
    """On its way back: latents of which batch, whether to store them, and the event after which all has arrived."""

    origin: Index
    latents: dict[str, Tensor]
    sound: Tensor | None
    arrived: Any


class Prefetch:
    """Records in main memory, a learner on a GPU: a thread gathers and copies the next batch during an update.

    The thread alone reads records and writes latents, in the order that `take` asks for it. Adding records, and
    looking at or saving the replay, waits for it. Drawing stays in the caller's thread; a batch that was drawn in
    advance counts as drawn only when it is taken: it outlives a save, but is not part of it. The thread calls CUDA at
    any time: whoever captures a CUDA graph meanwhile does it with `capture_error_mode="thread_local"`.

    Args:
        replay: its storage is `host`, with `pin_memory` if the learner is on a GPU; it knows this feed until `close`.
        device: the learner's; on a CPU the same happens without streams.
    """

    def __init__(self, replay: Replay, device: torch.device) -> None:
        if replay.storage != "host":
            raise ValueError("records on a device are not fetched in advance")
        self._replay, self._device = replay, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._worker = ThreadPoolExecutor(1, "prefetch")
        self._ahead: _Ahead | None = None
        self._index: Index | None = None
        self._fresh: _Fresh | None = None
        replay.wait, replay.drain, replay.forget = self._wait, self.drain, self.forget

    def serve(self, learner: Any) -> None:
        """Whoever asks."""

    def take(self) -> Batch:
        """The next batch, on the learner's device; the one after it is begun."""
        choice, work = self._ahead or self._begin()
        self._ahead = None  # should the worker have failed, the next call begins anew
        batch, copied = work.result()
        self._replay.sampler.commit(choice)
        self._index = Index(choice.env, choice.start)
        self._ahead = self._begin()
        if copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(copied)
            for tensor in _tensors(batch):
                tensor.record_stream(stream)  # its memory belongs to the other stream, which must not reuse it yet
        return batch

    def store(self, latents: Mapping[str, Tensor], sound: Tensor | None = None) -> None:
        """Begin to copy the latents back. They are in the ring before the batch after next is gathered."""
        index = _taken(self._index)
        # On the learner's stream, not beside it: the next update may write into the same memory (a CUDA graph does).
        host = {name: self._begin_copy(x) for name, x in latents.items()}
        kept = None if sound is None else self._begin_copy(sound)
        arrived = torch.cuda.current_stream(self._device).record_event() if self._stream else None
        self._fresh = _Fresh(index, host, kept, arrived)

    def drain(self) -> None:
        """Write the last latents. The batch drawn in advance has been gathered already, and stays the next one."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.work.result()  # latents that could not be written must not go unnoticed
        self._ahead = ahead
        fresh, self._fresh = self._fresh, None
        self._write(fresh)

    def forget(self) -> None:
        """Write the last latents, and drop the batch drawn in advance: as if no one had read ahead."""
        try:
            self.drain()
        finally:
            self._ahead = None

    def close(self) -> None:
        """Drain, and end the thread."""
        try:
            self.forget()
        finally:
            self._worker.shutdown()
            self._replay.wait = self._replay.drain = self._replay.forget = nothing

    def _begin_copy(self, x: Tensor) -> Tensor:
        """What x is now, in main memory; from a GPU once it has got there."""
        if self._stream is None:
            return x.detach().clone()
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x.detach(), non_blocking=True)

    def _wait(self) -> None:
        if self._ahead is not None:
            wait([self._ahead.work])

    def _begin(self) -> _Ahead:
        if not len(self._replay):
            raise ValueError("the replay holds no sequence yet")
        choice = self._replay.sampler.choose(self._replay.batch_size)
        fresh, self._fresh = self._fresh, None
        return _Ahead(choice, self._worker.submit(self._work, fresh, Index(choice.env, choice.start)))

    def _work(self, fresh: _Fresh | None, index: Index) -> tuple[Batch, Any]:
        """In the thread: write the latents of the update before this one, gather a batch, copy it."""
        self._write(fresh)
        batch = self._replay.gather(self._replay.rows(index))
        with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
            return batch.to(self._device), self._stream.record_event() if self._stream else None

    def _write(self, fresh: _Fresh | None) -> None:
        if fresh is None:
            return
        if fresh.arrived is not None:
            fresh.arrived.synchronize()
        if fresh.sound is None or bool(fresh.sound):
            self._replay.refresh(fresh.origin, fresh.latents)


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    for part in batch:
        if isinstance(part, Tensor):
            found.append(part)
        else:
            found += part if isinstance(part, State) else part.values()
    return found


def _taken(index: Index | None) -> Index:
    if index is None:
        raise ValueError("there is no batch to store latents of")
    return index
