"""Adaptive gradient clipping."""

import torch

from dreamer_cli.optim.agc import clip_adaptively
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
