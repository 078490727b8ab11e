"""From what plans are drawn: a distribution for every number of every step, fitted to the best plans of a round."""

from itertools import groupby
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dreamer_cli.shapes import Float
from dreamer_cli.spaces import ActionPart

FINE = 256  # log-probabilities are whole multiples of 1 / FINE


class Normals:
    """Continuous numbers of plans, each drawn from a normal of its own and clipped to the action's bounds."""

    def __init__(self, size: int) -> None:
        self.width = size

    def begin(self, like: Tensor, *lead: Any) -> tuple[Tensor, ...]:
        """Means of 0 and deviations of 1, lead n."""
        return like.new_zeros(*lead, self.width), like.new_ones(*lead, self.width)

    def draw(self, stats: tuple[Tensor, ...], noise: Float[Tensor, "B H M n"]) -> Float[Tensor, "B H M n"]:
        """M candidates for every step."""
        mean, std = (x.unsqueeze(2) for x in stats)
        return (mean + std * noise).clamp(-1, 1)

    def refit(self, elites: Float[Tensor, "B H E n"]) -> tuple[Tensor, ...]:
        """Mean and deviation (√(population variance + 1e-6)) of those that were kept, B H n."""
        mean = elites.mean(2)
        return mean, ((elites - mean.unsqueeze(2)).square().mean(2) + 1e-6).sqrt()

    def first(self, stats: tuple[Tensor, ...]) -> Float[Tensor, "B n"]:
        """The mean of the first step."""
        return stats[0][:, 0]


class Categoricals:
    """Categorical entries with equally many classes, each drawn from a distribution of its own."""

    def __init__(self, entries: int, classes: int, unimix: float) -> None:
        self.width, self.shape, self.unimix = entries * classes, (entries, classes), unimix

    def begin(self, like: Tensor, *lead: Any) -> tuple[Tensor, ...]:
        """All classes alike: log-probabilities, lead entries classes."""
        return (like.new_zeros(*lead, *self.shape),)

    def draw(self, stats: tuple[Tensor, ...], noise: Float[Tensor, "B H M n"]) -> Float[Tensor, "B H M n"]:
        """M candidates for every step, by Gumbel noise."""
        scores = stats[0].unsqueeze(2) + noise.unflatten(-1, self.shape)
        return F.one_hot(scores.argmax(-1), self.shape[1]).to(noise.dtype).flatten(-2)

    def refit(self, elites: Float[Tensor, "B H E n"]) -> tuple[Tensor, ...]:
        """How often those that were kept have each class, mixed with a little of all so that none dies out."""
        share = elites.mean(2).unflatten(-1, self.shape)
        probs = share * (1 - self.unimix) + self.unimix / self.shape[1]
        # Coarse enough that other implementations of log() draw the same classes.
        return ((probs.clamp(min=1e-30).log() * FINE).round() / FINE,)

    def first(self, stats: tuple[Tensor, ...]) -> Float[Tensor, "B n"]:
        """The likeliest classes of the first step."""
        logits = stats[0][:, 0]
        return F.one_hot(logits.argmax(-1), self.shape[1]).to(logits.dtype).flatten(-2)


def parts_of(action: tuple[ActionPart, ...], unimix: float) -> list[Normals | Categoricals]:
    """What to draw plans from, in the order of the flat action. Neighbouring entries of equal size share one part."""
    parts: list[Normals | Categoricals] = []
    for part in action:
        if part.size:
            parts.append(Normals(part.size))
        for classes, entries in groupby(part.classes):
            parts.append(Categoricals(len(list(entries)), classes, unimix))
    return parts
