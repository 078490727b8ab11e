"""R2-Dreamer's objective: what the state says of the embed, number by number, and nothing twice."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.blocks import Linear
from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.nets.loops import as_given
from dreamer_cli.registry import STRICT, Weight
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.world.objectives import Seen


def barlow(x: Float[Tensor, "N E"], y: Float[Tensor, "N E"], lam: float) -> Float[Tensor, ""]:
    """How far the correlations of x's columns with y's are from the identity; those off its diagonal count `lam`.

    Deviations are the unbiased ones while products are averaged over N, so even a perfect match has correlations of
    (N-1)/N. Source: Barlow Twins, Eqs. 1 and 2 (arXiv 2103.03230); the details as in R2-Dreamer's official code.
    """
    x, y = ((z - z.mean(0)) / (z.std(0) + 1e-8) for z in (x, y))
    correlation = x.t() @ y / len(x)  # E E
    same = torch.eye(len(correlation), dtype=torch.bool, device=x.device)
    return torch.where(same, (correlation - 1).square(), lam * correlation.square()).sum()


class Decorrelate(nn.Module):
    """The projected state and the embed, compared over all records of a batch.

    The embed is a fixed target: the encoder learns only through the state. Source: R2-Dreamer.
    """

    keys = ("decorrelate",)

    def __init__(self, cfg: "DecorrelateConfig", feat: int, embed: int) -> None:
        super().__init__()
        self.lam = cfg.lam
        self.projector = Linear(feat, embed, bias=False)

    def noise(
        self, batch: int, length: int, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """None is needed."""
        return ()

    def losses(self, seen: Seen, encoder: nn.Module, dynamics: Any, noise: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """One number for the whole batch."""
        x = full_precision(self.projector(seen.feat)).flatten(0, 1)
        y = seen.embed.detach().flatten(0, 1).to(x.dtype)
        with as_given(x.device.type):
            return {"decorrelate": barlow(x, y, self.lam)}

    def decode(self, feat: Tensor) -> dict[str, Tensor] | None:
        """It cannot draw."""
        return None

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Nothing moves."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecorrelateConfig:
    """Redundancy reduction between state and embed, without a decoder (R2-Dreamer).

    Attributes:
        lam: weight of the correlations between different numbers, which should be none.
    """

    lam: Weight = 5e-4

    def build(self, encoder: Any, dynamics: Any, make_decoder: Callable[[], nn.Module]) -> Decorrelate:
        """An objective on what the encoder gives and heads read."""
        return Decorrelate(self, dynamics.feat_size, encoder.size)
