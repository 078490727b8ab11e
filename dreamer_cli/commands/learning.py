"""The updates of a run: how many are due for what was collected, and one after the other."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dreamer_cli.clock import Ratio
from dreamer_cli.config import Config
from dreamer_cli.learner import Learner
from dreamer_cli.replay.prefetch import build_feed
from dreamer_cli.replay.storage import Replay
from dreamer_cli.sections import Sections
from dreamer_cli.stopwatch import Stopwatch
from dreamer_cli.structs import Batch


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
    """

    def __init__(self, cfg: Config, learner: Learner, replay: Replay, watch: Stopwatch) -> None:
        self.cfg, self.learner, self.replay, self.watch = cfg, learner, replay, watch
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
        """Learn from one batch, and store the fresher latents of its records. Returns metrics of the update."""
        with self.watch("replay"):
            batch = self.feed.take()
        with self.watch("update"):
            latents, metrics = self._learn(batch)
        with self.watch("replay"):
            self.feed.store(latents)
        self.updates += 1
        self.updates_here += 1
        return metrics

    def _learn(self, batch: Batch) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
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
