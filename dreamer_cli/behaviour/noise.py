"""Randomness of actions, as their distributions want it."""

import torch
from torch import Tensor, nn

from dreamer_cli.nets.distributions import gumbel
from dreamer_cli.spaces import ActionPart


class ActionDraw(nn.Module):
    """Draws the noise of flat actions: Gumbel in columns of categorical entries, standard normal in the others."""

    is_discrete: Tensor

    def __init__(self, action: tuple[ActionPart, ...]) -> None:
        super().__init__()
        self.discrete = [bool(part.classes) for part in action for _ in range(part.width)]
        self.register_buffer("is_discrete", torch.tensor(self.discrete), persistent=False)

    def forward(self, lead: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
        """lead A, of the dtype and on the device of `like`."""
        shape = (*lead, len(self.discrete))
        if all(self.discrete):
            return gumbel(shape, like, generator)
        normal = torch.empty(shape, dtype=like.dtype, device=like.device).normal_(generator=generator)
        if not any(self.discrete):
            return normal
        return torch.where(self.is_discrete, gumbel(shape, like, generator), normal)
