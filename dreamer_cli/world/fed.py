"""What gated memories are fed with: one layer on guess and action, one product on that and the memory."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer_cli.nets.bricks import Bricks
from dreamer_cli.nets.loops import Chain, Product
from dreamer_cli.shapes import Float


class Fed(nn.Module):
    """W [layer([guess, action]), memory] + b.

    Args:
        widths: of guess and action.
        hidden: of the layer.
        units: numbers of the memory that take part.
        outputs: numbers that come out.
        bias: whether there is a b.
    """

    def __init__(
        self, bricks: Bricks, widths: tuple[int, int], hidden: int, units: int, outputs: int, bias: bool = True
    ) -> None:
        super().__init__()
        self.widths, self.hidden = widths, hidden
        self.layer: Any = bricks.layer(sum(widths), hidden)
        self.product = bricks.linear(hidden + units, outputs)
        if not bias:
            self.product.register_parameter("bias", None)
        self.by_hand = hasattr(getattr(self.layer, "norm", None), "loop")  # as in V3

    def forward(
        self, memory: Float[Tensor, "B D"], stoch: Float[Tensor, "B SK"], action: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B outputs"]:
        """One step."""
        x = self.layer(torch.cat([stoch, action], -1))
        return self.product(torch.cat([x, memory], -1))


class FedLoop:
    """The same for time loops (see `nets/loops.py`): what actions alone decide is `inputs`, for all steps at once."""

    def __init__(self, fed: Fed) -> None:
        linear, product = fed.layer.linear, fed.product
        by_stoch, self.by_action = linear.weight.split(list(fed.widths), 1)
        self.bias = linear.bias
        by_layer, by_memory = product.weight.split([fed.hidden, product.in_features - fed.hidden], 1)
        bias = product.weight.new_zeros(product.out_features) if product.bias is None else product.bias
        self.chain = Chain([Product(by_stoch.t()), Product(by_layer.t(), bias)], [fed.layer.norm.loop()])
        self.by_memory = Product(by_memory.t())
        self.learnt = [*self.chain.learnt, *self.by_memory.learnt]

    def inputs(self, action: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead hidden"]:
        """What the layer gets from the action, and its bias."""
        return F.linear(action, self.by_action, self.bias)

    def forward(self, memory: Tensor, stoch: Tensor, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """One step, and what the way back needs of it."""
        x, saved = self.chain.forward(stoch, inputs)
        return self.by_memory.forward(memory, x), (memory, saved)

    def backward(self, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of memory, stoch and inputs."""
        memory, chain = saved
        return self.by_memory.backward(memory, grad), *self.chain.backward(chain, grad)

    def gradients(self) -> list[Tensor]:
        """Of `learnt`."""
        return [*self.chain.gradients(), *self.by_memory.gradients()]
