"""Layers for pictures, N C Y X: convolutions, and norms over the channels of each pixel."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer_cli.nets.blocks import Init, LayerNorm, RMSNorm, by_inputs, no_bias


class ChannelNorm(RMSNorm):
    """RMSNorm over the channels of each pixel of a channels-last image batch, and SiLU after it: N C Y X."""

    def forward(self, x: Tensor) -> Tensor:
        """N C Y X → the same; a permuted view costs nothing while the memory is channels-last."""
        return self.silu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelLayerNorm(LayerNorm):
    """LayerNorm over the channels of each pixel of a channels-last image batch, and SiLU after it: N C Y X."""

    def forward(self, x: Tensor) -> Tensor:
        """N C Y X → the same."""
        return self.silu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Conv(nn.Conv2d):
    """Convolution with its generation's initial weights and a zero bias; by itself of stride 1, keeping the size.

    Args:
        padding: on each side; None: half the kernel.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
        init: Init = by_inputs,
    ) -> None:
        self.init = init
        padding = kernel // 2 if padding is None else padding
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, bias=bias)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        taps = math.prod(self.kernel_size)
        self.init(self.weight, self.in_channels * taps, self.out_channels * taps, 1.0)
        no_bias(self.bias)


class TransposedConv(nn.ConvTranspose2d):
    """Transposed convolution of stride 2, N C Y X → N O (2Y + k - 2 - 2p) (2X + l - 2 - 2p) for a k x l kernel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        padding: int = 0,
        bias: bool = True,
        init: Init = by_inputs,
    ) -> None:
        self.init = init
        super().__init__(inputs, outputs, kernel, stride=2, padding=padding, bias=bias)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        taps = math.prod(self.kernel_size)
        self.init(self.weight, self.in_channels * taps, self.out_channels * taps, 1.0)
        no_bias(self.bias)


class UpConv(Conv):
    """Nearest 2x up-sampling followed by a convolution, N C Y X → N O 2Y 2X, without the big intermediate.

    Up-sampling repeats every pixel, so several taps of the big kernel read the same small pixel: summed
    beforehand they make one small kernel for each of the 2x2 output phases, all four in one convolution.
    Equal to the plain form up to rounding, zero border included (`tests/nets/test_blocks.py`).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, init: Init = by_inputs) -> None:
        super().__init__(inputs, outputs, kernel, bias=bias, init=init)
        radius = kernel // 2
        reach = (radius + 1) // 2  # how far the taps of either phase reach in the small image
        taps = torch.zeros(2, 2 * reach + 1, kernel)
        for phase in range(2):
            for tap in range(kernel):
                taps[phase, (phase + tap - radius) // 2 + reach, tap] = 1.0
        self.register_buffer("taps", taps, persistent=False)
        self.reach = reach

    def forward(self, input: Tensor) -> Tensor:
        """N C Y X → N O 2Y 2X."""
        taps = self.get_buffer("taps")
        weight = torch.einsum("pyk,qxl,oikl->opqiyx", taps, taps, self.weight)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        y = F.conv2d(input, weight.flatten(0, 2), bias, padding=self.reach)
        return F.pixel_shuffle(y, 2)
