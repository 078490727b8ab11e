"""Running statistics, kept as buffers and moved in place."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.registry import STRICT, Positive, Registry, Share


class PercentileScale(nn.Module):
    """Spread of the returns: max(limit, EMA of the 95th - EMA of the 5th percentile), without bias correction.

    Small returns are not blown up (the limit), outliers do not count (the percentiles).
    Source: Dreamer V3, Eqs. 12 and 13.
    """

    low: Tensor
    high: Tensor
    at: Tensor

    def __init__(self, cfg: "PercentileConfig") -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("at", torch.tensor([cfg.low, cfg.high]), persistent=False)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take in a batch of values of any shape."""
        low, high = torch.quantile(values.detach().flatten(), self.at.to(values.dtype)).unbind()
        self.low.lerp_(low, self.cfg.rate)
        self.high.lerp_(high, self.cfg.rate)

    @property
    def scale(self) -> Tensor:
        """What advantages are divided by; a scalar in the units of the values."""
        return (self.high - self.low).clamp(min=self.cfg.limit)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PercentileConfig:
    """Scale of returns by their percentiles (Dreamer V3).

    Attributes:
        rate: share of the newest batch in the running percentiles.
        limit: the scale is never below this.
        low: share of the returns below the lower percentile.
        high: share of the returns below the upper percentile.
    """

    rate: Share = 0.01
    limit: Positive = 1.0
    low: Share = 0.05
    high: Share = 0.95

    def build(self) -> PercentileScale:
        """A scale that starts at its limit."""
        return PercentileScale(self)


class NoScale(nn.Module):
    """1, whatever the returns."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def update(self, values: Tensor) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoScaleConfig:
    """Returns as they are (Dreamer V1 and V2)."""

    def build(self) -> NoScale:
        """A scale of 1."""
        return NoScale()


RETURN_SCALES = Registry({"percentile": PercentileConfig, "none": NoScaleConfig})
