"""What each generation's networks are built of: layers by hand, initial weights, one contract for all."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from dreamer_cli.nets.blocks import LayerNorm
from dreamer_cli.nets.bricks import BRICKS
from dreamer_cli.nets.loops import side_by_side
from dreamer_cli.nets.pixels import ChannelLayerNorm
from dreamer_cli.world.coders import DecoderConfig, EncoderConfig
from tests.small import near, refused

# What comes after a product, without learnt numbers.
AFTER = {
    "rms_silu": lambda x: F.silu(x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt()),
    "ln_silu": lambda x: F.silu(F.layer_norm(x, x.shape[-1:], eps=1e-3)),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "relu": lambda x: x.clamp(min=0),
}
# Deviation of initial weights times the root of what it is divided by, and which of the fans count.
FAN_IN, FAN_AVG = (lambda a, b: a), (lambda a, b: (a + b) / 2)
INITIAL = {"rms_silu": FAN_IN, "ln_silu": FAN_AVG, "elu": FAN_AVG, "relu": FAN_AVG}


@pytest.mark.parametrize("name", BRICKS)
def test_layers(name):
    layer = BRICKS[name].layer(5, 7)
    x = torch.randn(2, 3, 5)
    assert isinstance(layer.linear, torch.nn.Linear)
    product = F.linear(x, layer.linear.weight, layer.linear.bias)
    kept = product.clone()
    near(layer(x), AFTER[name](product), 1e-5)
    near(layer.finish(product), AFTER[name](product), 1e-5)
    near(product, kept, 0)  # nothing is overwritten


@pytest.mark.parametrize("name", BRICKS)
def test_layers_finish_products_that_were_formed_side_by_side(name):
    """The way back too: views of one wide product may not be changed in place."""
    layers = [BRICKS[name].layer(5, 4), BRICKS[name].layer(5, 6)]
    x = torch.randn(3, 5)
    biases = [torch.zeros(4), torch.zeros(6)]
    products = side_by_side(x, [layer.linear.weight for layer in layers], biases)
    together = [layer.finish(product) for layer, product in zip(layers, products, strict=True)]
    sum(y.square().sum() for y in together).backward()
    found = [layer.linear.weight.grad.clone() for layer in layers]
    for layer, ours, grad in zip(layers, together, found, strict=True):
        layer.zero_grad()
        alone = layer(x)
        alone.square().sum().backward()
        near(ours, alone, 1e-5)
        near(grad, layer.linear.weight.grad, 1e-4)


@pytest.mark.parametrize("name", BRICKS)
def test_mlp_is_a_chain_of_layers(name):
    mlp = BRICKS[name].mlp(5, 7, 3)
    assert [tuple(layer.linear.weight.shape) for layer in mlp.layers] == [(7, 5), (7, 7), (7, 7)]
    x = torch.randn(4, 5)
    y = x
    for layer in mlp.layers:
        y = layer(y)
    near(mlp(x), y, 0)
    near(copy.deepcopy(mlp)(x), y, 0)


def test_only_v3s_layers_walk_back_by_hand():
    assert [name for name in BRICKS if BRICKS[name].mlp(3, 4, 2).by_hand] == ["rms_silu"]


def test_names_of_parameters():
    """Checkpoints hold on to them."""
    names = {name: list(bricks.mlp(2, 3, 1).state_dict()) for name, bricks in BRICKS.items()}
    assert names == {
        "rms_silu": ["0.linear.weight", "0.linear.bias", "0.norm.scale"],
        "ln_silu": ["0.linear.weight", "0.norm.scale", "0.norm.shift"],
        "elu": ["0.linear.weight", "0.linear.bias"],
        "relu": ["0.linear.weight", "0.linear.bias"],
    }


@pytest.mark.parametrize("name", BRICKS)
def test_a_bias_stands_wherever_no_norm_with_a_shift_follows(name):
    bricks = BRICKS[name]
    hidden = [bricks.layer(2, 3).linear, bricks.conv(2, 3, 3), bricks.up(2, 3, 3), bricks.transposed(2, 3, (5, 6))]
    last = [bricks.linear(2, 3), bricks.up(2, 3, 3, last=True), bricks.transposed(2, 3, (5, 6), last=True)]
    assert [layer.bias is not None for layer in hidden] == [name != "ln_silu"] * 4
    assert all(layer.bias is not None for layer in last)
    assert not any(layer.bias.any() for layer in hidden + last if layer.bias is not None)


@pytest.mark.parametrize("name", BRICKS)
def test_initial_weights(name):
    """Truncated normals end at two deviations before the cut; Glorot's uniform at √3 of its deviation."""
    torch.manual_seed(0)
    bricks = BRICKS[name]
    reach = math.sqrt(3) if name in ("elu", "relu") else 2 * 1.1368
    for layer, fan_in, fan_out in [
        (bricks.layer(100, 700).linear, 100, 700),
        (bricks.linear(300, 200), 300, 200),
        (bricks.conv(8, 128, 7), 8 * 49, 128 * 49),
        (bricks.up(8, 128, 7, last=True), 8 * 49, 128 * 49),
        (bricks.transposed(128, 16, (5, 6)), 128 * 30, 16 * 30),
    ]:
        weight = layer.weight.detach().double() * math.sqrt(INITIAL[name](fan_in, fan_out))
        error = 1 / math.sqrt(2 * weight.numel())
        assert weight.std().item() == pytest.approx(1, abs=4 * error)
        assert weight.mean().item() == pytest.approx(0, abs=4 / math.sqrt(weight.numel()))
        assert 0.99 * reach < weight.abs().max() <= reach * 1.000001


