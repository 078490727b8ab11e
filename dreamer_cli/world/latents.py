"""The guess about the present: how network outputs become a sample, and how far two guesses are apart."""

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.nets.distributions import OneHot, categorical_kl, gumbel
from dreamer_cli.registry import STRICT, Choices, Registry, Share, Units
from dreamer_cli.shapes import Float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CategoricalConfig:
    """Independent categoricals (Dreamer V2 and V3).

    Attributes:
        groups: how many (S).
        classes: of each (K).
        unimix: share of a uniform distribution in every one of them.
    """

    groups: Units = 32
    classes: Choices = 16
    unimix: Share = 0.01

    def build(self) -> "Categorical":
        """The latent; it has no parameters of its own."""
        return Categorical(self)


class Categorical:
    """S groups of K classes; a sample is S one-hot rows, its statistics are the logits ... S·K.

    Every latent has: `shape` of a sample, `size` of it flat, `stats_size`, `noise` and its `noise_kind` (gumbel or
    normal; zeros give the mode), `sample`, `mode`, `entropy`, `kl`, and for storage `packed`, `pack` and `unpack`.
    With `sample_forward` and `sample_backward` it can be used in time loops.
    """

    noise_kind = "gumbel"

    def __init__(self, cfg: CategoricalConfig) -> None:
        self.shape = (cfg.groups, cfg.classes)
        self.size = self.stats_size = cfg.groups * cfg.classes
        self.unimix = cfg.unimix
        self.packed = ((cfg.groups,), np.dtype(np.uint8 if cfg.classes <= 256 else np.uint16))

    def _onehot(self, stats: Tensor) -> OneHot:
        return OneHot(stats.unflatten(-1, self.shape), self.unimix)

    def noise(self, lead: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """lead S K Gumbel noise, the randomness of one sample each."""
        return gumbel((*lead, *self.shape), like, generator)

    def sample(self, stats: Float[Tensor, "*lead SK"], noise: Float[Tensor, "*lead S K"]) -> Float[Tensor, "*lead S K"]:
        """One-hot rows with straight-through gradients."""
        return self._onehot(stats).sample(noise)

    def sample_forward(self, stats: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """`sample` without a graph, and what the way back needs."""
        onehot = OneHot(stats.unflatten(-1, self.shape), self.unimix)
        return onehot.sample(noise), onehot.softmax

    def sample_backward(self, saved: Tensor, grad: Tensor) -> Tensor:
        """The gradient of the statistics, from that of the sample (... S K): as if it were the probabilities."""
        back = torch.ops.aten._softmax_backward_data(grad, saved, -1, saved.dtype)
        return (back.mul_(1 - self.unimix) if self.unimix else back).flatten(-2)

    def mode(self, stats: Tensor) -> Tensor:
        """The likeliest classes, ... S K."""
        return self._onehot(stats).mode

    def entropy(self, stats: Tensor) -> Tensor:
        """In nats, summed over the groups."""
        return self._onehot(stats).entropy().sum(-1)

    def kl(self, post: Float[Tensor, "*lead SK"], prior: Float[Tensor, "*lead SK"]) -> Float[Tensor, "*lead"]:
        """KL(post ‖ prior) in nats, summed over the groups."""
        return categorical_kl(self._onehot(post), self._onehot(prior)).sum(-1)

    def pack(self, stoch: Tensor) -> Tensor:
        """... S K one-hot → ... S class indices: 1 byte instead of 4·K."""
        return stoch.argmax(-1)

    def unpack(self, packed: Tensor) -> Tensor:
        """The inverse of `pack`, as float32."""
        zeros = torch.zeros(*packed.shape, self.shape[-1], dtype=torch.float32, device=packed.device)
        return zeros.scatter_(-1, packed.long().unsqueeze(-1), 1.0)


LATENTS = Registry({"categorical": CategoricalConfig, "gaussian": "dreamer_cli.world.gaussian:GaussianConfig"})
