"""`dreamer train`: its options, and nothing else."""

from pathlib import Path
from typing import Annotated, Any

from dreamer_cli.cli.env_ids import env_ids
from dreamer_cli.cli.options import (
    MAX_SEED,
    cadence,
    choice,
    complete_from,
    count,
    duration,
    flag,
    option,
    parse_image_size,
    place,
    preset_names,
    real,
    run_names,
)
from dreamer_cli.cli.options import device as device_option
from dreamer_cli.cli.session import Session
from dreamer_cli.errors import UsageError, closest
from dreamer_cli.report import Result
from dreamer_cli.requests import RESUME, SIZES, TrainRequest

WHAT, HOW, WHERE, WATCH, MACHINE = "What to train", "Training", "Run directory", "Evaluation and logs", "Machine"
LOGS = ("tensorboard", "wandb")


def parse_logs(text: str) -> list[str]:
    """The sinks of `--log tensorboard,wandb`.

    Raises:
        UsageError: an unknown one.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in LOGS:
            raise UsageError(f"--log knows no {name!r}.", hint=closest(name, LOGS) + f"Known: {', '.join(LOGS)}.")
    return list(dict.fromkeys(names))


def train(
    session: Session,
    env: Annotated[
        str | None,
        option(
            "--env",
            "-e",
            metavar="ID",
            panel=WHAT,
            help="Gymnasium id, module:Id, pkg.mod:Class, ./file.py:Class, or suite:task.",
            autocompletion=complete_from(env_ids),
        ),
    ] = None,
    env_kwarg: Annotated[
        list[str] | None,
        option("--env-kwarg", metavar="K=V", panel=WHAT, help="Argument of the environment; repeatable."),
    ] = None,
    preset: Annotated[
        list[str] | None,
        option(
            "--preset",
            "-p",
            metavar="NAME|FILE",
            panel=WHAT,
            help="A preset, repeatable, left to right: -p cpu",
            autocompletion=complete_from(preset_names),
        ),
    ] = None,
    config: Annotated[
        Path | None, place("--config", "-c", panel=WHAT, help="A config.yaml, that of another run, too.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        option("--set", "-s", metavar="KEY=VALUE", panel=WHAT, help="One setting, repeatable: -s optim.lr=1e-4"),
    ] = None,
    size: Annotated[
        str | None,
        choice(
            "--size",
            among=SIZES,
            panel=WHAT,
            metavar="SIZE",
            help="Of the model: 1m 12m 25m 50m 100m 200m 400m.",
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        option(
            "--init-from",
            metavar="RUN",
            panel=WHAT,
            help="Start with the weights of another run.",
            autocompletion=complete_from(run_names),
        ),
    ] = None,
    steps: Annotated[
        int | None, count("--steps", "-n", minimum=1, panel=HOW, help="Total environment steps: 400000, 400k, 4e5.")
    ] = None,
    train_ratio: Annotated[
        float | None,
        real("--train-ratio", metavar="R", minimum=0.0, panel=HOW, help="Replayed records per collected record."),
    ] = None,
    num_envs: Annotated[
        int | None, count("--num-envs", minimum=1, maximum=4096, panel=HOW, help="Environments side by side.")
    ] = None,
    vec: Annotated[
        str | None,
        choice(
            "--vec",
            among=("auto", "sync", "async", "native"),
            panel=HOW,
            help="Environments in this process (sync), in workers, or in C++ (Atari).",
        ),
    ] = None,
    pixels: Annotated[
        bool | None, flag("--pixels", panel=HOW, help="Render the environment, learn from the pixels.")
    ] = None,
    image_size: Annotated[
        Any,
        option(
            "--image-size",
            metavar="HxW",
            parser=parse_image_size,
            panel=HOW,
            help="Size of images, rows and columns: 64x64.",
        ),
    ] = None,
    seed: Annotated[
        int | None, count("--seed", maximum=MAX_SEED, panel=HOW, help="Seed of everything random (0).")
    ] = None,
    run_dir: Annotated[
        Path | None,
        place("--run-dir", metavar="DIR", panel=WHERE, help="This directory; continued if it holds a run."),
    ] = None,
    runs_dir: Annotated[
        Path | None,
        place("--runs-dir", metavar="DIR", panel=WHERE, help="A new one in here ($DREAMER_RUNS, else ./runs)."),
    ] = None,
    name: Annotated[
        str | None, option("--name", metavar="NAME", panel=WHERE, help="Becomes a part of its name.")
    ] = None,
    resume: Annotated[
        str | None,
        choice("--resume", among=RESUME, panel=WHERE, help="Continue what is there (with --run-dir: auto)."),
    ] = None,
    save_every: Annotated[
        Any, cadence("--save-every", metavar="N|10m", panel=WHERE, help="Steps or time between checkpoints (10m).")
    ] = None,
    keep: Annotated[
        int | None, count("--keep", minimum=1, panel=WHERE, help="Checkpoints to keep, beside the best one (3).")
    ] = None,
    max_time: Annotated[
        float | None, duration("--max-time", metavar="11h30m", panel=WHERE, help="Then save and end with exit code 75.")
    ] = None,
    eval_every: Annotated[
        int | None, count("--eval-every", panel=WATCH, help="Evaluate every so many steps (0: never).")
    ] = None,
    eval_episodes: Annotated[
        int | None, count("--eval-episodes", minimum=1, panel=WATCH, help="Episodes each time (10).")
    ] = None,
    dream_every: Annotated[
        int | None, count("--dream-every", panel=WATCH, help="Film a dream every so many steps (0: never).")
    ] = None,
    log: Annotated[
        Any,
        option(
            "--log",
            metavar="NAMES",
            parser=parse_logs,
            panel=WATCH,
            help="Also log to: tensorboard, wandb, or both with a comma.",
            autocompletion=complete_from(lambda: LOGS),
        ),
    ] = None,
    plan: Annotated[
        bool, flag("--plan", panel=WATCH, help="Print env, spaces, model, budget, memory, disk and ETA, then exit.")
    ] = False,
    device: Annotated[str | None, device_option(panel=MACHINE, help="auto, cpu, cuda, cuda:1 or mps (auto).")] = None,
    precision: Annotated[
        str | None,
        choice(
            "--precision",
            among=("auto", "fp32", "bf16"),
            panel=MACHINE,
            help="Of the networks (auto: bf16 on GPUs that have it).",
        ),
    ] = None,
    compile: Annotated[
        bool | None, flag("--compile/--no-compile", panel=MACHINE, help="Compile the arithmetic between products.")
    ] = None,
    deterministic: Annotated[
        bool | None, flag("--deterministic", panel=MACHINE, help="Same numbers again on the same GPU; slower.")
    ] = None,
) -> Result:
    """Train an agent and print its run directory; --run-dir DIR alone continues one."""
    from dreamer_cli.commands import train as run

    options = {key: value for key, value in locals().items() if key not in ("session", "run")}
    for key in ("env_kwarg", "preset", "settings"):
        options[key] = tuple(options[key] or ())
    options["log"] = None if log is None else tuple(log)
    return run.train(TrainRequest(**options, argv=session.argv), session.report)
