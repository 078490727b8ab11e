"""Squashing and binning of numbers of any size."""

import torch
from torch import Tensor

from dreamer_cli.shapes import Float, Int


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|): linear near zero, logarithmic far out (Dreamer V3, Eq. 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def symexp_bins(count: int, reach: float = 20.0) -> Float[Tensor, " bins"]:
    """`count` values spaced evenly in symlog space, held in raw space and exactly antisymmetric.

    Only one half is computed and the other mirrored, so that a uniform distribution over them has mean
    exactly 0. An even count has two zeros in the middle. Source: the official Dreamer V3 code.
    """
    half = symexp(torch.linspace(-reach, 0, (count + 1) // 2, dtype=torch.float64))
    return torch.cat([half, -half.flip(0)[count % 2 :]])


def two_hot(
    x: Float[Tensor, "*shape"], bins: Float[Tensor, " bins"]
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Neighbouring bins below and above `x`, and the weight of the upper one (linear in raw space).

    Beyond the outermost bins both indices are the outermost bin; of NaN and infinity the weight is NaN, lest they were
    learnt as the largest number there is. Source: Dreamer V3, Eq. 10.
    """
    above = torch.searchsorted(bins, x.contiguous(), right=True)
    below = (above - 1).clamp(min=0)
    above = above.clamp(max=len(bins) - 1)
    to_below, to_above = (x - bins[below]).abs(), (bins[above] - x).abs()
    # Both on one bin: any split is right, as long as it does not divide by zero.
    weight = torch.where(below == above, 0.5 + 0 * x, to_below / (to_below + to_above).clamp(min=1e-30))
    return below, above, weight
