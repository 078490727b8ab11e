"""LaProp against known answers."""

import pytest
import torch

from dreamer_cli.optim.laprop import LaPropConfig
from tests.small import near


@pytest.mark.parametrize(("run", "agc"), [("const_lr_0.01_with_agc", 0.3), ("const_lr_0.01_no_agc", 1e9)])
def test_laprop(reference, precision, run, agc):
    known = reference["laprop"]
    param = torch.nn.Parameter(torch.tensor(known["param0"]))
    optim = LaPropConfig(
        lr=0.01, warmup=0, agc=agc, beta1=known["beta1"], beta2=known["beta2"], eps=known["eps"]
    ).build({"world": [param]})
    for step in known[run]:
        param.grad = torch.tensor(step["grad"])
        metrics = optim.step()
        near(param, step["param"], precision.tolerance)
        near(optim.momentum[0] / (1 - known["beta1"] ** step["t"]), step["m_hat"], precision.tolerance)
        near(metrics["optim/grad_norm"], torch.tensor(step["grad"]).norm(), precision.tolerance)
        assert metrics["optim/clipped"] == float(step["grad"] != step["agc_grad"])
        assert metrics["optim/lr"] == step["lr"]


def test_it_is_not_adam(reference):
    """Normalised before the momentum: the second step differs from Adam's on the same gradients."""
    known = reference["laprop"]
    adam = torch.tensor(known["adam_contrast_lr_0.01_eps1e-8_params"])
    ours = torch.tensor([step["param"] for step in known["const_lr_0.01_no_agc"]])
    near(ours[0], adam[0], 1e-6)
    assert (ours[1] - adam[1]).abs().max() > 1e-3


def test_official_warm_up(reference):
    known = reference["laprop"]
    param = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optim = LaPropConfig(lr=4e-5, warmup=1000).build({"world": [param]})
    for update, lr in zip(known["warmup_at_update_index"], known["warmup_official_lr4e-5_over_1000"], strict=True):
        optim.count.fill_(update)
        param.grad = torch.ones(2, dtype=torch.float64)
        near(optim.step()["optim/lr"], lr, 1e-10)
        assert optim.count == update + 1


def test_the_first_update_of_a_warm_up_moves_nothing_but_is_remembered():
    param = torch.nn.Parameter(torch.randn(5))
    before = param.detach().clone()
    optim = LaPropConfig().build({"world": [param]})
    param.grad = torch.randn(5)
    optim.step()
    assert torch.equal(param, before)
    assert bool(optim.momentum[0].all())
    assert bool(optim.square[0].all())


def test_zero_gradients_move_nothing():
    param = torch.nn.Parameter(torch.ones(3))
    optim = LaPropConfig(warmup=0).build({"world": [param]})
    param.grad = torch.zeros(3)
    optim.step()
    assert torch.equal(param, torch.ones(3))


def test_tiny_gradients_make_no_giant_steps():
    """For |g| below 3e-18 the square is a subnormal number; flushed to zero it would leave g / 1e-20."""
    param = torch.nn.Parameter(torch.ones(4))
    optim = LaPropConfig(lr=0.01, warmup=0).build({"world": [param]})
    param.grad = torch.tensor([2.3e-18, 1e-19, 1e-20, 1.0])
    optim.step()
    assert (param - 1).abs().max() < 0.0101


def test_groups_are_one_list():
    """In their order, so that names of its state are those of files written before there were groups."""
    params = [torch.nn.Parameter(torch.full((n,), 2.0)) for n in (1, 2, 3)]
    one, other = (
        LaPropConfig(lr=0.1, warmup=0).build(groups)
        for groups in ({"world": params[:2], "actor": [], "critic": params[2:]}, {"world": params})
    )
    assert one.params == other.params == params
    assert list(one.state()) == [f"{kind}.{i}" for kind in ("square", "momentum") for i in range(3)] + ["count"]
    assert [x.shape for x in one.square] == [p.shape for p in params]


def test_no_memory_at_all():
    """Momentum and scale of the newest gradient alone: the first and every later step has length lr."""
    param = torch.nn.Parameter(torch.zeros(2))
    optim = LaPropConfig(lr=0.5, warmup=0, beta1=0.0, beta2=0.0, agc=1e9).build({"world": [param]})
    for step in (1, 2):
        param.grad = torch.tensor([3.0, -0.1])
        optim.step()
        near(param, [-0.5 * step, 0.5 * step], 1e-6)
