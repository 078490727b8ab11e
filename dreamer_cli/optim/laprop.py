"""LaProp: Adam with the normalisation before the momentum, so momentum cannot be divided by a stale scale."""

from collections.abc import Mapping

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.optim.agc import blank_unless, clip_adaptively
from dreamer_cli.optim.schedule import correction, ramp
from dreamer_cli.registry import STRICT, Count, Decay, Positive, Weight


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LaPropConfig:
    """Settings of LaProp.

    Attributes:
        lr: step size per parameter, reached after the warm-up.
        warmup: updates over which the step size grows from 0; the first update has 0.
        agc: the norm of a gradient is clipped to this share of its parameter's norm.
        beta1: how much of the old momentum stays at each update.
        beta2: how much of the old scale of gradients stays at each update.
        eps: added to that scale.
    """

    lr: Weight = 4e-5
    warmup: Count = 1000
    agc: Positive = 0.3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-20

    def build(self, groups: Mapping[str, list[nn.Parameter]]) -> "LaProp":
        """An optimiser of all groups' parameters, which it treats alike."""
        return LaProp(self, [p for params in groups.values() for p in params])


class LaProp:
    """u = g / (√v̂ + ε), m ← β₁ m + (1 - β₁) u, p ← p - lr m̂.

    Everything that changes is a tensor changed in place, the update counter too: no host synchronisation.
    Source: Ziyin et al. 2020 (arXiv 2002.04839); order and constants as in the official Dreamer V3 code.
    """

    def __init__(self, cfg: LaPropConfig, params: list[nn.Parameter]) -> None:
        self.cfg = cfg
        self.params = params
        self.square = [torch.zeros_like(p) for p in params]
        self.momentum = [torch.zeros_like(p) for p in params]
        self.count = torch.zeros((), dtype=torch.int64, device=params[0].device)

    @torch.no_grad()
    def step(self, sound: Tensor | None = None) -> dict[str, Tensor]:
        """Clip the gradients that `backward` left, and move every parameter.

        Where a gradient's norm is not finite, or `sound` (a bool: what else is known of this update) is false, no
        parameter, no moment and not the count change by a bit: every factor below becomes 1 or 0, without a branch.
        Returns scalar metrics; `update/skipped` is then 1, otherwise 0.
        """
        cfg = self.cfg
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        norms = torch.stack(torch._foreach_norm(grads))
        finite = norms.isfinite().all()
        sound = finite if sound is None else sound & finite
        clipped = clip_adaptively(grads, list(self.params), cfg.agc, norms=norms)
        blank_unless(sound, grads)
        moves = sound.to(norms.dtype)
        stays = 1 - moves

        done = self.count.to(norms.dtype)
        lr = cfg.lr * ramp(done, cfg.warmup)
        self.count += sound
        rms_bias, momentum_bias = correction(done, cfg.beta2), correction(done, cfg.beta1)
        torch._foreach_mul_(self.square, cfg.beta2 * moves + stays)
        torch._foreach_addcmul_(self.square, grads, grads, 1 - cfg.beta2)
        scale = torch._foreach_mul(self.square, 1 / rms_bias)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, cfg.eps)
        torch._foreach_div_(grads, scale)  # from here on: normalised
        del scale  # its memory is used again
        # Drawn to itself, the momentum stays.
        torch._foreach_add_(grads, torch._foreach_mul(self.momentum, stays))
        torch._foreach_lerp_(self.momentum, grads, 1 - cfg.beta1)
        torch._foreach_add_(list(self.params), torch._foreach_mul(self.momentum, -lr / momentum_bias * moves))
        return {"optim/grad_norm": norms.norm(), "optim/clipped": clipped, "optim/lr": lr, "update/skipped": stays}

    def state(self) -> dict[str, Tensor]:
        """Tensors to save, by flat names."""
        named = {f"square.{i}": x for i, x in enumerate(self.square)}
        named |= {f"momentum.{i}": x for i, x in enumerate(self.momentum)}
        return {**named, "count": self.count}
