"""Estimators of the actor's gradient, through one contract."""

import pytest
import torch

from dreamer_cli.behaviour.actor_gradients import ACTOR_GRADIENTS
from dreamer_cli.nets.distributions import BoundedNormal, Grouped, Joint, OneHot
from dreamer_cli.spaces import ActionPart
from tests.small import near

N, H = 5, 3


@pytest.fixture
def raw() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(N, H, 6, requires_grad=True)


def policy(raw: torch.Tensor) -> Joint:
    """A categorical of 2 classes and 2 bounded numbers."""
    return Joint(
        [
            (slice(0, 2), Grouped(OneHot(raw[..., None, :2]))),
            (slice(2, 4), BoundedNormal(raw[..., 2:4], raw[..., 4:])),
        ]
    )


MIXED = (ActionPart("press", "discrete", (2,)), ActionPart("turn", "continuous", size=2))


@pytest.mark.parametrize("kind", ACTOR_GRADIENTS)
def test_contract(kind, raw):
    estimator = ACTOR_GRADIENTS[kind]().build(MIXED)
    assert estimator.needs_density in (True, False)
    assert estimator.through_dynamics in (True, False)
    action = policy(raw).sample(torch.randn(N, H, 4))
    ret = (raw.sum(-1) + action.sum(-1)) if estimator.through_dynamics else torch.randn(N, H)
    objective = estimator(policy(raw), action, ret, ret / 2)
    assert objective.shape == (N, H)
    objective.sum().backward()
    assert bool(raw.grad.any())


def test_reinforce_is_the_score_times_the_advantage(raw):
    estimator = ACTOR_GRADIENTS["reinforce"]().build(MIXED)
    assert not estimator.through_dynamics
    action = policy(raw).sample(torch.randn(N, H, 4))  # still holds a graph, which must not be used
    adv = torch.randn(N, H, requires_grad=True)
    objective = estimator(policy(raw), action, torch.randn(N, H), adv)
    near(objective, policy(raw).log_prob(action) * adv, 1e-6)
    objective.sum().backward()
    (expected,) = torch.autograd.grad((policy(raw).log_prob(action.detach()) * adv.detach()).sum(), raw)
    near(raw.grad, expected, 1e-6)
    assert adv.grad is None


def test_dynamics_is_the_return_itself_or_the_advantage(raw):
    ret = torch.randn(N, H, requires_grad=True)
    adv = ret - 3 * raw[..., 0]
    plain, against = (ACTOR_GRADIENTS["dynamics"](baseline=baseline).build(MIXED) for baseline in (False, True))
    assert plain.through_dynamics
    assert not plain.needs_density
    plain(policy(raw), torch.zeros(N, H, 4), ret, adv).sum().backward()
    near(ret.grad, torch.ones(N, H), 0)
    assert raw.grad is None, "the policy itself is not asked: it acts through the return"
    against(policy(raw), torch.zeros(N, H, 4), ret, adv).sum().backward()
    near(raw.grad[..., 0], torch.full((N, H), -3.0), 0)


def test_both_mixes_the_two(raw):
    action = policy(raw).sample(torch.randn(N, H, 4)).detach()
    ret, adv = torch.randn(N, H), torch.randn(N, H, requires_grad=True)
    both = ACTOR_GRADIENTS["both"](mix=0.25).build(MIXED)
    objective = both(policy(raw), action, ret, adv)
    near(objective, 0.25 * ret + 0.75 * policy(raw).log_prob(action) * adv, 1e-6)
    objective.sum().backward()
    assert adv.grad is None, "the advantage is a weight"


@pytest.mark.parametrize(("parts", "through"), [(MIXED, False), (MIXED[:1], False), (MIXED[1:], True)])
def test_by_action_asks_what_is_acted(parts, through):
    assert ACTOR_GRADIENTS["by_action"]().build(parts).through_dynamics is through
