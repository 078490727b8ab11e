"""`dreamer export`: freeze the acting path, or the dream, into a file that runs without dreamer.

The files are written to a temporary directory beside their place, compared there with the agent, and moved only
then: whoever finds a model file has one that passed. Files of a former export are replaced, no others ever.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dreamer_cli.agent import Agent
from dreamer_cli.commands.assemble import LoadedRun
from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.wrappers import DreamerEnv
from dreamer_cli.errors import DreamerError, GateError, UsageError
from dreamer_cli.findrun import find_run
from dreamer_cli.formats import Format, Onnx, Pt2, Safetensors
from dreamer_cli.frozen import Part, frozen
from dreamer_cli.interface import MARK, describe, example_source, to_text
from dreamer_cli.parity import TOLERANCE, Parity, Recording, compare, invented, join, played, record
from dreamer_cli.report import Reporter, Result
from dreamer_cli.requests import ExportRequest
from dreamer_cli.target import Target, require_ours


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an agent comes from, as far as it is known; all of it goes into interface.json.

    Attributes:
        env: rebuilt to record steps in, if it can be.
        config_text: config.yaml, written beside weights, which are of no use without.
        policy: `sample` or `mode`: how the run evaluates.
    """

    run: str | None = None
    checkpoint_step: int | None = None
    env: EnvConfig | None = None
    config_text: str | None = None
    policy: str = "sample"


@dataclass(frozen=True)
class Exported:
    """What was written (nothing, if `error` is set), and how far it is from the agent (None: not compared)."""

    paths: tuple[Path, ...]
    parity: Parity | None
    error: GateError | None = None


def export(request: ExportRequest, report: Reporter) -> Result:
    """Export a run's checkpoint.

    Raises:
        UsageError: PATH does not fit the format, holds files of others, or the opset cannot be written.
        EnvError: the extra of the format is not installed.
        StateError: the run or its checkpoint is missing or damaged.
    """
    out = request.out or find_run(request.run, request.runs_dir).run.path / "export"
    # Everything that can be refused is refused before a large checkpoint is read.
    form = make_format(request.format, request.opset)
    require_ours(Target(out, form, request.part).files())
    loaded = LoadedRun(request.run, request.runs_dir, request.checkpoint, "cpu", report)
    origin = Origin(
        run=str(loaded.run.path),
        checkpoint_step=loaded.step,
        env=loaded.cfg.env,
        config_text=loaded.run.config.read_text(encoding="utf-8"),
        policy=loaded.cfg.run.eval_policy,
    )
    exported = freeze(
        loaded.agent,
        out,
        report,
        origin,
        format=request.format,
        part=request.part,
        verify=request.verify,
        opset=request.opset,
    )
    paths = [str(path) for path in exported.paths]
    return Result(
        {
            "run": origin.run,
            "checkpoint_step": loaded.step,
            "format": request.format,
            "paths": paths,
            "parity": exported.parity.to_json() if exported.parity else None,
        },
        text=paths,
        error=exported.error,
    )


def freeze(
    agent: Agent,
    out: Path,
    report: Reporter,
    origin: Origin = Origin(),
    *,
    format: str = "onnx",
    part: str = "policy",
    verify: bool = True,
    opset: int | None = None,
) -> Exported:
    """Write an agent's part with interface.json and example.py; the agent itself is left as it is.

    Args:
        out: a directory, or the model's file if it ends in the format's suffix.

    Raises:
        UsageError: see `export`.
        EnvError: the extra of the format is not installed.
    """
    # Always float32 on the CPU, where the comparison takes place.
    agent = copy.deepcopy(agent).to("cpu", torch.float32).eval().requires_grad_(False)
    form = make_format(format, opset, agent)
    target = Target(out, form, part)
    require_ours(target.files())
    parts = frozen(agent, part)
    env = _open_env(agent, origin.env, report)
    try:
        recording = _record(agent, env, report) if verify else None
        interface = describe(
            parts,
            agent.seen,
            target.models,
            format,
            env_config=origin.env,
            env=env,
            policy=origin.policy,
            cont_scale=agent.world.cont_scale,
            run=origin.run,
            checkpoint_step=origin.checkpoint_step,
        )
    finally:
        if env is not None:
            env.close()
    with target.staged() as stage:
        paths = {name: stage / file for name, file in target.models.items()}
        report.note(f"writing {', '.join(dict.fromkeys(target.models.values()))}")
        form.write(parts, paths, interface)
        parity = _verify(form, parts, paths, recording, report) if recording is not None else None
        if parity is None:
            report.note("not compared with the agent, as --no-verify asks")
        elif not parity.passed:
            return Exported((), parity, _gate_error(parity, target))
        tree = {**interface, "parity": parity.to_json() if parity else None}
        texts = {"interface.json": to_text(tree)}
        texts["example.py"] = example_source(format)
        if target.wants_config and origin.config_text is not None:
            texts["config.yaml"] = f"# Written by `{MARK}`: what the weights were trained with.\n{origin.config_text}"
        for name, text in texts.items():
            (stage / name).write_text(text, encoding="utf-8")
        return Exported(target.install(stage), parity)


def make_format(format: str, opset: int | None = None, agent: Agent | None = None) -> Format:
    """The writer of a format.

    Raises:
        UsageError: an opset without ONNX, or one that cannot be written.
        EnvError: the extra is not installed.
    """
    if opset is not None and format != "onnx":
        raise UsageError(f"--opset does not go with --format {format}.", hint="Leave one of them out.")
    if format == "onnx":
        return Onnx(opset)
    return Pt2() if format == "pt2" else Safetensors(agent.state_dict() if agent is not None else None)


def _open_env(agent: Agent, config: EnvConfig | None, report: Reporter) -> DreamerEnv | None:
    """The run's environment, or None with a note where it cannot be made, or is no longer what it was."""
    if config is None or config.id is None:
        return None
    try:
        env = make_env(config)
    except DreamerError as err:
        report.note(f"{config.id} cannot be made here, so random observations take its place: {err.what}")
        return None
    if (env.spec_dreamer.observation, env.spec_dreamer.action) == (agent.spec.observation, agent.spec.action):
        return env
    env.close()
    report.note(f"{config.id} has other spaces now than in the run, so random observations take its place.")
    return None


def _record(agent: Agent, env: DreamerEnv | None, report: Reporter) -> Recording:
    """Steps to replay: of the environment if there is one and it plays along, else random observations."""
    if env is not None:
        try:
            return record(agent, played(env))
        except DreamerError as err:
            report.note(f"random observations take the environment's place: {err.what}")
    return record(agent, invented(agent.spec, np.random.default_rng(0)))


def _verify(
    form: Format, parts: list[Part], paths: Mapping[str, Path], recording: Recording, report: Reporter
) -> Parity:
    """Run every written part on the recorded steps."""
    parity = join([compare(part, form.runner(part, paths[part.name]), recording[part.name]) for part in parts])
    report.note(
        f"{parity.steps} steps replayed: largest difference {parity.max_abs_error:.2g} in {parity.worst}, "
        f"{parity.ties} ties"
    )
    return parity


def _gate_error(parity: Parity, target: Target) -> GateError:
    models = ", ".join(dict.fromkeys(target.models.values()))
    return GateError(
        f"{models} differs from the agent by {parity.max_abs_error:.2g} in output {parity.worst!r}; "
        f"{TOLERANCE:g} is allowed. Nothing was written.",
        hint="Try another --opset or --format; --no-verify writes it all the same.",
    )
