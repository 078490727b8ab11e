"""What makes the state informative about the observation."""

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.recompute import in_parts
from dreamer_cli.registry import STRICT
from dreamer_cli.world.coders import CoderConfig, Decoder, Specs


class Reconstruct(nn.Module):
    """Decode what was seen. Losses are per observation key, B T.

    Every objective has `keys`, the names of its losses, `losses(batch_obs, embed, feat)`, and `decode(feat)`, which is
    None for those that cannot draw.
    """

    def __init__(self, cfg: "ReconstructConfig", specs: Specs, deter: int, stoch: int) -> None:
        super().__init__()
        self.decoder = Decoder(specs, cfg.decoder, deter, stoch)
        self.keys = tuple(self.decoder.specs)
        self.recompute = cfg.decoder.recompute

    def losses(self, obs: dict[str, Tensor], embed: Tensor, feat: Tensor) -> dict[str, Tensor]:
        """Reconstruction errors of every key."""
        # As sequences of one frame each, so that any number of them can go together.
        frames = {key: obs[key].flatten(0, 1).unsqueeze(1) for key in self.keys}
        losses = in_parts(self._losses, self.recompute, frames, feat.flatten(0, 1).unsqueeze(1))
        return {key: loss.view(feat.shape[:2]) for key, loss in losses.items()}

    def _losses(self, obs: dict[str, Tensor], feat: Tensor) -> dict[str, Tensor]:
        return self.decoder.losses(self.decoder(feat), obs)

    def decode(self, feat: Tensor) -> dict[str, Tensor] | None:
        """What the state looks like, in the observation's units."""
        return self.decoder.display(self.decoder(feat))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReconstructConfig:
    """Reconstruction of every observation key (PlaNet to Dreamer V3)."""

    decoder: CoderConfig = CoderConfig()

    def build(self, specs: Specs, embed: int, deter: int, stoch: int) -> Reconstruct:
        """An objective on states of `deter` and `stoch` numbers."""
        return Reconstruct(self, specs, deter, stoch)


OBJECTIVES = {"reconstruct": ReconstructConfig}
