"""What makes the state informative about the observation.

Every objective is built by its settings' `build(encoder, dynamics, make_decoder)` and has

- `keys`: the names of its losses;
- `noise(batch, length, like, generator)`: the randomness of one update, a tuple of tensors; () if it needs none;
- `losses(seen, encoder, dynamics, noise)`: a loss of any shape for each of `keys`; their means are learnt;
- `decode(feat)`: what states look like, in the observation's units; None if it cannot draw;
- `after_update(sound)`: what moves besides the optimiser; nothing moves where `sound` (a scalar) is false.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.recompute import in_parts
from dreamer_cli.registry import STRICT, Registry
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.structs import Batch, State
from dreamer_cli.world.coders import Decoder


class Seen(NamedTuple):
    """A batch, and what the model made of it: embed B T E, states B T ..., feat B T F, posterior statistics B T n."""

    batch: Batch
    embed: Tensor
    states: State
    feat: Tensor
    post: Tensor


class Reconstruct(nn.Module):
    """Decode what was seen. Losses are per observation key, B T."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.keys = tuple(decoder.specs)

    def noise(
        self, batch: int, length: int, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """None is needed."""
        return ()

    def losses(self, seen: Seen, encoder: nn.Module, dynamics: Any, noise: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Reconstruction errors of every key."""
        return reconstruction(self.decoder, seen.batch.obs, seen.feat)

    def decode(self, feat: Tensor) -> dict[str, Tensor] | None:
        """What the state looks like, in the observation's units."""
        return self.decoder.display(self.decoder(feat))

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Nothing moves."""


def reconstruction(decoder: Decoder, obs: dict[str, Tensor], feat: Float[Tensor, "B T F"]) -> dict[str, Tensor]:
    """How far what the decoder draws of each state is from what was seen: each key's loss, B T."""

    def losses(obs: dict[str, Tensor], feat: Tensor) -> dict[str, Tensor]:
        return decoder.losses(decoder(feat), obs)

    # As sequences of one frame each, so that any number of them can go together.
    frames = {key: obs[key].flatten(0, 1).unsqueeze(1) for key in decoder.specs}
    parts = in_parts(losses, decoder.recompute, frames, feat.flatten(0, 1).unsqueeze(1))
    return {key: loss.view(feat.shape[:2]) for key, loss in parts.items()}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReconstructConfig:
    """Reconstruction of every observation key that the decoder draws (PlaNet to Dreamer V3)."""

    def build(self, encoder: nn.Module, dynamics: Any, make_decoder: Callable[[], Decoder]) -> Reconstruct:
        """An objective with a decoder of its own."""
        return Reconstruct(make_decoder())


OBJECTIVES = Registry(
    {
        "reconstruct": ReconstructConfig,
        "decorrelate": "dreamer_cli.world.decorrelate:DecorrelateConfig",
        "contrast": "dreamer_cli.world.contrast:ContrastConfig",
        "prototypes": "dreamer_cli.world.prototypes:PrototypesConfig",
    },
    refused={"none": "nothing would then make the state say what was seen, so there would be no world to dream of."},
)
