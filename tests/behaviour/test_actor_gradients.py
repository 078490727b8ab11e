"""Estimators of the actor's gradient, through one contract."""

import pytest
import torch

from dreamer_cli.behaviour.actor_gradients import ACTOR_GRADIENTS
from dreamer_cli.nets.distributions import BoundedNormal, Grouped, Joint, OneHot
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


@pytest.mark.parametrize("kind", ACTOR_GRADIENTS)
def test_contract(kind, raw):
    estimator = ACTOR_GRADIENTS[kind]().build()
    assert estimator.through_dynamics in (True, False)
    action = policy(raw).sample(torch.randn(N, H, 4))
    ret = (raw.sum(-1) + action.sum(-1)) if estimator.through_dynamics else torch.randn(N, H)
    objective = estimator(policy(raw), action, ret, ret / 2)
    assert objective.shape == (N, H)
    objective.sum().backward()
    assert bool(raw.grad.any())


def test_reinforce_is_the_score_times_the_advantage(raw):
    estimator = ACTOR_GRADIENTS["reinforce"]().build()
    assert not estimator.through_dynamics
    action = policy(raw).sample(torch.randn(N, H, 4))  # still holds a graph, which must not be used
    adv = torch.randn(N, H, requires_grad=True)
    objective = estimator(policy(raw), action, torch.randn(N, H), adv)
    near(objective, policy(raw).log_prob(action) * adv, 1e-6)
    objective.sum().backward()
    (expected,) = torch.autograd.grad((policy(raw).log_prob(action.detach()) * adv.detach()).sum(), raw)
    near(raw.grad, expected, 1e-6)
    assert adv.grad is None
