"""How far a dream is from what really happened, step by step. Arrays in, numbers out."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dreamer_cli.dream import ENDED_BELOW, Dreams
from dreamer_cli.spaces import ObsSpec

WINDOW = 7  # side of the squares that SSIM compares
STABILISERS = (0.01**2, 0.03**2)  # of means and of variances, for a range of 1


def measure(dreams: Dreams, specs: Mapping[str, ObsSpec]) -> list[dict[str, Any]]:
    """How good the dream is at each step beyond the border, averaged over the samples still going on.

    Where there is a truth: `<key>/mse` in units of the observation (images: 0..1), `<key>/psnr` of that mean (dB,
    images), `<key>/ssim` (images), `<key>/accuracy` (discrete), `reward/error` (absolute), `cont/accuracy`. All but the
    last also for two guesses that know nothing of dynamics: `.../repeat` shows the last real record again and again,
    `.../mean` the mean of all real records shown (of classes the commonest). A dream that is no better has learnt no
    dynamics. Where there is no truth: predicted `reward` and `cont`. Numbers that are not finite become None.
    """
    mean = {key: _mean(dreams, key, specs[key]) for key in dreams.truth} if dreams.has_truth else {}
    rows = []
    for t in range(dreams.context, dreams.moments):
        alive = dreams.length > t
        if not alive.any():
            break
        errors = _errors(dreams, specs, mean, t, alive) if dreams.has_truth else _predictions(dreams, t, alive)
        finite = {name: value if math.isfinite(value) else None for name, value in errors.items()}
        rows.append({"step": t - dreams.context + 1, "samples": int(alive.sum()), **finite})
    return rows


def summarize(dreams: Dreams, rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Each metric of `measure`, averaged over the steps of the horizon at which it is finite.

    Without a truth: also `return` (sum of predicted rewards) and `length` (steps) of the mean dream, until it ends.
    """
    names = [name for name in (rows[0] if rows else {}) if name not in ("step", "samples")]
    found = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    means = {name: float(np.mean(values)) if values else None for name, values in found.items()}
    if not dreams.has_truth:
        total = float(dreams.returns.mean())
        means |= {"return": total if math.isfinite(total) else None}
        means |= {"length": float((dreams.length - dreams.context).mean())}
    return means


def _predictions(dreams: Dreams, t: int, alive: np.ndarray) -> dict[str, float]:
    return {"reward": float(dreams.reward[alive, t].mean()), "cont": float(dreams.cont[alive, t].mean())}


def _mean(dreams: Dreams, key: str, spec: ObsSpec) -> np.ndarray:
    """The mean of what is known; of classes, one-hot the commonest."""
    rows = [values[:known] for values, known in zip(dreams.truth[key], dreams.known, strict=True)]
    known = np.concatenate(rows)
    if spec.kind != "discrete":
        return known.mean(0, dtype=np.float64)
    return np.array([np.bincount(column, minlength=1).argmax() for column in known.T])


def _errors(
    dreams: Dreams, specs: Mapping[str, ObsSpec], means: Mapping[str, np.ndarray], t: int, alive: np.ndarray
) -> dict[str, float]:
    errors: dict[str, float] = {}
    for key, truths in dreams.truth.items():
        spec, truth, model = specs[key], truths[alive, t], dreams.model[key][alive, t].astype(np.float64)
        last, mean = truths[alive, dreams.context - 1], np.broadcast_to(means[key], truth.shape)
        if spec.kind == "discrete":
            best = np.stack([part.argmax(-1) for part in np.split(model, np.cumsum(spec.classes)[:-1], -1)], -1)
            guesses = {"": best, "/repeat": last, "/mean": mean}
            errors |= {f"{key}/accuracy{name}": float((guess == truth).mean()) for name, guess in guesses.items()}
            continue
        unit = 255 if spec.kind == "image" else 1
        for name, guess in {"": model, "/repeat": last / unit, "/mean": mean / unit}.items():
            mse = float(np.square(guess - truth / unit).mean())
            errors[f"{key}/mse{name}"] = mse
            if spec.kind == "image":
                errors[f"{key}/psnr{name}"] = -10 * math.log10(mse) if mse else math.inf
                errors[f"{key}/ssim{name}"] = ssim(truth / unit, guess)
    reward = dreams.true_reward
    known = np.concatenate([row[:count] for row, count in zip(reward, dreams.known, strict=True)])
    guesses = {"": dreams.reward[alive, t], "/repeat": reward[alive, dreams.context - 1], "/mean": known.mean()}
    errors |= {f"reward/error{name}": float(np.abs(guess - reward[alive, t]).mean()) for name, guess in guesses.items()}
    foreseen = (dreams.cont[alive, t] >= ENDED_BELOW) == (dreams.true_cont[alive, t] > 0.5)
    errors["cont/accuracy"] = float(foreseen.mean())
    return errors


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity of pictures (..., Y, X) with values 0..1: 1 for equal ones, around 0 for unrelated ones.

    Means, variances and covariance of every 7x7 square (equal weights, no Gaussian; smaller pictures are one square),
    averaged over all squares, channels and pictures. Source: Wang et al. 2004, Eq. 13.
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    mean, mean_other = _squares(one), _squares(other)
    # Rounding may leave a hair below zero.
    variance = np.maximum(_squares(one**2) - mean**2, 0) + np.maximum(_squares(other**2) - mean_other**2, 0)
    covariance = _squares(one * other) - mean * mean_other
    c1, c2 = STABILISERS
    luminance = (2 * mean * mean_other + c1) / (mean**2 + mean_other**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance + c2)).mean())


def _squares(x: np.ndarray) -> np.ndarray:
    """The mean of every WINDOW x WINDOW square of the last two axes, one axis after the other."""
    for axis in (-2, -1):
        x = np.lib.stride_tricks.sliding_window_view(x, min(WINDOW, x.shape[axis]), axis).mean(-1)
    return x
