"""Every metric that is written: its unit and what it means.

The reference page is made from this table, and a test refuses metrics that it does not list.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """One metric, or one family of them.

    Attributes:
        unit: what 1.0 is one of; empty for plain numbers.
        meaning: one line.
        repeatable: whether the same run gives the same number again; False for times and memory.
    """

    unit: str
    meaning: str
    repeatable: bool = True


def _clock(unit: str, meaning: str) -> Metric:
    return Metric(unit, meaning, repeatable=False)


# Losses and everything that the learner measures are means over the updates since the last record.
SECTIONS: dict[str, dict[str, Metric]] = {
    "Where the run stands": {
        "time": _clock("s", "when the record was written, in seconds since 1970"),
        "step": Metric("env steps", "environment steps so far, action repeat included"),
        "updates": Metric("updates", "optimiser steps so far"),
        "episodes": Metric("episodes", "real episodes finished so far"),
        "env/restarts": Metric("", "environments that crashed and were restarted so far (env.on_crash)"),
    },
    "Episodes": {
        "episode/return": Metric("reward", "sum of rewards, mean over the episodes since the last record"),
        "episode/length": Metric("env steps", "length, mean over the episodes since the last record"),
        "episode/count": Metric("episodes", "episodes finished since the last record"),
    },
    "Evaluation": {
        "eval/return_mean": Metric("reward", "sum of rewards, mean over the evaluation's episodes"),
        "eval/return_std": Metric("reward", "standard deviation of the evaluation's returns"),
        "eval/length_mean": Metric("env steps", "length, mean over the evaluation's episodes"),
        "eval/episodes": Metric("episodes", "episodes that were played"),
    },
    "Losses, before they are scaled": {
        "loss/total": Metric("", "the sum that is minimised: every loss times its scale"),
        "loss/dyn": Metric("nats", "KL that teaches the prior to foresee the posterior, after free nats"),
        "loss/rep": Metric("nats", "KL that keeps the posterior predictable, after free nats"),
        "loss/reward": Metric("nats", "negative log-likelihood of the reward"),
        "loss/cont": Metric("nats", "negative log-likelihood of whether the episode continues"),
        "loss/actor": Metric("", "policy loss on imagined states, entropy bonus included"),
        "loss/critic": Metric(
            "nats", "negative log-likelihood of the imagined returns, with the pull to the slow critic"
        ),
        "loss/replay_critic": Metric("nats", "the critic's loss on replayed states"),
        "loss/decorrelate": Metric("", "how far states and what was seen are from saying the same, number by number"),
        "loss/contrast": Metric("nats", "negative log-likelihood of what was seen in a state among all that was seen"),
        "loss/swav": Metric("nats", "one view's prototypes foretold from the other view"),
        "loss/temp": Metric("nats", "prototypes of what was seen foretold from the state"),
        "loss/norm": Metric("", "how far projections are from length 1"),
        "loss/overshoot": Metric("nats", "KL of the prior several steps ahead, after free nats"),
        "loss/preview": Metric("", "the preview decoder's errors, which the model does not feel"),
        "loss/ensemble": Metric("", "squared errors of the models whose disagreement is rewarded"),
    },
    "World model": {
        "kl": Metric("nats", "KL from prior to posterior, before free nats"),
        "entropy/prior": Metric("nats", "entropy of the model's guess before it sees the observation"),
        "entropy/post": Metric("nats", "entropy of the guess after it has seen the observation"),
    },
    "Behaviour": {
        "entropy/actor": Metric(
            "nats", "entropy of the policy on imagined states; near its floor it no longer explores"
        ),
        "return/imagined": Metric("reward", "mean lambda-return of the dreams"),
        "return/scale": Metric("reward", "what advantages are divided by: the running range of imagined returns"),
        "return/value": Metric("reward", "the critic's mean on imagined states"),
        "return/advantage": Metric("", "mean magnitude of the scaled advantage, (imagined return - value) / scale"),
        "return/reward": Metric("reward", "mean reward that the model predicts in its dreams"),
        "return/cont": Metric("", "mean chance that a dreamt episode continues"),
    },
    "Optimiser": {
        "optim/grad_norm": Metric("", "norm of all gradients together, before clipping"),
        "optim/clipped": Metric("fraction", "share of the parameter tensors whose gradient was clipped"),
        "optim/lr": Metric("", "learning rate, warm-up included"),
        "update/skipped": Metric(
            "fraction", "share of the updates that were skipped: a loss or gradient was not finite"
        ),
    },
    "Replay": {
        "replay/records": Metric("records", "records stored"),
        "replay/capacity": Metric("records", "records that fit"),
        "replay/bytes": Metric("bytes", "memory that the stored records fill"),
        "replay/ratio": Metric("", "replayed records per collected record so far"),
    },
    "Where the time goes, in seconds since the last record": {
        "wall_seconds": _clock("s", "all of it"),
        "env_seconds": _clock("s", "stepping and resetting environments, or waiting for them (run.overlap)"),
        "policy_seconds": _clock("s", "choosing actions"),
        "replay_seconds": _clock("s", "storing and sampling records"),
        "update_seconds": _clock("s", "learning"),
        "eval_seconds": _clock("s", "evaluating"),
        "dream_seconds": _clock("s", "filming dreams"),
        "save_seconds": _clock("s", "saving checkpoints"),
        "env_steps_per_second": _clock("env steps/s", "speed since the last record"),
        "updates_per_second": _clock("updates/s", "speed since the last record"),
    },
    "Memory": {
        "memory/process_bytes": _clock("bytes", "resident memory of the training process, without its workers"),
        "memory/device_bytes": _clock("bytes", "accelerator memory that torch holds"),
    },
}

# Names with a part that depends, in capitals: an observation key, an action's entry, a section of the update.
FAMILIES: dict[str, Metric] = {
    "told/NAME": Metric(
        "", "what the environment tells of its episodes (its `episode_info`), mean since the last record"
    ),
    "loss/KEY": Metric("nats", "negative log-likelihood (or squared error) of the observation KEY"),
    "entropy/actor/ENTRY": Metric("nats", "entropy of the policy over one entry of the action"),
    "profile/SECTION": _clock(
        "s", "this section of one update (encoder, observe, ...), mean over those that run.profile_every chose"
    ),
}

METRICS: dict[str, Metric] = {name: metric for section in SECTIONS.values() for name, metric in section.items()}


def find(name: str) -> Metric | None:
    """The entry of a metric, by name or by family; None if it has none."""
    if name in METRICS:
        return METRICS[name]
    for family, metric in FAMILIES.items():
        prefix = family.rpartition("/")[0] + "/"
        if name.startswith(prefix) and len(name) > len(prefix):
            return metric
    return None


def unlisted(names: Iterable[str]) -> list[str]:
    """The names that lack an entry, sorted. Tests want this empty for whatever a run wrote."""
    return sorted(name for name in names if find(name) is None)


def repeatable(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without times and memory: what two equal runs agree on."""
    return {name: value for name, value in record.items() if (metric := find(name)) is None or metric.repeatable}


def reference_page() -> str:
    """The page of `docs/reference/` that explains every metric, as Markdown."""
    lines = [
        "# Metrics",
        "",
        "`metrics.jsonl` holds one JSON record a line. Every record has `time`, `step`, `updates` and `episodes`,",
        "and those of the metrics below that there was something to say about. What the learner measures is the mean",
        "over the updates since the last record that were not skipped. A number that is not finite is `null`.",
    ]
    for title, section in [*SECTIONS.items(), ("Families", FAMILIES)]:
        lines += ["", f"## {title}", "", "| metric | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {metric.unit} | {metric.meaning} |" for name, metric in section.items()]
    return "\n".join(lines) + "\n"
