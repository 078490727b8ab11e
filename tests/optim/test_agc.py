"""Adaptive gradient clipping."""

import math

import pytest
import torch

from dreamer_cli.optim.agc import blank_unless, clip_adaptively
from tests.small import near


def test_agc(reference, precision):
    known = reference["agc"]
    params = [torch.tensor(row["param"]) for row in known["rows"]]
    grads = [torch.tensor(row["grad"]) for row in known["rows"]]
    share = clip_adaptively(grads, params, known["clip"], known["pmin"])
    clipped = 0
    for grad, row in zip(grads, known["rows"], strict=True):
        near(grad, row["out"], precision.tolerance)
        clipped += row["out"] != row["grad"]
    assert share == clipped / len(grads)


def test_norms_are_of_whole_tensors():
    """Clipping row by row would change the direction; this keeps it."""
    param, grad = torch.ones(2, 3), torch.tensor([[30.0, 0, 0], [0, 0.1, 0]])
    before = grad.clone()
    clip_adaptively([grad], [param], 0.3)
    near(grad / grad.norm(), before / before.norm(), 1e-6)
    near(grad.norm(), 0.3 * param.norm(), 1e-6)


def test_zero_gradients_stay_zero():
    grad = torch.zeros(3)
    share = clip_adaptively([grad], [torch.zeros(3)], 0.3)
    assert not grad.any()
    assert share == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_blanking(dtype):
    """Zeros of anything, or the very bits: those of -0 and NaN too."""
    values = torch.tensor([1.5, -0.0, math.nan, math.inf, -math.inf, 1e-38, 3e38], dtype=dtype)
    tensors = [values.clone(), values.reshape(7, 1).T.clone(), values[0].clone()]
    before = [x.view(torch.int16).clone() for x in tensors[:2]]
    blank_unless(torch.tensor(True), tensors)
    assert all(torch.equal(x.view(torch.int16), old) for x, old in zip(tensors, before, strict=False))
    blank_unless(torch.tensor(False), tensors)
    assert not any(x.any() for x in tensors)


def test_known_norms_are_not_asked_for_again():
    grads = [torch.full((3,), 9.0), torch.ones(2)]
    others = [x.clone() for x in grads]
    params = [torch.ones(3), torch.ones(2)]
    share = clip_adaptively(grads, params, 0.3)
    assert clip_adaptively(others, params, 0.3, norms=torch.stack([x.norm() for x in others])) == share
    assert all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))
