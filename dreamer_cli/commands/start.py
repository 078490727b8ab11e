"""Where a training begins: settled settings, spaces, and a run directory that is new or goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
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
    choose_device,
    load_weights,
    prepare_torch,
    saved_spec,
)
from dreamer_cli.commands.plan import estimate
from dreamer_cli.config import Config, Resolved, load_config, resolve, to_yaml
from dreamer_cli.envs.make import make_env
from dreamer_cli.errors import StateError, UsageError
from dreamer_cli.files import disk_error, write_atomic
from dreamer_cli.findrun import find_checkpoint, register, runs_root
from dreamer_cli.registry import to_tree
from dreamer_cli.report import Reporter
from dreamer_cli.requests import TrainRequest
from dreamer_cli.runs import RunDir, continues, first_record, new_run_dir
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.trees import leaves, parse_settings

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
MAY_CHANGE = {
    "run.steps", "run.device", "run.log", "run.log_every", "run.save_every", "run.keep", "run.eval_every",
    "run.eval_episodes", "run.dream_every", "env.timeout_s",
}  # fmt: skip
LONG_RUN_S = 24 * 3600


class Start:
    """Everything that is settled before the first environment step.

    Attributes:
        cfg, origins: the settings, and which layer set each.
        presets: names of algorithm, suite and overlays, for people.
        spec: what the agent is built from.
        continued: whether the directory holds a run already.
    """

    def __init__(
        self,
        request: TrainRequest,
        cfg: Config,
        origins: dict[str, str],
        presets: list[str],
        spec: EnvSpec,
        path: Path | None,
    ) -> None:
        self.request, self.cfg, self.origins, self.presets, self.spec = request, cfg, origins, presets, spec
        self.root = path.parent if path else runs_root(request.runs_dir)
        self.path = path
        self.continued = path is not None and RunDir(path).holds_run()
        self.device: torch.device = choose_device(self.cfg.run.device)
        self.left_out = dict(spec.left_out)
        prepare_torch(self.cfg)

    @cached_property
    def run(self) -> RunDir:
        """The run's directory; a new one is made the first time that this is asked."""
        try:
            if self.path is None:
                assert self.cfg.env.id is not None
                name = self.request.name or (self.presets[0] if self.presets else "run")
                return new_run_dir(self.root, self.cfg.env.id, name, self.cfg.run.seed)
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.path or self.root) from error
        return RunDir(self.path)

    @cached_property
    def agent(self) -> Agent:
        """With fresh weights, or with those of `--init-from`."""
        agent = build_agent(self.cfg, self.spec, self.device)
        if self.request.init_from and not self.continued:
            run, which = find_checkpoint(self.request.init_from, self.request.runs_dir)
            loaded = Checkpoints(run.checkpoints).read(which, only=[WEIGHTS])
            load_weights(agent, loaded.tensors[WEIGHTS], str(loaded.path))
        return agent

    @property
    def about(self) -> list[str]:
        """Words for the head of the display."""
        return [" + ".join(self.presets), f"{self.agent.parameter_counts()['total'] / 1e6:.3g}M", str(self.device)]

    @contextmanager
    def claim(self, reporter: Reporter) -> Iterator[RunDir]:
        """Hold the directory's lock while the run goes on; run.json and config.yaml say what it is."""
        run = self.run
        with run.lock():
            reporter.open_log(run.logs / "train.log")
            if self.continued:
                run.update(status="running", exit_code=None)
            else:
                fields = {
                    "env": self.cfg.env.id,
                    "presets": self.presets,
                    "typed_presets": list(self.request.preset),
                    "seed": self.cfg.run.seed,
                    "device": str(self.device),
                    "spec": self.spec.to_json(),
                    "origins": self.origins,
                }
                run.write(first_record(self.request.argv, **fields))
            self.write_config()
            register(runs_root(self.request.runs_dir), run)
            yield run

    def write_config(self) -> None:
        """Write config.yaml, fully resolved."""
        write_atomic(self.run.config, [to_yaml(self.cfg).encode()])

    def warn_if_long(self, reporter: Reporter) -> None:
        """Say so if the run will take days, and what makes it shorter."""
        eta = estimate(self.cfg, self.spec, self.device)["eta"]["seconds"]
        if eta > LONG_RUN_S:
            reporter.warn(
                f"this will take about {eta / 86400:.1f} days on {self.device}. A smaller --size, or -p cpu, is faster."
            )


def open_run(request: TrainRequest, reporter: Reporter) -> Start:
    """Settle what to train and where, new or continued. Nothing is written yet.

    Raises:
        UsageError, ConfigError, EnvError, StateError, ResourceError: as the contract says.
    """
    if request.run_dir is None and request.resume == "must":
        raise UsageError("--resume must wants a run to go on with.", hint="Name it: --run-dir DIR")
    if request.run_dir and continues(request.run_dir, request.resume or "auto"):
        return _continue(request, RunDir(request.run_dir))
    first = resolve_request(request)
    if first.config.env.id is None:
        raise UsageError("No environment was named.", hint="For example: dreamer train --env CartPole-v1 -p cpu")
    env = make_env(first.config.env)
    spec = env.spec_dreamer
    env.close()
    resolved = resolve_request(request, any(obs.kind == "image" for obs in spec.observation.values()))
    presets = list(dict.fromkeys(name for name in (resolved.algorithm, resolved.suite, *resolved.presets) if name))
    start = Start(request, resolved.config, resolved.origins, presets, spec, request.run_dir)
    for note in resolved.notes:
        reporter.note(note)
    for key, why in start.left_out.items():
        reporter.warn(f"the observation {key!r} is left out: {why}")
    return start


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
    old, new = dict(leaves(to_tree(saved))), dict(leaves(to_tree(resolved.config)))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and key not in MAY_CHANGE:
            differing.append(f"{key} is {_say(old.get(key))}, not {_say(new.get(key))}")
    if differing:
        more = f"; {len(differing) - 8} more" if len(differing) > 8 else ""
        raise StateError(
            f"The run has other settings than were typed: {'; '.join(differing[:8])}{more}.",
            hint="Leave them out to go on with the run's own, or start a new run in another directory.",
        )
    origins = {**record.get("origins", {}), **{k: v for k, v in resolved.origins.items() if old.get(k) != new.get(k)}}
    return Start(request, resolved.config, origins, record.get("presets", []), saved_spec(run), run.path)


def _say(value: Any) -> str:
    return yamlio.dump_value(value)
