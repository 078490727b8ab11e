"""Contrast: tell from the state which of all embeds of the batch is its own."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.registry import STRICT
from dreamer_cli.shapes import Float
from dreamer_cli.world.projected import Projected


def info_nce(x: Float[Tensor, "N E"], y: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
    """Surprise (nats) that row i of x goes with row i of y and not with any other of its N rows.

    Logits are plain products: no temperature, no unit length. Source: CPC, Eq. 4 (arXiv 1807.03748); plain products
    as in R2-Dreamer's official code.
    """
    return -torch.log_softmax(x @ y.t(), -1).diagonal()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ContrastConfig:
    """Contrast between state and embed (InfoNCE), without a decoder."""

    def build(self, encoder: Any, dynamics: Any, make_decoder: Callable[[], nn.Module]) -> Projected:
        """An objective on what the encoder gives and heads read."""
        return Projected("contrast", info_nce, dynamics.feat_size, encoder.size)
