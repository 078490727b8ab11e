"""From the replay to the learner and back: batches on its device, fresh latents into storage.

```
trainer   take 1 · update 1 · store 1   take 2 · update 2 · store 2   take 3 · update 3 · store 3
          │ draw 2                      │ draw 3                      │ draw 4
worker    └─ gather 2 ───┐              └─ latents 1, gather 3 ──┐    └─ latents 2, gather 4 ...
                         └ copied ────▶ 2                        └──▶ 3
```
With `Prefetch`, a batch is therefore of what had been collected one update earlier, and the states that it begins in
lack the latents of the update just before it. Nothing depends on how fast the thread is.
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

    def store(self, latents: Mapping[str, Tensor]) -> None:
        """Keep the fresh latents (B T ...) of the batch that was taken last."""

    def drain(self) -> None:
        """Have everything stored. The replay itself asks for this before it is saved or loaded."""

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

    def store(self, latents: Mapping[str, Tensor]) -> None:
        """Write the fresh latents of the batch that was taken last."""
        self._replay.refresh(_taken(self._index), latents)

    def drain(self) -> None:
        """Nothing is under way."""

    close = drain


class DeviceFeed:
    """Records on the learner's device: an update reads and writes them there, and nothing waits."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def serve(self, learner: Any) -> None:
        """Reading and writing become part of the update, and of its recording, if there is one."""
        learner.fetch, learner.keep = self._replay.gather, self._replay.store

    def take(self) -> Tensor:
        """The rows of the next batch (B T+1); see `Replay.rows`."""
        return self._replay.rows(self._replay.draw())

    def store(self, latents: Mapping[str, Tensor]) -> None:
        """The update has done it."""

    def drain(self) -> None:
        """The device's own order is enough."""

    close = drain


class _Ahead(NamedTuple):
    """A batch on its way: what was chosen, and the worker's promise of it and of the event of its copy."""

    choice: Choice
    work: "Future[tuple[Batch, Any]]"


class _Fresh(NamedTuple):
    """Latents on their way back: of which batch, in main memory, and the event after which they are there."""

    origin: Index
    latents: dict[str, Tensor]
    arrived: Any


class Prefetch:
    """Records in main memory, a learner on a GPU: a thread gathers and copies the next batch during an update.

    The thread alone reads records and writes latents, in the order that `take` asks for it. Adding records, and
    looking at or saving the replay, waits for it. Drawing stays in the caller's thread; a batch that was drawn in
    advance counts as drawn only when it is taken. The thread calls CUDA at any time: whoever captures a CUDA graph
    meanwhile does it with `capture_error_mode="thread_local"`.

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
        replay.wait, replay.drain = self._wait, self.drain

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

    def store(self, latents: Mapping[str, Tensor]) -> None:
        """Begin to copy the latents back. They are in the ring before the batch after next is gathered."""
        index = _taken(self._index)
        if self._stream is None:
            self._fresh = _Fresh(index, {name: x.detach().clone() for name, x in latents.items()}, None)
            return
        # On the learner's stream, not beside it: the next update may write into the same memory (a CUDA graph does).
        host = {
            name: torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x.detach(), non_blocking=True)
            for name, x in latents.items()
        }
        self._fresh = _Fresh(index, host, torch.cuda.current_stream(self._device).record_event())

    def drain(self) -> None:
        """Write the last latents, and forget the batch drawn in advance: as if no one had read ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.work.result()  # latents that could not be written must not go unnoticed
        fresh, self._fresh = self._fresh, None
        self._write(fresh)

    def close(self) -> None:
        """Drain, and end the thread."""
        try:
            self.drain()
        finally:
            self._worker.shutdown()
            self._replay.wait = self._replay.drain = nothing

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
