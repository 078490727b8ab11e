"""Layers of networks and their initial weights: Dreamer V3's, and what earlier generations need otherwise.

Which of them go together stands in `nets/bricks.py`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer_cli.nets.kernels import full_precision, norm_silu, rms_root
from dreamer_cli.nets.loops import NormSiLU, Product

# Draws initial weights in place: (weight, fan-in, fan-out, factor). Fans count the taps of a kernel.
Init = Callable[[Tensor, int, int, float], None]


def init_weight(weight: Tensor, fan_in: int | float, scale: float = 1.0) -> None:
    """Truncated normal with standard deviation scale / sqrt(fan_in), cut at two of its own deviations.

    Cutting shrinks the deviation to 0.8796 of itself, which 1.1368 makes good. Scale 0 gives exact zeros.
    Source: the official Dreamer V3 code.
    """
    std = 1.1368 * scale / math.sqrt(fan_in)
    if std:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    else:
        nn.init.zeros_(weight)


def by_inputs(weight: Tensor, fan_in: int, fan_out: int, scale: float) -> None:
    """Truncated normal, deviation 1 / sqrt(fan-in): Dreamer V3 since 2024."""
    init_weight(weight, fan_in, scale)


def by_both_ends(weight: Tensor, fan_in: int, fan_out: int, scale: float) -> None:
    """Truncated normal, deviation 1 / sqrt(mean of fan-in and fan-out): Dreamer V3 of 2023."""
    init_weight(weight, (fan_in + fan_out) / 2, scale)


def glorot(weight: Tensor, fan_in: int, fan_out: int, scale: float) -> None:
    """Uniform within ± sqrt(6 / (fan-in + fan-out)), TensorFlow's default: PlaNet, Dreamer V1 and V2.

    Source: Glorot and Bengio 2010, Eq. 16.
    """
    limit = scale * math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -limit, limit)


def no_bias(bias: Tensor | None) -> None:
    """A bias that is there begins at zero."""
    if bias is not None:
        nn.init.zeros_(bias)


class Linear(nn.Linear):
    """A dense layer with its generation's initial weights and a zero bias; `scale` multiplies the initial kernel."""

    def __init__(
        self, inputs: int, outputs: int, scale: float = 1.0, *, bias: bool = True, init: Init = by_inputs
    ) -> None:
        self.scale, self.init = scale, init
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        self.init(self.weight, self.in_features, self.out_features, self.scale)
        no_bias(self.bias)

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


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-3) · scale + shift over the last axis, never below float32.

    Source: Ba et al. 2016 (arXiv 1607.06450); epsilon as in Dreamer V2's and V3's code of 2023.
    """

    eps = 1e-3

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """... width → the same shape and dtype."""
        return self._full(x).to(x.dtype)

    def silu(self, x: Tensor) -> Tensor:
        """The same, and SiLU after it."""
        return F.silu(self._full(x), inplace=True).to(x.dtype)

    def _full(self, x: Tensor) -> Tensor:
        return F.layer_norm(full_precision(x), self.scale.shape, self.scale, self.shift, self.eps)


class Layer(nn.Module):
    """Linear → RMSNorm → SiLU, the unit that every V3 network is made of. The bias stays, as in the official code.

    Layers of every generation have `linear`, and `finish(x)` for what comes after its product.

    Args:
        linear: makes the dense layer of (inputs, outputs).
        norm: makes the norm of a width, which has `silu`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        linear: Callable[[int, int], nn.Linear] = Linear,
        norm: Callable[[int], nn.Module] = RMSNorm,
    ) -> None:
        super().__init__()
        self.linear = linear(inputs, outputs)
        self.norm: Any = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """... inputs → ... outputs."""
        return self.norm.silu(self.linear(x))

    def finish(self, x: Tensor) -> Tensor:
        """Norm and activation of a product that was formed elsewhere: ... outputs → ... outputs."""
        return self.norm.silu(x)


class PlainLayer(nn.Module):
    """Linear → activation: the unit of PlaNet, Dreamer V1 and V2, which know no norm."""

    def __init__(self, inputs: int, outputs: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs, init=glorot)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """... inputs → ... outputs."""
        return self.activation(self.linear(x))

    def finish(self, x: Tensor) -> Tensor:
        """Activation of a product that was formed elsewhere."""
        return self.activation(x)


class MLP(nn.Sequential):
    """`layers` layers of width `units`, each made by `layer`: ... inputs → ... units."""

    def __init__(self, inputs: int, units: int, layers: int, layer: Callable[[int, int], nn.Module] = Layer) -> None:
        super().__init__(*(layer(inputs if i == 0 else units, units) for i in range(layers)))

    @property
    def layers(self) -> list[Any]:
        """Its layers, in order."""
        return list(self)

    @property
    def by_hand(self) -> bool:
        """Whether all its layers can be laid out for time loops (see `nets/loops.py`): V3's can."""
        return all(hasattr(getattr(layer, "norm", None), "loop") for layer in self)
