"""Layers: known answers, initial weights, and the fast up-convolution against the plain one."""

import math

import pytest
import torch
import torch.nn.functional as F

from dreamer_cli.nets.blocks import MLP, BlockLinear, Layer, Linear, RMSNorm, init_weight
from dreamer_cli.nets.pixels import ChannelNorm, Conv, UpConv
from tests.small import near


def test_rms_norm(reference, precision):
    known = reference["rms_norm"]
    norm = RMSNorm(4)
    norm.scale.data = torch.tensor(known["scale"])
    y = norm(torch.tensor(known["x"]))
    near(y, known["y"], precision.tolerance)
    near(F.silu(y), known["silu_of_y"], precision.tolerance)
    assert norm.eps == known["eps"]


def test_layer_is_linear_norm_silu(reference, precision):
    known = reference["rms_norm"]
    layer = Layer(4, 4)
    layer.linear.weight.data = torch.eye(4)
    layer.norm.scale.data = torch.tensor(known["scale"])
    near(layer(torch.tensor(known["x"])), known["silu_of_y"], precision.tolerance)
    assert layer.linear.bias is not None, "kept although a norm follows"


def test_rms_norm_computes_in_float32_and_keeps_the_type():
    x = (300 * torch.randn(64, 512)).bfloat16()
    y = RMSNorm(512)(x)
    assert y.dtype == torch.bfloat16
    near(y.float(), RMSNorm(512)(x.float()).bfloat16().float(), 0)


def test_channel_norm_is_the_rms_norm_of_each_pixel_and_silu():
    norm = ChannelNorm(3)
    torch.nn.init.normal_(norm.scale)
    x = torch.randn(2, 3, 4, 5)
    expected = x / (x.square().mean(1, keepdim=True) + 1e-4).sqrt() * norm.scale[:, None, None]
    near(norm(x), F.silu(expected), 1e-5)


def test_initial_weights(reference):
    """Standard deviation 1/sqrt(fan_in) in spite of the cut, and nothing beyond two deviations."""
    torch.manual_seed(0)
    known = reference["initializer"]
    for module, fan_in in (
        (Linear(2560, 256), known["fan_in_examples"]["Linear(2560->256)"]),
        (Conv(3, 1024, 5), known["fan_in_examples"]["Conv k5 3->32"]),
        (BlockLinear(8192, 2048, 8), known["fan_in_examples"]["BlockLinear in=8192 out=2048 g=8"]),
    ):
        weight = module.weight.detach().double() * math.sqrt(fan_in)
        standard_error = 1 / math.sqrt(2 * weight.numel())
        assert weight.std().item() == pytest.approx(known["product_1.1368"], abs=4 * standard_error)
        assert weight.mean().item() == pytest.approx(0, abs=4 / math.sqrt(weight.numel()))
        assert 0.99 * known["max_abs_times_sqrt_fan_in"] < weight.abs().max() <= known["max_abs_times_sqrt_fan_in"]
        assert not module.bias.any()


def test_scale_multiplies_only_the_initial_kernel():
    torch.manual_seed(0)
    assert Linear(100, 1000, scale=0.01).weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not Linear(10, 10, scale=0.0).weight.any()
    weight = torch.ones(3)
    init_weight(weight, 4, scale=0.0)
    assert weight.tolist() == [0, 0, 0]


def test_block_linear_is_a_block_diagonal_dense_layer():
    torch.manual_seed(0)
    layer = BlockLinear(6, 9, 3)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(4, 6)
    dense = torch.block_diag(*layer.weight)
    near(layer(x.unflatten(-1, (3, 2))), x @ dense + layer.bias, 1e-6)


def test_mlp_depth_and_width():
    mlp = MLP(3, 5, 2)
    assert [layer.linear.weight.shape for layer in mlp] == [(5, 3), (5, 5)]
    assert mlp(torch.randn(2, 7, 3)).shape == (2, 7, 5)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (5, 2), (1, 1)])
def test_up_conv_equals_upsampling_and_convolution(kernel, size):
    torch.manual_seed(0)
    layer = UpConv(3, 4, kernel).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    inputs = (x, layer.weight, layer.bias)
    ours = layer(x)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=kernel // 2)
    near(ours, plain, 1e-10)
    upstream = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(plain, inputs, upstream), strict=True
    ):
        near(a, b, 1e-10)


def test_up_conv_saves_no_helper_tensors():
    assert set(UpConv(1, 1, 5).state_dict()) == {"weight", "bias"}


def test_a_norm_under_autocast_equals_one_outside():
    """Half precision may come in and go out, but mean and root are computed in float32."""
    torch.manual_seed(0)
    norm, x = RMSNorm(64), 3 * torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = norm(x)
    torch.testing.assert_close(inside, norm(x), rtol=1e-6, atol=1e-6)
