"""Rewards of the agent's own: what they are made of, what learns them, and what they leave alone."""

import pytest
import torch

from dreamer_cli.behaviour.curiosity import INTRINSIC, Disagreement, DisagreementConfig
from tests.small import near

FEAT, ACTION, LATENT = 5, 3, (2, 4)
N, H, B, T = 6, 4, 2, 5


def build(**settings) -> Disagreement:
    torch.manual_seed(0)
    return DisagreementConfig(**({"models": 3, "units": 16, "layers": 2} | settings)).build(FEAT, ACTION, 8)


class Dreamt:
    """A dream of random states, actions and rewards."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.feat = torch.randn(N, H + 1, FEAT, generator=generator, requires_grad=True)
        self.action = torch.rand(N, H + 1, ACTION, generator=generator, requires_grad=True)
        self.reward = torch.randn(N, H + 1, generator=generator)


class Replayed:
    """A batch; in its second sequence an episode begins at record 3."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.feat = torch.randn(B, T, FEAT, generator=generator, requires_grad=True)
        self.action = torch.rand(B, T + 1, ACTION, generator=generator)
        self.stoch = torch.randn(B, T, *LATENT, generator=generator, requires_grad=True)
        self.is_first = torch.zeros(B, T, dtype=torch.bool)
        self.is_first[1, 3] = True

    def loss(self, intrinsic: Disagreement) -> torch.Tensor:
        return intrinsic.losses(self.feat, self.action, self.stoch, self.is_first)["ensemble"]


def alike(intrinsic: Disagreement) -> None:
    """Give all models the weights of the first."""
    with torch.no_grad():
        for value in intrinsic.parameters():
            value.copy_(value[:1].expand_as(value))


@pytest.mark.parametrize("kind", INTRINSIC)
def test_contract(kind):
    intrinsic = INTRINSIC[kind]().build(FEAT, ACTION, 8)
    dream, batch = Dreamt(), Replayed()
    assert intrinsic.reward(dream.feat, dream.action, dream.reward).shape == (N, H + 1)
    losses = intrinsic.losses(batch.feat, batch.action, batch.stoch, batch.is_first)
    assert all(loss.shape == (B, T - 1) for loss in losses.values())
    assert bool(losses) == bool(list(intrinsic.parameters()))


def test_none_changes_nothing():
    intrinsic, dream = INTRINSIC["none"]().build(FEAT, ACTION, 8), Dreamt()
    assert intrinsic.reward(dream.feat, dream.action, dream.reward) is dream.reward


def by_hand(intrinsic: Disagreement, model: int, feat: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """What one model expects next, alone: linear, RMS norm, SiLU, twice; then a last layer."""
    *layers, last = intrinsic.models
    x = torch.cat([feat, action], -1)
    for layer in layers:
        x = x @ layer.weight[model] + layer.bias[model, 0]
        x = torch.nn.functional.silu(x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * layer.scale[model, 0])
    return x @ last.weight[model] + last.bias[model, 0]


def test_reward_is_the_variance_of_what_the_models_expect():
    intrinsic, dream = build(weight=2.0, extrinsic=0.5), Dreamt()
    reward = intrinsic.reward(dream.feat, dream.action, dream.reward)
    expected = torch.stack([by_hand(intrinsic, m, dream.feat, dream.action) for m in range(3)])
    mean = expected.mean(0)
    variance = (expected - mean).square().sum(0) / 2  # of three models, without bias: 3 - 1
    doubt = variance.mean(-1)
    assert doubt.min() > 1e-3
    near(reward[:, 0], 0.5 * dream.reward[:, 0], 1e-6)  # nothing is known of what led to the start
    near(reward[:, 1:], 0.5 * dream.reward[:, 1:] + 2.0 * doubt[:, :-1], 1e-5)


def test_models_that_are_alike_are_not_curious_and_fresh_ones_differ():
    intrinsic, dream = build(), Dreamt()
    assert len({tuple(weight.flatten().tolist()) for weight in intrinsic.models[0].weight}) == 3
    assert intrinsic.reward(dream.feat, dream.action, dream.reward)[:, 1:].min() > 0
    alike(intrinsic)
    near(intrinsic.reward(dream.feat, dream.action, dream.reward), torch.zeros(N, H + 1), 1e-6)


def test_actions_out_of_bounds_are_those_at_the_bounds():
    """The environment clips them."""
    intrinsic, dream = build(), Dreamt()
    rewards = [intrinsic.reward(dream.feat, dream.action.detach() + more, dream.reward) for more in (1.0, 2.0)]
    near(rewards[0], rewards[1].detach(), 1e-6)


def test_loss_is_half_the_squared_error_of_every_model():
    intrinsic, batch = build(), Replayed()
    loss, by_definition = batch.loss(intrinsic), torch.zeros(B, T - 1)
    for t in range(T - 1):  # record t, and the action that answered it: column t + 1, which led to record t + 1
        for model in range(3):
            guess = by_hand(intrinsic, model, batch.feat[:, t], batch.action[:, t + 1])
            by_definition[:, t] += 0.5 * (guess - batch.stoch[:, t + 1].flatten(1)).square().sum(-1).detach()
    by_definition[1, 2] = 0.0  # record 3 begins another episode
    near(loss, by_definition, 1e-5)
    assert loss[1, 2] == 0


def test_gradients_stay_where_they_belong():
    intrinsic, batch, dream = build(), Replayed(), Dreamt()
    batch.loss(intrinsic).sum().backward()
    assert all(bool(value.grad.any()) for value in intrinsic.parameters())
    assert batch.feat.grad is None
    assert batch.stoch.grad is None
    # In dreams it is the other way round: the way to the actor is open, the models are held fixed.
    intrinsic.zero_grad()
    intrinsic.reward(dream.feat, dream.action, dream.reward).sum().backward()
    assert all(value.grad is None for value in intrinsic.parameters())
    assert bool(dream.feat.grad[:, :-1].any())
    assert bool(dream.action.grad[:, :-1].any())
    assert not dream.feat.grad[:, -1].any()  # what follows the last state is not dreamt


def test_what_was_learnt_is_not_rewarded_any_more():
    """Models agree where they have seen much, and go on disagreeing where they have seen nothing."""
    intrinsic = build(models=4, units=32)
    optimiser = torch.optim.Adam(intrinsic.parameters(), lr=3e-3)
    known = Replayed()
    near_zero = torch.zeros(B, T, dtype=torch.bool)

    def doubt(feat: torch.Tensor) -> torch.Tensor:
        reward = torch.zeros(feat.shape[:2])
        return intrinsic.reward(feat.detach(), known.action[:, 1:], reward)[:, 1:].mean()

    elsewhere = 3 * torch.randn(B, T, FEAT, generator=torch.Generator().manual_seed(5))
    before = doubt(known.feat), doubt(elsewhere)
    for _ in range(150):
        optimiser.zero_grad()
        intrinsic.losses(known.feat, known.action, known.stoch, near_zero)["ensemble"].mean().backward()
        optimiser.step()
    assert doubt(known.feat) < 0.05 * before[0]
    assert doubt(elsewhere) > 0.5 * before[1]


def test_one_model_is_refused():
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        DisagreementConfig(models=1)
