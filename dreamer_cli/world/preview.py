"""Pictures of a model that need not draw to learn."""

import torch
from torch import Tensor, nn

from dreamer_cli.world.coders import Decoder
from dreamer_cli.world.objectives import Seen, reconstruction


class Preview(nn.Module):
    """A decoder beside the model: it learns to draw what states say, and the model learns nothing from it."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def losses(self, seen: Seen) -> dict[str, Tensor]:
        """Reconstruction errors, summed over the keys, B T."""
        errors = reconstruction(self.decoder, seen.batch.obs, seen.feat.detach())
        return {"preview": torch.stack(list(errors.values())).sum(0)}

    def decode(self, feat: Tensor) -> dict[str, Tensor] | None:
        """What states look like, in the observation's units."""
        return self.decoder.display(self.decoder(feat))
