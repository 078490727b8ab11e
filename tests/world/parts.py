"""Small parts of a world model and what they see, for tests of objectives: no agent around them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dreamer_cli.spaces import ObsSpec
from dreamer_cli.structs import Batch, State
from dreamer_cli.world.coders import Decoder, DecoderConfig, Encoder, EncoderConfig
from dreamer_cli.world.objectives import OBJECTIVES, Seen
from dreamer_cli.world.rssm import RSSM, RSSMConfig
from tests.golden import configure
from tests.small import CODER, EVERYTHING, WORLD, make_obs

A = 3
DYNAMICS = {key: value for key, value in WORLD["dynamics"].items() if key != "kind"}
TINY: dict[str, dict[str, Any]] = {"prototypes": {"prototypes": 7, "width": 4, "freeze": 0}}


class Parts(NamedTuple):
    """What objectives are built from, and feed on."""

    encoder: Encoder
    dynamics: RSSM
    specs: Mapping[str, ObsSpec]

    def make_decoder(self, **settings: Any) -> Decoder:
        """A fresh decoder of every key."""
        cfg = configure(DecoderConfig, CODER | settings)
        return Decoder(self.specs, cfg, self.dynamics.deter_size, self.dynamics.latent.size)

    def objective(self, kind: str, **settings: Any) -> Any:
        """A small objective of these parts."""
        cfg = configure(OBJECTIVES[kind], TINY.get(kind, {}) | settings)
        return cfg.build(self.encoder, self.dynamics, self.make_decoder)

    def see(self, batch: Batch, seed: int = 0) -> Seen:
        """Watch a batch."""
        like = batch.start.deter
        noise = self.dynamics.latent.noise(batch.reward.shape, like, torch.Generator().manual_seed(seed))
        embed = self.encoder(batch.obs)
        states, post = self.dynamics.observe(embed, batch.prev_action, batch.is_first, batch.start, noise)
        return Seen(batch, embed, states, self.dynamics.feat(states), post)

    def losses(self, objective: Any, seen: Seen, seed: int = 0) -> dict[str, Tensor]:
        """What the objective says of what was seen."""
        noise = draw(objective, seen.batch, seed)
        return objective.losses(seen, self.encoder, self.dynamics, noise)


def make_parts(specs: Mapping[str, ObsSpec] = EVERYTHING.observation, seed: int = 0) -> Parts:
    """Encoder and dynamics with fresh weights."""
    torch.manual_seed(seed)
    encoder = Encoder(specs, configure(EncoderConfig, CODER))
    return Parts(encoder, configure(RSSMConfig, DYNAMICS).build(encoder.size, A), specs)


def draw(part: Any, batch: Batch, seed: int = 0) -> tuple[Tensor, ...]:
    """Randomness of a part for one batch."""
    like = batch.start.deter
    return part.noise(*batch.reward.shape, like, torch.Generator().manual_seed(seed))


def make_batch(
    parts: Parts, batch: int = 2, time: int = 5, first_at: tuple[tuple[int, int], ...] = ((1, 2),), seed: int = 1
) -> Batch:
    """Random sequences; (sequence, step) pairs say where episodes begin. The start's guess is unpacked already."""
    generator = torch.Generator().manual_seed(seed)
    lead = (batch, time)
    is_first = torch.zeros(lead, dtype=torch.bool)
    for b, t in first_at:
        is_first[b, t] = True
    latent, like = parts.dynamics.latent, torch.zeros(())
    stoch = latent.sample(torch.zeros(batch, latent.stats_size), latent.noise((batch,), like, generator))
    deter = torch.randn(batch, parts.dynamics.core.size, generator=generator).tanh()
    return Batch(
        obs=make_obs(parts.specs, lead, generator),
        action=torch.randn(batch, time + 1, A, generator=generator).clamp(-1, 1),
        reward=torch.randn(lead, generator=generator),
        is_first=is_first,
        is_last=torch.zeros(lead, dtype=torch.bool),
        is_terminal=torch.zeros(lead, dtype=torch.bool),
        start=State(deter, stoch),
    )
