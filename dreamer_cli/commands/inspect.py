"""`dreamer inspect`: what a run is, how far it came, what its model is made of, and whether its files are whole."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.commands.assemble import checkpoint_limits, outline, saved_spec
from dreamer_cli.commands.listing import TAIL_BYTES, summarise
from dreamer_cli.config import Config, load_config
from dreamer_cli.errors import StateError
from dreamer_cli.findrun import find_checkpoint
from dreamer_cli.log import read_metrics
from dreamer_cli.numbers import format_bytes, format_count
from dreamer_cli.registry import to_tree
from dreamer_cli.report import Reporter, Result, shell_line
from dreamer_cli.requests import Checkpoint
from dreamer_cli.runs import RunDir
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.table import table
from dreamer_cli.trees import leaves
from dreamer_cli.yamlio import dump_value


@dataclass(frozen=True)
class Verified:
    """One checkpoint: `problem` is empty if every file has the size and SHA-256 of its manifest."""

    step: int
    path: str
    bytes: int
    best: bool
    problem: str


def inspect(
    text: str,
    report: Reporter,
    runs_dir: Path | None = None,
    checkpoint: Checkpoint | None = None,
    origin: bool = False,
) -> Result:
    """Everything about a run; exit code 4 if a checkpoint is damaged, with all the rest still printed.

    Raises:
        StateError: no such run or checkpoint, or its settings cannot be read.
    """
    run, which = find_checkpoint(text, runs_dir, checkpoint)
    record, cfg, spec = run.read(), load_config(run.config), saved_spec(run)
    agent = outline(cfg, spec)  # shapes without memory: the counts of a 400M model cost nothing
    limits = checkpoint_limits(cfg, agent)
    checks = verify(run, report, limits)
    chosen = _choose(run, which, which != "best", limits)
    parameters = agent.parameter_counts()
    damaged = [check for check in checks if check.problem]
    told = {
        **_state(run, record),
        "checkpoint_step": chosen,
        "checkpoints": [asdict(check) for check in checks],
        "integrity": {"ok": not damaged, "checkpoints": len(checks), "damaged": [check.step for check in damaged]},
        "parameters": parameters,
        **spec.to_json(),
        "config": to_tree(cfg),
    }
    origins = record.get("origins")
    if origin:
        told["origins"] = origins if isinstance(origins, Mapping) else {}
    lines = [
        *_summary(told, spec, checks),
        *_parameters(parameters),
        *(_settings(cfg, told["origins"]) if origin else ()),
    ]
    return Result(told, lines, _problem(run, damaged))


def verify(run: RunDir, report: Reporter, limits: Mapping[str, int] | None = None) -> list[Verified]:
    """Check every file of every checkpoint against its manifest, and its size against the model's (`limits`)."""
    checkpoints = Checkpoints(run.checkpoints, warn=report.warn, limits=limits)
    best, steps, found = checkpoints.best(), checkpoints.steps(), []
    with report.progress("verifying", total=len(steps)) as progress:
        for step in steps:
            path, problem = checkpoints.path(step), ""
            try:
                checkpoints.verify(path)
            except StateError as error:
                problem = error.what
            if not path.is_dir():  # a running training deleted it just now
                continue
            size = sum(file.lstat().st_size for file in path.glob("*"))
            found.append(Verified(step, str(path), size, best is not None and best["step"] == step, problem))
            progress.advance()
    return found


def _choose(run: RunDir, which: Checkpoint, asked: bool, limits: Mapping[str, int]) -> int | None:
    """The step that `--checkpoint` means; None if there is nothing to choose from and nothing was asked for."""
    # What is damaged was reported by `verify` already, in one place.
    checkpoints = Checkpoints(run.checkpoints, warn=lambda text: None, limits=limits)
    try:
        return int(checkpoints.choose(which).name)
    except StateError:
        if asked:
            raise
        return None


def _problem(run: RunDir, damaged: list[Verified]) -> StateError | None:
    if not damaged:
        return None
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    hint = (
        f"The others are whole; `{shell_line('dreamer', 'train', '--run-dir', str(run.path))}` goes on from the newest."
    )
    return StateError(f"{damaged[0].problem.rstrip('.')}{more}.", hint=hint)


def _state(run: RunDir, record: Mapping[str, Any]) -> dict[str, Any]:
    """Where the run stands, from run.json and the end of its metrics."""
    row = summarise(run)
    last = (read_metrics(run.metrics, TAIL_BYTES) or [{}])[-1]
    names = ("exit_code", "presets", "seed", "device", "host", "command", "versions", "inexact")
    kept = {key: record.get(key) for key in names}
    return {
        "run": str(run.path),
        "status": row.status,
        "env": row.env,
        **kept,
        "started": row.started,
        "steps": row.steps,
        "updates": last.get("updates"),
        "episodes": last.get("episodes"),
        "last_return": row.last_return,
        "best_return": row.best_return,
    }


def _summary(told: Mapping[str, Any], spec: EnvSpec, checks: list[Verified]) -> list[str]:
    total = told["config"]["run"]["steps"]
    versions = told["versions"] or {}
    rows = {
        "run": told["run"],
        "status": told["status"],
        "started": f"{told['started']} on {told['host']}",
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("dreamer", "torch") if name in versions),
        "env": f"{told['env']}, seed {told['seed']}, {told['device']}",
        "presets": " + ".join(told["presets"] or ()),
        "steps": f"{told['steps']} of {total}; {told['updates'] or 0} updates, {told['episodes'] or 0} episodes",
        "exact": f"no: {'; '.join(map(str, told['inexact']))}" if told["inexact"] else "yes, stops changed nothing",
        "returns": f"last {_number(told['last_return'])}, best {_number(told['best_return'])}",
    }
    lines = [f"{name:<13}{value}" for name, value in rows.items()]
    for i, (key, obs) in enumerate(spec.observation.items()):
        shape = "x".join(map(str, obs.shape))
        values = f", {'/'.join(map(str, obs.classes))} values" if obs.classes else ""
        lines.append(f"{'observation' if not i else '':<13}{key}: {obs.kind} {shape}{values}")
    for i, part in enumerate(spec.action):
        takes = "/".join(map(str, part.classes)) + " choices" if part.classes else f"{part.size} numbers"
        lines.append(f"{'action' if not i else '':<13}{part.key}: {takes}")
    if not checks:
        lines.append(f"{'checkpoints':<13}none yet")
    for i, check in enumerate(checks):
        state = check.problem or f"whole, {format_bytes(check.bytes)}"
        lines.append(f"{'checkpoints' if not i else '':<13}{check.step:09d}{' (best)' if check.best else ''} {state}")
    return lines


def _parameters(parameters: Mapping[str, int]) -> Iterator[str]:
    for i, (name, number) in enumerate(parameters.items()):
        yield f"{'parameters' if not i else '':<13}{name:<10} {number:>12,}  {format_count(number)}".rstrip()


def _settings(cfg: Config, origins: Mapping[str, str]) -> list[str]:
    rows = [[key, dump_value(value), str(origins.get(key, "unknown"))] for key, value in leaves(to_tree(cfg))]
    return ["", *table(["setting", "value", "origin"], rows, width=120, give="value")]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
