"""R2-Dreamer's objective: what the state says of the embed, number by number, and nothing twice."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.registry import STRICT, Weight
from dreamer_cli.shapes import Float
from dreamer_cli.world.projected import Projected


def barlow(x: Float[Tensor, "N E"], y: Float[Tensor, "N E"], lam: float) -> Float[Tensor, ""]:
    """How far the correlations of x's columns with y's are from the identity; those off its diagonal count `lam`.

    Deviations are the unbiased ones while products are averaged over N, so even a perfect match has correlations of
    (N-1)/N. Source: Barlow Twins, Eqs. 1 and 2 (arXiv 2103.03230); the details as in R2-Dreamer's official code.
    """
    x, y = ((z - z.mean(0)) / (z.std(0) + 1e-8) for z in (x, y))
    correlation = x.t() @ y / len(x)  # E E
    same = torch.eye(len(correlation), dtype=torch.bool, device=x.device)
    return torch.where(same, (correlation - 1).square(), lam * correlation.square()).sum()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecorrelateConfig:
    """Redundancy reduction between state and embed, without a decoder (R2-Dreamer).

    Attributes:
        lam: weight of the correlations between different numbers, which should be none.
    """

    lam: Weight = 5e-4

    def build(self, encoder: Any, dynamics: Any, make_decoder: Callable[[], nn.Module]) -> Projected:
        """An objective on what the encoder gives and heads read."""
        return Projected("decorrelate", partial(barlow, lam=self.lam), dynamics.feat_size, encoder.size)
