"""Trains every member of the family on a vector and a pixel task, and writes the table of docs/explanation/family.md.

    python -m tests.family                    # all that is missing; hours. Interrupted, it goes on where it was
    python -m tests.family planet r2dreamer   # some members
    python -m tests.family --table            # only the table, from the results there are

Results stand in docs/explanation/family.json, one for each member, task and seed; runs in runs/family.
"""

import argparse
import time
from typing import Any, NamedTuple

from tests.trials import ROOT, Trials, circumstances, dreamer, put, settings

TRIALS = Trials(ROOT / "docs/explanation/family.json", ROOT / "runs" / "family")
PAGE = ROOT / "docs/explanation/family.md"


class Task(NamedTuple):
    """What is played: an environment, for how many steps, at most how long, and with what beside `cpu`."""

    env: str
    steps: int
    max_time: str
    options: tuple[str, ...] = ()


# Evaluated now and then, and stopped where it is good: 475 is what Gymnasium calls solved.
TASKS = {
    "CartPole": Task("CartPole-v1", 8000, "8m", settings("run.eval_every=500", "run.stop_return=475")),
    # Records of chance first: who swings in only one way from the beginning never sees what lies above.
    "Pendulum": Task(
        "Pendulum-v1",
        12000,
        "8m",
        settings(
            *("env.repeat=2", "run.prefill=1000", "run.train_ratio=128", "run.eval_every=2000", "run.stop_return=-200")
        ),
    ),
    "Catch": Task(
        "./tests/catch.py:Catch",
        8000,
        "5m",
        settings("run.eval_every=500", "run.eval_episodes=40", "run.stop_return=0.95"),
    ),
}
EPISODES = 20
FULL, SINGLE = (0, 1, 2), (0,)


class Trial(NamedTuple):
    """The seeds that a member is trained with on a task, and what it is trained with beside the task's own."""

    seeds: tuple[int, ...]
    options: tuple[str, ...] = ()


# Preset → task → trial.
MEMBERS = {
    # The planner takes longer than the updates, and evaluations are dear: the best is by the last episodes of training.
    "planet": {
        "Pendulum": Trial(FULL, settings("run.eval_every=0")),
        "Catch": Trial(FULL, settings("run.eval_every=0", "run.train_ratio=128")),
    },
    # Its returns are not scaled: the values of Pendulum have to be within reach, and entropy to count beside them.
    "dreamerv1": {
        "Pendulum": Trial(FULL, settings("behaviour.discount_horizon=20", "behaviour.entropy=1")),
        "Catch": Trial(FULL),
    },
    "dreamerv2": {"CartPole": Trial(FULL), "Catch": Trial(FULL)},
    "dreamerv3": {"CartPole": Trial(FULL), "Catch": Trial(FULL)},
    "dreamerv3-2023": {"Pendulum": Trial(FULL), "Catch": Trial(SINGLE)},
    "r2dreamer": {"CartPole": Trial(FULL), "Catch": Trial(FULL)},
    "infonce": {"CartPole": Trial(FULL), "Catch": Trial(SINGLE)},
    # Its shifts of 3 pixels were made for 64x64; of 16 they hide where the ball is.
    "dreamerpro": {"CartPole": Trial(FULL), "Catch": Trial(SINGLE, settings("world.objective.pad=1"))},
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


def run(job: Job) -> dict[str, Any]:
    """Train, evaluate the best checkpoint, and say what came of it. What was interrupted begins anew: time counts."""
    task, trial = TASKS[job.task], MEMBERS[job.member][job.task]
    options = [*task.options, *trial.options]
    where = TRIALS.fresh(job.name)
    began, now = time.monotonic(), circumstances()
    trained = dreamer(
        *("train", "--run-dir", str(where), "--env", task.env, "-p", job.member, "-p", "cpu"),
        *("--steps", str(task.steps), "--max-time", task.max_time, "--seed", str(job.seed), "--save-every", "2m"),
        *options,
    )
    seconds = round(time.monotonic() - began)
    played = dreamer("evaluate", str(where), "--checkpoint", "best", "--episodes", str(EPISODES), "--seed", "1000")
    return {
        "return": played["return"]["mean"],
        "std": played["return"]["std"],
        "best_step": played["checkpoint_step"],
        "steps": trained["steps"],
        "updates": trained["updates"],
        "updates_per_second": trained["updates_per_second"],
        "seconds": seconds,
        "options": " ".join(options),
        **now,
    }


def jobs(members: list[str]) -> list[Job]:
    """All runs, first seeds first."""
    listed = [Job(m, task, seed) for m in members for task, trial in MEMBERS[m].items() for seed in trial.seeds]
    return sorted(listed, key=lambda job: job.seed)


def main() -> None:
    """Run what is missing, two at a time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", nargs="*", choices=[*MEMBERS, []], metavar="MEMBER")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--side-by-side", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    if not args.table:
        listed = {job.name: job for job in jobs(args.members or list(MEMBERS))}
        TRIALS.run_missing({name: lambda job=job: run(job) for name, job in listed.items()}, args.side_by_side)
    put(PAGE, "python -m tests.family --table", table())


def table() -> str:
    """One row for each member and task."""
    found = TRIALS.results()
    lines = ["| member | task | seeds | return of each | updates | updates/s |", "|---|---|---:|---|---:|---:|"]
    for name, tasks in MEMBERS.items():
        for task, trial in tasks.items():
            done = [found[job.name] for job in (Job(name, task, seed) for seed in trial.seeds) if job.name in found]
            if not done:
                continue
            returns = ", ".join(f"{one['return']:.4g}" for one in done)
            speed = [one["updates_per_second"] for one in done if one["updates_per_second"]]
            rate = f"{sum(speed) / len(speed):.3g}" if speed else ""
            numbers = f"{max(one['updates'] for one in done)} | {rate}"
            lines.append(f"| `{name}` | {task} | {len(done)} | {returns} | {numbers} |")
    commits = ", ".join(sorted({one["commit"] for one in found.values()}))
    machines = ", ".join(sorted({one["machine"] for one in found.values()}))
    lines += ["", f"Two runs at a time on a busy machine of {machines}, each with one thread; commits {commits}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
