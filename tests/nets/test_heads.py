"""Heads and actors; every output through the same contract."""

import math

import pytest
import torch

from dreamer_cli.nets.distributions import BoundedNormal
from dreamer_cli.nets.heads import OUTPUTS, Actor, ActorConfig, HeadConfig
from dreamer_cli.spaces import ActionPart
from tests.small import near

UNEQUAL = (3, 2, 2, 5)  # neighbours with equally many classes, and others


@pytest.mark.parametrize("kind", OUTPUTS)
def test_output_contract(kind):
    torch.manual_seed(0)
    head = HeadConfig(layers=1, units=8, output=OUTPUTS[kind]()).build(6)
    dist = head(torch.randn(2, 5, 6))
    loss = dist.loss(torch.rand(2, 5))
    assert dist.mean.shape == loss.shape == (2, 5)
    assert bool((loss >= 0).all())
    loss.mean().backward()
    assert all(p.grad is not None for p in head.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters())
    assert set(head.state_dict()) == {name for name, _ in head.named_parameters()}, "constants are not saved"


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_learn_a_number(kind):
    torch.manual_seed(0)
    head = HeadConfig(layers=1, units=16, output=OUTPUTS[kind]()).build(1)
    optim = torch.optim.Adam(head.parameters(), lr=0.1)
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.2, 0.9])
    for _ in range(50):
        optim.zero_grad()
        head(x).loss(y).mean().backward()
        optim.step()
    near(head(x).mean, y, 0.05)


def test_two_hot_head_starts_at_exactly_zero():
    dist = HeadConfig(units=8).build(6)(torch.randn(20, 6))
    assert not dist.mean.any()
    near(dist.loss(torch.randn(20)), torch.full((20,), math.log(255)), 1e-6)


def actor(*parts: ActionPart, **settings: float) -> Actor:
    torch.manual_seed(0)
    return ActorConfig(layers=1, units=8, **settings).build(6, parts)


def test_unequal_multi_discrete():
    """Grouping neighbours must not change what each entry says."""
    policy = actor(ActionPart("a", "discrete", UNEQUAL), scale=1.0, unimix=0.0)
    feat = torch.randn(50, 6)
    dist = policy(feat)
    action = dist.sample(torch.randn(50, sum(UNEQUAL)))
    entries = policy.out["0"](policy.net(feat)).split(UNEQUAL, -1)
    categoricals = [torch.distributions.OneHotCategorical(logits=logits) for logits in entries]
    chosen = action.split(UNEQUAL, -1)
    assert all(torch.equal(x.sum(-1), torch.ones(50)) and x.max() == 1 for x in chosen)
    near(dist.log_prob(action), sum(c.log_prob(x) for c, x in zip(categoricals, chosen, strict=True)), 1e-5)
    near(dist.entropy(), sum(c.entropy() for c in categoricals), 1e-5)
    assert torch.equal(dist.mode, torch.cat([c.mode for c in categoricals], -1))


def test_several_parts_stand_in_their_columns():
    parts = (
        ActionPart("a", "continuous", size=2),
        ActionPart("b", "discrete", (3,)),
        ActionPart("c", "continuous", size=1),
    )
    policy = actor(*parts, scale=1.0, unimix=0.0)
    feat, noise = torch.randn(9, 6), torch.randn(9, 6)
    dist, x = policy(feat), policy.net(feat)
    first = BoundedNormal(policy.out["0_mean"](x), policy.out["0_std"](x))
    last = BoundedNormal(policy.out["2_mean"](x), policy.out["2_std"](x))
    action = dist.sample(noise)
    near(action[:, :2], first.sample(noise[:, :2]), 1e-6)
    near(action[:, 5:], last.sample(noise[:, 5:]), 1e-6)
    assert torch.equal(action[:, 2:5].sum(-1), torch.ones(9))
    expected = first.log_prob(action[:, :2]) + last.log_prob(action[:, 5:])
    expected = expected + torch.log_softmax(policy.out["1"](x), -1)[action[:, 2:5].bool()]
    near(dist.log_prob(action), expected, 1e-5)


def test_a_fresh_policy_is_almost_uniform():
    dist = actor(ActionPart("a", "discrete", (18,)))(torch.randn(100, 6))
    near(dist.entropy(), torch.full((100,), math.log(18)), 1e-3)
    dist = actor(ActionPart("a", "continuous", size=6))(torch.randn(100, 6))
    near(dist.entropy(), torch.full((100,), 7.833), 1e-2)
    near(dist.parts[0][1].std, torch.full((100, 6), 0.893), 1e-2)


def test_unimix_keeps_every_action_possible():
    policy = actor(ActionPart("a", "discrete", (4,)), unimix=0.01, scale=1e4)
    action = torch.nn.functional.one_hot(torch.arange(4).repeat(25), 4).float()
    log_prob = policy(torch.randn(100, 6)).log_prob(action)
    near(log_prob.min(), math.log(0.01 / 4), 1e-5)
