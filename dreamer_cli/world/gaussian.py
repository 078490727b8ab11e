"""A guess in continuous numbers: independent normals (PlaNet, Dreamer V1)."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.registry import STRICT, Positive, Units
from dreamer_cli.shapes import Float

aten = torch.ops.aten
HALF_LOG_TAU_E = 0.5 * math.log(2 * math.pi * math.e)  # entropy of a normal of deviation 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GaussianConfig:
    """Independent normals (PlaNet, Dreamer V1; an option of V2 and V3).

    Attributes:
        size: how many.
        std: what makes a deviation of a number: softplus (PlaNet, V1), or sigmoid2, 2 σ(x / 2) (V2).
        min_std: added to every deviation.
    """

    size: Units = 30
    std: Literal["softplus", "sigmoid2"] = "softplus"
    min_std: Positive = 0.1

    def build(self) -> "Gaussian":
        """The latent; it has no parameters of its own."""
        return Gaussian(self)


class Softplus:
    """ln(1 + e^x), and its way back."""

    def __call__(self, raw: Tensor) -> Tensor:
        return F.softplus(raw)

    def backward(self, raw: Tensor, grad: Tensor) -> Tensor:
        """The gradient of x."""
        return aten.softplus_backward(grad, raw, 1.0, 20.0)


class Sigmoid2:
    """2 σ(x / 2): slope ½ and value 1 at 0, never above 2. And its way back."""

    def __call__(self, raw: Tensor) -> Tensor:
        return 2 * torch.sigmoid(raw / 2)

    def backward(self, raw: Tensor, grad: Tensor) -> Tensor:
        """The gradient of x."""
        return aten.sigmoid_backward(grad, torch.sigmoid(raw / 2))


STDS: dict[str, Callable[[], Softplus | Sigmoid2]] = {"softplus": Softplus, "sigmoid2": Sigmoid2}


class Gaussian:
    """N normals; a sample is a row of N numbers, its statistics are means and raw deviations (... 2 N).

    Sampling is mean + deviation · noise, so that gradients flow into both, and noise of zeros gives the mode.
    """

    noise_kind = "normal"

    def __init__(self, cfg: GaussianConfig) -> None:
        self.shape = (cfg.size,)
        self.size, self.stats_size = cfg.size, 2 * cfg.size
        self.positive, self.min_std = STDS[cfg.std](), cfg.min_std
        self.packed = ((cfg.size,), np.dtype(np.float32))

    def split(self, stats: Float[Tensor, "*lead N2"]) -> tuple[Float[Tensor, "*lead N"], Float[Tensor, "*lead N"]]:
        """Mean and deviation."""
        mean, raw = full_precision(stats).chunk(2, -1)
        return mean, self.positive(raw) + self.min_std

    def noise(self, lead: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """lead N standard normal noise, the randomness of one sample each."""
        empty = torch.empty((*lead, *self.shape), dtype=like.dtype, device=like.device)
        return empty.normal_(generator=generator)

    def sample(self, stats: Float[Tensor, "*lead N2"], noise: Float[Tensor, "*lead N"]) -> Float[Tensor, "*lead N"]:
        """Reparameterised: gradients flow into mean and deviation."""
        mean, std = self.split(stats)
        return mean + std * noise

    def sample_forward(self, stats: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`sample` without a graph, and what the way back needs."""
        return self.sample(stats, noise), (stats, noise)

    def sample_backward(self, saved: tuple[Tensor, Tensor], grad: Tensor) -> Tensor:
        """The gradient of the statistics, from that of the sample."""
        stats, noise = saved
        raw = full_precision(stats).chunk(2, -1)[1]
        return torch.cat([grad, self.positive.backward(raw, grad * noise)], -1)

    def mode(self, stats: Float[Tensor, "*lead N2"]) -> Float[Tensor, "*lead N"]:
        """The means."""
        return self.split(stats)[0]

    def entropy(self, stats: Float[Tensor, "*lead N2"]) -> Float[Tensor, "*lead"]:
        """In nats, summed over the normals."""
        return (self.split(stats)[1].log() + HALF_LOG_TAU_E).sum(-1)

    def kl(self, post: Float[Tensor, "*lead N2"], prior: Float[Tensor, "*lead N2"]) -> Float[Tensor, "*lead"]:
        """KL(post ‖ prior) in nats, summed over the normals."""
        (mean, std), (prior_mean, prior_std) = self.split(post), self.split(prior)
        ratio = (std / prior_std).square()
        return 0.5 * (ratio + ((mean - prior_mean) / prior_std).square() - 1 - ratio.log()).sum(-1)

    def pack(self, stoch: Tensor) -> Tensor:
        """The numbers themselves."""
        return stoch

    def unpack(self, packed: Tensor) -> Tensor:
        """The inverse of `pack`, as float32."""
        return packed.float()
