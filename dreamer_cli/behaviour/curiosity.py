"""Rewards in dreams for what the agent does not know yet, beside those that the world gives.

```
 replay      feat[t], the action that followed it  ──▶  flat stoch[t+1], guessed by every model
 dreams      s0 ──a0──▶ s1     what the models say of (s0, a0) differs: a reward in column 1, where s1 is
```
"""

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.blocks import init_weight
from dreamer_cli.nets.kernels import full_precision, rms_root
from dreamer_cli.registry import STRICT, Choices, Layers, Registry, Units, Weight
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.world.rssm import within_bounds


class NoIntrinsic(nn.Module):
    """Rewards stay as they are, and nothing is learnt."""

    def losses(self, feat: Tensor, action: Tensor, stoch: Tensor, is_first: Tensor) -> dict[str, Tensor]:
        """None."""
        return {}

    def reward(self, feat: Tensor, action: Tensor, reward: Float[Tensor, "N H1"]) -> Float[Tensor, "N H1"]:
        """The rewards themselves."""
        return reward


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoIntrinsicConfig:
    """Only the world's own rewards count."""

    def build(self, feat: int, action: int, stoch: int) -> NoIntrinsic:
        """It has no parameters."""
        return NoIntrinsic()


class EnsembleLinear(nn.Module):
    """M dense layers side by side, M N I → M N O; each has weights of its own, drawn apart from the others'."""

    def __init__(self, models: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(models, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(models, 1, outputs))
        for weight in self.weight:
            init_weight(weight, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """M N I → M N O."""
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleLayer(EnsembleLinear):
    """Linear → RMSNorm → SiLU, M times."""

    eps = 1e-4

    def __init__(self, models: int, inputs: int, outputs: int) -> None:
        super().__init__(models, inputs, outputs)
        self.scale = nn.Parameter(torch.ones(models, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """M N I → M N O."""
        full = full_precision(super().forward(x))
        return F.silu(full * rms_root(full, self.eps) * self.scale)


class Disagreement(nn.Module):
    """Models that each guess the next moment: where they say different things, there is something to be learnt.

    See `DisagreementConfig`.
    """

    def __init__(self, cfg: "DisagreementConfig", feat: int, action: int, stoch: int) -> None:
        super().__init__()
        self.cfg = cfg
        inputs = [feat + action, *[cfg.units] * (cfg.layers - 1)]
        layers = [EnsembleLayer(cfg.models, width, cfg.units) for width in inputs]
        self.models = nn.Sequential(*layers, EnsembleLinear(cfg.models, cfg.units, stoch))

    def losses(
        self,
        feat: Float[Tensor, "B T F"],
        action: Float[Tensor, "B T1 A"],
        stoch: Float[Tensor, "B T *latent"],
        is_first: Bool[Tensor, "B T"],
    ) -> dict[str, Tensor]:
        """`ensemble`, B T-1: half the squared errors of all models; 0 where another episode begins.

        action, as in `Batch`: column t led to record t. Neither feat nor the guesses are moved.
        """
        x = self._pairs(feat[:, :-1].detach(), action[:, 1:-1])
        guess = full_precision(self.models(x)).unflatten(1, is_first[:, 1:].shape)  # M B T-1 n
        error = 0.5 * (guess - stoch[:, 1:].detach().flatten(2)).square().sum((0, -1))
        return {"ensemble": error * (~is_first[:, 1:]).to(error.dtype)}

    def reward(
        self, feat: Float[Tensor, "N H1 F"], action: Float[Tensor, "N H1 A"], reward: Float[Tensor, "N H1"]
    ) -> Float[Tensor, "N H1"]:
        """Rewards of dreams' states, the start first: nobody knows what led to it, so that it only keeps its own.

        Gradients pass through the models to states and actions, but do not move the models.
        """
        held = {name: value.detach() for name, value in self.models.named_parameters()}
        guess = torch.func.functional_call(self.models, held, (self._pairs(feat[:, :-1], action[:, :-1]),))
        doubt = full_precision(guess).var(0).mean(-1).view_as(reward[:, 1:])
        return self.cfg.extrinsic * reward + self.cfg.weight * F.pad(doubt, (1, 0))

    def _pairs(self, feat: Tensor, action: Tensor) -> Tensor:
        """B T ... → M B·T F+A: the same for every model."""
        pairs = torch.cat([feat, within_bounds(action)], -1).flatten(0, 1)
        return pairs.expand(self.cfg.models, -1, -1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DisagreementConfig:
    """Reward where an ensemble disagrees: the variance of what its models expect next, averaged over the numbers.

    Variances of one-hots are small (of 32 x 32 of them hardly 1e-3): where other rewards count, too, weigh them up.
    Source: Plan2Explore (arXiv 2005.05960); as in its later code, the guess about the next moment is foretold,
    not the encoder's output.

    Attributes:
        models: how many there are.
        layers: depth of each of them.
        units: width of each of them.
        weight: of the disagreement in what dreams are rewarded with.
        extrinsic: of the world's own rewards; 0 explores without a task.
    """

    models: Choices = 10
    layers: Layers = 4
    units: Units = 256
    weight: Weight = 1.0
    extrinsic: Weight = 0.0

    def build(self, feat: int, action: int, stoch: int) -> Disagreement:
        """For states of `feat` numbers, actions of `action`, and flat guesses of `stoch`."""
        return Disagreement(self, feat, action, stoch)


INTRINSIC = Registry({"none": NoIntrinsicConfig, "disagreement": DisagreementConfig})
