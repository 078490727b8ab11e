"""Latent overshooting: the prior learns to foresee several steps, not only the next one.

```
posterior   s0     s1     s2     s3          from every posterior an open loop of the prior, led by what was done
distance 1   └────▶ p1                       the loss `dyn`
distance 2   └────▶ p ───▶ p2                here, from s0, s1, ...
distance 3   └────▶ p ───▶ p ───▶ p3
```
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamer_cli.shapes import Bool, Float
from dreamer_cli.structs import State
from dreamer_cli.world.objectives import Seen


class Overshooting:
    """KL(posterior ‖ prior d steps ahead of an earlier posterior), averaged over the distances d = 2 ... `distance`.

    The posterior is a fixed target; gradients reach prior and memory, and through the open loop's beginning what is
    before it. Walks into another episode do not count.
    Source: PlaNet, "Latent overshooting" (arXiv 1811.04551); gradients as in the official code.

    Args:
        distance: the farthest; below 2 there is nothing to do.
        free: takes the free nats out of the KL of one distance, B T → B T: of each step, or of their mean.
        latent: of the dynamics, which draws its randomness and measures the KL.
    """

    def __init__(self, distance: int, free: Callable[[Tensor], Tensor], latent: Any) -> None:
        self.distance, self.free, self.latent = distance, free, latent

    def reach(self, length: int) -> int:
        """The farthest distance within sequences of `length` records; below 2: none counts."""
        return min(self.distance, length - 1)

    def noise(
        self, batch: int, length: int, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Randomness of the guesses at each distance d, B T-d and the latent's axes; () if no distance counts."""
        reach = self.reach(length)
        ahead = range(1, reach + 1) if reach > 1 else ()
        return tuple(self.latent.noise((batch, length - d), like, generator) for d in ahead)

    def losses(self, seen: Seen, dynamics: Any, noise: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """One number, `overshoot`, in nats; nothing if no distance counts."""
        if not noise:
            return {}
        action, is_first = seen.batch.prev_action, seen.batch.is_first
        # One step ahead the memory is the posterior's own. Column t: what was foreseen for record t + d.
        deter = seen.states.deter[:, 1:]
        state = State(deter, self.latent.sample(dynamics.prior(deter), noise[0]))
        inside = ~is_first[:, 1:]
        means = []
        for d, draw in enumerate(noise[1:], 2):
            before = State(*(x[:, :-1].flatten(0, 1) for x in state))
            after = dynamics.imagine_step(before, action[:, d:].flatten(0, 1), draw.flatten(0, 1))
            state = State(*(x.unflatten(0, draw.shape[:2]) for x in after))
            inside = inside[:, :-1] & ~is_first[:, d:]
            kl = self.latent.kl(seen.post[:, d:].detach(), dynamics.prior(state.deter))
            means.append(self.mean(kl, inside))
        return {"overshoot": torch.stack(means).mean()}

    def mean(self, kl: Float[Tensor, "B T"], inside: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Over walks that stay inside one episode; 0 if none does."""
        count = inside.sum().clamp(min=1)
        # The others get the mean, so that they change none, whatever has free nats.
        kl = torch.where(inside, kl, torch.where(inside, kl, 0).sum() / count)
        return torch.where(inside, self.free(kl), 0).sum() / count
