"""What networks say about the world: small value objects around their outputs.

All mathematics is in float32 at least, whatever precision the network ran in.
Randomness is always an input, so that acting can be exported and a trace can be replayed.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer_cli.nets.kernels import cross_entropy, full_precision, softmax, straight_through
from dreamer_cli.nets.transforms import symexp, symlog, two_hot
from dreamer_cli.shapes import Float


def gumbel(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise: adding it to log-probabilities makes the argmax a sample.

    From uniform numbers, which are several times faster to draw than exponential ones; the shift by half a
    unit in the last place keeps log(0) out.
    """
    uniform = torch.rand(*shape, dtype=like.dtype, device=like.device, generator=generator)
    return -torch.log(-torch.log((uniform + 2.0**-25).clamp_(max=1 - 2.0**-24)))


class OneHot:
    """Categorical over the last axis whose samples are one-hot vectors with straight-through gradients.

    Args:
        logits: ... K, raw network outputs.
        unimix: share of a uniform distribution mixed in. The mixed log-probabilities are what every
            consumer uses (sampling, KL, entropy), so KL stays finite and log π above ln(unimix / K).
    Source: Dreamer V2, Algorithm 1 (straight-through); Dreamer V3, section "World model learning" (unimix).
    """

    def __init__(self, logits: Tensor, unimix: float = 0.0) -> None:
        logits = full_precision(logits)
        if unimix:
            self.softmax = softmax(logits)
            self.probs = self.softmax * (1 - unimix) + unimix / logits.shape[-1]
            self.log_probs = torch.log(self.probs)
        else:
            self.log_probs = torch.log_softmax(logits, -1)
            self.probs = self.softmax = self.log_probs.exp()

    def sample(self, noise: Tensor) -> Tensor:
        """... K one-hot, chosen by Gumbel noise of the same shape; its gradient is that of `probs`."""
        return straight_through(self.probs, (self.log_probs + noise).max(-1).indices)

    @property
    def mode(self) -> Tensor:
        """... K one-hot of the likeliest class, with straight-through gradients."""
        return straight_through(self.probs, self.log_probs.argmax(-1))

    def log_prob(self, onehot: Tensor) -> Tensor:
        """Log-probability of a one-hot vector, over the last axis."""
        return (self.log_probs * onehot).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, over the last axis."""
        return -(self.probs * self.log_probs).sum(-1)


def categorical_kl(p: OneHot, q: OneHot) -> Tensor:
    """KL(p ‖ q) in nats, over the last axis."""
    return (p.probs * (p.log_probs - q.log_probs)).sum(-1)


class BoundedNormal:
    """Normal with its mean in (-1, 1) and its deviation in (low, high); samples are not clipped.

    Args:
        mean, std: ... A, raw network outputs.
    Source: the official Dreamer V3 code (`bounded_normal`): mean = tanh, std = (high - low) σ(s + 2) + low.
    """

    def __init__(self, mean: Tensor, std: Tensor, low: float = 0.1, high: float = 1.0) -> None:
        self.mean = torch.tanh(full_precision(mean))
        self.std = (high - low) * torch.sigmoid(full_precision(std) + 2.0) + low

    def sample(self, noise: Tensor) -> Tensor:
        """... A, reparameterised by standard normal noise of the same shape."""
        return self.mean + self.std * noise

    @property
    def mode(self) -> Tensor:
        """... A, the mean."""
        return self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density, summed over the last axis."""
        z = (x - self.mean) / self.std
        return (-0.5 * z.square() - self.std.log() - 0.9189385332046727).sum(-1)  # ½ ln 2π

    def entropy(self) -> Tensor:
        """Entropy in nats, summed over the last axis."""
        return (self.std.log() + 1.4189385332046727).sum(-1)  # ½ ln 2πe


