"""Objectives without a decoder whose state, once projected, shall say what the encoder said."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dreamer_cli.nets.blocks import Linear
from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.nets.loops import as_given
from dreamer_cli.shapes import Bool
from dreamer_cli.world.objectives import Seen


class Projected(nn.Module):
    """The projected state and the embed, compared over all N = B·T records of a batch.

    The embed is a fixed target: the encoder learns only through the state.

    Args:
        key: name of the loss.
        compare: (projected N E, embed N E) → a loss for each record, N, or one for all.
    """

    def __init__(self, key: str, compare: Callable[[Tensor, Tensor], Tensor], feat: int, embed: int) -> None:
        super().__init__()
        self.keys, self.compare = (key,), compare
        self.projector = Linear(feat, embed, bias=False)

    def noise(
        self, batch: int, length: int, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """None is needed."""
        return ()

    def losses(self, seen: Seen, encoder: nn.Module, dynamics: Any, noise: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """B T, or one number for the whole batch."""
        x = full_precision(self.projector(seen.feat)).flatten(0, 1)
        y = seen.embed.detach().flatten(0, 1).to(x.dtype)
        with as_given(x.device.type):
            loss = self.compare(x, y)
        return {self.keys[0]: loss.view(seen.feat.shape[:2]) if loss.dim() else loss}

    def decode(self, feat: Tensor) -> dict[str, Tensor] | None:
        """It cannot draw."""
        return None

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Nothing moves."""
