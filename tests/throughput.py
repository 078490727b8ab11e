"""How fast environments of each suite step, by vectorisation and number; the table in docs/explanation/performance.md.

    python -m tests.throughput        # a quarter of an hour, on a machine that does nothing else

All cases of an environment are measured in turn by `dreamer bench`, in one process.
"""

from typing import Any

from tests.trials import ROOT, circumstances, dreamer, put, settings

PAGE = ROOT / "docs/explanation/performance.md"
NUMBERS = (1, 8, 16)
WORLDS: dict[str, tuple[str, ...]] = {
    "CartPole-v1": (),
    "MinAtar/Breakout-v1": (),
    "MiniGrid-Empty-5x5-v0": (),
    "ALE/Pong-v5": (),
    "dmc:walker-walk": (),
    "dmc:walker-walk, pixels": settings("env.pixels=only"),
}


def measured(name: str, options: tuple[str, ...]) -> list[dict[str, Any]]:
    """What `dreamer bench` says of each vectorisation and number of one environment."""
    env = name.split(",")[0]
    vecs = "sync,async,native" if env.startswith("ALE/") else "sync,async"
    sweeps = ("--sweep", f"env.vec={vecs}", "--sweep", f"run.num_envs={','.join(map(str, NUMBERS))}")
    return [run["env"] for run in dreamer("bench", "--only", "env", "--env", env, *options, *sweeps)["runs"]]


def rows(name: str, found: list[dict[str, Any]]) -> list[str]:
    """A line for each vectorisation, and one for ALE's own."""

    def line(vec: str, key: str, label: str) -> str:
        rates = {one["num_envs"]: one[key] for one in found if one["vec"] == vec}
        return f"| {name} | {label} | " + " | ".join(f"{rates[number]:,.0f}" for number in NUMBERS) + " |"

    lines = []
    for vec in dict.fromkeys(one["vec"] for one in found):
        lines += [line(vec, "steps_per_second", f"`{vec}`")]
        if vec == "native":
            lines += [line(vec, "collected_steps_per_second", "`native`, into the replay")]
            lines += [line(vec, "bare_steps_per_second", "ALE's own vector")]
    return lines


def main() -> None:
    """Measure all, and write the table."""
    now = circumstances()
    lines = [
        "| environment | vectorisation | " + " | ".join(map(str, NUMBERS)) + " |",
        "|---|---|" + "---:|" * len(NUMBERS),
    ]
    for name, options in WORLDS.items():
        lines += rows(name, measured(name, options))
        print(*lines[-5:], sep="\n", flush=True)
    lines += ["", f"On a machine of {now['machine']}, which did nothing else; commit {now['commit']}."]
    put(PAGE, "python -m tests.throughput", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
