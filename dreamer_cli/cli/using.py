"""`dreamer evaluate`, `imagine`, `export`: what is done with a trained run."""

from pathlib import Path
from typing import Annotated, Any

from dreamer_cli.cli.env_ids import env_ids
from dreamer_cli.cli.options import (
    SOURCES,
    CheckpointOption,
    Device,
    EnvKwarg,
    Run,
    RunsDir,
    Seed,
    choice,
    complete_from,
    count,
    flag,
    option,
    parse_overlay,
    parse_source,
    place,
    real,
)
from dreamer_cli.cli.session import Session
from dreamer_cli.errors import UsageError
from dreamer_cli.report import Result
from dreamer_cli.requests import OVERLAYS, EvaluateRequest, ExportRequest, ImagineRequest, PlayRequest

POLICIES = ("mode", "sample", "random", "plan")
MODES = ("openloop", "policy", "actions", "branches")


def evaluate(
    session: Session,
    run: Run,
    checkpoint: CheckpointOption = None,
    episodes: Annotated[int, count("--episodes", minimum=1, help="Episodes to play, exactly (20).")] = 20,
    num_envs: Annotated[
        int | None, count("--num-envs", minimum=1, maximum=4096, help="Environments side by side.")
    ] = None,
    seed: Seed = None,
    policy: Annotated[
        str | None,
        choice("--policy", among=POLICIES, help="How actions are chosen (the run's own); plan searches in dreams."),
    ] = None,
    versus: Annotated[
        str | None, choice("--versus", among=POLICIES, help="Let another policy play the same episodes.")
    ] = None,
    plan: Annotated[
        list[str] | None,
        option("--plan", metavar="K=V", help="Setting of the policy plan, such as candidates=100; repeatable."),
    ] = None,
    env: Annotated[
        str | None,
        option(
            "--env",
            "-e",
            metavar="ID",
            help="Another environment with the same spaces.",
            autocompletion=complete_from(env_ids),
        ),
    ] = None,
    env_kwarg: EnvKwarg = None,
    min_return: Annotated[
        float | None, real("--min-return", metavar="X", help="Exit with code 6 if the mean return is below.")
    ] = None,
    video: Annotated[Path | None, place("--video", help="Film the first episode: .mp4, .gif, .webp.")] = None,
    output: Annotated[Path | None, place("--output", "-o", help="Write every episode's return: .json or .csv.")] = None,
    device: Device = None,
    runs_dir: RunsDir = None,
) -> Result:
    """Play episodes with a trained agent and print a table of returns."""
    if output is not None and output.suffix not in (".json", ".csv"):
        raise UsageError(f"--output is {str(output)!r}.", hint="The name must end in .json or .csv.")
    session.opens(run, runs_dir, checkpoint, "evaluate")
    from dreamer_cli.commands import evaluate as command

    options = {key: value for key, value in locals().items() if key not in ("session", "command")}
    options["env_kwarg"], options["plan"] = tuple(env_kwarg or ()), tuple(plan or ())
    return command.evaluate(EvaluateRequest(**options), session.report)


