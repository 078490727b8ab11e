"""One training in progress: its parts, and what is done with them."""

import time
from typing import Any

import numpy as np
import torch

from dreamer_cli.acting import AgentDriver, RandomDriver, latent_fields
from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.clock import Every, Ratio
from dreamer_cli.collector import Collector, Driver
from dreamer_cli.commands.assemble import (
    WEIGHTS,
    build_learner,
    build_replay,
    derive_seed,
    load_weights,
)
from dreamer_cli.commands.evaluate import Scores, play
from dreamer_cli.commands.imagine import dream_video, film_title
from dreamer_cli.commands.start import Start
from dreamer_cli.dream import batch_windows
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import DivergedError, ResourceError, StateError
from dreamer_cli.files import DiskFullError, json_bytes, write_atomic
from dreamer_cli.live import TrainDisplay
from dreamer_cli.log import Episode, MetricsLog, read_episodes
from dreamer_cli.report import Reporter
from dreamer_cli.sinks import open_sinks
from dreamer_cli.stop import StopSignal
from dreamer_cli.stopwatch import Stopwatch
from dreamer_cli.structs import Records

OPTIMIZER, LATENTS, STATE, REPLAY = "optimizer.safetensors", "latents.safetensors", "state.json", "replay.json"
DREAM_SAMPLES = 4
FAILED_SAVES = 3  # in a row on a full disk, before the run gives up


