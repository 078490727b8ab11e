"""Trainings whose outcome stands in the docs: run side by side, resumable, and said under which circumstances."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent


def settings(*assignments: str) -> tuple[str, ...]:
    """KEY=VALUE, as options."""
    return tuple(word for assignment in assignments for word in ("-s", assignment))


def dreamer(*argv: str) -> dict[str, Any]:
    """The JSON of one command; 75 (out of time) is a result, too."""
    command = [sys.executable, "-m", "dreamer_cli", *argv, "--json", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    answer = json.loads(done.stdout)
    if done.returncode not in (0, 75):
        raise RuntimeError(f"{' '.join(argv)}: {answer['error']['message']}")
    return answer


def circumstances() -> dict[str, str]:
    """The commit that runs, and the machine."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {"commit": asked.stdout.strip(), "machine": f"{os.cpu_count()} x {platform.machine()}"}


class Trials(NamedTuple):
    """A file of results by name, and the directory of their runs."""

    file: Path
    runs: Path

    def results(self) -> dict[str, dict[str, Any]]:
        """What there is already."""
        return json.loads(self.file.read_text()) if self.file.is_file() else {}

    def fresh(self, name: str) -> Path:
        """The directory of a run, which does not exist: what was interrupted begins anew."""
        shutil.rmtree(self.runs / name, ignore_errors=True)
        return self.runs / name

    def run_missing(self, jobs: Mapping[str, Callable[[], dict[str, Any]]], side_by_side: int) -> None:
        """Call those without a result, some at a time, and write each down as it comes."""
        missing = {name: job for name, job in jobs.items() if name not in self.results()}
        with ThreadPoolExecutor(side_by_side) as pool:
            running = {pool.submit(job): name for name, job in missing.items()}
            for done in as_completed(running):
                every = {**self.results(), running[done]: done.result()}
                self.file.write_text(json.dumps(dict(sorted(every.items())), indent=1) + "\n")
                print(running[done], done.result(), flush=True)


def put(page: Path, command: str, text: str) -> None:
    """Write what a command makes between its marks in a page."""
    begin, end = f"<!-- begin: {command} -->", "<!-- end -->"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{head}{begin}\n{text}{end}{rest.split(end, 1)[1]}", encoding="utf-8")
