"""What a slow copy of the critic is for: to hold the critic back, to give it targets, or nothing.

Every member reads what critic and copy say of states: the critic's distribution, the values that returns are made of,
and the copy's opinion, if it enters the loss.
"""

from typing import Any, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.copies import move_slowly
from dreamer_cli.nets.heads import read
from dreamer_cli.registry import STRICT, AtLeastOne, Registry, Share, Weight
from dreamer_cli.shapes import Bool, Float


class Opinion(NamedTuple):
    """What is said of N states: the critic's distribution of returns, and values N and a pull N without gradient."""

    critic: Any
    value: Tensor
    pull: Tensor


class Regulariser(nn.Module):
    """The critic's own values count, but it is drawn to what the copy says. See `RegulariserConfig`."""

    keeps_copy = True

    def __init__(self, cfg: "RegulariserConfig") -> None:
        super().__init__()
        self.cfg = cfg

    def forward(self, feat: Float[Tensor, "*lead F"], critic: Any, slow: Any) -> Opinion:
        """Opinions on states."""
        said, held = read(feat, critic, slow)
        with torch.no_grad():
            return Opinion(said, said.mean.detach(), held.mean.detach())

    def value(self, feat: Float[Tensor, "*lead F"], critic: Any, slow: Any) -> Float[Tensor, "*lead"]:
        """The values alone, with a gradient to the states."""
        value: Tensor = critic(feat).mean
        return value

    def loss(self, opinion: Opinion, target: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        """Distance to the returns, and to the copy's opinion of the same states."""
        loss: Tensor = opinion.critic.loss(target) + self.cfg.weight * opinion.critic.loss(opinion.pull)
        return loss

    def after_update(self, critic: Any, slow: Any, sound: Bool[Tensor, ""]) -> None:
        """Move the copy, unless the optimiser did not step."""
        move_slowly(slow, critic, self.cfg.rate * sound.to(next(slow.parameters()).dtype))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RegulariserConfig:
    """A copy that follows slowly, and holds the critic back (Dreamer V3).

    Attributes:
        rate: share of the critic that moves into its copy at each update.
        weight: how much the critic is drawn to the copy.
    """

    rate: Share = 0.02
    weight: Weight = 1.0

    def build(self) -> Regulariser:
        """What reads critic and copy."""
        return Regulariser(self)


class NoCopy(nn.Module):
    """The critic alone. See `NoCopyConfig`."""

    keeps_copy = False

    def forward(self, feat: Float[Tensor, "*lead F"], critic: Any, slow: Any) -> Opinion:
        """Opinions on states."""
        said = critic(feat)
        with torch.no_grad():
            value = said.mean.detach()
            return Opinion(said, value, value)

    def value(self, feat: Float[Tensor, "*lead F"], critic: Any, slow: Any) -> Float[Tensor, "*lead"]:
        """The values alone, with a gradient to the states."""
        value: Tensor = critic(feat).mean
        return value

    def loss(self, opinion: Opinion, target: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        """Distance to the returns."""
        loss: Tensor = opinion.critic.loss(target)
        return loss

    def after_update(self, critic: Any, slow: Any, sound: Bool[Tensor, ""]) -> None:
        """Nothing follows."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoCopyConfig:
    """No copy (Dreamer V1)."""

    def build(self) -> NoCopy:
        """What reads the critic."""
        return NoCopy()


class TargetCritic(NoCopy):
    """The copy's values count. See `TargetConfig`."""

    keeps_copy = True
    count: Tensor

    def __init__(self, cfg: "TargetConfig") -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, feat: Float[Tensor, "*lead F"], critic: Any, slow: Any) -> Opinion:
        """Opinions on states."""
        said, held = read(feat, critic, slow)
        with torch.no_grad():
            value = held.mean.detach()
            return Opinion(said, value, value)

    def value(self, feat: Float[Tensor, "*lead F"], critic: Any, slow: Any) -> Float[Tensor, "*lead"]:
        """The values alone, with a gradient to the states."""
        value: Tensor = slow(feat).mean
        return value

    def after_update(self, critic: Any, slow: Any, sound: Bool[Tensor, ""]) -> None:
        """Copy the critic after the first update, and after every `every`-th from there."""
        due = sound & (self.count % self.cfg.every == 0)
        move_slowly(slow, critic, due.to(next(slow.parameters()).dtype))
        self.count += sound


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TargetConfig:
    """A copy that stands still between updates, and whose values returns are made of (Dreamer V2).

    Attributes:
        every: updates between copies.
    """

    every: AtLeastOne = 100

    def build(self) -> TargetCritic:
        """What reads critic and copy."""
        return TargetCritic(self)


SLOW_CRITICS = Registry({"regulariser": RegulariserConfig, "target": TargetConfig, "none": NoCopyConfig})
