"""LaProp against known answers, and every optimiser through the same contract."""

import math

import pytest
import torch

from dreamer_cli.optim.build import OPTIMISERS
from dreamer_cli.optim.laprop import LaPropConfig
from tests.small import near


@pytest.mark.parametrize(("run", "agc"), [("const_lr_0.01_with_agc", 0.3), ("const_lr_0.01_no_agc", 1e9)])
def test_laprop(reference, precision, run, agc):
    known = reference["laprop"]
    param = torch.nn.Parameter(torch.tensor(known["param0"]))
    optim = LaPropConfig(
        lr=0.01, warmup=0, agc=agc, beta1=known["beta1"], beta2=known["beta2"], eps=known["eps"]
    ).build([param])
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
    optim = LaPropConfig(lr=4e-5, warmup=1000).build([param])
    for update, lr in zip(known["warmup_at_update_index"], known["warmup_official_lr4e-5_over_1000"], strict=True):
        optim.count.fill_(update)
        param.grad = torch.ones(2, dtype=torch.float64)
        near(optim.step()["optim/lr"], lr, 1e-10)
        assert optim.count == update + 1


def test_the_first_update_of_a_warm_up_moves_nothing_but_is_remembered():
    param = torch.nn.Parameter(torch.randn(5))
    before = param.detach().clone()
    optim = LaPropConfig().build([param])
    param.grad = torch.randn(5)
    optim.step()
    assert torch.equal(param, before)
    assert bool(optim.momentum[0].all())
    assert bool(optim.square[0].all())


def test_zero_gradients_move_nothing():
    param = torch.nn.Parameter(torch.ones(3))
    optim = LaPropConfig(warmup=0).build([param])
    param.grad = torch.zeros(3)
    optim.step()
    assert torch.equal(param, torch.ones(3))


def test_tiny_gradients_make_no_giant_steps():
    """For |g| below 3e-18 the square is a subnormal number; flushed to zero it would leave g / 1e-20."""
    param = torch.nn.Parameter(torch.ones(4))
    optim = LaPropConfig(lr=0.01, warmup=0).build([param])
    param.grad = torch.tensor([2.3e-18, 1e-19, 1e-20, 1.0])
    optim.step()
    assert (param - 1).abs().max() < 0.0101


@pytest.fixture(params=OPTIMISERS)
def kind(request) -> str:
    return request.param


def quadratic(kind: str) -> tuple[list[torch.nn.Parameter], object]:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.zeros(4))]
    return params, OPTIMISERS[kind](lr=0.01, warmup=5).build(params)


def descend(params: list[torch.nn.Parameter], optim, steps: int) -> float:
    for _ in range(steps):
        for param in params:
            param.grad = None
        loss = sum((param - 1).square().sum() for param in params)
        loss.backward()
        metrics = optim.step()
        assert {"optim/grad_norm", "optim/lr"} <= set(metrics)
        assert all(metric.shape == () for metric in metrics.values())
    return loss.item()


def test_contract_descends(kind):
    params, optim = quadratic(kind)
    assert descend(params, optim, 200) < 0.25 * descend(*quadratic(kind), 1)


def test_contract_continues_from_its_state(kind):
    params, optim = quadratic(kind)
    descend(params, optim, 7)
    others, other = quadratic(kind)
    for ours, theirs in zip(others, params, strict=True):
        ours.data.copy_(theirs.data)
    for name, tensor in other.state().items():
        tensor.copy_(optim.state()[name])  # as the learner loads it: in place
    assert descend(others, other, 5) == descend(params, optim, 5)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30, None], ids=str)
def test_contract_skips_what_is_not_finite(kind, bad):
    """Or whose norm is not, or what it is told (None): no bit changes, and it goes on as if nothing had been."""
    params, optim = quadratic(kind)
    others, other = quadratic(kind)
    for each in ((params, optim), (others, other)):
        descend(*each, 7)
    before = [x.detach().clone() for x in [*params, *optim.state().values()]]
    for param in params:
        param.grad = torch.ones_like(param)
    params[0].grad[1, 1] = 1.0 if bad is None else bad
    assert optim.step(torch.tensor(bad is not None))["update/skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, [*params, *optim.state().values()], strict=True))
    assert descend(params, optim, 5) == descend(others, other, 5)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    assert optim.step()["update/skipped"] == 0
