"""Trains every member of the family on a vector and a pixel task, and writes the table of docs/explanation/family.md.

    python -m tests.family                    # all that is missing; hours. Interrupted, it goes on where it was
    python -m tests.family planet r2dreamer   # some members
    python -m tests.family --table            # only the table, from the results there are

Results stand in docs/explanation/family.json, one for each member, task and seed; runs in runs/family.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "docs/explanation/family.json", ROOT / "docs/explanation/family.md"
BEGIN, END = "<!-- begin: python -m tests.family --table -->", "<!-- end -->"


class Task(NamedTuple):
    """What is played: an environment, for how many steps, at most how long; what chance and the best come to."""

    env: str
    steps: int
    max_time: str
    options: tuple[str, ...] = ()


TASKS = {
    "CartPole": Task("CartPole-v1", 8000, "8m"),
    "Pendulum": Task("Pendulum-v1", 8000, "8m"),
    "Catch": Task("./tests/catch.py:Catch", 6000, "5m"),
}
EPISODES = 20
FULL, SINGLE = (0, 1, 2), (0,)


class Member(NamedTuple):
    """A preset, the seeds it is trained with on each task, and what it is trained with beside `cpu`."""

    preset: str
    tasks: dict[str, tuple[int, ...]]
    options: tuple[str, ...] = ()


MEMBERS = {
    "planet": Member("planet", {"Pendulum": FULL, "Catch": FULL}),
    "dreamerv1": Member("dreamerv1", {"Pendulum": FULL, "Catch": FULL}),
    "dreamerv2": Member("dreamerv2", {"CartPole": FULL, "Catch": FULL}),
    "dreamerv3": Member("dreamerv3", {"CartPole": FULL, "Catch": FULL}),
    "dreamerv3-2023": Member("dreamerv3-2023", {"Pendulum": FULL, "Catch": SINGLE}),
    "r2dreamer": Member("r2dreamer", {"CartPole": FULL, "Catch": FULL}),
    "infonce": Member("infonce", {"CartPole": FULL, "Catch": SINGLE}),
    "dreamerpro": Member("dreamerpro", {"CartPole": FULL, "Catch": SINGLE}),
}


class Job(NamedTuple):
    """One run."""

    member: str
    task: str
    seed: int

    @property
    def name(self) -> str:
        """As results and run directories call it."""
        return f"{self.member}/{self.task}/{self.seed}"


def results() -> dict[str, dict[str, Any]]:
    """What there is already."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def dreamer(*argv: str) -> dict[str, Any]:
    """The JSON of one command; 75 (out of time) is a result, too."""
    command = [sys.executable, "-m", "dreamer_cli", *argv, "--json", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    answer = json.loads(done.stdout)
    if done.returncode not in (0, 75):
        raise RuntimeError(f"{' '.join(argv)}: {answer['error']['message']}")
    return answer


def run(job: Job) -> dict[str, Any]:
    """Train, evaluate the newest checkpoint, and say what came of it."""
    member, task = MEMBERS[job.member], TASKS[job.task]
    where = ROOT / "runs" / "family" / job.name
    began = time.monotonic()
    trained = (
        dreamer(
            *("train", "--run-dir", str(where), "--env", task.env, "-p", member.preset, "-p", "cpu"),
            *("--steps", str(task.steps), "--max-time", task.max_time, "--seed", str(job.seed), "--save-every", "2m"),
            *(*task.options, *member.options),
        )
        if not (where / "done.json").is_file()
        else json.loads((where / "done.json").read_text())
    )
    (where / "done.json").write_text(json.dumps(trained))
    played = dreamer("evaluate", str(where), "--checkpoint", "last", "--episodes", str(EPISODES), "--seed", "1000")
    counts = last_record(where)
    return {
        "steps": counts["step"],
        "updates": counts["updates"],
        "seconds": round(time.monotonic() - began),
        "updates_per_second": trained.get("updates_per_second"),
        "return": played["return"]["mean"],
        "std": played["return"]["std"],
        "commit": commit(),
        "machine": f"{os.cpu_count()} x {platform.machine()}",
    }


def last_record(where: Path) -> dict[str, Any]:
    """The newest record of metrics.jsonl."""
    return json.loads((where / "metrics.jsonl").read_text().splitlines()[-1])


def commit() -> str:
    """The commit that ran."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


def jobs(members: list[str]) -> list[Job]:
    """All runs, first seeds first."""
    listed = [Job(m, task, seed) for m in members for task, seeds in MEMBERS[m].tasks.items() for seed in seeds]
    return sorted(listed, key=lambda job: job.seed)


def main() -> None:
    """Run what is missing, two at a time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", nargs="*", choices=[*MEMBERS, []], metavar="MEMBER")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--side-by-side", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    missing = [job for job in jobs(args.members or list(MEMBERS)) if job.name not in results()]
    if not args.table:
        with ThreadPoolExecutor(args.side_by_side) as pool:
            for job, outcome in zip(missing, pool.map(run, missing), strict=True):
                RESULTS.write_text(json.dumps({**results(), job.name: outcome}, indent=1) + "\n")
                print(job.name, outcome, flush=True)
    write_table()


def write_table() -> None:
    """Put the table between its marks in the page."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{table()}{END}{rest.split(END)[1]}", encoding="utf-8")


def table() -> str:
    """One row for each member and task."""
    found = results()
    lines = ["| member | task | return of each seed | updates | updates/s |", "| --- | --- | --- | ---: | ---: |"]
    for name, member in MEMBERS.items():
        for task, seeds in member.tasks.items():
            done = [found[job.name] for job in (Job(name, task, seed) for seed in seeds) if job.name in found]
            if not done:
                continue
            returns = ", ".join(f"{one['return']:.4g}" for one in done)
            speed = [one["updates_per_second"] for one in done if one["updates_per_second"]]
            rate = f"{sum(speed) / len(speed):.3g}" if speed else ""
            lines.append(f"| `{name}` | {task} | {returns} | {max(one['updates'] for one in done)} | {rate} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
