"""Adam as the generations before LaProp ran it: one for each group of parameters, stepped together."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.optim.agc import blank_unless
from dreamer_cli.optim.schedule import correction, ramp
from dreamer_cli.registry import STRICT, Count, Decay, Positive, Weight


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdamConfig:
    """Settings of Adam (PlaNet, Dreamer V1 and V2, and V3 of 2023).

    Groups are the world model, the actor, the critic, and what is learnt beside them. What is null is as for the world.

    Attributes:
        lr: step size, reached after the warm-up.
        actor_lr: the actor's.
        critic_lr: the critic's.
        warmup: updates over which the step size grows from 0; the first update has 0.
        clip: the norm of all gradients of a group is clipped to this.
        behaviour_clip: the same of actor and of critic, each by itself.
        beta1: how much of the old momentum stays at each update.
        beta2: how much of the old scale of gradients stays at each update.
        eps: added to that scale before it is corrected for its short past, as TensorFlow does.
        behaviour_eps: the actor's and the critic's.
        decay: every parameter shrinks by this share of itself at each update, whatever the step size.
    """

    lr: Weight = 1e-4
    actor_lr: Weight | None = None
    critic_lr: Weight | None = None
    warmup: Count = 0
    clip: Positive = 100.0
    behaviour_clip: Positive | None = None
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-5
    behaviour_eps: Positive | None = None
    decay: Decay = 0.0

    def build(self, groups: Mapping[str, list[nn.Parameter]]) -> "Adam":
        """An optimiser of all groups; `actor` and `critic` have settings of their own, all others share the world's."""
        return Adam(self, groups)


class _Group(NamedTuple):
    part: slice  # of all parameters
    lr: float
    clip: float
    eps: float


class Adam:
    """m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², p ← (1 - decay) p - lr √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε).

    That is TensorFlow's ε: against that of the paper (and of torch), it counts 1 / √(1 - β₂ᵗ) as much at update t.
    Everything that changes is a tensor changed in place, the update counter too: no host synchronisation.
    Source: Kingma and Ba 2015 (arXiv 1412.6980), end of section 2; clipping and decay as in Dreamer V2's official code.
    """

    def __init__(self, cfg: AdamConfig, groups: Mapping[str, list[nn.Parameter]]) -> None:
        self.cfg = cfg
        self.params = [p for params in groups.values() for p in params]
        self.square = [torch.zeros_like(p) for p in self.params]
        self.momentum = [torch.zeros_like(p) for p in self.params]
        self.count = torch.zeros((), dtype=torch.int64, device=self.params[0].device)
        self.groups = []
        start = 0
        for name, params in groups.items():
            if params:
                part = slice(start, start + len(params))
                self.groups.append(self._group(name, part))
                start = part.stop

    def _group(self, name: str, part: slice) -> _Group:
        cfg, behaves = self.cfg, name in ("actor", "critic")
        lr = {"actor": cfg.actor_lr, "critic": cfg.critic_lr}.get(name)
        return _Group(
            part,
            lr=cfg.lr if lr is None else lr,
            clip=cfg.behaviour_clip if behaves and cfg.behaviour_clip is not None else cfg.clip,
            eps=cfg.behaviour_eps if behaves and cfg.behaviour_eps is not None else cfg.eps,
        )

    @torch.no_grad()
    def step(self, sound: Tensor | None = None) -> dict[str, Tensor]:
        """Clip the gradients that `backward` left, and move every parameter.

        Where the norm of any group is not finite, or `sound` (a bool: what else is known of this update) is false, no
        parameter, no moment and not the count change by a bit: every factor below becomes 1 or 0, without a branch.
        Returns scalar metrics; `update/skipped` is then 1, otherwise 0.
        """
        cfg = self.cfg
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        norms = torch.stack(torch._foreach_norm(grads))
        totals = torch.stack([norms[group.part].norm() for group in self.groups])
        finite = totals.isfinite().all()
        sound = finite if sound is None else sound & finite
        moves = sound.to(norms.dtype)
        stays = 1 - moves

        done = self.count.to(norms.dtype)
        warm = ramp(done, cfg.warmup)
        step = warm * correction(done, cfg.beta2).sqrt() / correction(done, cfg.beta1) * moves
        self.count += sound
        excess = torch.stack([total / g.clip for g, total in zip(self.groups, totals.unbind(), strict=True)])
        factors = 1 / excess.clamp(min=1)
        for group, factor in zip(self.groups, factors.unbind(), strict=True):
            torch._foreach_mul_(grads[group.part], factor)
        blank_unless(sound, grads)
        torch._foreach_mul_(self.square, cfg.beta2 * moves + stays)
        torch._foreach_addcmul_(self.square, grads, grads, 1 - cfg.beta2)
        torch._foreach_mul_(self.momentum, cfg.beta1 * moves + stays)
        torch._foreach_add_(self.momentum, grads, alpha=1 - cfg.beta1)
        scale = torch._foreach_sqrt(self.square)
        for group in self.groups:
            torch._foreach_add_(scale[group.part], group.eps)
        change = torch._foreach_div(self.momentum, scale)
        for group in self.groups:
            torch._foreach_mul_(change[group.part], -group.lr * step)
        torch._foreach_mul_(list(self.params), 1 - cfg.decay * moves)
        torch._foreach_add_(list(self.params), change)
        return {
            "optim/grad_norm": totals.norm(),
            "optim/clipped": (excess > 1).to(totals.dtype).mean(),
            "optim/lr": cfg.lr * warm,
            "update/skipped": stays,
        }

    def state(self) -> dict[str, Tensor]:
        """Tensors to save, by flat names."""
        named = {f"square.{i}": x for i, x in enumerate(self.square)}
        named |= {f"momentum.{i}": x for i, x in enumerate(self.momentum)}
        return {**named, "count": self.count}
