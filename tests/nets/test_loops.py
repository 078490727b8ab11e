"""Layers for time loops against autograd, and products side by side."""

import pytest
import torch

from dreamer_cli.nets.loops import Chain, NormSiLU, Product, side_by_side


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def autograd(build, layer_of, x, steps):
    """Gradients of x at each step and of the parameters: by autograd, and by walking back by hand."""
    pulls = [torch.randn_like(build(x[0])) for _ in range(steps)]
    total = sum((build(x[t]) * pulls[t]).sum() for t in range(steps))
    layer = layer_of()
    expected = torch.autograd.grad(total, [*x, *layer.learnt])
    kept = []
    for t in range(steps):
        out = layer.forward(x[t].detach())
        y, saved = out if isinstance(out, tuple) else (out, x[t].detach())
        torch.testing.assert_close(y, build(x[t]).detach(), rtol=0, atol=1e-12)
        kept.append(saved)
    by_x = [layer.backward(kept[t], pulls[t]) for t in reversed(range(steps))][::-1]
    by_x = [grad[0] if isinstance(grad, tuple) else grad for grad in by_x]
    for one, other in zip(expected, [*by_x, *layer.gradients()], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_a_product():
    weight, bias = draw(4, 6), draw(6)
    autograd(lambda x: x @ weight + bias, lambda: Product(weight, bias), [draw(3, 4) for _ in range(5)], 5)


def test_a_product_in_blocks():
    weight, bias = draw(2, 3, 5), draw(10)

    def plain(x):
        return torch.einsum("bgi,gio->bgo", x.view(3, 2, 3), weight).reshape(3, 10) + bias

    autograd(plain, lambda: Product(weight, bias), [draw(3, 6) for _ in range(4)], 4)


def test_a_norm_with_a_scale_for_each_of_two():
    scale = draw(2, 6)

    def plain(x):
        return torch.nn.functional.silu(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-4) * scale)

    autograd(plain, lambda: NormSiLU(scale, 1e-4), [draw(3, 2, 6) for _ in range(4)], 4)


def test_a_chain():
    weights, biases, scale = [draw(4, 6), draw(6, 5)], [draw(6), draw(5)], draw(6)

    def plain(x):
        x = x @ weights[0] + biases[0]
        x = torch.nn.functional.silu(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-4) * scale)
        return x @ weights[1] + biases[1]

    products = [Product(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    autograd(plain, lambda: Chain(products, [NormSiLU(scale, 1e-4)]), [draw(3, 4) for _ in range(4)], 4)


@pytest.mark.parametrize("frozen", [(), (1,), (0, 1)])
@pytest.mark.parametrize("states_learn", [True, False])
def test_side_by_side(frozen, states_learn):
    """Equal to one after the other; gradients only where they are asked for."""
    x = draw(2, 3, 4).requires_grad_(states_learn)
    layers = [(draw(5, 4), draw(5)), (draw(2, 4), draw(2))]
    for i in frozen:
        for tensor in layers[i]:
            tensor.requires_grad_(False)
    learns = [t for i, layer in enumerate(layers) if i not in frozen for t in layer] + [x] * states_learn
    found = []
    for outs in (
        [torch.nn.functional.linear(x, weight, bias) for weight, bias in layers],
        side_by_side(x, [w for w, _ in layers], [b for _, b in layers]),
    ):
        total = sum((out * out.detach().cos()).sum() for out in outs)
        found.append([*outs, *(torch.autograd.grad(total, learns) if learns else ())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