@pytest.mark.parametrize("name", BRICKS)
def test_scale_multiplies_the_initial_kernel(name):
    assert not BRICKS[name].linear(3, 4, scale=0.0).weight.any()
    torch.manual_seed(0)
    full = BRICKS[name].linear(30, 40).weight
    torch.manual_seed(0)
    near(BRICKS[name].linear(30, 40, scale=0.1).weight, 0.1 * full.detach(), 1e-6)


@pytest.mark.parametrize("name", BRICKS)
def test_pixels_go_through_what_layers_go_through(name):
    pixels = BRICKS[name].pixels(6)
    x = torch.randn(2, 6, 3, 4)
    expected = AFTER[name](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    near(pixels(x.clone()), expected, 1e-5)


def test_layer_norm(precision):
    norm, pixels = LayerNorm(8), ChannelLayerNorm(8)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    pixels.load_state_dict(norm.state_dict())
    x = 3 + torch.randn(2, 5, 8)
    expected = F.layer_norm(x, (8,), norm.scale, norm.shift, 1e-3)
    near(norm(x), expected, precision.tolerance)
    near(norm.silu(x), expected * torch.sigmoid(expected), precision.tolerance)
    picture = x.permute(0, 2, 1).unsqueeze(-1)  # N C Y 1
    near(pixels(picture).squeeze(-1).permute(0, 2, 1), F.silu(expected), precision.tolerance)
    mean, deviation = x[0, 0].mean(), (x[0, 0].var(correction=0) + 1e-3).sqrt()
    near(norm(x)[0, 0], (x[0, 0] - mean) / deviation * norm.scale + norm.shift, 10 * precision.tolerance)


def test_layer_norm_computes_in_float32_and_keeps_the_type():
    x = (300 + torch.randn(64, 512)).bfloat16()
    norm = LayerNorm(512)
    assert norm(x).dtype == norm.silu(x).dtype == torch.bfloat16
    near(norm.silu(x).float(), norm.silu(x.float()).bfloat16().float(), 0)


@pytest.mark.parametrize("cls", [EncoderConfig, DecoderConfig])
def test_unknown_bricks(cls):
    error = refused(cls, bricks="rms_silo")
    assert error.what == "bricks is 'rms_silo', but must be a known one."
    assert error.hint == "Did you mean 'rms_silu'? Known: rms_silu, ln_silu, elu, relu."
