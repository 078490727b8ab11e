"""Scores that a suite is reported by, beside the mean return."""

import csv
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).parent / "tables" / "atari_scores.csv"


class Anchors(NamedTuple):
    """Returns in an Atari game, in points: of chance, and of a professional tester."""

    random: float
    human: float


@cache
def anchors() -> dict[str, Anchors]:
    """Of 57 games, by name (`ms_pacman`). Source: Wang et al. 2016 (arXiv 1511.06581), episodes begun by no-ops."""
    with TABLE.open(newline="") as file:
        return {row["game"]: Anchors(float(row["random"]), float(row["human"])) for row in csv.DictReader(file)}


def human_normalised(env_id: str, ret: float) -> float | None:
    """A return in percent of the way from chance to human; None where the game is not in the table."""
    if not env_id.startswith("ALE/"):
        return None
    name = env_id.removeprefix("ALE/").rpartition("-v")[0].lower()
    known = {game.replace("_", ""): anchor for game, anchor in anchors().items()}.get(name)
    return None if known is None else 100 * (ret - known.random) / (known.human - known.random)


def crafter_score(told: Mapping[str, float]) -> float | None:
    """Geometric mean of success rates in percent, exp(mean of ln(1 + s)) - 1; None if nothing was achieved or not.

    Source: Hafner 2021 (arXiv 2109.06780), section 3.2.
    """
    rates = [100 * rate for name, rate in told.items() if name.startswith("achievement_")]
    return math.expm1(sum(math.log1p(rate) for rate in rates) / len(rates)) if rates else None


def extra_scores(env_id: str, returns: Sequence[float], told: Mapping[str, float]) -> dict[str, float]:
    """What is known of an environment's episodes beside their returns, by name."""
    mean = sum(returns) / len(returns)
    found = {"human_normalised": human_normalised(env_id, mean), "crafter_score": crafter_score(told)}
    return {name: value for name, value in found.items() if value is not None}
