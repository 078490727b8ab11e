"""What an episode begins with."""

import pytest
import torch

from dreamer_cli.world.beginnings import BEGINNINGS, Learned, zero_where
from tests.small import near
from tests.world.contract import CORE_SPECS, LATENT_SPECS, A, B, E, draw, make_inputs, make_rssm

NAN = float("nan")


def expected(deter):
    """The guess that goes with a memory: any function."""
    return torch.stack([deter, 2 * deter], -1)


def test_zero_where_blanks_even_nan():
    x = torch.full((2, 3, 4), NAN)
    x[1] = 2.0
    assert torch.equal(zero_where(torch.tensor([True, False]), x), torch.stack([torch.zeros(3, 4), x[1]]))


@pytest.mark.parametrize("name", BEGINNINGS)
def test_only_beginnings_are_replaced(name):
    blank = BEGINNINGS[name](3, expected).ready()
    deter, stoch = draw(2, 3), draw(2, 3, 2)
    deter[0], stoch[0] = NAN, NAN
    after = blank(torch.tensor([True, False]), deter, stoch)
    assert torch.equal(after[0][1], deter[1])
    assert torch.equal(after[1][1], stoch[1])
    assert not after[0][0].any(), "learnt ones too begin with zeros"
    assert not after[1][0].any()


def test_a_learned_beginning_by_hand():
    beginning = Learned(2, expected)
    with torch.no_grad():
        beginning.deter.copy_(torch.tensor([0.5, -1.0]))
    deter, stoch = beginning.ready()(torch.tensor([True]), torch.full((1, 2), NAN), torch.full((1, 2, 2), NAN))
    near(deter[0], [0.4621172, -0.7615942], 1e-6)
    near(stoch[0], [[0.4621172, 0.9242343], [-0.7615942, -1.5231884]], 1e-6)
    assert not stoch.requires_grad, "the guess is a constant"
    (gradient,) = torch.autograd.grad(deter.sum(), beginning.deter)
    near(gradient, [1 - 0.4621172**2, 1 - 0.7615942**2], 1e-6)


@pytest.mark.parametrize("latent", LATENT_SPECS)
def test_a_learned_beginning_is_where_the_prior_expects_it(latent):
    rssm = make_rssm(CORE_SPECS["gru_ln"], LATENT_SPECS[latent], initial="learned")
    inputs = make_inputs(rssm)
    deter = torch.tanh(rssm.beginning.deter).expand(B, -1)
    begun = rssm.initial(B)._replace(deter=deter, stoch=rssm.latent.mode(rssm.prior(deter)))
    never, always = torch.zeros(B, dtype=torch.bool), torch.ones(B, dtype=torch.bool)
    embed, noise = draw(B, E), inputs["noise"][:, 0]
    by_hand, _ = rssm.observe_step(begun, torch.zeros(B, A), embed, never, noise)
    found, _ = rssm.observe_step(inputs["start"], draw(B, A), embed, always, noise)
    near(found.deter, by_hand.deter, 1e-6)
    near(found.stoch, by_hand.stoch, 1e-6)


def test_zeros_have_no_parameters_and_learned_ones_a_vector():
    zeros, learned = (make_rssm(CORE_SPECS["lstm"], LATENT_SPECS["gaussian"], initial=name) for name in BEGINNINGS)
    assert set(learned.state_dict()) - set(zeros.state_dict()) == {"beginning.deter"}
    assert learned.beginning.deter.shape == (learned.core.size,), "of all that is carried"
