"""Chains as single nodes against their plain forms, and compiled against both."""

import pytest
import torch
import torch.nn.functional as F

from dreamer_cli.nets import kernels
from dreamer_cli.nets.blocks import RMSNorm
from dreamer_cli.nets.distributions import OneHot


@pytest.fixture(params=[(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"])
def precision(request):
    return request.param


def compare(plain, fast, inputs, tolerance) -> None:
    """Equal outputs and gradients, relative to the largest number."""
    found = []
    for run in (plain, fast):
        out = run(*inputs)
        pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
        found.append([out, *torch.autograd.grad((out * pull).sum(), inputs)])
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= tolerance * max(1.0, float(one.detach().abs().max()))


def draw(*shape, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype).requires_grad_()


@pytest.mark.parametrize("rows", [3, 3000], ids=["small", "large"])
def test_norm_silu(precision, rows):
    dtype, tolerance = precision
    norm = RMSNorm(16).to(dtype)
    x, scale = draw(2, rows, 16, dtype=dtype), draw(16, dtype=dtype)

    def plain(x, scale):
        full = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps)
        return F.silu(full * scale)

    compare(plain, lambda x, scale: kernels.norm_silu(x, scale, norm.eps), [x, scale], tolerance)
    norm.scale.data = scale.detach()
    with torch.no_grad():
        torch.testing.assert_close(norm.silu(x), F.silu(norm(x)))


def test_norm_silu_in_half_precision_is_computed_in_full():
    x, scale = draw(4, 16, dtype=torch.float32), draw(16, dtype=torch.float32)
    half = x.detach().bfloat16().requires_grad_()
    out = kernels.norm_silu(half, scale, 1e-4)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, kernels.norm_silu(half.float(), scale, 1e-4).bfloat16(), rtol=0, atol=0)


def test_gru_gates(precision):
    dtype, tolerance = precision

    def plain(gates, deter):
        reset, cand, update = gates.unbind(-2)
        update = torch.sigmoid(update - 1)
        return update * torch.tanh(torch.sigmoid(reset) * cand) + (1 - update) * deter

    compare(plain, kernels.gru_gates, [draw(5, 2, 3, 4, dtype=dtype), draw(5, 2, 4, dtype=dtype)], tolerance)


def test_softmax_of_few_classes_is_softmax():
    """Short rows of many are laid across; more classes, and few rows, go the usual way."""
    for shape in ((64, 64, 5), (2, 3, 5), (64, 64, 16)):
        x = draw(*shape, dtype=torch.float32)
        compare(lambda x: torch.softmax(x, -1), kernels.softmax, [x], 1e-6)
        assert kernels.softmax(x).is_contiguous()


def test_samples_have_the_gradient_of_the_probabilities():
    logits, noise = draw(6, 3, 4, dtype=torch.float64), torch.randn(6, 3, 4, dtype=torch.float64)

    def plain(logits):
        dist = OneHot(logits, 0.01)
        onehot = F.one_hot((dist.log_probs + noise).argmax(-1), 4).double()
        return onehot + (dist.probs - dist.probs.detach())

    compare(plain, lambda logits: OneHot(logits, 0.01).sample(noise), [logits], 1e-12)
    with torch.no_grad():
        assert torch.equal(OneHot(logits, 0.01).sample(noise).sum(-1), torch.ones(6, 3, dtype=torch.float64))


def test_cross_entropy_with_a_sparse_target(precision):
    """Also where the two places of a target are one and the same."""
    dtype, tolerance = precision
    index = torch.tensor([[0, 1], [3, 3], [2, 4]])
    weight = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=dtype)
    target = torch.zeros(3, 5, dtype=dtype).scatter_add_(-1, index, weight)

    def fast(logits):
        log_probs = torch.log_softmax(logits.detach(), -1)
        return kernels.cross_entropy(logits, log_probs, log_probs.exp(), index, weight)

    compare(lambda x: -(target * torch.log_softmax(x, -1)).sum(-1), fast, [draw(3, 5, dtype=dtype)], tolerance)
