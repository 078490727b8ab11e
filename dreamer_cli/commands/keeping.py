"""What of a training is kept, and how it comes back: checkpoints, the replay on disk, random generators."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dreamer_cli.acting import AgentDriver, RandomDriver
from dreamer_cli.checkpoint import Checkpoints, Loaded
from dreamer_cli.collector import Collector
from dreamer_cli.commands.assemble import ENVS, LATENTS, OPTIMIZER, REPLAY, STATE, WEIGHTS, derive_seed, load_weights
from dreamer_cli.errors import ResourceError, StateError
from dreamer_cli.files import DiskFullError
from dreamer_cli.fingerprint import differences, fingerprint
from dreamer_cli.learner import Learner
from dreamer_cli.replay.ring import LIMITS
from dreamer_cli.replay.storage import Replay
from dreamer_cli.report import Reporter
from dreamer_cli.runs import RunDir, versions

FAILED_SAVES = 3  # in a row on a full disk, before the run gives up
PAUSE_S = 1.0  # between tries when there is no later


class Keeper:
    """Saves the parts of a training together, and brings them back.

    Attributes:
        checkpoints: of the run.
        step: of the newest checkpoint that this process knows to be whole; None before the first.
        inexact: why what goes on here is not, bit for bit, the run that was never stopped; empty if it is.

    Args:
        keep: checkpoints to keep, beside the best.
        limits: how large the files of a checkpoint can be, see `checkpoint_limits`.
        seed: of the run.
        driver, chance: the policies whose random generators go on with the run.
    """

    def __init__(
        self,
        run: RunDir,
        keep: int,
        limits: Mapping[str, int],
        seed: int,
        learner: Learner,
        replay: Replay,
        collector: Collector,
        driver: AgentDriver,
        chance: RandomDriver,
        reporter: Reporter,
    ) -> None:
        self.run, self.seed, self.reporter = run, seed, reporter
        self.learner, self.replay, self.collector = learner, replay, collector
        self.driver, self.chance = driver, chance
        self.inexact: list[str] = []
        self.checkpoints = Checkpoints(run.checkpoints, keep, versions(), reporter.warn, limits=limits)
        self.step: int | None = None
        self._failed = 0

    def save(self, step: int, state: Mapping[str, Any], returns: list[float]) -> bool:
        """Write a checkpoint. A full disk costs a warning, and False says that nothing was saved.

        Args:
            state: JSON of what is counted elsewhere.
            returns: of all training episodes; the last ten decide which checkpoint is best.

        Raises:
            ResourceError: the disk was full three times in a row, or cannot be written at all.
            DivergedError: a weight is no longer finite.
        """
        own = {
            "fingerprint": fingerprint(self.learner.device),
            "device": self.learner.device.type,
            "random": self.chance.generator.bit_generator.state,
            "collector": self.collector.state_dict(),
        }
        try:
            latents, replay = self.replay.save(self.run.replay)
            self.checkpoints.save(
                step,
                {
                    WEIGHTS: self.learner.agent.state_dict(),
                    OPTIMIZER: {**self.learner.state(), "acting": self.driver.generator.get_state()},
                    LATENTS: latents,
                    ENVS: self.collector.arrays(self.driver),
                },
                {STATE: {**state, **own}, REPLAY: replay},
                finite=(WEIGHTS, OPTIMIZER),
            )
        except DiskFullError as error:
            self._failed += 1
            if self._failed >= FAILED_SAVES:
                raise ResourceError(f"{self._failed} saves in a row failed: {error.what}", error.hint) from error
            self.reporter.warn(f"not saved, trying again later: {error.what}")
            return False
        self._failed = 0
        self.step = step
        if returns:
            self.mark_best(step, float(np.mean(returns[-10:])), "training")
        self.replay.prune(self.run.replay, self.checkpoints.trees(REPLAY))
        return True

    def mark_best(self, step: int, score: float, by: Literal["training", "evaluation"]) -> None:
        """Note that this checkpoint scored best, if it did; a full disk costs a warning, for the weights are safe."""
        try:
            self.checkpoints.mark_best(step, score, by)
        except DiskFullError as error:
            self.reporter.warn(f"best.json does not say that step {step} scored {score:.6g}: {error.what}")

    def save_now(self, step: int, state: Mapping[str, Any], returns: list[float]) -> None:
        """Write a checkpoint, for a run that ends here: three tries within seconds.

        Raises:
            ResourceError: none of them went well.
        """
        self._failed = 0
        while not self.save(step, state, returns):
            time.sleep(PAUSE_S)

    def load(self) -> dict[str, Any] | None:
        """Take up the newest checkpoint that verifies, with its replay; returns the `state` that it was saved with.

        None where there is no checkpoint.

        Raises:
            StateError: every checkpoint is damaged, or does not fit.
            EnvError, Preempted, Interrupted: while environments are brought back into their episodes.
        """
        self.checkpoints.clean()
        if not self.checkpoints.steps():
            if self.run.replay.exists() or self.run.metrics.exists():
                self.reporter.warn(f"{self.run.path} holds no checkpoint to go on from, so the run begins anew.")
            return None
        refused: StateError | None = None
        for path in self.checkpoints.candidates():
            try:
                return self._load(path)
            except StateError as error:  # its part of the replay may be lost, and that of an older one whole
                self.reporter.warn(f"{path} cannot be used: {error.what}")
                refused = error
        self.checkpoints.latest()  # says so if all of them are damaged
        assert refused is not None
        raise refused

    def _load(self, path: Path) -> dict[str, Any]:
        loaded = self.checkpoints.load(path)
        self.inexact.clear()
        try:
            self._take_up(loaded)
        # What was verified is what somebody wrote, not necessarily what we would write.
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise StateError(
                f"{path} does not hold what a training saves: {type(error).__name__} {error}.",
                hint="Start a new run; --init-from takes its weights.",
            ) from error
        self.replay.prune(self.run.replay, self.checkpoints.trees(REPLAY, up_to=loaded.step))
        self.checkpoints.forget_beyond(loaded.step)
        self.step = loaded.step
        self.reporter.note(f"continuing at step {loaded.step} from {path}")
        if self.inexact:
            self.reporter.note(f"from here on not bit for bit as if it had never stopped: {'; '.join(self.inexact)}")
        return loaded.trees[STATE]

    def _take_up(self, loaded: Loaded) -> None:
        state, optimizer, replay = loaded.trees[STATE], loaded.tensors[OPTIMIZER], loaded.trees[REPLAY]
        _check(state)
        load_weights(self.learner.agent, loaded.tensors[WEIGHTS], str(loaded.path))
        # The state of a generator means something only on the type of device that it is from.
        same = state["device"] == self.learner.device.type
        self.learner.load_state(optimizer, generator=same)
        if same:
            self.driver.generator.set_state(optimizer["acting"])
        else:
            self._reseed(state["device"], state["updates"])
        self.chance.generator.bit_generator.state = state["random"]
        self._warn_if_smaller(replay)
        for warning in self.replay.load(self.run.replay, loaded.tensors[LATENTS], replay):
            self.reporter.warn(warning)
            self.inexact.append(warning)
        lost = self.collector.load(state["collector"], loaded.tensors[ENVS], self.driver, self.replay.last_actions)
        for sentence in lost:
            self.reporter.warn(sentence)
        changed = differences(state["fingerprint"], fingerprint(self.learner.device))
        self.inexact += lost + changed

    def _reseed(self, before: str, updates: int) -> None:
        for purpose, generator in (("updates", self.learner.generator), ("acting", self.driver.generator)):
            generator.manual_seed(derive_seed(self.seed, f"{purpose} {updates}"))
        self.reporter.note(f"the run was on {before}, so random numbers on {self.learner.device.type} begin anew")

    def _warn_if_smaller(self, tree: Mapping[str, Any]) -> None:
        per_env = self.replay.plan.per_env
        dropped = sum(max(0, min(count, tree["per_env"]) - per_env) for count in tree["next"])
        if dropped:
            self.reporter.warn(
                f"the replay has room for {self.replay.capacity} records now (limited by "
                f"{LIMITS[self.replay.limited_by]}), so the oldest {dropped} are dropped"
            )
            self.inexact.append(f"{dropped} records of the replay found no room")
            self.inexact.append(f"{dropped} records dropped")


def _check(state: Mapping[str, Any]) -> None:
    """See that what `Training` takes from its state is there.

    Raises:
        KeyError, TypeError: it is not.
    """
    wanted = {
        "updates": int,
        "restarts": int,
        "ratio": dict,
        "log": dict,
        "logged": list,
        "returns": list,
        "owed": list,
    }
    for name, kind in wanted.items():
        if not isinstance(state[name], kind):
            raise TypeError(f"{name} is {type(state[name]).__name__}")
    state["log"]["numbers"], state["log"]["tensors"], state["log"]["records"]
    if state["evaluated"] is not None:
        state["evaluated"]["checkpoint_step"], state["evaluated"]["return"]["mean"]
