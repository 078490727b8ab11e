"""Layers of Dreamer V3's networks and their initial weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer_cli.nets.kernels import full_precision, norm_silu, rms_root
from dreamer_cli.nets.loops import NormSiLU, Product


def init_weight(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Truncated normal with standard deviation scale / sqrt(fan_in), cut at two of its own deviations.

    Cutting shrinks the deviation to 0.8796 of itself, which 1.1368 makes good. Scale 0 gives exact zeros.
    Source: the official Dreamer V3 code.
    """
    std = 1.1368 * scale / math.sqrt(fan_in)
    if std:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    else:
        nn.init.zeros_(weight)


class Linear(nn.Linear):
    """A dense layer with Dreamer's initial weights and a zero bias; `scale` multiplies the initial kernel."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0) -> None:
        self.scale = scale
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        init_weight(self.weight, self.in_features, self.scale)
        nn.init.zeros_(self.bias)

    def loop(self) -> Product:
        """For time loops."""
        return Product(self.weight.t(), self.bias)


class BlockLinear(nn.Module):
    """A dense layer that connects only within G blocks: ... G I → ... G·O.

    Weight: G I O (input G·I wide in all). The fan-in is the full input width, as in the official code.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        init_weight(self.weight, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """x: B G I (the input already split into blocks) → B G·O."""
        y = torch.bmm(x.transpose(0, 1), self.weight)  # G B O
        return y.transpose(0, 1).flatten(1) + self.bias

    def loop(self) -> Product:
        """For time loops; there, inputs and outputs are flat (B G·I → B G·O)."""
        return Product(self.weight, self.bias)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + 1e-4) · scale over the last axis: no shift, never below float32.

    Source: Dreamer V3 (2024), official code. torch's own default epsilon is far smaller.
    """

    eps = 1e-4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """... width → the same shape and dtype."""
        full = full_precision(x)
        return (full * rms_root(full, self.eps) * self.scale).to(x.dtype)

    def silu(self, x: Tensor) -> Tensor:
        """The same, and SiLU after it: what follows every norm here."""
        return norm_silu(x, self.scale, self.eps)

    def loop(self) -> NormSiLU:
        """`silu` for time loops."""
        return NormSiLU(self.scale, self.eps)


class Layer(nn.Module):
    """Linear → RMSNorm → SiLU, the unit that every V3 network is made of. The bias stays, as in the official code."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)
        self.norm = RMSNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """... inputs → ... outputs."""
        return self.norm.silu(self.linear(x))


class MLP(nn.Sequential):
    """`layers` Layers of width `units`: ... inputs → ... units."""

    def __init__(self, inputs: int, units: int, layers: int) -> None:
        super().__init__(*(Layer(inputs if i == 0 else units, units) for i in range(layers)))

    @property
    def layers(self) -> list[Layer]:
        """Its Layers, in order."""
        return [layer for layer in self if isinstance(layer, Layer)]


class ChannelNorm(RMSNorm):
    """RMSNorm over the channels of each pixel of a channels-last image batch: N C Y X."""

    def forward(self, x: Tensor) -> Tensor:
        """N C Y X → the same; a permuted view costs nothing while the memory is channels-last."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def silu(self, x: Tensor) -> Tensor:
        """The same, and SiLU after it."""
        return super().silu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Conv(nn.Conv2d):
    """Convolution of stride 1 that keeps the size, with Dreamer's initial weights and a zero bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, scale: float = 1.0) -> None:
        self.scale = scale
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        assert self.bias is not None
        init_weight(self.weight, self.in_channels * math.prod(self.kernel_size), self.scale)
        nn.init.zeros_(self.bias)


class UpConv(Conv):
    """Nearest 2x up-sampling followed by a convolution, N C Y X → N O 2Y 2X, without the big intermediate.

    Up-sampling repeats every pixel, so several taps of the big kernel read the same small pixel: summed
    beforehand they make one small kernel for each of the 2x2 output phases, all four in one convolution.
    Equal to the plain form up to rounding, zero border included (`tests/nets/test_blocks.py`).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, scale: float = 1.0) -> None:
        super().__init__(inputs, outputs, kernel, scale)
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
        assert self.bias is not None
        taps = self.get_buffer("taps")
        weight = torch.einsum("pyk,qxl,oikl->opqiyx", taps, taps, self.weight)
        y = F.conv2d(input, weight.flatten(0, 2), self.bias.repeat_interleave(4), padding=self.reach)
        return F.pixel_shuffle(y, 2)
