"""Where a training begins: settled settings, spaces, and a run directory that is new or goes on."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dreamer_cli import yamlio
from dreamer_cli.agent import Agent
from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.commands.assemble import (
    WEIGHTS,
    build_agent,
    checkpoint_limits,
    choose_device,
    load_weights,
    prepare_torch,
    runs_in_bf16,
    saved_spec,
)
from dreamer_cli.commands.estimate import estimate
from dreamer_cli.config import Config, Resolved, load_config, resolve, to_yaml
from dreamer_cli.envs.catalog import canonical
from dreamer_cli.envs.make import Vec
from dreamer_cli.envs.vector import absolute, probe
from dreamer_cli.errors import StateError, UsageError
from dreamer_cli.files import DiskFullError, clean_temporaries, disk_error, write_atomic
from dreamer_cli.findrun import find_checkpoint, register, runs_root
from dreamer_cli.memory import free_memory
from dreamer_cli.registry import to_tree
from dreamer_cli.report import Reporter
from dreamer_cli.requests import TrainRequest
from dreamer_cli.runs import RunDir, continues, first_record, new_run_dir, versions
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.stop import StopSignal
from dreamer_cli.trees import leaves, parse_settings

LOG = logging.getLogger(__name__)

# Options of `train` that are settings, by the key that they set.
OPTIONS = {
    "steps": "run.steps",
    "train_ratio": "run.train_ratio",
    "num_envs": "run.num_envs",
    "vec": "env.vec",
    "image_size": "env.image_size",
    "seed": "run.seed",
    "device": "run.device",
    "precision": "run.precision",
    "compile": "run.compile",
    "deterministic": "run.deterministic",
    "save_every": "run.save_every",
    "keep": "run.keep",
    "eval_every": "run.eval_every",
    "eval_episodes": "run.eval_episodes",
    "dream_every": "run.dream_every",
    "log": "run.log",
}

# What may change when a run goes on: how far, where it runs, and what is watched how often. None touches learning.
# Not `run.overlap`, whichever device it goes on with: what an update sees would change in the middle of a run.
MAY_CHANGE = {
    "run.steps", "run.device", "run.log", "run.log_every", "run.profile_every", "run.save_every", "run.keep",
    "run.eval_every", "run.eval_episodes", "run.stop_return", "run.dream_every", "env.timeout_s",
    # How the work is done: numbers agree up to rounding and, with batches fetched ahead, up to their order.
    "run.cuda_graph", "replay.storage", "world.encoder.recompute", "world.decoder.recompute",
    "env.workers", "env.max_bytes", "env.on_crash",
    "replay.max_bytes",  # a smaller machine may have to; the oldest records go
}  # fmt: skip
SETTLED = ("run.overlap", "run.precision", "env.vec", "replay.max_bytes")  # null and auto mean: as the run has it
LONG_RUN_S = 24 * 3600


class Start:
    """Everything that is settled before the first environment step.

    Attributes:
        cfg, origins: the settings, and which layer set each.
        presets: names of algorithm, suite and overlays, for people.
        spec: what the agent is built from.
        continued: whether the directory holds a run already.
        source: whose weights it starts from, as run.json has it: `{"typed", "run", "step"}`; None: fresh ones.
        begun: whether run.json says what this process does.
    """

    def __init__(
        self,
        request: TrainRequest,
        cfg: Config,
        origins: dict[str, str],
        presets: list[str],
        spec: EnvSpec,
        path: Path | None,
        source: dict[str, Any] | None = None,
    ) -> None:
        self.request, self.cfg, self.origins, self.presets, self.spec = request, cfg, origins, presets, spec
        self.root = path.parent if path else runs_root(request.runs_dir)
        self.path, self.source = path, source
        self.begun = self._made = False
        self.continued = path is not None and RunDir(path).holds_run()
        self.device: torch.device = choose_device(self.cfg.run.device)
        self.left_out = dict(spec.left_out)
        self.cfg = settled(cfg, self.device, self.continued)
        prepare_torch(self.cfg)

    @cached_property
    def run(self) -> RunDir:
        """The run's directory; a new one is made the first time that this is asked."""
        try:
            if self.path is None:
                assert self.cfg.env.id is not None
                name = self.request.name or (self.presets[0] if self.presets else "run")
                self._made = True
                return new_run_dir(self.root, canonical(self.request.env or self.cfg.env.id), name, self.cfg.run.seed)
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.path or self.root) from error
        return RunDir(self.path)

    @cached_property
    def agent(self) -> Agent:
        """With fresh weights, or with those of `--init-from`; what the run saved itself is loaded later."""
        agent = build_agent(self.cfg, self.spec, self.device)
        saved = self.continued and Checkpoints(self.run.checkpoints).steps()
        if self.source and not saved:
            # Only the weights are wanted; those of another model may be larger, which the comparison then says.
            limits = {WEIGHTS: 4 * checkpoint_limits(self.cfg, agent)[WEIGHTS]}
            checkpoints = Checkpoints(RunDir(Path(self.source["run"])).checkpoints, limits=limits)
            loaded = checkpoints.read(self.source["step"], [WEIGHTS])
            load_weights(agent, agent.fitting(loaded.tensors[WEIGHTS]), str(loaded.path))
        return agent

    @property
    def about(self) -> list[str]:
        """Words for the head of the display."""
        return [" + ".join(self.presets), f"{self.agent.parameter_counts()['total'] / 1e6:.3g}M", str(self.device)]

    @contextmanager
    def claim(self, reporter: Reporter) -> Iterator[RunDir]:
        """Hold the directory's lock. A new directory in which nothing begins is gone afterwards.

        Raises:
            StateError: another process trains here, or has done so just now.
        """
        run = self.run
        with run.lock():
            if run.holds_run() != self.continued:
                raise StateError(f"Another process has just used {run.path}.", hint="Look at it, then try again.")
            if self.continued:
                reporter.open_log(run.logs / "train.log")
            try:
                yield run
            finally:
                if self._made and not run.holds_run():
                    self._forget()

    def begin(self, reporter: Reporter, vec: Vec, inexact: Sequence[str]) -> None:
        """Write config.yaml and run.json: from here on there is a run, and it is running.

        Called once everything is built: settings that cannot be used leave nothing behind, and an older run as it was.

        Args:
            vec: how the environments are stepped; a run keeps to it.
            inexact: why this is not, bit for bit, the run that was never stopped.
        """
        run = self.run
        self.cfg = replace(self.cfg, env=replace(self.cfg.env, vec=vec))
        for directory in (run.path, run.eval):
            clean_temporaries(directory)  # of a process that was killed
        write_atomic(run.config, [to_yaml(self.cfg).encode()])
        now = {"origins": self.origins, "device": str(self.device)}
        if self.continued:
            reasons = [*run.read().get("inexact", []), *inexact]
            run.update(status="running", exit_code=None, versions=versions(), inexact=reasons, **now)
        else:
            fields = {
                "env": self.cfg.env.id,
                "presets": self.presets,
                "typed_presets": list(self.request.preset),
                "seed": self.cfg.run.seed,
                "spec": self.spec.to_json(),
                "init_from": self.source,
                "inexact": list(inexact),
            }
            run.write(first_record(self.request.argv, **fields, **now))
        self.begun = True
        reporter.open_log(run.logs / "train.log")
        register(runs_root(self.request.runs_dir), run)

    def is_inexact(self, why: str) -> None:
        """Note in run.json that this is, from here on, not the run that nothing ever happened to."""
        reasons = self.run.read().get("inexact", [])
        try:
            self.run.update(inexact=[*reasons, why])
        except DiskFullError as error:  # no reason to end a training
            LOG.warning("run.json does not say it: %s", error.what)

    def ended(self, **fields: Any) -> None:
        """Say in run.json how it ended, if it began."""
        if self.begun:
            self.run.update(**fields)

    def _forget(self) -> None:
        for path in (self.run.config, self.run.lock_file):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's file is in there, or other runs beside it: they stay
            self.run.path.rmdir()
            if self.path is None:
                self.run.path.parent.rmdir()

    def warn_if_long(self, reporter: Reporter) -> None:
        """Say so if the run will take days, and what makes it shorter."""
        eta = estimate(self.cfg, self.spec, self.device)["eta"]["seconds"]
        if eta > LONG_RUN_S:
            reporter.warn(
                f"this will take about {eta / 86400:.1f} days on {self.device}. A smaller --size, or -p cpu, is faster."
            )


