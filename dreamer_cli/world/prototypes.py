"""DreamerPro's objective: two views of what was seen agree on which prototypes it is like, and the state says so."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.blocks import Linear
from dreamer_cli.nets.copies import move_slowly, slow_copy
from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.nets.loops import as_given
from dreamer_cli.registry import STRICT, Choices, Count, Layers, Positive, Share, Units
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.structs import State
from dreamer_cli.world.augment import shift, shift_choices
from dreamer_cli.world.objectives import Seen


@torch.no_grad()
def sinkhorn(scores: Float[Tensor, "*lead K"], epsilon: float, iterations: int) -> Float[Tensor, "*lead K"]:
    """Which of K prototypes each sample is like: chances that sum to 1, shared out so that all prototypes are used.

    In turns every prototype gets as much as any other, and every sample as much as any other; the samples have the last
    word. Source: SwAV, Eqs. 3 and 5 (arXiv 2006.09882), in logarithms; constants that only keep the whole at 1 are
    left out.
    """
    logs = scores.flatten(0, -2) / epsilon
    for _ in range(iterations):
        logs = torch.log_softmax(torch.log_softmax(logs, 0), 1)
    return logs.exp().view(scores.shape)


class Prototypes(nn.Module):
    """Two augmented copies of the batch, watched anew, against prototypes on the unit sphere.

    ```
    view ─▶ encoder ───────────▶ obs_proj ──▶ swav: the other view's target
              └▶ dynamics ─▶ feat_proj ─────▶ temp: its own view's target
    view ─▶ slow encoder ─▶ slow obs_proj ──▶ sinkhorn ─▶ target
    ```
    Source: DreamerPro (arXiv 2110.14565); the details as in R2-Dreamer's official code.

    Attributes:
        updates: how many there were, to know until when the prototypes stay as they were drawn.
    """

    keys = ("swav", "temp", "norm")
    updates: Tensor

    def __init__(self, cfg: "PrototypesConfig", encoder: Any, dynamics: Any) -> None:
        super().__init__()
        self.cfg = cfg
        self.prototypes = nn.Parameter(F.normalize(torch.randn(cfg.prototypes, cfg.width), dim=-1))
        self.obs_proj = Linear(encoder.size, cfg.width)
        self.feat_proj = Linear(dynamics.feat_size, cfg.width)
        # Equal at first, so the first update already has targets of the slow ones.
        self.slow_encoder, self.slow_proj = slow_copy(encoder), slow_copy(self.obs_proj)
        # In a list, because these are not parts of this module: the encoder is the world's.
        self.followed = [(self.slow_encoder, encoder), (self.slow_proj, self.obs_proj)]
        self.latent_noise: Callable[..., Tensor] = dynamics.latent.noise
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def noise(
        self, batch: int, length: int, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Shifts of both views of every sequence, 2B 2, and the randomness of the posterior on them, 2B T ....

        Raises:
            ConfigError: sequences are no longer than what is left out of them.
        """
        if length <= self.cfg.warm_up:
            raise ConfigError(
                f"world.objective.warm_up={self.cfg.warm_up} leaves nothing of sequences of {length} records.",
                hint=f"Set world.objective.warm_up={max(0, length - 1)}, or longer sequences.",
            )
        shifts = shift_choices(2 * batch, self.cfg.pad, like, generator)
        return shifts, self.latent_noise((2 * batch, length), like, generator)

    def losses(self, seen: Seen, encoder: Any, dynamics: Any, noise: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """swav and temp (2B T-warm_up, nats), norm (2B T). The first B rows are the first view of the sequences."""
        shifts, latent_noise = noise
        batch = seen.batch
        views = self.views(batch.obs, encoder, shifts)
        embed = encoder(views)
        with torch.no_grad():
            slow = self.slow_proj(self.slow_encoder(views))
        start = State(*(twice(x) for x in batch.start))
        states, _ = dynamics.observe(embed, twice(batch.prev_action), twice(batch.is_first), start, latent_noise)
        projected = (self.obs_proj(embed), self.feat_proj(dynamics.feat(states)), slow)
        with as_given(embed.device.type):
            return self.compare(*(full_precision(x) for x in projected))

    def views(self, obs: Mapping[str, Tensor], encoder: Any, shifts: Tensor) -> dict[str, Tensor]:
        """Every key that the encoder reads, twice; pictures shifted, everything else as it is."""
        pictures = [key for key, spec in encoder.specs.items() if spec.kind == "image"]
        views = {key: twice(obs[key]) for key in encoder.specs}
        return views | {key: shift(views[key], shifts, self.cfg.pad) for key in pictures}

    def compare(
        self, by_obs: Float[Tensor, "B2 T P"], by_feat: Float[Tensor, "B2 T P"], slow: Float[Tensor, "B2 T P"]
    ) -> dict[str, Tensor]:
        """The losses, from what was projected: of the encoder, of the states, of the slow encoder."""
        cfg = self.cfg
        prototypes = F.normalize(self.prototypes, dim=-1)
        # A gate instead of zeroed gradients: it is in the graph, and the host need not know.
        prototypes = torch.where(self.updates < cfg.freeze, prototypes.detach(), prototypes)
        scores = [F.normalize(x[:, cfg.warm_up :], dim=-1) @ prototypes.t() for x in (by_obs, by_feat, slow)]
        said, felt = (torch.log_softmax(x / cfg.temperature, -1) for x in scores[:2])
        first, second = (sinkhorn(half, cfg.epsilon, cfg.iterations) for half in scores[2].chunk(2))
        return {
            "swav": -(torch.cat([second, first]) * said).sum(-1),
            "temp": -(torch.cat([first, second]) * felt).sum(-1),
            "norm": sum((x.norm(dim=-1) - 1).square() for x in (by_obs, by_feat)),
        }

    def decode(self, feat: Tensor) -> dict[str, Tensor] | None:
        """It cannot draw."""
        return None

    @torch.no_grad()
    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Bring prototypes back to unit length, and the slow copies a bit closer."""
        self.prototypes.copy_(torch.where(sound, F.normalize(self.prototypes, dim=-1), self.prototypes))
        for slow, fast in self.followed:
            move_slowly(slow, fast, self.cfg.rate * sound.to(self.prototypes.dtype))
        self.updates += sound


def twice(x: Tensor) -> Tensor:
    """B ... → 2B ..., the whole once more after itself."""
    return torch.cat([x, x])


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrototypesConfig:
    """Prototypes shared by two views of the observation and the state, without a decoder (DreamerPro).

    Attributes:
        prototypes: how many.
        width: numbers of a prototype, and of everything that is compared with them.
        temperature: differences of this size between similarities (-1 to 1) matter.
        epsilon: the same of targets: small ones are nearly certain.
        iterations: turns of sharing out the prototypes.
        warm_up: records at a sequence's beginning that are not compared.
        freeze: updates during which the prototypes stay as they were drawn.
        rate: share of the encoder that moves into its slow copy at each update.
        pad: the most pixels by which pictures are shifted to any side.
    """

    prototypes: Choices = 2500
    width: Units = 32
    temperature: Positive = 0.1
    epsilon: Positive = 0.05
    iterations: Layers = 3
    warm_up: Count = 1
    freeze: Count = 10_000
    rate: Share = 0.05
    pad: Annotated[int, Field(ge=0, le=1024)] = 3

    def build(self, encoder: Any, dynamics: Any, make_decoder: Callable[[], nn.Module]) -> Prototypes:
        """An objective that watches augmented copies of the batch with the model's own encoder and dynamics."""
        return Prototypes(self, encoder, dynamics)
