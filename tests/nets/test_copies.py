"""Slow copies, and modules held fixed."""

import pytest
import torch

from dreamer_cli.nets.copies import frozen, move_slowly, slow_copy
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


@pytest.mark.parametrize("make", [float, torch.tensor], ids=["number", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rates_of_zero_and_one_round_nothing(make, dtype):
    """Hard copies now and then: for numbers of any size, and differences that swallow one of them."""
    torch.manual_seed(0)
    slow, fast = torch.nn.Linear(50, 40, dtype=dtype), torch.nn.Linear(50, 40, dtype=dtype)
    for layer in (slow, fast):
        layer.weight.data *= 10.0 ** torch.randint(-12, 12, layer.weight.shape)
    before = [p.clone() for p in slow.parameters()]
    move_slowly(slow, fast, make(0.0))
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), before, strict=True))
    move_slowly(slow, fast, make(1.0))
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), fast.parameters(), strict=True))


def test_a_frozen_module_lends_its_numbers():
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    with frozen(layer):
        loss = layer(x).square().sum()
    loss.backward()
    assert bool(x.grad.any())
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_what_was_computed_before_and_after_still_learns():
    layer = torch.nn.Linear(3, 2)
    x = torch.randn(4, 3, requires_grad=True)
    before = layer(x).square().sum()
    with frozen(layer):
        inside = layer(x).square().sum()
    after = layer(x).square().sum()
    (before + 10 * inside + 100 * after).backward()
    alone = torch.autograd.grad(layer(x).square().sum(), [layer.weight, x])
    near(layer.weight.grad, 101 * alone[0], 1e-4)
    near(x.grad, 111 * alone[1], 1e-4)


def test_blocks_nest_and_leave_what_was_fixed_already():
    layers = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(3))
    layers[2].requires_grad_(False)

    def learning() -> list[bool]:
        return [layer.weight.requires_grad for layer in layers]

    with frozen(layers[0], layers[2]):
        assert learning() == [False, True, False]
        with frozen(layers[0], layers[1]):
            assert learning() == [False, False, False]
        assert learning() == [False, True, False]
    assert learning() == [True, True, False]


def test_an_error_inside_thaws():
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="inside"), frozen(layer, layer):  # the same one twice, too
        raise RuntimeError("inside")
    assert all(p.requires_grad for p in layer.parameters())


def test_frozen_under_autocast_moves_nothing():
    """Autocast keeps half-precision copies of parameters that learn, made inside or outside."""
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        with frozen(layer):
            inside = layer(x).sum()
        after = layer(x)[:, 0].sum()
    inside.backward()
    assert layer.weight.grad is None
    after.backward()
    assert layer.weight.grad.any(1).tolist() == [True, False]