def open_run(request: TrainRequest, reporter: Reporter, stop: StopSignal) -> Start:
    """Settle what to train and where, new or continued. Nothing is written yet.

    Raises:
        Preempted, Interrupted: a stop was requested while the environment was being built.
        UsageError, ConfigError, EnvError, StateError, ResourceError: as the contract says.
    """
    if request.run_dir is None and request.resume == "must":
        raise StateError("--resume must wants a run to go on with, but none is named.", hint="Name it: --run-dir DIR")
    if request.run_dir is not None and request.name is not None:
        raise UsageError(
            "--run-dir is the whole path of a run, so --name has no place in it.",
            hint="Leave one of them out; --runs-dir DIR --name NAME makes a directory of that name.",
        )
    if request.run_dir and continues(request.run_dir, request.resume or "auto"):
        return _continue(request, RunDir(request.run_dir))
    first = resolve_request(request)
    if first.config.env.id is None:
        raise UsageError("No environment was named.", hint="For example: dreamer train --env CartPole-v1 -p cpu")
    spec = probe(first.config.env, stop.check)
    resolved = resolve_request(request, any(obs.kind == "image" for obs in spec.observation.values()))
    presets = list(dict.fromkeys(name for name in (resolved.algorithm, resolved.suite, *resolved.presets) if name))
    cfg = _from_anywhere(resolved.config)
    start = Start(request, cfg, resolved.origins, presets, spec, request.run_dir, _source(request))
    for note in resolved.notes:
        reporter.note(note)
    for key, why in start.left_out.items():
        reporter.warn(f"the observation {key!r} is left out: {why}")
    return start


