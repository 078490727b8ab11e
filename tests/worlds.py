"""Learning curves of a few environments of other suites, three seeds each, beside chance; docs/explanation/worlds.md.

    python -m tests.worlds            # all that is missing; half an hour. Interrupted, it goes on where it was
    python -m tests.worlds --draw     # only the table and the picture, from the results there are

Results stand in docs/explanation/worlds.json; runs in runs/worlds.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.trials import ROOT, Trials, circumstances, dreamer, put

TRIALS = Trials(ROOT / "docs/explanation/worlds.json", ROOT / "runs" / "worlds")
PAGE, PICTURE = ROOT / "docs/explanation/worlds.md", ROOT / "docs/images/worlds.png"
SEEDS, EPISODES = (0, 1, 2), 20


class Task(NamedTuple):
    """What is played beside `-p cpu`: at most so many steps, for at most so long."""

    env: str
    steps: int
    max_time: str


TASKS = (
    Task("MinAtar/Breakout-v1", 40_000, "7m"),
    Task("dmc/cartpole-balance", 40_000, "9m"),
    Task("MiniGrid-Empty-5x5-v0", 8_000, "4m"),
)


def run(task: Task, seed: int, name: str) -> dict[str, Any]:
    """Train, play the last checkpoint and chance, and keep the returns of all training episodes."""
    where = TRIALS.fresh(name)
    began, now = time.monotonic(), circumstances()
    trained = dreamer(
        *("train", "--run-dir", str(where), "--env", task.env, "-p", "cpu", "--seed", str(seed), "--save-every", "2m"),
        *("--steps", str(task.steps), "--max-time", task.max_time, "--eval-every", "0"),
    )
    seconds = round(time.monotonic() - began)
    played = dreamer("evaluate", str(where), "--episodes", str(EPISODES), "--seed", "1000", "--versus", "random")
    with (where / "episodes.csv").open(newline="") as file:
        episodes = [(int(row["step"]), round(float(row["return"]), 4)) for row in csv.DictReader(file)]
    return {
        "return": played["return"]["mean"],
        "random": played["versus"]["return"]["mean"],
        "curve": curve(episodes, trained["steps"]),
        "steps": trained["steps"],
        "updates": trained["updates"],
        "updates_per_second": trained["updates_per_second"],
        "seconds": seconds,
        **now,
    }


def curve(episodes: list[tuple[int, float]], steps: int, parts: int = 20) -> list[tuple[int, float]]:
    """The mean return of the episodes that ended in each part of the run: (end of the part, mean); empty parts lack."""
    edges = [steps * (i + 1) // parts for i in range(parts)]
    found, before = [], 0
    for edge in edges:
        some = [ret for step, ret in episodes if before < step <= edge]
        found += [(edge, float(np.mean(some)))] if some else []
        before = edge
    return found


def main() -> None:
    """Run what is missing, two at a time; write the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="only the table and the picture")
    parser.add_argument("--side-by-side", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    if not args.draw:
        jobs = {f"{task.env}/{seed}": (task, seed) for seed in SEEDS for task in TASKS}
        TRIALS.run_missing(
            {name: lambda job=job, name=name: run(*job, name) for name, job in jobs.items()}, args.side_by_side
        )
    put(PAGE, "python -m tests.worlds --draw", table())
    draw(PICTURE)


def table() -> str:
    """One row for each environment."""
    found = TRIALS.results()
    lines = [
        "| environment | chance | return of each seed | environment steps | updates | minutes |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for task in TASKS:
        done = [found[name] for seed in SEEDS if (name := f"{task.env}/{seed}") in found]
        if not done:
            continue
        chance = np.mean([one["random"] for one in done])
        returns = ", ".join(f"{one['return']:.4g}" for one in done)
        steps, updates = (max(one[key] for one in done) for key in ("steps", "updates"))
        minutes = max(one["seconds"] for one in done) / 60
        lines.append(f"| `{task.env}` | {chance:.4g} | {returns} | {steps:,} | {updates:,} | {minutes:.1f} |")
    commits = ", ".join(sorted({one["commit"] for one in found.values()}))
    machines = ", ".join(sorted({one["machine"] for one in found.values()}))
    lines += ["", f"Two runs at a time on a machine of {machines}, each with one thread; commits {commits}."]
    return "\n".join(lines) + "\n"


def draw(path: Path) -> None:
    """A panel for each environment: each seed's curve, and chance."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = TRIALS.results()
    figure, panels = plt.subplots(1, len(TASKS), figsize=(10, 3), dpi=100, constrained_layout=True)
    for panel, task in zip(panels, TASKS, strict=True):
        done = [found[name] for seed in SEEDS if (name := f"{task.env}/{seed}") in found]
        for seed, one in enumerate(done):
            steps, returns = zip(*one["curve"], strict=True)
            panel.plot(steps, returns, color=f"C{seed}", linewidth=1.5, label=f"seed {seed}")
        if done:
            panel.axhline(np.mean([one["random"] for one in done]), color="gray", linestyle="--", label="chance")
        panel.set(title=task.env, xlabel="environment steps", ylabel="return")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
