"""Every optimiser through the same contract."""

import math
from itertools import pairwise

import pytest
import torch

from dreamer_cli.optim.build import OPTIMISERS
from tests.small import near


@pytest.fixture(params=OPTIMISERS)
def kind(request) -> str:
    return request.param


def quadratic(kind: str) -> tuple[list[torch.nn.Parameter], object]:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.zeros(4))]
    return params, OPTIMISERS[kind](lr=0.01, warmup=5).build({"world": params[:1], "actor": params[1:]})


def descend(params: list[torch.nn.Parameter], optim, steps: int) -> float:
    for _ in range(steps):
        for param in params:
            param.grad = None
        loss = sum((param - 1).square().sum() for param in params)
        loss.backward()
        metrics = optim.step()
        assert set(metrics) == {"optim/grad_norm", "optim/clipped", "optim/lr", "update/skipped"}
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


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30, None], ids=str)
def test_contract_skips_what_is_not_finite(kind, bad, group):
    """Or whose norm is not, or what it is told (None): no bit changes, and it goes on as if nothing had been."""
    params, optim = quadratic(kind)
    others, other = quadratic(kind)
    for each in ((params, optim), (others, other)):
        descend(*each, 7)
    before = [x.detach().clone() for x in [*params, *optim.state().values()]]
    for param in params:
        param.grad = torch.ones_like(param)
    params[group].grad.flatten()[1] = 1.0 if bad is None else bad
    assert optim.step(torch.tensor(bad is not None))["update/skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, [*params, *optim.state().values()], strict=True))
    assert descend(params, optim, 5) == descend(others, other, 5)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    assert optim.step()["update/skipped"] == 0


def test_contract_of_names(kind):
    """What `load_state` and checkpoints rely on: flat names, tensors changed in place."""
    params, optim = quadratic(kind)
    addresses = {name: tensor.data_ptr() for name, tensor in optim.state().items()}
    assert set(addresses) == {"count", *(f"{of}.{i}" for of in ("square", "momentum") for i in range(2))}
    descend(params, optim, 2)
    assert {name: tensor.data_ptr() for name, tensor in optim.state().items()} == addresses
    assert optim.state()["count"] == 2
    assert optim.params == params


def test_contract_warms_up(kind):
    params, optim = quadratic(kind)
    rates = []
    for _ in range(7):
        before = params[0].detach().clone()
        descend(params, optim, 1)
        rates.append((params[0] - before).abs().max().item())
    assert rates[0] == 0
    assert all(a < b for a, b in pairwise(rates[:6])), "towards lr, over 5 updates"
    params, optim = quadratic(kind)
    for update in range(8):
        params[0].grad, params[1].grad = torch.ones(3, 2), torch.ones(4)
        near(optim.step()["optim/lr"], 0.01 * min(1, update / 5), 1e-7)


def test_contract_parameters_without_gradient_stay(kind):
    params, optim = quadratic(kind)
    before = params[1].detach().clone()
    for _ in range(7):
        params[0].grad = torch.ones(3, 2)
        optim.step()
    assert torch.equal(params[1], before)


def test_contract_both_precisions(kind):
    """The same steps in float64, which keeps float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(3, 2).to(dtype)), torch.nn.Parameter(torch.zeros(4).to(dtype))]
        optim = OPTIMISERS[kind](lr=0.01).build({"world": params})
        descend(params, optim, 20)
        assert {x.dtype for x in (*params, *optim.square, *optim.momentum)} == {dtype}
        found.append(params)
    for single, double in zip(*found, strict=True):
        near(single, double.detach(), 1e-4)
