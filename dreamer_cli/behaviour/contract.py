"""What every behaviour is: a way to decide, and perhaps to learn it.

```
agent.policy ──▶ decide(world, state, noise, mode)      noise = action_noise(B, world, ...)
agent.losses ──▶ learn(world, seen, batch, *dream_noise(...)) ──▶ Learnt
```
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dreamer_cli.registry import Registry
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.structs import Batch, Mode, State
from dreamer_cli.world.model import Observed, WorldModel


class Learnt(NamedTuple):
    """Losses by name, per element, and metrics."""

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]


@runtime_checkable
class Behaviour(Protocol):
    """How to act in a world, and how to learn it.

    Attributes:
        horizon: how far it looks ahead, in records.
        through_dynamics: whether dreams have to carry gradients.
        needs: modules of the agent that deciding takes, beside encoder and dynamics, by their names there.
    """

    horizon: int
    through_dynamics: bool
    needs: tuple[str, ...]

    def action_noise(
        self, batch: int, world: WorldModel, like: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Randomness of one decision in each of `batch` environments; a batch axis comes first."""

    def decide(self, world: WorldModel, state: State, noise: Tensor, mode: Mode) -> Float[Tensor, "B A"]:
        """What to do in a state: as while collecting (`explore`), or as in evaluation, sampled or likeliest."""

    def dream_noise(
        self, starts: int, world: WorldModel, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Randomness of what is learnt in dreams from N starts: of latents, and of actions."""

    def learn(
        self, world: WorldModel, seen: Observed, batch: Batch, latent_noise: Tensor, action_noise: Tensor
    ) -> Learnt:
        """Losses of what is to be learnt; none for behaviours that only search."""

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Move slow copies, once the optimiser has stepped, or has not: then `sound` is false."""

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters for the optimiser: `actor`, `critic`, `ensemble`; none may be missing."""


BEHAVIOURS = Registry(
    {
        "actor_critic": "dreamer_cli.behaviour.actor_critic:ActorCriticConfig",
        "cem": "dreamer_cli.behaviour.planners:CEMConfig",
        "random_shooting": "dreamer_cli.behaviour.planners:RandomShootingConfig",
    }
)
