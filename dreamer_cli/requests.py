"""What was asked for on the command line, parsed and checked but not yet merged with presets.

The command line builds these, commands take them. Fields are named after the options. None means
`not typed`: the value then comes from the run, the preset or the default. `K=V` texts stay texts,
because only the configuration knows the type that a key wants.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Checkpoint = Literal["best", "last"] | int
RESUME = ("never", "auto", "must")
BENCH_PARTS = ("update", "policy", "replay", "env")
OVERLAYS = ("reward", "value", "cont", "action", "kl")  # what a dream's picture says of each moment
SIZES = ("1m", "12m", "25m", "50m", "100m", "200m", "400m")


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """`dreamer train`.

    Attributes:
        env_kwarg, settings: texts `K=V`, as typed (`--env-kwarg`, `--set`), in order.
        preset: names or files, left to right.
        image_size: rows, columns.
        save_every: environment steps, or a duration such as `10m`.
        max_time: seconds.
        pixels, deterministic, compile: None if not typed.
        resume: None means auto with `run_dir`, else never.
        argv: the whole command line, for run.json.
    """

    env: str | None = None
    env_kwarg: tuple[str, ...] = ()
    preset: tuple[str, ...] = ()
    config: Path | None = None
    settings: tuple[str, ...] = ()
    steps: int | None = None
    size: str | None = None
    train_ratio: float | None = None
    num_envs: int | None = None
    vec: str | None = None
    pixels: bool | None = None
    image_size: tuple[int, int] | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    compile: bool | None = None
    deterministic: bool | None = None
    run_dir: Path | None = None
    runs_dir: Path | None = None
    name: str | None = None
    resume: str | None = None
    save_every: int | str | None = None
    keep: int | None = None
    max_time: float | None = None
    eval_every: int | None = None
    eval_episodes: int | None = None
    dream_every: int | None = None
    init_from: str | None = None
    log: tuple[str, ...] | None = None
    plan: bool = False
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """`dreamer evaluate RUN`. `policy` None: the run's own `eval_policy`; `output` ends in .json or .csv.

    `versus`: a second policy that plays the same episodes; `plan`: texts `K=V`, settings of the policy `plan`.
    """

    run: str
    runs_dir: Path | None = None
    checkpoint: Checkpoint | None = None
    episodes: int = 20
    num_envs: int | None = None
    seed: int | None = None
    policy: str | None = None
    versus: str | None = None
    plan: tuple[str, ...] = ()
    env: str | None = None
    env_kwarg: tuple[str, ...] = ()
    min_return: float | None = None
    video: Path | None = None
    output: Path | None = None
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImagineRequest:
    """`dreamer imagine RUN`. `scale`, `fps`, `out` None: chosen to fit.

    Attributes:
        source: where the context comes from, or a file of records.
        actions: of the mode `actions`.
        branch: words of the mode `branches`, as of `steering.parse_branches`.
        horizon: None: 45, and in the mode `actions` all that are given. samples: None: 6.
        plot: a picture of what `metrics` holds.
    """

    run: str
    runs_dir: Path | None = None
    checkpoint: Checkpoint | None = None
    out: Path | None = None
    mode: Literal["openloop", "policy", "actions", "branches"] = "openloop"
    source: Literal["env", "replay", "prior"] | Path = "env"
    actions: Path | None = None
    branch: tuple[str, ...] = ()
    layout: Literal["grid", "tree"] = "grid"
    context: int = 5
    horizon: int | None = None
    samples: int | None = None
    seed: int | None = None
    scale: int | None = None
    fps: int | None = None
    overlay: tuple[str, ...] = OVERLAYS
    metrics: Path | None = None
    plot: Path | None = None
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlayRequest:
    """`dreamer play RUN`. `policy` None: the run's own; `port` 0: any that is free."""

    run: str
    runs_dir: Path | None = None
    checkpoint: Checkpoint | None = None
    env: str | None = None
    env_kwarg: tuple[str, ...] = ()
    ui: Literal["web", "term"] = "web"
    port: int = 0
    open_browser: bool = False
    policy: Literal["mode", "sample"] | None = None
    fps: int = 15
    seed: int | None = None
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """`dreamer export RUN`. `out` None: a folder beside the run's checkpoints; `opset` None: the exporter's own."""

    run: str
    runs_dir: Path | None = None
    checkpoint: Checkpoint | None = None
    out: Path | None = None
    format: Literal["onnx", "pt2", "safetensors"] = "onnx"
    part: Literal["policy", "world", "all"] = "policy"
    verify: bool = True
    opset: int | None = None


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """`dreamer bench`.

    Attributes:
        preset, settings, env_kwarg: as of `TrainRequest`.
        size, precision: one configuration each; empty: the presets' own.
        obs: made-up spaces, where no environment is named; None: `vec`.
        sweep: keys of the configuration, each with the texts of its values: one configuration each.
        repeats: repetitions, of which the median is told.
        only: the parts that are measured.
        sections: tell where the time of an update goes.
    """

    preset: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    size: tuple[str, ...] = ()
    env: str | None = None
    env_kwarg: tuple[str, ...] = ()
    obs: Literal["px", "vec"] | None = None
    device: str | None = None
    precision: tuple[str, ...] = ()
    threads: int | None = None
    compile: bool | None = None
    sweep: tuple[tuple[str, tuple[str, ...]], ...] = ()
    repeats: int = 5
    only: tuple[str, ...] = BENCH_PARTS
    sections: bool = False
