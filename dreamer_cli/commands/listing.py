"""`dreamer runs list`: every run under the root (and those its index knows elsewhere), one line each.

Reads only the ends of long files, so that a hundred runs are listed at once. All episodes are read only of a run
without a scored checkpoint, and such a run is short.
"""

from dataclasses import dataclass
from pathlib import Path

from dreamer_cli.errors import StateError, UsageError, closest
from dreamer_cli.findrun import all_runs, runs_root
from dreamer_cli.log import Episode, Record, read_episodes, read_metrics
from dreamer_cli.manifest import read_best
from dreamer_cli.numbers import format_count
from dreamer_cli.report import Reporter, Result
from dreamer_cli.runs import STATUSES, RunDir
from dreamer_cli.table import table

SHOWN = (*STATUSES, "dead", "damaged")
LAST = 10  # episodes in `last return`, as papers report training returns
TAIL_BYTES = 65_536
MOST_STEPS = 10**18  # larger numbers are damage


@dataclass(frozen=True)
class Row:
    """One run in the list. Returns are sums of rewards; None where no episode has ended yet."""

    path: str
    name: str
    env: str | None
    status: str
    steps: int
    last_return: float | None
    best_return: float | None
    started: str | None


def list_runs(
    report: Reporter, runs_dir: Path | None = None, env: str | None = None, status: str | None = None
) -> Result:
    """The runs, oldest first.

    Raises:
        UsageError: there is no such status.
    """
    if status is not None and status not in SHOWN:
        raise UsageError(f"--status is {status!r}.", hint=closest(status, SHOWN) + f"Known: {', '.join(SHOWN)}.")
    root = runs_root(runs_dir)
    rows = [summarise(run) for run in all_runs(root)]
    rows = [row for row in rows if env in (None, row.env) and status in (None, row.status)]
    rows.sort(key=lambda row: (row.started or "", row.path))
    if not rows:
        report.note(f"No runs under {root}{' that fit' if env or status else ''}.")
    return Result({"root": str(root), "runs": [vars(row) for row in rows]}, _text(rows))


def summarise(run: RunDir) -> Row:
    """What can be said about a run at a glance; a damaged run.json is a status, not an error."""
    try:
        record, status = run.read(), run.status()
    except StateError:
        record, status = {}, "damaged"
    records = read_metrics(run.metrics, TAIL_BYTES)
    recent = read_episodes(run.episodes, TAIL_BYTES)[-LAST:]
    env, started = record.get("env"), record.get("started")
    return Row(
        path=str(run.path),
        name=run.path.name,
        env=str(env) if env is not None else None,
        status=status,
        steps=_steps(run, records, recent),
        last_return=_mean(recent),
        best_return=_best(run),
        started=str(started) if started is not None else None,
    )


def _steps(run: RunDir, records: list[Record], episodes: list[Episode]) -> int:
    """The furthest step that any file knows of."""
    known = [record["step"] for record in records[-1:]] + [episode.step for episode in episodes[-1:]]
    known += [int(path.name) for path in run.checkpoints.glob("[0-9]*") if path.name.isdecimal()]
    return max((step for step in known if step < MOST_STEPS), default=0)


def _best(run: RunDir) -> float | None:
    """The score of the best checkpoint; before the first one, the best mean of ten episodes in a row."""
    try:
        best = read_best(run.checkpoints)
    except StateError:
        best = None
    if best is not None:
        return float(best["score"])
    episodes = read_episodes(run.episodes)
    means = [_mean(episodes[i : i + LAST]) for i in range(max(1, len(episodes) - LAST + 1))]
    return max((mean for mean in means if mean is not None), default=None)


def _mean(episodes: list[Episode]) -> float | None:
    return sum(episode.ret for episode in episodes) / len(episodes) if episodes else None


def _text(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    header = ["run", "env", "status", "steps", "last", "best"]
    cells = [
        [row.name, row.env or "-", row.status, format_count(row.steps), _show(row.last_return), _show(row.best_return)]
        for row in rows
    ]
    return table(header, cells, right=("steps", "last", "best"), give="env")


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
