"""The updates of a run: how many are due for what was collected, and one after the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamer_cli.clock import Ratio
from dreamer_cli.config import Config
from dreamer_cli.errors import DivergedError, ResourceError
from dreamer_cli.files import disk_error, write_atomic
from dreamer_cli.learner import Learner
from dreamer_cli.replay.prefetch import build_feed
from dreamer_cli.replay.storage import Replay
from dreamer_cli.sections import Sections
from dreamer_cli.stopwatch import Stopwatch
from dreamer_cli.structs import Batch
from dreamer_cli.tensorfiles import tensor_parts

MOST_SKIPPED = 10  # updates in a row; with one more, training has diverged


class Learning:
    """Takes batches from the replay, learns from them, and gives fresh latents back.

    Attributes:
        updates: done in the whole run.
        updates_here: done by this process, for the speed.
        batch_records: records that one update replays, B·T.

    Args:
        cfg: of the run.
        learner: trains the agent.
        replay: whose storage `build_feed` looks at.
        watch: counts the seconds of `replay` and `update`.
        debug: where the batch is kept that training diverged on; nowhere without it.
    """

    def __init__(
        self, cfg: Config, learner: Learner, replay: Replay, watch: Stopwatch, debug: Path | None = None
    ) -> None:
        self.cfg, self.learner, self.replay, self.watch, self.debug = cfg, learner, replay, watch, debug
        self._skipped = Afterwards(learner.skipped_in_a_row)
        self.batch_records = cfg.replay.batch_size * cfg.replay.batch_length
        self.ratio = Ratio(cfg.run.train_ratio, self.batch_records)
        self.feed = build_feed(replay, learner.device)
        self.feed.serve(learner)
        self.updates = self.updates_here = 0

    def due(self, records: int, env_steps: int) -> int:
        """Updates owed for what was collected; none before there is enough to learn from.

        Args:
            records: collected so far in the whole run.
            env_steps: so far, those that are being taken included.
        """
        enough = min(self.batch_records, self.cfg.run.min_records)
        if records < enough or env_steps < self.cfg.run.prefill or not len(self.replay):
            return 0
        return self.ratio(records)

    def give_back(self, updates: int) -> None:
        """Updates that were due and are not done: they are due again."""
        self.ratio.give_back(updates)

    def update(self) -> dict[str, Any]:
        """Learn from one batch, and store the fresher latents of its records. Returns metrics of the update.

        Raises:
            DivergedError: more than `MOST_SKIPPED` updates in a row were skipped. On a GPU this is looked at some
                updates later, without waiting; a training that has recovered by then goes on.
        """
        with self.watch("replay"):
            batch = self.feed.take()
        with self.watch("update"):
            latents, metrics = self._learn(batch)
        with self.watch("replay"):
            self.feed.store(latents, metrics["update/skipped"] == 0)
        self.updates += 1
        self.updates_here += 1
        # Looked at twice: now it may wait, and what it says is of this very batch.
        if self._skipped.look() > MOST_SKIPPED and (in_a_row := int(self.learner.skipped_in_a_row)) > MOST_SKIPPED:
            raise self._diverged(in_a_row, self.learner.fetch(batch))
        return metrics

    def _diverged(self, in_a_row: int, batch: Batch) -> DivergedError:
        kept = ""
        if self.debug is not None:
            path = self.debug / f"batch-{self.updates}.safetensors"
            try:
                keep_batch(path, batch)
                kept = f" The last one's batch is in {path}."
            except ResourceError as error:  # a full disk must not hide what has happened
                kept = f" The last one's batch could not be kept: {error.what}"
        return DivergedError(
            f"{in_a_row} updates in a row were skipped, because their losses or gradients were not finite "
            f"(update {self.updates}).",
            hint=f"The last good checkpoint stays.{kept} If rewards and observations are finite, try a smaller step "
            f"size in a new run (--init-from RUN -s optim.lr={self.cfg.optim.lr / 3:.2g}): a continued one keeps its.",
        )

    def _learn(self, batch: Any) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        every = self.cfg.run.profile_every
        if not every or (self.updates + 1) % every:
            return self.learner.update(batch)
        with Sections(self.learner.device) as timer:
            latents, metrics = self.learner.update(batch)
        # Reading the clock of a GPU waits for it: this update is not overlapped.
        return latents, metrics | {f"profile/{name}": seconds for name, seconds in timer.seconds.items()}

    def state(self) -> dict[str, Any]:
        """What is counted here, as JSON."""
        return {"updates": self.updates, "ratio": self.ratio.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a saved `state()`, which may hold more."""
        self.updates = state["updates"]
        self.ratio.load(state["ratio"])

    def close(self) -> None:
        """End what fetches batches."""
        self.feed.close()


class Afterwards:
    """A number on a device, looked at without waiting: as it was some time ago. On a CPU, as it is.

    Args:
        number: a scalar that others change in place, on the current stream.
    """

    def __init__(self, number: Tensor) -> None:
        self._number = number
        self._known = 0
        self._copy: Tensor | None = None  # on its way, in page-locked memory
        self._arrived: Any = None

    def look(self) -> int:
        """What is known by now; 0 until the first copy has arrived. Asks for a newer one."""
        if self._number.device.type != "cuda":
            return int(self._number)
        if self._copy is not None and not self._arrived.query():
            return self._known
        if self._copy is None:
            self._copy = torch.zeros((), dtype=self._number.dtype, pin_memory=True)
        else:
            self._known = int(self._copy)
        self._copy.copy_(self._number, non_blocking=True)
        self._arrived = torch.cuda.current_stream(self._number.device).record_event()
        return self._known


def keep_batch(path: Path, batch: Batch) -> None:
    """Write a batch to a safetensors file: `obs/KEY`, `action`, `reward`, `is_*`, `start.deter`, `start.stoch`.

    Raises:
        ResourceError: the disk is full, or the place cannot be written.
    """
    tensors = {f"obs/{key}": value for key, value in batch.obs.items()}
    tensors |= {name: getattr(batch, name) for name in ("action", "reward", "is_first", "is_last", "is_terminal")}
    tensors |= {"start.deter": batch.start.deter, "start.stoch": batch.start.stoch}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path.parent) from error
    write_atomic(path, tensor_parts(tensors))