class Timed:
    """A driver whose time is counted apart from the environments'."""

    def __init__(self, driver: Driver, watch: Stopwatch) -> None:
        self.driver, self.watch = driver, watch
        self.initial = driver.initial

    def __call__(self, records: Records, carry: Any) -> tuple[np.ndarray, Any, Any]:
        """What the driver says."""
        with self.watch("policy"):
            return self.driver(records, carry)


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
        self.learner = build_learner(self.cfg, self.agent)
        self.replay = build_replay(self.cfg, self.agent)
        seed = self.cfg.run.seed
        self.driver = AgentDriver(self.agent, "sample", derive_seed(seed, "acting"), self.learner.bf16)
        self.random = RandomDriver(self.agent.spec, latent_fields(self.agent), derive_seed(seed, "prefill"))
        self.envs = VectorEnv(self.cfg.env, self.cfg.run.num_envs, derive_seed(seed, "train"), vec=self.cfg.env.vec)
        self.envs.check_stop = stop.check
        self.collector = Collector(self.envs, self.replay)
        self.batch_records = self.cfg.replay.batch_size * self.cfg.replay.batch_length
        self.ratio = Ratio(self.cfg.run.train_ratio, self.batch_records)
        self.checkpoints = Checkpoints(self.run.checkpoints, self.cfg.run.keep, warn=reporter.warn)
        self.updates = 0
        self.learnt_updates = 0  # of this process, for the speed
        self.evaluated: dict[str, Any] | None = None
        self.unwritten: dict[str, Any] = {}  # what the next record says besides
        self.failed_saves = 0
        resumed = self._resume()
        self.first_step = self.env_steps
        self.saved_step = self.env_steps if resumed else -1
        self.log = MetricsLog(
            self.run.path,
            step=self.env_steps if start.continued else None,
            sinks=open_sinks(self.cfg.run.log, self.run.path, self.env_steps or None),
        )
        if resumed:
            self.log.restore(resumed["log"])
        history = [(e.step, e.ret) for e in read_episodes(self.run.episodes)]
        self.returns = [ret for _, ret in history]
        self.display = TrainDisplay(
            reporter,
            str(self.cfg.env.id),
            self.cfg.run.steps,
            about=start.about,
            run_dir=self.run.path,
            start=self.env_steps,
            returns=history,
            stop=stop,
        )
        run = self.cfg.run
        intervals = {"save": run.save_every, "eval": run.eval_every, "dream": run.dream_every, "log": run.log_every}
        self.cadence = {name: Every(interval, start=self.env_steps) for name, interval in intervals.items()}

    def __enter__(self) -> "Training":
        self.display.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.display.__exit__(*error)
        self.log.close()
        self.envs.close()

    # ── the loop ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def env_steps(self) -> int:
        """Environment steps so far, action repeat included."""
        return self.collector.env_steps

    def due(self, name: str) -> bool:
        """Whether it is time to log, evaluate, film or save."""
        return self.cadence[name].due(self.env_steps)

    def collect(self) -> None:
        """One decision in every environment."""
        driver = self.random if self.env_steps < self.cfg.run.prefill else self.driver
        with self.watch("env"):
            ended = self.collector.step(Timed(driver, self.watch))
        for e in ended:
            self.returns.append(e.ret)
            self.log.episode(Episode(e.step, self.updates, e.env, e.episode, e.ret, e.length, e.seconds))
            self.display.episode(e.step, e.ret, e.length)
        self.display.update(self.env_steps, self.updates, len(self.returns))

    def updates_due(self) -> int:
        """Updates owed for what was collected; none before there is enough to learn from."""
        waiting = self.collector.records < min(self.batch_records, self.cfg.run.min_records) or not len(self.replay)
        if waiting or self.env_steps < self.cfg.run.prefill:
            return 0
        return self.ratio(self.collector.records)

    def update(self) -> None:
        """Learn from one batch, and store the fresher latents of its records."""
        with self.watch("replay"):
            batch, index = self.replay.sample()
            batch = batch.to(self.learner.device)
        with self.watch("update"):
            latents, metrics = self.learner.update(batch)
        with self.watch("replay"):
            self.replay.refresh(index, latents)
        self.updates += 1
        self.learnt_updates += 1
        self.log.add(metrics)

    def write_metrics(self) -> None:
        """Write one record: means since the last one, speed, where the time went, and the latest evaluation.

        Raises:
            DivergedError: the loss is no longer finite.
        """
        wall, sections = self.watch.lap()
        values: dict[str, Any] = {f"{name}_seconds": seconds for name, seconds in sections.items()}
        values |= {
            "wall_seconds": wall,
            "env_steps_per_second": (self.env_steps - self._logged[0]) / max(wall, 1e-9),
            "updates_per_second": (self.updates - self._logged[1]) / max(wall, 1e-9),
            "replay/records": self.replay.records,
            "replay/capacity": self.replay.capacity,
            "replay/bytes": self.replay.records * self.replay.bytes_per_record,
            "replay/ratio": self.updates * self.batch_records / max(1, self.collector.records),
            **self.unwritten,
        }
        self.unwritten = {}
        self._logged = (self.env_steps, self.updates)
        record = self.log.write(self.env_steps, self.updates, len(self.returns), values)
        self.display.update(self.env_steps, self.updates, len(self.returns), record)
        if record.get("loss/total", 0.0) is None:
            raise DivergedError(
                f"The loss is no longer finite after {self.updates} updates.",
                hint="The last good checkpoint stays. Try a smaller optim.lr.",
            )

    # ── now and then ────────────────────────────────────────────────────────────────────────────────────

    def evaluate(self) -> None:
        """Play evaluation episodes; save if they went better than ever."""
        cfg, step = self.cfg.run, self.env_steps
        seed = derive_seed(cfg.seed, "evaluate")
        episodes, num_envs = cfg.eval_episodes, min(cfg.eval_episodes, cfg.num_envs, 8)
        driver = AgentDriver(self.agent, cfg.eval_policy, seed, self.learner.bf16)
        with (
            self.watch("eval"),
            self.display.during("evaluating", episodes) as show,
            VectorEnv(self.cfg.env, num_envs, seed, vec=self.envs.vec) as envs,
        ):
            envs.check_stop = self.stop.check

            def progress(done: int, ret: float) -> None:
                show(done)
                self.stop.check()

            scores = play(envs, driver, episodes, progress)
        self._keep_evaluation(step, scores)

    def _keep_evaluation(self, step: int, scores: Scores) -> None:
        lengths = float(np.mean(scores.lengths))
        policy = self.cfg.run.eval_policy
        summary = {"mean": scores.mean, "std": scores.std, "returns": scores.returns}
        self.evaluated = {"checkpoint_step": step, "episodes": len(scores.returns), "policy": policy, "return": summary}
        self.run.eval.mkdir(exist_ok=True)
        write_atomic(self.run.eval / f"{step:09d}.json", [json_bytes({**self.evaluated, "lengths": scores.lengths})])
        self.display.evaluated(step, scores.mean, scores.std, len(scores.returns))
        self.unwritten = {
            "eval/return_mean": scores.mean,
            "eval/return_std": scores.std,
            "eval/length_mean": lengths,
            "eval/episodes": len(scores.returns),
        }
        best = self.checkpoints.best()
        if (best is None or best["by"] != "evaluation" or scores.mean > best["score"]) and self.save():
            self.checkpoints.mark_best(step, scores.mean, "evaluation")

    def film_dream(self) -> None:
        """Film open-loop dreams of replayed stretches, if the model can draw. Training does not notice."""
        step = self.env_steps
        if not len(self.replay):
            return
        seed = derive_seed(self.cfg.run.seed, f"dream {step}")
        path = self.run.videos / f"dream-{step:09d}.mp4"
        context = min(5, self.cfg.replay.batch_length // 2)
        try:
            with self.watch("dream"), self.display.during("dreaming"):
                batch = self.replay.peek(seed).to(self.learner.device)
                windows, start = batch_windows(self.agent, batch, DREAM_SAMPLES, at_least=context + 1)
                generator = torch.Generator(self.learner.device).manual_seed(seed)
                title = film_title(self.cfg.env.id, step, "openloop")
                dream_video(self.agent, windows, path, title=title, generator=generator, context=context, start=start)
        except (StateError, ResourceError) as error:  # a film is not worth a training
            self.reporter.warn(f"no dream was filmed at step {step}: {error.what}")
            return
        self.display.event("filmed", video=str(path))

    def save(self) -> bool:
        """Write a checkpoint. A full disk costs a warning, and the run goes on.

        Raises:
            ResourceError: the disk was full three times in a row, or cannot be written at all.
        """
        if self.saved_step == self.env_steps:
            return True
        with self.watch("save"), self.display.during("saving"):
            try:
                latents, replay = self.replay.save(self.run.replay)
                self.checkpoints.save(
                    self.env_steps,
                    {
                        WEIGHTS: self.agent.state_dict(),
                        OPTIMIZER: {**self.learner.state(), "acting": self.driver.generator.get_state()},
                        LATENTS: latents,
                    },
                    {STATE: self.state(), REPLAY: replay},
                )
            except DiskFullError as error:
                self.failed_saves += 1
                if self.failed_saves >= FAILED_SAVES:
                    raise ResourceError(
                        f"{self.failed_saves} saves in a row failed: {error.what}", error.hint
                    ) from error
                self.reporter.warn(f"not saved, trying again later: {error.what}")
                return False
            self.failed_saves = 0
            self.saved_step = self.env_steps
            if self.returns:
                self.checkpoints.mark_best(self.env_steps, float(np.mean(self.returns[-10:])), "training")
            self.replay.prune(self.run.replay, self.checkpoints.trees(REPLAY))
        self.display.saved(f"{self.env_steps:09d}")
        return True

    def finish(self) -> None:
        """The last record, evaluation and checkpoint; after a stop only what must be saved."""
        done = self.env_steps >= self.cfg.run.steps
        if done and self.cfg.run.eval_every and (self.evaluated or {}).get("checkpoint_step") != self.env_steps:
            self.evaluate()
        if self.env_steps > self._logged[0] or self.updates > self._logged[1] or self.unwritten:
            self.write_metrics()
        self.save()
        if done and not self.updates:
            self.reporter.warn(
                f"the run ended without one update: {self.collector.records} records were collected, too few to learn "
                "from. Try more --steps."
            )

    # ── what is kept ────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> dict[str, Any]:
        """Counters and generators that are not tensors."""
        return {
            "updates": self.updates,
            "ratio": self.ratio.state(),
            "collector": self.collector.state_dict(),
            "random": self.random.generator.bit_generator.state,
            "log": self.log.state(),
            "evaluated": self.evaluated,
        }

    _logged = (0, 0)  # env steps and updates at the last record

    def _resume(self) -> dict[str, Any] | None:
        """Go on from the newest checkpoint that verifies, if there is one."""
        path = self.checkpoints.latest()
        self.checkpoints.clean()
        if path is None:
            return None
        loaded = self.checkpoints.load(path)
        load_weights(self.agent, loaded.tensors[WEIGHTS], str(path))
        optimizer = loaded.tensors[OPTIMIZER]
        self.learner.load_state(optimizer)
        self.driver.generator.set_state(optimizer["acting"])
        for warning in self.replay.load(self.run.replay, loaded.tensors[LATENTS], loaded.trees[REPLAY]):
            self.reporter.warn(warning)
        self.replay.prune(self.run.replay, self.checkpoints.trees(REPLAY, up_to=loaded.step))
        state = loaded.trees[STATE]
        self.updates = state["updates"]
        self.ratio.load(state["ratio"])
        self.collector.load_state_dict(state["collector"])
        self.random.generator.bit_generator.state = state["random"]
        self.evaluated = state["evaluated"]
        self._logged = (self.env_steps, self.updates)
        self.reporter.note(f"continuing at step {self.env_steps} from {path}")
        return state

    def summary(self) -> dict[str, Any]:
        """The fields of `dreamer train --json`."""
        seconds = time.monotonic() - self.began_s
        newest = self.checkpoints.path(self.saved_step) if self.saved_step >= 0 else None
        return {
            "run_dir": str(self.run.path),
            "env": self.cfg.env.id,
            "preset": self.start.presets,
            "steps": self.env_steps,
            "updates": self.updates,
            "episodes": len(self.returns),
            "return_mean_last10": float(np.mean(self.returns[-10:])) if self.returns else None,
            "eval": self.evaluated,
            "checkpoint": str(newest) if newest else None,
            "seconds": seconds,
            "env_steps_per_second": (self.env_steps - self.first_step) / seconds,
            "updates_per_second": self.learnt_updates / seconds,
            "device": str(self.learner.device),
        }
