"""Scales of returns."""

import pytest
import torch

from dreamer_cli.nets.normalizers import RETURN_SCALES, NoScaleConfig, PercentileConfig
from tests.small import near


def test_percentile_scale(reference, precision):
    known = reference["percentile_normalizer"]
    scale = PercentileConfig(rate=known["rate"], limit=known["limit"]).build()
    near(torch.stack([scale.low, scale.high]), known["init"], 0)
    for step in known["steps"]:
        scale.update(torch.tensor(step["batch"]))
        near(scale.low, step["lo"], precision.tolerance)
        near(scale.high, step["hi"], precision.tolerance)
        near(scale.scale, step["scale"], precision.tolerance)


@pytest.mark.parametrize("kind", RETURN_SCALES)
def test_return_scale_contract(kind):
    scale = RETURN_SCALES[kind]().build()
    addresses = {name: buffer.data_ptr() for name, buffer in scale.named_buffers()}
    values = torch.randn(3, 4, requires_grad=True)
    for _ in range(3):
        scale.update(values * 100)
    assert scale.scale.shape == ()
    assert scale.scale > 0
    assert not scale.scale.requires_grad
    assert {name: buffer.data_ptr() for name, buffer in scale.named_buffers()} == addresses, "moved in place"
    assert not list(scale.parameters())
    other = RETURN_SCALES[kind]().build()
    other.load_state_dict(scale.state_dict())
    assert torch.equal(other.scale, scale.scale)


def test_small_returns_are_not_blown_up():
    scale = PercentileConfig(rate=1.0).build()
    scale.update(torch.linspace(0, 0.1, 50))
    assert scale.scale == 1


def test_returns_may_be_left_as_they_are():
    scale = NoScaleConfig().build()
    scale.update(torch.linspace(-1e3, 1e3, 50))
    assert scale.scale == 1
    assert not scale.state_dict()
