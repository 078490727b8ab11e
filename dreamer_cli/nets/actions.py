"""Continuous actions of earlier generations, and actions without any randomness.

The settings of each kind say how it is made (the contract stands in `nets/actors.py`). Dimensions are independent:
log-densities and entropies are sums over the last axis. Noise is standard normal for every kind; zeros take the median.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.nets.transforms import lower_quantile, normal_cdf
from dreamer_cli.registry import STRICT, Choices, Positive

HALF_LN_2PI = 0.9189385332046727

# ── tanh of a normal distribution ───────────────────────────────────────────────────────────────────────────


def ln_slope(x: Tensor) -> Tensor:
    """ln of the slope of tanh at `x`, also where 1 - tanh²(x) rounds to 0."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))


def quantiles(count: int, like: Tensor) -> Tensor:
    """`count` standard normal numbers that stand for equally likely slices: the middle of each, in chance.

    Of the dtype and device of `like`.
    """
    lower = lower_quantile((torch.arange(count // 2, dtype=like.dtype, device=like.device) + 0.5) / count)
    return torch.cat([lower, lower.new_zeros(count % 2), -lower.flip(0)])


class _MeanLnSlope(torch.autograd.Function):
    """ln_slope(mean + std · q), averaged over the numbers q: of the shape of mean and std.

    A few of them at a time, and of each only what it adds to the gradients is kept: in dreams there are millions.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, std: Tensor, q: Tensor) -> Tensor:
        result, by_mean, by_std = (torch.zeros_like(mean) for _ in range(3))
        for some in q.split(10):
            x = mean.unsqueeze(-1) + std.unsqueeze(-1) * some
            result += ln_slope(x).sum(-1)
            slope = x.tanh_().mul_(-2)
            by_mean += slope.sum(-1)
            by_std += slope.mul_(some).sum(-1)
        ctx.save_for_backward(by_mean / len(q), by_std / len(q))
        return result / len(q)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        by_mean, by_std = ctx.saved_tensors
        return grad * by_mean, grad * by_std, None


class TanhNormal:
    """tanh of a normal number. Mode and entropy have no closed form; a fixed grid of quantiles stands for it.

    Source: Dreamer V1, official code, which draws 100 samples where the grid stands here.
    """

    most = 0.99999997  # of an action that is led back through tanh; in float32 this is the last number below 1

    def __init__(self, mean: Tensor, std: Tensor, cfg: "TanhNormalConfig") -> None:
        scale = cfg.mean_scale
        self.mean = scale * torch.tanh(full_precision(mean) / scale)
        # ln(e^s - 1), written so that it never overflows: of an output of 0, softplus makes init_std.
        begin = cfg.init_std + math.log(-math.expm1(-cfg.init_std))
        self.std = F.softplus(full_precision(std) + begin) + cfg.min_std
        self.quantiles = cfg.quantiles

    def sample(self, noise: Tensor) -> Tensor:
        """... A in [-1, 1], reparameterised by standard normal noise of the same shape."""
        return torch.tanh(self.mean + self.std * noise)

    @property
    def mode(self) -> Tensor:
        """... A, of the grid's points that of the highest density, for each row and dimension by itself."""
        q = quantiles(self.quantiles, self.mean)
        x = self.mean.unsqueeze(-1) + self.std.unsqueeze(-1) * q
        best = (-0.5 * q.square() - ln_slope(x)).argmax(-1)
        return torch.tanh(self.mean + self.std * q[best])

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density, summed over the last axis. Where tanh has rounded to ±1, of a number a little inside."""
        x = torch.atanh(full_precision(x).clamp(-self.most, self.most))
        z = (x - self.mean) / self.std
        return (-0.5 * z.square() - self.std.log() - HALF_LN_2PI - ln_slope(x)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the last axis."""
        q = quantiles(self.quantiles, self.mean)
        return (self.std.log() + HALF_LN_2PI + 0.5 + _MeanLnSlope.apply(self.mean, self.std, q)).sum(-1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TanhNormalConfig:
    """A normal distribution, squashed into the bounds by tanh (Dreamer V1).

    Attributes:
        mean_scale: the mean lies within ± this, before it is squashed.
        init_std: the deviation that a network's output of 0 stands for, less `min_std`.
        min_std: smallest deviation, before it is squashed.
        quantiles: points of the grid that stands for the distribution where there is no closed form.
    """

    mean_scale: Positive = 5.0
    init_std: Positive = 5.0
    min_std: Positive = 1e-4
    quantiles: Choices = 100

    layers: ClassVar[tuple[str, ...]] = ("mean", "std")
    has_density: ClassVar[bool] = True

    def distribution(self, mean: Tensor, std: Tensor) -> TanhNormal:
        """Of raw outputs, ... A each."""
        return TanhNormal(mean, std, self)


# ── a normal distribution, cut off ──────────────────────────────────────────────────────────────────────────


class TruncatedNormal:
    """Normal around a mean in (-1, 1), without what lies beyond -1 and 1. Samples are clipped a little inside.

    Source: Dreamer V2, official code: mean = tanh, std = 2 σ(s / 2) + low.
    """

    most = 1 - 1e-6

    def __init__(self, mean: Tensor, std: Tensor, low: float = 0.1) -> None:
        self.mean = torch.tanh(full_precision(mean))
        self.std = 2 * torch.sigmoid(full_precision(std) / 2) + low
        self.left, self.right = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        # Both ends as lower tails, which floating-point numbers can tell apart.
        self.below, self.above = normal_cdf(self.left), normal_cdf(-self.right)
        self.inside = 1 - self.below - self.above

    def sample(self, noise: Tensor) -> Tensor:
        """... A, reparameterised: as unlikely here as standard normal noise of the same shape is there.

        Clipping lets the gradient through.
        """
        under, over = self.below + self.inside * normal_cdf(noise), self.above + self.inside * normal_cdf(-noise)
        lower = under < over
        z = lower_quantile(torch.where(lower, under, over))
        x = self.mean + self.std * torch.where(lower, z, -z)
        return x - x.detach() + x.detach().clamp(-self.most, self.most)

    @property
    def mode(self) -> Tensor:
        """... A, the mean of the normal distribution, before it was cut off."""
        return self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density, summed over the last axis; `x` has to lie within [-1, 1]."""
        z = (x - self.mean) / self.std
        return (-0.5 * z.square() - self.std.log() - HALF_LN_2PI - self.inside.log()).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the last axis."""
        left, right = (x * torch.exp(-0.5 * x.square() - HALF_LN_2PI) for x in (self.left, self.right))
        lost = (left - right) / (2 * self.inside)
        return ((self.std * self.inside).log() + HALF_LN_2PI + 0.5 + lost).sum(-1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TruncatedNormalConfig:
    """A normal distribution, cut off at the bounds (Dreamer V2).

    Attributes:
        min_std: smallest deviation; the largest is 2 more.
    """

    min_std: Positive = 0.1

    layers: ClassVar[tuple[str, ...]] = ("mean", "std")
    has_density: ClassVar[bool] = True

    def distribution(self, mean: Tensor, std: Tensor) -> TruncatedNormal:
        """Of raw outputs, ... A each."""
        return TruncatedNormal(mean, std, self.min_std)


# ── no distribution at all ──────────────────────────────────────────────────────────────────────────────────


class Deterministic:
    """tanh of what the network says, always. It has no density, so `log_prob` must not be asked for."""

    def __init__(self, mean: Tensor) -> None:
        self.mode = torch.tanh(full_precision(mean))

    def sample(self, noise: Tensor) -> Tensor:
        """... A, whatever the noise."""
        return self.mode

    def log_prob(self, x: Tensor) -> Tensor:
        """Raises TypeError, always."""
        raise TypeError("deterministic actions have no density")

    def entropy(self) -> Tensor:
        """Zeros."""
        return self.mode.new_zeros(self.mode.shape[:-1])


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DeterministicConfig:
    """One action for every state; only gradients through the dynamics can teach it."""

    layers: ClassVar[tuple[str, ...]] = ("mean",)
    has_density: ClassVar[bool] = False

    def distribution(self, mean: Tensor) -> Deterministic:
        """Of raw outputs, ... A."""
        return Deterministic(mean)