def settled(cfg: Config, device: torch.device, continued: bool) -> Config:
    """The same settings, with what the machine decides: `run.overlap`, `run.precision`, `replay.max_bytes`.

    A run keeps to them wherever it goes on, for other numbers would be another run.
    """
    run, kept = cfg.run, cfg.replay
    if kept.max_bytes is None:  # free memory differs from one start to the next
        kept = replace(kept, max_bytes=free_memory() // 4)
    if run.overlap is None:
        # A run that says nothing was begun before there was a choice: in strict order.
        run = replace(run, overlap=device.type == "cuda" and not continued)
    if run.precision == "auto":
        run = replace(run, precision="bf16" if runs_in_bf16("auto", device) else "fp32")
    return replace(cfg, run=run, replay=kept)


def _from_anywhere(cfg: Config) -> Config:
    """The same settings, in which a file that was named from here is found from every other directory."""
    return replace(cfg, env=absolute(cfg.env))


def _source(request: TrainRequest) -> dict[str, Any] | None:
    """The checkpoint that `--init-from` means now, to keep in run.json."""
    if request.init_from is None:
        return None
    run, which = find_checkpoint(request.init_from, request.runs_dir)
    path = Checkpoints(run.checkpoints).choose(which)
    return {"typed": request.init_from, "run": str(run.path.resolve()), "step": int(path.name)}


def _other_source(request: TrainRequest, then: dict[str, Any] | None) -> str | None:
    """How a typed `--init-from` contradicts the one that the run began with, if it does."""
    if request.init_from is None or (then and request.init_from == then["typed"]):
        return None
    if then:
        run, which = find_checkpoint(request.init_from, request.runs_dir)
        if str(run.path.resolve()) == then["run"] and which in ("best", then["step"]):
            return None
    return f"--init-from is {then['typed'] if then else 'none'}, not {request.init_from}"


def resolve_request(request: TrainRequest, has_pixels: bool | None = None) -> Resolved:
    """Settings from what was typed, for a new run."""
    return resolve(
        env=request.env,
        presets=request.preset,
        config_file=request.config,
        settings=request.settings,
        size=request.size,
        options=_typed(request),
        has_pixels=has_pixels,
    )


def _typed(request: TrainRequest) -> dict[str, tuple[Any, str]]:
    """Dotted key → (value, option) of the options that were typed."""
    options: dict[str, tuple[Any, str]] = {}
    for name, key in OPTIONS.items():
        value = getattr(request, name)
        if value is not None:
            plain = list(value) if isinstance(value, tuple) else value
            option = f"--no-{name}" if value is False else f"--{name.replace('_', '-')}"
            options[key] = (plain, option)
    if request.pixels:
        options["env.pixels"] = ("only", "--pixels")
    for key, value in leaves(parse_settings(request.env_kwarg, "--env-kwarg")):
        options[f"env.kwargs.{key}"] = (value, "--env-kwarg")
    return options


def _continue(request: TrainRequest, run: RunDir) -> Start:
    """Go on with a run: what is typed must agree with what was saved, all else is as it was.

    Raises:
        StateError: it does not agree; the keys are named.
    """
    saved, record = load_config(run.config), run.read()
    differing = []
    typed_then = record.get("typed_presets", [])
    if request.preset and list(request.preset) != typed_then:
        differing.append(f"presets are {' '.join(typed_then) or 'none'}, not {' '.join(request.preset)}")
    source = record.get("init_from")
    if other := _other_source(request, source):
        differing.append(other)
    resolved = resolve(
        env=request.env,
        # A file of -c is laid over what was saved, as -p would be: it must change nothing.
        presets=[str(request.config.absolute())] if request.config else [],
        config_file=run.config,
        settings=request.settings,
        size=request.size,
        options=_typed(request),
        has_pixels=None,
    )
    cfg = _from_anywhere(resolved.config)
    old, new = dict(leaves(to_tree(saved))), dict(leaves(to_tree(cfg)))
    for key in sorted(old.keys() | new.keys()):
        asked_as_it_was = key in SETTLED and new.get(key) in (None, "auto")
        if old.get(key) != new.get(key) and key not in MAY_CHANGE and not asked_as_it_was:
            differing.append(f"{key} is {_say(old.get(key))}, not {_say(new.get(key))}")
    if differing:
        more = f"; {len(differing) - 8} more" if len(differing) > 8 else ""
        raise StateError(
            f"The run has other settings than were typed: {'; '.join(differing[:8])}{more}.",
            hint="Leave them out to go on with the run's own, or start a new run in another directory.",
        )
    for name in SETTLED:
        if new.get(name) in (None, "auto"):
            part, _, key = name.partition(".")
            cfg = replace(cfg, **{part: replace(getattr(cfg, part), **{key: old.get(name)})})
    origins = {**record.get("origins", {}), **{k: v for k, v in resolved.origins.items() if old.get(k) != new.get(k)}}
    return Start(request, cfg, origins, record.get("presets", []), saved_spec(run), run.path, source)


def _say(value: Any) -> str:
    return yamlio.dump_value(value)
