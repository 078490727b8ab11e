"""One training in progress: its parts, and what is done with them."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dreamer_cli.acting import AgentDriver, PrefillDriver, RandomDriver, Timed
from dreamer_cli.clock import Every
from dreamer_cli.collector import Collector
from dreamer_cli.commands.assemble import (
    build_learner,
    build_replay,
    captures,
    checkpoint_limits,
    derive_seed,
    require_same_spaces,
)
from dreamer_cli.commands.evaluate import Scores
from dreamer_cli.commands.keeping import Keeper
from dreamer_cli.commands.learning import Learning
from dreamer_cli.commands.start import Start
from dreamer_cli.commands.watching import film_replayed, play_evaluation
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import DreamerError, Interrupted, Preempted, ResourceError, StateError
from dreamer_cli.files import DiskFullError, json_bytes, write_atomic
from dreamer_cli.live import TrainDisplay
from dreamer_cli.log import Episode, MetricsLog, read_episodes
from dreamer_cli.measure import emulates_bf16
from dreamer_cli.numbers import format_bytes, format_count
from dreamer_cli.replay.ring import LIMITS
from dreamer_cli.report import Reporter
from dreamer_cli.sinks import check_sinks, open_sinks
from dreamer_cli.stop import StopSignal
from dreamer_cli.stopwatch import Stopwatch


class Training:
    """The parts of a run and the steps of its loop; a context manager, because environments are processes.

    Continues from the newest checkpoint if the run has one.
    """

    def __init__(self, start: Start, reporter: Reporter, stop: StopSignal) -> None:
        self.start, self.cfg, self.run = start, start.cfg, start.run
        self.reporter, self.stop = reporter, stop
        self.watch = Stopwatch()
        self.began_s = time.monotonic()
        self.agent = start.agent
        self.learner = build_learner(self.cfg, self.agent, reporter.warn)
        if self.learner.bf16 and emulates_bf16(self.learner.device):
            reporter.warn("this CPU has no instructions for bf16; emulated, it is about 200 times slower than fp32.")
        self.replay = build_replay(self.cfg, self.agent)
        seed = self.cfg.run.seed
        self.driver = AgentDriver(
            self.agent,
            "sample",
            derive_seed(seed, "acting"),
            bf16=self.learner.bf16,
            capture=captures(self.cfg, self.learner.device),
            warn=reporter.warn,
        )
        chance = RandomDriver(self.agent.spec, {}, derive_seed(seed, "prefill"))
        self.prefill = PrefillDriver(self.driver, chance)
        self.learning = Learning(self.cfg, self.learner, self.replay, self.watch, self.run.path / "debug")
        self.evaluated: dict[str, Any] | None = None
        self.restarts = 0  # of environments that crashed, in the whole run
        self.unwritten: dict[str, Any] = {}  # what the next record says besides
        self._logged = (0, 0)  # env steps and updates at the last record
        self._saved: Any = None
        self._scored: float | None = None  # the best evaluation ever, of weights that are not saved yet
        self._uncompiled = {"update", "decision"} if self.learner.compile else set()
        self._broken_off = False  # in the middle of something: what is here is not whole
        check_sinks(self.cfg.run.log)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(self.learning))
            self.envs = stack.enter_context(
                VectorEnv(
                    self.cfg.env,
                    self.cfg.run.num_envs,
                    derive_seed(seed, "train"),
                    check_stop=stop.check,
                    warn=reporter.warn,
                )
            )
            require_same_spaces(start.spec, self.envs.spec, str(self.cfg.env.id))
            self.collector = Collector(self.envs, self.replay)
            self.keeper = Keeper(
                self.run,
                self.cfg.run.keep,
                checkpoint_limits(self.cfg, self.agent),
                seed,
                self.learner,
                self.replay,
                self.collector,
                self.driver,
                chance,
                reporter,
            )
            state = self._resume()
            start.begin(reporter, self.envs.vec, self.keeper.inexact)
            if self.envs.rates:
                tried = ", ".join(f"{vec} {rate:,.0f}" for vec, rate in self.envs.rates.items())
                reporter.note(f"--vec {self.envs.vec} is the quickest here; decisions per second: {tried}")
            self._open_displays(state)
            self._open = stack.pop_all()

    def _resume(self) -> dict[str, Any]:
        """Go on from the newest checkpoint, if there is one; returns what it was saved with."""
        state = self.keeper.load() or {}
        if state:
            self.learning.load(state)
            self.evaluated = state["evaluated"]
            self.restarts = state["restarts"]
            self._logged = tuple(state["logged"])
            self._saved = self._mark()
            if self.evaluated and self.evaluated["checkpoint_step"] == self.env_steps and not self.under_way:
                # A crash may have come just before it was noted.
                self.keeper.mark_best(self.env_steps, self.evaluated["return"]["mean"], "evaluation")
        self.first_step = self.env_steps
        self._lap = (self.env_steps, self.updates)  # where the speed is measured from
        run, owed = self.cfg.run, state.get("owed", [])
        intervals = {"eval": run.eval_every, "dream": run.dream_every, "log": run.log_every, "save": run.save_every}
        self.cadence = {name: Every(x, start=self.env_steps, owed=name in owed) for name, x in intervals.items()}
        return state

    def _open_displays(self, state: dict[str, Any]) -> None:
        """What tells people: the log files, and what they see while they wait."""
        plan = self.replay.plan
        self.reporter.note(
            f"the replay holds up to {format_count(plan.capacity)} records, {format_bytes(plan.bytes)} "
            f"(limited by {LIMITS[plan.limited_by]})"
        )
        self.log = MetricsLog(
            self.run.path,
            step=self.env_steps if self.start.continued else None,
            records=state["log"]["records"] if state else None,
            sinks=open_sinks(self.cfg.run.log, self.run.path, self.env_steps or None),
        )
        history = [(e.step, e.ret) for e in read_episodes(self.run.episodes)]
        self.returns = [ret for _, ret in history]
        if state:
            self.log.restore(state["log"])
            # The file has nine digits of them; which checkpoint is best is decided by all.
            self.returns[-10:] = state["returns"]
        self.display = TrainDisplay(
            self.reporter,
            str(self.cfg.env.id),
            self.cfg.run.steps,
            about=self.start.about,
            run_dir=self.run.path,
            start=self.env_steps,
            returns=history,
            stop=self.stop,
        )

    def __enter__(self) -> "Training":
        self.display.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.display.__exit__(*error)
        self.log.close()
        self._open.close()

    # ── the loop ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def env_steps(self) -> int:
        """Environment steps so far, action repeat included."""
        return self.collector.env_steps

    @property
    def overlap(self) -> bool:
        """Whether updates run while the environments step."""
        return bool(self.cfg.run.overlap)

    @property
    def updates(self) -> int:
        """Optimiser steps so far."""
        return self.learning.updates

    @property
    def complete(self) -> bool:
        """Whether nothing is left to collect, and the evaluation that belongs to the last step is done."""
        return self.done and not self._owes_evaluation()

    @property
    def done(self) -> bool:
        """Whether all steps are done, or the last evaluation went as well as `run.stop_return` asks."""
        goal = self.cfg.run.stop_return
        good = goal is not None and self.evaluated is not None and self.evaluated["return"]["mean"] >= goal
        return good or self.env_steps >= self.cfg.run.steps

    def _owes_evaluation(self) -> bool:
        return self.cfg.run.eval_every > 0 and (self.evaluated or {}).get("checkpoint_step") != self.env_steps

    @property
    def under_way(self) -> bool:
        """Whether the environments were sent on their way, and `receive` must follow."""
        return self.collector.under_way

    def decide(self) -> None:
        """One decision in every environment, which then steps; `receive` must follow."""
        driver = self.prefill if self.env_steps < self.cfg.run.prefill else self.driver
        # The first update chooses compiled kernels, for decisions, too.
        with self.watch("env"), self._compiling("decision" if self.learning.updates_here else ""):
            self.collector.begin(Timed(driver, self.watch))

    def receive(self) -> None:
        """Take in what the environments answer."""
        with self.watch("env"):
            ended = self.collector.finish()
        if self.envs.restarts:
            self._count_restarts()
        for e in ended:
            self.returns.append(e.ret)
            self.log.episode(Episode(e.step, self.updates, e.env, e.episode, e.ret, e.length, e.seconds), e.told)
            self.display.episode(e.step, e.ret, e.length)
        self.display.update(self.env_steps, self.updates, self.collector.episodes)

    def _count_restarts(self) -> None:
        self.restarts += self.envs.restarts
        self.envs.restarts = 0
        self.start.is_inexact(f"environments were restarted at step {self.env_steps}")

    def learn(self) -> None:
        """The updates that are due for what was collected; after a request to stop they stay due."""
        for owed in range(self.learning.due(self.collector.records, self.collector.asked), 0, -1):
            if self.stop.requested:
                self.learning.give_back(owed)
                break
            with self._compiling("update", owed):
                self.log.add(self.learning.update())

    @contextlib.contextmanager
    def _compiling(self, what: str, owed: int = 0) -> Iterator[None]:
        """Around the first update and the first decision, if they are compiled.

        That takes minutes and looks at no flag: with everything saved, a stop can end it at once.

        Args:
            owed: updates that are due and were taken from what is due.

        Raises:
            Preempted, Interrupted: a stop was requested. Nothing may be saved then any more.
        """
        if what not in self._uncompiled:
            yield
            return
        self._uncompiled.discard(what)
        if owed:
            self.learning.give_back(owed)
        saved = self.save()
        if owed:
            self.learning.due(self.collector.records, self.collector.asked)
        if not saved:
            yield
            return
        with self.stop.at_once():
            self._broken_off = True
            yield
        self._broken_off = False

    def tend(self) -> None:
        """Evaluate, film, log and save, as far as it is time for it.

        Raises:
            Preempted, Interrupted: a stop was requested; what is not done yet stays due.
        """
        jobs = {"eval": self.evaluate, "dream": self.film_dream, "log": self.write_metrics, "save": self.save}
        for name, job in jobs.items():
            if self.cadence[name].due(self.env_steps) or (name == "save" and self._scored is not None):
                job()
                self.cadence[name].done(self.env_steps)

    def write_metrics(self) -> None:
        """Write one record: means since the last one, speed, where the time went, and the latest evaluation.

        Nothing is written where nothing has happened since the last record.
        """
        now = (self.env_steps, self.updates)
        if now == self._logged and not self.unwritten:
            return
        wall, sections = self.watch.lap()
        values: dict[str, Any] = {f"{name}_seconds": seconds for name, seconds in sections.items()}
        values |= {
            "wall_seconds": wall,
            "env_steps_per_second": (self.env_steps - self._lap[0]) / max(wall, 1e-9),
            "updates_per_second": (self.updates - self._lap[1]) / max(wall, 1e-9),
            "env/restarts": self.restarts,
            "replay/records": self.replay.records,
            "replay/capacity": self.replay.capacity,
            "replay/bytes": self.replay.records * self.replay.bytes_per_record,
            "replay/ratio": self.updates * self.learning.batch_records / max(1, self.collector.records),
            **self.unwritten,
        }
        self.unwritten = {}
        self._logged = self._lap = now
        record = self.log.write(*now, self.collector.episodes, values)
        self.display.update(*now, self.collector.episodes, record)

    # ── now and then ────────────────────────────────────────────────────────────────────────────────────

    def evaluate(self) -> None:
        """Play evaluation episodes, write a record, and save if they went better than ever.

        Raises:
            Preempted, Interrupted: a stop was requested; the evaluation is given up.
        """
        with self.watch("eval"):
            scores = play_evaluation(self.cfg, self.learner, self.envs.vec, self.display, self.stop, self.reporter.warn)
        self._keep_evaluation(self.env_steps, scores)

    def _keep_evaluation(self, step: int, scores: Scores) -> None:
        policy = self.cfg.run.eval_policy
        summary = {"mean": scores.mean, "std": scores.std, "returns": scores.returns}
        self.evaluated = {"checkpoint_step": step, "episodes": len(scores.returns), "policy": policy, "return": summary}
        self.display.evaluated(step, scores.mean, scores.std, len(scores.returns))
        self.unwritten = {
            "eval/return_mean": scores.mean,
            "eval/return_std": scores.std,
            "eval/length_mean": float(np.mean(scores.lengths)),
            "eval/episodes": len(scores.returns),
        }
        # Before the checkpoint, which knows then what was written: nothing is counted again after a resume.
        self.write_metrics()
        best = self.keeper.checkpoints.best()
        if best is None or best["by"] != "evaluation" or scores.mean > best["score"]:
            self._scored = scores.mean
        try:
            self.run.eval.mkdir(exist_ok=True)
            tree = {**self.evaluated, "lengths": scores.lengths}
            write_atomic(self.run.eval / f"{step:09d}.json", [json_bytes(tree)])
        except DiskFullError as error:  # like a save, it is not worth the training
            self.reporter.warn(f"the evaluation at step {step} is not kept: {error.what}")

    def film_dream(self) -> None:
        """Film open-loop dreams of replayed stretches, if the model can draw. Training does not notice.

        Raises:
            Preempted, Interrupted: a stop was requested; the film is given up.
        """
        step = self.env_steps
        if not len(self.replay):
            return
        seed = derive_seed(self.cfg.run.seed, f"dream {step}")
        path = self.run.videos / f"dream-{step:09d}.mp4"
        try:
            # Only looks at things: it can be broken off anywhere.
            with self.watch("dream"), self.display.during("dreaming"), self.stop.at_once():
                shown = film_replayed(self.cfg, self.learner, self.replay.peek(seed), step, seed, path)
        except (StateError, ResourceError) as error:  # a film is not worth a training
            self.reporter.warn(f"no dream was filmed at step {step}: {error.what}")
            return
        self.display.dreamt(shown)
        self.display.event("filmed", video=str(path))

    def save(self) -> bool:
        """Write a checkpoint, if anything has changed since the last one; see `Keeper.save`."""
        if self._saved == self._mark():
            return True
        with self.watch("save"), self.display.during("saving"):
            saved = self.keeper.save(self.env_steps, self.state(), self.returns)
        if saved:
            self._was_saved()
        self._scored = None  # later weights are not those that were evaluated
        return saved

    def save_now(self) -> None:
        """Write the last checkpoint, if anything has changed since the one before; see `Keeper.save_now`."""
        if self._saved != self._mark():
            with self.watch("save"), self.display.during("saving"):
                self.keeper.save_now(self.env_steps, self.state(), self.returns)
            self._was_saved()

    def save_despite_failure(self) -> None:
        """After an environment failed: the round is as it was before, so a mended one can go on from here."""
        try:
            if not self._broken_off:
                self.save()
        except DreamerError as error:
            self.reporter.warn(f"not saved: {error.what}")

    def _was_saved(self) -> None:
        self._saved = self._mark()
        if self._scored is not None:
            self.keeper.mark_best(self.env_steps, self._scored, "evaluation")
            self._scored = None
        self.display.saved(f"{self.env_steps:09d}")

    def _mark(self) -> Any:
        """Differs where a checkpoint would."""
        evaluated = (self.evaluated or {}).get("checkpoint_step")
        return self.env_steps, self.updates, self._logged, evaluated, self.under_way

    def finish(self) -> None:
        """What is left to do at the end of a run; after a stop only what must be saved.

        Raises:
            EnvError: the last evaluation failed.
            ResourceError: it could not be saved.
        """
        if self._broken_off:
            return
        if self.done and not self.stop.requested:
            if self._owes_evaluation():
                with contextlib.suppress(Preempted, Interrupted):
                    self.evaluate()
            if self.complete:
                self.write_metrics()
        self.save_now()
        if self.done and not self.updates:
            self.reporter.warn(
                f"the run ended without one update: {self.collector.records} records were collected, too few to learn "
                "from. Try more --steps."
            )

    # ── what is kept ────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> dict[str, Any]:
        """What is counted here, as JSON."""
        return {
            **self.learning.state(),
            "log": self.log.state(),
            "logged": self._logged,
            "evaluated": self.evaluated,
            "restarts": self.restarts,
            "returns": self.returns[-10:],
            # Due at this very step, and not done: a stop came before.
            "owed": [name for name, every in self.cadence.items() if name != "save" and every.due(self.env_steps)],
        }

    def summary(self) -> dict[str, Any]:
        """The fields of `dreamer train --json`."""
        seconds = time.monotonic() - self.began_s
        newest = None if self.keeper.step is None else self.keeper.checkpoints.path(self.keeper.step)
        return {
            "run_dir": str(self.run.path),
            "env": self.cfg.env.id,
            "preset": self.start.presets,
            "steps": self.env_steps,
            "updates": self.updates,
            "episodes": self.collector.episodes,
            "return_mean_last10": float(np.mean(self.returns[-10:])) if self.returns else None,
            "eval": self.evaluated,
            "checkpoint": str(newest) if newest else None,
            "seconds": seconds,
            "env_steps_per_second": (self.env_steps - self.first_step) / seconds,
            "updates_per_second": self.learning.updates_here / seconds,
            "device": str(self.learner.device),
            "inexact": self.run.read().get("inexact", []),
        }