def imagine(
    session: Session,
    run: Run,
    out: Annotated[
        Path | None, place("--out", "-o", help=".mp4 .gif .webp, .png (a strip), .npz (the arrays).")
    ] = None,
    mode: Annotated[
        Any, choice("--mode", among=MODES, help="Who acts: the truth, the agent, a file, or several (openloop).")
    ] = "openloop",
    source: Annotated[
        Any,
        option(
            "--source",
            metavar="SOURCE",
            help="Where the context comes from: env, replay, FILE.npz, or prior: from nowhere (env).",
            parser=parse_source,
            autocompletion=complete_from(lambda: SOURCES),
        ),
    ] = "env",
    actions: Annotated[Path | None, place("--actions", help="Actions for --mode actions: .json or .npz.")] = None,
    branch: Annotated[
        list[str] | None,
        option(
            "--branch",
            metavar="WORDS",
            help="Futures for --mode branches: policy,noop,random,3,LEFT+policy (policy four times).",
        ),
    ] = None,
    layout: Annotated[
        Any, choice("--layout", among=("grid", "tree"), help="How branches are laid out (grid).")
    ] = "grid",
    checkpoint: CheckpointOption = None,
    context: Annotated[int, count("--context", minimum=1, help="Real steps that the dream begins with (5).")] = 5,
    horizon: Annotated[
        int | None, count("--horizon", minimum=1, help="Steps that are dreamt (45; all of --actions).")
    ] = None,
    samples: Annotated[int | None, count("--samples", minimum=1, help="Dreams side by side (6).")] = None,
    seed: Seed = None,
    overlay: Annotated[
        Any,
        option(
            "--overlay",
            metavar="NAMES",
            help="What is drawn below: some of reward,value,cont,action,kl, or none (all).",
            parser=parse_overlay,
            autocompletion=complete_from(lambda: (*OVERLAYS, "none")),
        ),
    ] = OVERLAYS,
    scale: Annotated[
        int | None, count("--scale", minimum=1, maximum=64, help="Enlarge pictures so many times.")
    ] = None,
    fps: Annotated[int | None, count("--fps", minimum=1, maximum=240, help="Pictures per second.")] = None,
    metrics: Annotated[Path | None, place("--metrics", help="Errors by horizon step, as .json.")] = None,
    plot: Annotated[Path | None, place("--plot", help="The same as a picture, .png.")] = None,
    device: Device = None,
    runs_dir: RunsDir = None,
) -> Result:
    """Film what the agent dreams, next to what really happened."""
    session.opens(run, runs_dir, checkpoint, "imagine")
    from dreamer_cli.commands import imagine as command

    options = {key: value for key, value in locals().items() if key not in ("session", "command")}
    options["branch"] = tuple(word for words in branch or () for word in words.split(","))
    return command.imagine(ImagineRequest(**options), session.report)


def play(
    session: Session,
    run: Run,
    ui: Annotated[Any, choice("--ui", among=("web", "term"), help="A page, or this terminal (web).")] = "web",
    checkpoint: CheckpointOption = None,
    env: Annotated[
        str | None,
        option(
            "--env",
            "-e",
            metavar="ID",
            help="Another environment with the same spaces.",
            autocompletion=complete_from(env_ids),
        ),
    ] = None,
    env_kwarg: EnvKwarg = None,
    policy: Annotated[
        str | None, choice("--policy", among=("mode", "sample"), help="How the agent acts (the run's own).")
    ] = None,
    fps: Annotated[int, count("--fps", minimum=1, maximum=60, help="Decisions a second, to begin with (15).")] = 15,
    port: Annotated[int, count("--port", maximum=65535, help="Of the page; 0 takes any that is free (0).")] = 0,
    open_browser: Annotated[bool, flag("--open", help="Open the page in a browser.")] = False,
    seed: Seed = None,
    device: Device = None,
    runs_dir: RunsDir = None,
) -> Result:
    """Walk in the agent's dream, beside the real game; Ctrl-C ends it."""
    session.opens(run, runs_dir, checkpoint, "play")
    from dreamer_cli.commands import play as command

    options = {key: value for key, value in locals().items() if key not in ("session", "command")}
    options["env_kwarg"] = tuple(env_kwarg or ())
    return command.play(PlayRequest(**options), session.report)


def export(
    session: Session,
    run: Run,
    out: Annotated[Path | None, place("--out", "-o", metavar="PATH", help="Folder or file to write.")] = None,
    format: Annotated[
        Any, choice("--format", among=("onnx", "pt2", "safetensors"), help="File format (onnx).")
    ] = "onnx",
    part: Annotated[Any, choice("--part", among=("policy", "world", "all"), help="What to write (policy).")] = "policy",
    verify: Annotated[
        bool, flag("--verify/--no-verify", help="Replay 64 steps and compare; code 6 beyond 1e-4.")
    ] = True,
    opset: Annotated[int | None, count("--opset", minimum=1, maximum=100, help="ONNX operator set.")] = None,
    checkpoint: CheckpointOption = None,
    runs_dir: RunsDir = None,
) -> Result:
    """Write the agent for use without dreamer: model, interface.json, example.py."""
    session.opens(run, runs_dir, checkpoint, "export")
    from dreamer_cli.commands import export as command

    options = {key: value for key, value in locals().items() if key not in ("session", "command")}
    return command.export(ExportRequest(**options), session.report)
