"""What the networks of one generation are built of: initial weights, norm, activation. One name chooses them all."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch.nn.functional as F
from pydantic import AfterValidator
from torch import nn

from dreamer_cli.errors import ConfigError, closest
from dreamer_cli.nets.blocks import MLP, Init, Layer, LayerNorm, Linear, PlainLayer, by_both_ends, by_inputs, glorot
from dreamer_cli.nets.pixels import ChannelLayerNorm, ChannelNorm, Conv, TransposedConv, UpConv


@dataclass(frozen=True)
class Bricks:
    """Makes layers; who builds a network asks for them here, and knows no generation.

    Attributes:
        init: draws the initial kernels.
        layer: (inputs, outputs) → a dense hidden layer, which has `linear` (its bias may be None) and `finish(x)`,
            norm and activation after the product.
        pixels: channels → a module N C Y X → N C Y X, norm and activation after a convolution.
        bias: whether what comes before a norm and an activation has one; what comes last always has.
    """

    init: Init
    layer: Callable[[int, int], nn.Module]
    pixels: Callable[[int], nn.Module]
    bias: bool = True

    def linear(self, inputs: int, outputs: int, scale: float = 1.0) -> Linear:
        """A last dense layer; `scale` multiplies the initial kernel (0: zeros)."""
        return Linear(inputs, outputs, scale, init=self.init)

    def mlp(self, inputs: int, units: int, layers: int) -> MLP:
        """`layers` hidden layers: ... inputs → ... units."""
        return MLP(inputs, units, layers, self.layer)

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> Conv:
        """A convolution that `pixels` follows; padding None: half the kernel."""
        return Conv(inputs, outputs, kernel, stride=stride, padding=padding, bias=self.bias, init=self.init)

    def up(self, inputs: int, outputs: int, kernel: int, last: bool = False) -> UpConv:
        """Up-sampling and a convolution, twice the size; `pixels` follows, unless it is the last one."""
        return UpConv(inputs, outputs, kernel, bias=self.bias or last, init=self.init)

    def transposed(
        self, inputs: int, outputs: int, kernel: tuple[int, int], padding: int = 0, last: bool = False
    ) -> TransposedConv:
        """A transposed convolution of stride 2; `pixels` follows, unless it is the last one."""
        return TransposedConv(inputs, outputs, kernel, padding=padding, bias=self.bias or last, init=self.init)


BRICKS = {
    # Dreamer V3 since 2024.
    "rms_silu": Bricks(by_inputs, Layer, ChannelNorm),
    # Dreamer V3 of 2023.
    "ln_silu": Bricks(
        by_both_ends,
        partial(Layer, linear=partial(Linear, bias=False, init=by_both_ends), norm=LayerNorm),
        ChannelLayerNorm,
        bias=False,
    ),
    # Dreamer V2, and V1 but for its convolutions.
    "elu": Bricks(glorot, partial(PlainLayer, activation=F.elu), lambda channels: nn.ELU(inplace=True)),
    # PlaNet, and V1's convolutions.
    "relu": Bricks(glorot, partial(PlainLayer, activation=F.relu), lambda channels: nn.ReLU(inplace=True)),
}


def known(name: str) -> str:
    """The name itself.

    Raises:
        ConfigError: there are no such bricks.
    """
    if name not in BRICKS:
        raise ConfigError(
            f"bricks is {name!r}, but must be a known one.", hint=closest(name, BRICKS) + f"Known: {', '.join(BRICKS)}."
        )
    return name


# The type of every `bricks` setting.
BrickName = Annotated[str, AfterValidator(known)]
