"""Layers for time loops, forward and backward by hand.

A recurrent network has few rows and many steps, so what surrounds its products costs more than they do: a graph node
for each operation, a weight's gradient formed and added up at every step. Here a layer is laid out once for all
steps, walks back without a graph, and forms its parameters' gradients in one product over all steps at the end.

```
y, saved = layer.forward(x)              at every step
grad_x   = layer.backward(saved, grad_y) at every step, last one first
layer.gradients()                        once: of `layer.learnt`, in its order
```
`learnt` are functions of parameters (slices, transposes); autograd takes their gradients from there.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer_cli.nets.kernels import norm_silu_backward, norm_silu_forward


def working_dtype(x: Tensor) -> torch.dtype:
    """What products with x are formed in: autocast's choice, where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def as_given(kind: str) -> contextlib.AbstractContextManager[Any]:
    """Operations on devices of this kind take the dtypes that they are given: layers here choose them themselves."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


class Product:
    """x @ weight + bias, in each of G blocks side by side if the weight is G I O, else (I O) as a whole.

    x: B I (or B G·I) → B O (or B G·O). What x a step had is all that it has to keep.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.learnt = [weight] if bias is None else [weight, bias]
        self.dtype = working_dtype(weight)
        self.weight = weight.detach().to(self.dtype).contiguous()
        self.back = self.weight.transpose(-1, -2)
        self.bias = None if bias is None else bias.detach().to(self.dtype)
        self.walked: list[tuple[Tensor, Tensor]] = []  # (x, gradient of the result) of the steps walked back

    def forward(self, x: Tensor, add: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """One step. `add` takes the place of the bias; `out` is where to write, but for block-wise products."""
        add = self.bias if add is None else add
        assert add is not None
        if self.weight.dim() == 2:
            return torch.addmm(add.to(self.dtype), x.to(self.dtype), self.weight, out=out)
        return self.add_to(add.to(self.dtype).expand(len(x), -1).clone(), x)

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total += x @ weight, block-wise, in place."""
        # Written through a view to where rows lie: a batched product's own result would lie block by block.
        self._blocks(total).baddbmm_(self._blocks(x.to(self.dtype)), self.weight)
        return total

    def backward(self, x: Tensor, grad: Tensor) -> Tensor:
        """The gradient of x; those of weight and bias wait."""
        grad = grad.to(self.dtype)
        self.walked.append((x, grad))
        if self.weight.dim() == 2:
            return grad @ self.back
        grad_x = torch.empty_like(x, dtype=self.dtype)
        torch.bmm(self._blocks(grad), self.back, out=self._blocks(grad_x))
        return grad_x

    def gradients(self) -> list[Tensor]:
        """Of weight and bias, from all steps that were walked back."""
        x, grad = (torch.cat(column) for column in zip(*self.walked, strict=True))
        self.walked = []
        x = x.to(grad.dtype)
        flat = self.weight.dim() == 2
        by_weight = x.t() @ grad if flat else torch.bmm(self._blocks(x).transpose(1, 2), self._blocks(grad))
        return [by_weight.to(self.learnt[0].dtype), *(grad.sum(0).to(bias.dtype) for bias in self.learnt[1:])]

    def _blocks(self, x: Tensor) -> Tensor:
        """B G·n → G B n, a view."""
        return x.view(len(x), len(self.weight), -1).transpose(0, 1)


class NormSiLU:
    """silu(rms_norm(x) · scale) over the last axis; a step keeps (x, root)."""

    def __init__(self, scale: Tensor, eps: float) -> None:
        self.learnt = [scale]
        self.scale, self.eps = scale.detach(), eps
        self.walked: list[Tensor] = []  # gradients of the scale, row by row

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One step."""
        y, root = norm_silu_forward(x, self.scale, self.eps)
        return y, (x, root)

    def backward(self, saved: tuple[Tensor, Tensor], grad: Tensor) -> Tensor:
        """The gradient of x."""
        grad_x, by_scale = norm_silu_backward(grad, *saved, self.scale)
        self.walked.append(by_scale)
        return grad_x

    def gradients(self) -> list[Tensor]:
        """Of the scale."""
        total = torch.cat(self.walked).sum(0)
        self.walked = []
        return [total]


class Chain:
    """A first product to which something is added that is known beforehand, then norms and further products.

    products: one more than norms at most; the last one's result is the output.
    """

    def __init__(self, products: Sequence[Product], norms: Sequence[NormSiLU]) -> None:
        self.products, self.norms = products, norms
        self.parts: list[Product | NormSiLU] = [*products, *norms]
        self.learnt = [x for part in self.parts for x in part.learnt]

    def forward(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, list[Any]]:
        """One step: B I → B O, with `add` in the place of the first bias."""
        saved: list[Any] = []
        for i, product in enumerate(self.products):
            saved.append(x)
            x = product.forward(x, add if i == 0 else None)
            if i < len(self.norms):
                x, kept = self.norms[i].forward(x)
                saved.append(kept)
        return x, saved

    def backward(self, saved: list[Any], grad: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x and of what was added."""
        kept = list(saved)
        for i in reversed(range(len(self.products))):
            if i < len(self.norms):
                grad = self.norms[i].backward(kept.pop(), grad)
            by_add = grad
            grad = self.products[i].backward(kept.pop(), grad)
        return grad, by_add

    def gradients(self) -> list[Tensor]:
        """Of everything learnt."""
        return [grad for part in self.parts for grad in part.gradients()]


class _SideBySide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *layers: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        weights, biases = layers[:count], layers[count:]
        ctx.save_for_backward(x, *weights)
        return F.linear(x, torch.cat(weights), torch.cat(biases)).split([len(w) for w in weights], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        learns = ctx.needs_input_grad[2 : 2 + len(weights)]
        # Whose outputs nobody learns from, a slow critic's, costs nothing.
        found = {i: g for i, g in enumerate(grads) if g is not None}
        asked = [i for i in found if learns[i] or ctx.needs_input_grad[0]]
        if not asked:
            return (None,) * (2 + 2 * len(weights))
        grad = torch.cat([found[i] for i in asked], -1).flatten(0, -2)
        weight = torch.cat([weights[i] for i in asked])
        by_x = (grad @ weight.to(grad.dtype)).view(x.shape).to(x.dtype) if ctx.needs_input_grad[0] else None
        back: list[Tensor | None] = [None] * (2 * len(weights))
        # A frozen head lends its weights, but learns nothing.
        taught = [i for i in asked if learns[i]]
        if taught:
            grad = grad if taught == asked else torch.cat([found[i] for i in taught], -1).flatten(0, -2)
            sizes = [len(weights[i]) for i in taught]
            by_weight = (grad.t() @ x.flatten(0, -2).to(grad.dtype)).to(weight.dtype).split(sizes)
            by_bias = grad.sum(0).to(weight.dtype).split(sizes)
            for at, i in enumerate(taught):
                back[i], back[len(weights) + i] = by_weight[at], by_bias[at]
        return by_x, None, *back


def side_by_side(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """x (... I) through several linear layers (O I) at once: one wide product is faster than several narrow ones."""
    return _SideBySide.apply(x, len(weights), *weights, *biases)
