"""What a slow copy of the critic is for, through one contract."""

import pytest
import torch

from dreamer_cli.behaviour.slow_critics import SLOW_CRITICS
from dreamer_cli.nets.copies import slow_copy
from dreamer_cli.nets.heads import HeadConfig, NormalConfig
from tests.small import near

YES, NO = torch.tensor(True), torch.tensor(False)


def build(kind: str, **settings):
    """The part, a critic, and its copy, which says something else."""
    torch.manual_seed(0)
    part = SLOW_CRITICS[kind](**settings).build()
    critic = HeadConfig(units=8, layers=1, output=NormalConfig()).build(5)
    slow = slow_copy(critic) if part.keeps_copy else None
    if slow is not None:
        for parameter in slow.parameters():
            parameter.data.add_(0.3)
    return part, critic, slow


@pytest.mark.parametrize("kind", SLOW_CRITICS)
def test_contract(kind):
    part, critic, slow = build(kind)
    feat = torch.randn(4, 3, 5, requires_grad=True)
    opinion = part(feat, critic, slow)
    assert opinion.value.shape == (4, 3)
    assert not opinion.value.requires_grad
    near(part.value(feat, critic, slow), opinion.value, 1e-6)
    part.value(feat, critic, slow).sum().backward()
    assert bool(feat.grad.any()), "a gradient passes to the states"
    critic.zero_grad()
    part.loss(opinion, torch.randn(4, 3)).sum().backward()
    assert all(p.grad is not None for p in critic.parameters())
    assert slow is None or all(p.grad is None for p in slow.parameters())
    before = [] if slow is None else [p.clone() for p in slow.parameters()]
    part.after_update(critic, slow, NO)
    assert slow is None or all(torch.equal(a, b) for a, b in zip(before, slow.parameters(), strict=True))


def test_a_regulariser_draws_and_does_not_lead():
    part, critic, slow = build("regulariser", rate=0.25, weight=2.0)
    feat, target = torch.randn(6, 5), torch.randn(6)
    opinion = part(feat, critic, slow)
    near(opinion.value, critic(feat).mean, 1e-6)
    errors = (critic(feat).mean - target).square() / 2 + 2.0 * (critic(feat).mean - slow(feat).mean).square() / 2
    near(part.loss(opinion, target), errors, 1e-5)
    old, new = next(slow.parameters()).clone(), next(critic.parameters())
    part.after_update(critic, slow, YES)
    near(next(slow.parameters()), 0.75 * old + 0.25 * new, 1e-6)


def test_a_target_leads_and_is_copied_now_and_then():
    part, critic, slow = build("target", every=3)
    feat, target = torch.randn(6, 5), torch.randn(6)
    opinion = part(feat, critic, slow)
    near(opinion.value, slow(feat).mean, 1e-6)
    near(part.loss(opinion, target), (critic(feat).mean - target).square() / 2, 1e-5)
    copied = []
    for update in range(7):
        for parameter in critic.parameters():
            parameter.data.add_(1.0)
        part.after_update(critic, slow, NO if update == 1 else YES)
        copied.append(all(torch.equal(a, b) for a, b in zip(critic.parameters(), slow.parameters(), strict=True)))
    # After the first, and every third from there; the one that was skipped does not count.
    assert copied == [True, False, False, False, True, False, False]


def test_without_a_copy_there_is_the_critic_alone():
    part, critic, slow = build("none")
    feat, target = torch.randn(6, 5), torch.randn(6)
    assert slow is None
    near(part.loss(part(feat, critic, None), target), (critic(feat).mean - target).square() / 2, 1e-6)
