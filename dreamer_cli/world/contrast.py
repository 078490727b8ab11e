"""Contrast: tell from the state which of all embeds of the batch is its own."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.blocks import Linear
from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.nets.loops import as_given
from dreamer_cli.registry import STRICT
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.world.objectives import Seen


def info_nce(x: Float[Tensor, "N E"], y: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
    """Surprise (nats) that row i of x goes with row i of y and not with any other of its N rows.

    Logits are plain products: no temperature, no unit length. Source: CPC, Eq. 4 (arXiv 1807.03748); plain products
    as in R2-Dreamer's official code.
    """
    return -torch.log_softmax(x @ y.t(), -1).diagonal()


class Contrast(nn.Module):
    """Every projected state against every embed of the batch.

    The embed is a fixed target: the encoder learns only through the state.
    """

    keys = ("contrast",)

    def __init__(self, feat: int, embed: int) -> None:
        super().__init__()
        self.projector = Linear(feat, embed, bias=False)

    def noise(
        self, batch: int, length: int, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """None is needed."""
        return ()

    def losses(self, seen: Seen, encoder: nn.Module, dynamics: Any, noise: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The surprise of every record, B T."""
        x = full_precision(self.projector(seen.feat)).flatten(0, 1)
        y = seen.embed.detach().flatten(0, 1).to(x.dtype)
        with as_given(x.device.type):
            return {"contrast": info_nce(x, y).view(seen.feat.shape[:2])}

    def decode(self, feat: Tensor) -> dict[str, Tensor] | None:
        """It cannot draw."""
        return None

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Nothing moves."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastConfig:
    """Contrast between state and embed (InfoNCE), without a decoder."""

    def build(self, encoder: Any, dynamics: Any, make_decoder: Callable[[], nn.Module]) -> Contrast:
        """An objective on what the encoder gives and heads read."""
        return Contrast(dynamics.feat_size, encoder.size)
