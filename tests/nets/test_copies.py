"""Slow copies."""

import torch

from dreamer_cli.nets.copies import move_slowly, slow_copy
from tests.small import near


def filled(value: list[float]) -> torch.nn.Linear:
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([value])
    return layer


def test_slow_ema(reference, precision):
    known = reference["slow_ema"]
    slow, fast = slow_copy(filled(known["slow_before"])), filled(known["value"])
    move_slowly(slow, fast, known["rate"])
    near(slow.weight[0], known["slow_after"], precision.tolerance)
    near(fast.weight[0], known["value"], 0)


def test_a_slow_copy_is_equal_separate_and_out_of_reach_of_gradients():
    fast = filled([1.0, 2.0])
    slow = slow_copy(fast)
    assert torch.equal(slow.weight, fast.weight)
    assert slow.weight.data_ptr() != fast.weight.data_ptr()
    assert not slow.weight.requires_grad
    assert fast.weight.requires_grad


def test_rate_one_is_no_slow_copy_at_all():
    slow, fast = slow_copy(filled([0.0, 0.0])), filled([3.0, -1.0])
    move_slowly(slow, fast, 1.0)
    assert torch.equal(slow.weight, fast.weight)


def test_a_rate_may_be_a_tensor():
    fast = torch.nn.Linear(37, 5)
    copies = [slow_copy(torch.nn.Linear(37, 5)) for _ in range(2)]
    copies[1].load_state_dict(copies[0].state_dict())
    move_slowly(copies[0], fast, 0.02)
    move_slowly(copies[1], fast, torch.tensor(0.02))
    before = copies[0].weight.clone()
    assert torch.equal(copies[1].weight, before), "the same bits"
    move_slowly(copies[0], fast, torch.tensor(0.0))
    assert torch.equal(copies[0].weight, before)
