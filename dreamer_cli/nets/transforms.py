"""Squashing and binning of numbers of any size, and the normal distribution's function both ways."""

import math

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


def symlog_bins(count: int, reach: float = 20.0) -> Float[Tensor, " bins"]:
    """`count` numbers spaced evenly from -reach to reach, exactly antisymmetric: bins held in symlog space.

    Source: the official Dreamer V3 code of 2023.
    """
    line = torch.linspace(-reach, reach, count, dtype=torch.float64)
    return (line - line.flip(0)) / 2


def two_hot(
    x: Float[Tensor, "*shape"], bins: Float[Tensor, " bins"]
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Neighbouring bins below and above `x`, and the weight of the upper one (linear between them).

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


def normal_cdf(x: Tensor) -> Tensor:
    """Chance that a standard normal number is below `x`, to full relative precision in the lower tail."""
    # torch.special.ndtr says 0 at -6 in float32.
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))


# Numerators and denominators of two rational functions, from the constant on.
_MIDDLE = (3.3871327179, 50.434271938, 159.29113202, 59.109374720), (1.0, 17.895169469, 78.757757664, 67.187563600)
_TAIL = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103), (1.0, 0.73700164250, 0.12021132975)
_LEAST = 1.4e-11  # where the tail's function ends, 6.66 deviations out


def lower_quantile(chance: Tensor) -> Tensor:
    """The number below which a standard normal one lies with that chance, at most 1/2; at least -6.66.

    Seven digits. In elementary operations, because exported files know no other inverse.
    Source: Wichura 1988, Algorithm AS 241 (PPND7).
    """
    chance = chance.clamp(min=_LEAST)
    centred = chance - 0.5
    middle = centred * _rational(0.180625 - centred.square(), *_MIDDLE)
    tail = -_rational(torch.sqrt(-torch.log(chance)) - 1.6, *_TAIL)
    return torch.where(chance > 0.075, middle, tail)


def _rational(x: Tensor, above: tuple[float, ...], below: tuple[float, ...]) -> Tensor:
    return _polynomial(x, above) / _polynomial(x, below)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    *rest, last = coefficients
    total = torch.full_like(x, last)
    for each in reversed(rest):
        total = total * x + each
    return total
