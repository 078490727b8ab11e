"""What disturbs actions while training data is collected, so that the agent meets what it would not have chosen.

Only in mode `explore`: evaluations, dreams and exports are left alone. As everywhere, the randomness comes in. Every
explorer says in `width` how many random numbers one decision takes; they stand behind all others, at the end of the
last axis of a behaviour's noise.
"""

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.distributions import gumbel
from dreamer_cli.registry import STRICT, Registry, Share, Weight
from dreamer_cli.shapes import Float
from dreamer_cli.spaces import ActionPart


class NoExplorer(nn.Module):
    """Actions stay as they are, and nothing is drawn."""

    width = 0

    def noise(self, batch: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """B 0."""
        return like.new_empty(batch, 0)

    def forward(self, action: Float[Tensor, "B A"], noise: Float[Tensor, "B 0"]) -> Float[Tensor, "B A"]:
        """The action itself."""
        return action


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoExplorerConfig:
    """The policy's own randomness is enough (Dreamer V2 and V3)."""

    def build(self, action: tuple[ActionPart, ...]) -> NoExplorer:
        """It has no parameters."""
        return NoExplorer()


class Disturbance(nn.Module):
    """Normal noise on numbers, and now and then a random class. See `ActionNoiseConfig`.

    Noise: B of one normal a number, then (Gumbel) one a class, then (uniform) one a categorical entry; those that
    nothing is made of are left out.
    """

    def __init__(self, std: float, epsilon: float, action: tuple[ActionPart, ...]) -> None:
        super().__init__()
        self.std, self.epsilon, self.parts = std, epsilon, action
        classes = [count for part in action for count in part.classes]
        numbers = sum(part.size for part in action) if std else 0
        self.widths = (numbers, *((sum(classes), len(classes)) if epsilon else (0, 0)))
        self.width = sum(self.widths)

    def noise(self, batch: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """B width."""
        numbers, classes, entries = self.widths
        normal = like.new_empty(batch, numbers).normal_(generator=generator)
        uniform = like.new_empty(batch, entries).uniform_(generator=generator)
        return torch.cat([normal, gumbel((batch, classes), like, generator), uniform], -1)

    def forward(self, action: Float[Tensor, "B A"], noise: Float[Tensor, "B n"]) -> Float[Tensor, "B A"]:
        """The action, disturbed."""
        normal, scores, coins = noise.split(self.widths, -1)
        columns = []
        for part, own in zip(self.parts, action.split([part.width for part in self.parts], -1), strict=True):
            if part.classes and self.epsilon:
                for kept in own.split(part.classes, -1):
                    count = kept.shape[-1]
                    # The largest of equal scores is any of them: uniform.
                    other = F.one_hot(scores[:, :count].argmax(-1), count).to(kept.dtype)
                    columns.append(torch.where(coins[:, :1] < self.epsilon, other, kept))
                    scores, coins = scores[:, count:], coins[:, 1:]
            elif part.size and self.std:
                columns.append((own + self.std * normal[:, : part.size]).clamp(-1, 1))
                normal = normal[:, part.size :]
            else:
                columns.append(own)
        return torch.cat(columns, -1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ActionNoiseConfig:
    """Normal noise on continuous actions, clipped to their bounds; ε-greedy choice of classes (PlaNet, Dreamer V1).

    Attributes:
        std: deviation of the noise on continuous numbers, of which actions have 2 from end to end.
        epsilon: chance that a categorical entry is drawn anew, all of its classes being equally likely.
    """

    std: Weight = 0.3
    epsilon: Share = 0.0

    def build(self, action: tuple[ActionPart, ...]) -> Disturbance:
        """It has no parameters."""
        return Disturbance(self.std, self.epsilon, action)


EXPLORERS = Registry({"none": NoExplorerConfig, "action_noise": ActionNoiseConfig})