@runtime_checkable
class ActionPartDistribution(Protocol):
    """One block of columns of the flat action."""

    @property
    def mode(self) -> Tensor: ...
    def sample(self, noise: Tensor) -> Tensor: ...
    def log_prob(self, x: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...


class Grouped:
    """Several categoricals with equally many classes, seen as one flat block of columns (... G·K)."""

    def __init__(self, inner: OneHot) -> None:
        self.inner = inner
        self.shape = inner.probs.shape[-2:]

    def sample(self, noise: Tensor) -> Tensor:
        """... G·K."""
        return self.inner.sample(noise.unflatten(-1, self.shape)).flatten(-2)

    @property
    def mode(self) -> Tensor:
        """... G·K."""
        return self.inner.mode.flatten(-2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Summed over the groups."""
        return self.inner.log_prob(x.unflatten(-1, self.shape)).sum(-1)

    def entropy(self) -> Tensor:
        """Summed over the groups."""
        return self.inner.entropy().sum(-1)


class Joint:
    """Independent parts side by side: the flat action. Log-probabilities and entropies add up."""

    def __init__(self, parts: Sequence[tuple[slice, ActionPartDistribution]]) -> None:
        self.parts = parts

    def sample(self, noise: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """... A."""
        return torch.cat([part.sample(noise[..., columns]) for columns, part in self.parts], -1)

    @property
    def mode(self) -> Tensor:
        """... A."""
        return torch.cat([part.mode for _, part in self.parts], -1)

    def log_prob(self, action: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        """In nats; of actions as `sample` returns them."""
        return torch.stack([part.log_prob(action[..., columns]) for columns, part in self.parts]).sum(0)

    def entropy(self) -> Tensor:
        """In nats."""
        return torch.stack([part.entropy() for _, part in self.parts]).sum(0)


class TwoHot:
    """A number of any size as a distribution over fixed bins.

    Args:
        logits: ... bins.
        bins: ascending and antisymmetric (`symexp_bins`).
    Source: Dreamer V3, Eqs. 10 and 11.
    """

    def __init__(self, logits: Tensor, bins: Tensor) -> None:
        self.logits = full_precision(logits)
        self.bins = bins

    @cached_property
    def log_probs(self) -> Tensor:
        """... bins, without gradient."""
        return torch.log_softmax(self.logits.detach(), -1)

    @cached_property
    def probs(self) -> Tensor:
        """... bins, without gradient."""
        return torch.softmax(self.logits.detach(), -1)

    @property
    def mean(self) -> Tensor:
        """Expected value, in the units of the target.

        Mirrored bins are paired before they are summed: a plain float32 sum over uniform probabilities
        gives 0.6 instead of 0, because the outer bins are of size 5e8.
        """
        differentiable = torch.is_grad_enabled() and self.logits.requires_grad
        probs = torch.softmax(self.logits, -1) if differentiable else self.probs
        half = len(self.bins) // 2
        return ((probs[..., -half:] - probs[..., :half].flip(-1)) * self.bins[-half:]).sum(-1)

    @property
    def magnitude(self) -> Tensor:
        """Expected absolute value: the size of the numbers that `mean` adds up, against which it is rounded."""
        return (torch.softmax(self.logits, -1) * self.bins.abs()).sum(-1)

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy against the two-hot code of a number (... without the bins)."""
        below, above, weight = two_hot(target.to(self.bins.dtype), self.bins)
        index, weight = torch.stack([below, above], -1), torch.stack([1 - weight, weight], -1)
        return cross_entropy(self.logits, self.log_probs, self.probs, index, weight)


class SymlogTwoHot:
    """A number of any size whose symlog is distributed over fixed bins: target and mean are interpolated there.

    Args:
        logits: ... bins.
        bins: ascending and antisymmetric, in symlog space (`symlog_bins`).
    Source: the official Dreamer V3 code of 2023 (arXiv 2301.04104v1, Eqs. 8 and 9).
    """

    def __init__(self, logits: Tensor, bins: Tensor) -> None:
        self.symlog = TwoHot(logits, bins)

    @property
    def mean(self) -> Tensor:
        """What the expected symlog stands for, in the units of the target: below the expected value, mostly."""
        return symexp(self.symlog.mean)

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy against the two-hot code of a number's symlog (... without the bins)."""
        return self.symlog.loss(symlog(target.to(self.symlog.bins.dtype)))


class FixedNormal:
    """A number as a normal distribution of a given deviation around a network's output (... , no last axis)."""

    def __init__(self, mean: Tensor, std: float = 1.0) -> None:
        self.mean, self.half_precision = full_precision(mean), 0.5 / (std * std)

    def loss(self, target: Tensor) -> Tensor:
        """Half the squared error over the variance: the negative log-likelihood, but for ln σ + ½ ln 2π."""
        return self.half_precision * (self.mean - target.to(self.mean.dtype)).square()


class Certain:
    """A chance that is 1 everywhere, and cannot be wrong. `like`: ... , of the dtype and device of the answers."""

    def __init__(self, like: Tensor) -> None:
        self.mean = torch.ones_like(full_precision(like))

    def loss(self, target: Tensor) -> Tensor:
        """Zeros, for any target (...)."""
        return torch.zeros_like(self.mean)


class Bernoulli:
    """A chance, given by one logit (... , no last axis)."""

    def __init__(self, logit: Tensor) -> None:
        self.logit = full_precision(logit)

    @property
    def mean(self) -> Tensor:
        """The chance of one."""
        return torch.sigmoid(self.logit)

    def loss(self, target: Tensor) -> Tensor:
        """Negative log-likelihood; the target may be any number from 0 to 1."""
        return F.binary_cross_entropy_with_logits(self.logit, target.to(self.logit.dtype), reduction="none")
