"""The runs root: all runs under it, the index of what was started, and what RUN on the command line means."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dreamer_cli.errors import StateError, UsageError, closest
from dreamer_cli.files import open_append, open_file
from dreamer_cli.requests import Checkpoint
from dreamer_cli.runs import RunDir

INDEX = "index.jsonl"
MAX_INDEX_BYTES = 1_000_000
CHECKPOINT = re.compile(r"\d{9,18}")


@dataclass(frozen=True)
class Found:
    """What RUN on the command line named: a run, and a checkpoint's step if it named one."""

    run: RunDir
    step: int | None = None


def runs_root(runs_dir: Path | None = None) -> Path:
    """Where runs are kept: `--runs-dir`, else $DREAMER_RUNS, else ./runs."""
    return runs_dir or Path(os.environ.get("DREAMER_RUNS") or "runs")


def register(root: Path, run: RunDir) -> bool:
    """Note in the root's index that a run starts now, so that `@last` finds it wherever it lies.

    Call it once run.json is written. False if the root cannot be written, which must not stop a run elsewhere.
    """
    record = {"path": str(run.path.resolve()), "started": datetime.now(UTC).isoformat()}
    try:
        root.mkdir(parents=True, exist_ok=True)
        # One short write in append mode: two runs that start together do not tear each other's line.
        with open_append(root / INDEX) as file:
            file.write(json.dumps(record).encode() + b"\n")
    except OSError:
        return False
    return True


def find_checkpoint(
    text: str, runs_dir: Path | None = None, checkpoint: Checkpoint | None = None
) -> tuple[RunDir, Checkpoint]:
    """RUN and `--checkpoint` together: the run, and `best`, `last` or a step.

    Raises:
        StateError: see `find_run`.
        UsageError: RUN names a checkpoint and `--checkpoint` another time.
    """
    found = find_run(text, runs_dir)
    if found.step is not None and checkpoint is not None:
        raise UsageError(
            f"{text} is a checkpoint already, so --checkpoint {checkpoint} cannot choose one.",
            hint=f"Leave --checkpoint out, or name the run: {found.run.path}",
        )
    return found.run, found.step if found.step is not None else ("best" if checkpoint is None else checkpoint)


def list_runs(root: Path) -> list[RunDir]:
    """All runs under the root, `<root>/<env>/<run>` or directly `<root>/<run>`, by path."""
    found = []
    for first in _directories(root):
        if (first / "run.json").is_file():
            found.append(RunDir(first))
        else:
            found += [RunDir(second) for second in _directories(first) if (second / "run.json").is_file()]
    return sorted(found, key=lambda run: run.path)


def all_runs(root: Path) -> list[RunDir]:
    """The runs under the root, and those outside that its index knows."""
    inside = list_runs(root)
    known = {run.path.resolve() for run in inside}
    return inside + [RunDir(path) for path in sorted(_index(root)) if path not in known]


def find_run(text: str, runs_dir: Path | None = None) -> Found:
    """What RUN means: a run directory, a checkpoint directory inside one, a name under the root, or `@last`.

    Raises:
        StateError: nothing is meant, or several runs are.
    """
    root = runs_root(runs_dir)
    if text == "@last":
        return Found(_last(root))
    found = _by_path(Path(text)) if text else None
    if found is None and text and _is_inside(text):
        found = _by_path(root / text)
    if found is not None:
        return found
    runs = list_runs(root)
    named = [run for run in runs if text in _names(run)]
    if len(named) == 1:
        return Found(named[0])
    if named:
        listed = ", ".join(str(run.path) for run in named[:10]) + (", ..." if len(named) > 10 else "")
        raise StateError(f"{text!r} names {len(named)} runs: {listed}.", hint=f"Name one by its path: {named[-1].path}")
    known = [run.path.name for run in runs]
    raise StateError(
        f"There is no run {text!r}, neither as a directory nor under {root}.",
        hint=closest(text, known) + "`dreamer runs list` shows what there is; --runs-dir or $DREAMER_RUNS says where.",
    )


def _directories(path: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:  # not there, no directory, or nothing that we may look into
        return
    for entry in entries:
        place = Path(entry.path)
        if not entry.name.startswith(".") and _is_dir(place):  # unlike the entry's own, no error for a circle of links
            yield place


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for the file system names nothing
        return False


def _is_inside(text: str) -> bool:
    parts = Path(text).parts
    return not Path(text).is_absolute() and ".." not in parts


def _by_path(path: Path) -> Found | None:
    """The run, or the run and checkpoint, that lies at a path."""
    if not _is_dir(path):
        return None
    if (path / "run.json").is_file():
        return Found(RunDir(path))
    place = path.resolve()
    run = RunDir(place.parent.parent)
    if place.parent.name == "checkpoints" and CHECKPOINT.fullmatch(place.name) and run.holds_run():
        return Found(RunDir(_short(run.path)), int(place.name))
    return None


def _short(path: Path) -> Path:
    """Relative to here if it lies below, as people type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _names(run: RunDir) -> set[str]:
    """What a run answers to: its directory's name, the part after the time, and --name itself."""
    full = run.path.name
    part = re.fullmatch(r"\d{8}-\d{6}-(?P<tagged>(?P<name>.+)-s\d+)(-\d+)?", full)
    return {full, part["tagged"], part["name"]} if part else {full}


def _last(root: Path) -> RunDir:
    """The run that started last, by the root's index and by what lies under the root."""
    started: dict[Path, str] = {}
    for run in list_runs(root):
        try:
            started[run.path.resolve()] = str(run.read().get("started", ""))
        except StateError:
            continue  # a damaged neighbour does not hide the others
    for path, time in _index(root).items():
        started[path] = max(started.get(path, ""), time)
    if not started:
        raise StateError(f"No run was started under {root} yet.", hint="Start one: dreamer train --env CartPole-v1")
    return RunDir(_short(max(started, key=lambda path: started[path])))


def _index(root: Path) -> dict[Path, str]:
    """When each run of the root's index started last; torn lines, foreign lines and vanished runs are left out."""
    try:
        with open_file(root / INDEX) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_INDEX_BYTES))
            lines = file.read(MAX_INDEX_BYTES).splitlines()
    except OSError:
        return {}
    started: dict[Path, str] = {}
    for line in lines:
        try:
            record = json.loads(line)
            path, time = Path(str(record["path"])), str(record["started"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        started[path] = max(started.get(path, ""), time)
    return {path: time for path, time in started.items() if _holds_run(path)}


def _holds_run(path: Path) -> bool:
    try:
        return RunDir(path).holds_run()
    except OSError:  # somebody else's directory, or no path at all
        return False
