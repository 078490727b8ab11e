"""The world model's losses."""

import math

import pytest
import torch

from dreamer_cli.structs import State
from tests.small import EVERYTHING, make_agent, make_batch, make_noise, near, unpacked

KL_NAMES = ("dyn", "rep")


@pytest.fixture
def agent():
    return make_agent()


def kl_losses(precision, free_nats, post, prior, unimix=0.01):
    """dyn and rep of a world model whose one group of statistics is given, and their gradients."""
    latent = {"kind": "categorical", "groups": 2, "classes": 3, "unimix": unimix}
    dynamics = {"kind": "rssm", "hidden": 8, "core": {"kind": "block_gru", "units": 16, "hidden": 8}, "latent": latent}
    agent = make_agent(dynamics=dynamics, free_nats=free_nats).to(precision.dtype)
    post, prior = (torch.tensor(x).flatten().requires_grad_() for x in (post, prior))
    observe = agent.world.dynamics.observe
    agent.world.dynamics.prior = lambda deter: prior.expand(*deter.shape[:-1], 6)
    agent.world.dynamics.observe = lambda *args: (observe(*args)[0], post.expand(1, 1, 6))
    batch = unpacked(agent, make_batch(agent, batch=1, time=1, first_at=()))
    losses = agent.world.observe(batch, make_noise(agent, batch).world).losses
    return losses, post, prior


@pytest.mark.parametrize(("name", "unimix"), [("unimix_0.01", 0.01), ("unimix_0.0", 0.0)])
def test_dyn_and_rep(reference, precision, name, unimix):
    known = reference["categorical_kl"]
    losses, post, prior = kl_losses(precision, 1.0, known["post_logits"], known["prior_logits"], unimix=unimix)
    for loss in KL_NAMES:
        near(losses[loss][0, 0], known[name]["dyn_after_free_nats_1"], precision.tolerance)
    if unimix:
        total = losses["dyn"] + 0.1 * losses["rep"]
        near(total[0, 0], known["v3_total_beta_dyn1_rep0.1"], precision.tolerance)
        total = 0.5 * losses["dyn"] + 0.1 * losses["rep"]
        near(total[0, 0], known["v3_2023_total_beta_dyn0.5_rep0.1"], precision.tolerance)
        grads = known["grad_unimix_0.01"]
        (gradient,) = torch.autograd.grad(losses["dyn"].sum(), prior, retain_graph=True)
        near(gradient.unflatten(-1, (2, 3)), grads["d_dyn_d_prior_logits"], precision.tolerance)
        (gradient,) = torch.autograd.grad(losses["rep"].sum(), post, retain_graph=True)
        near(gradient.unflatten(-1, (2, 3)), grads["d_rep_d_post_logits"], precision.tolerance)
    assert torch.autograd.grad(losses["dyn"].sum(), post, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(losses["rep"].sum(), prior, allow_unused=True) == (None,)


def test_free_nats(reference, precision):
    """Below them the loss is their number and no gradient flows."""
    known = reference["categorical_kl"]["below_free_nats"]
    losses, post, prior = kl_losses(precision, 1.0, known["post_logits"], known["prior_logits"])
    for name, stats in zip(KL_NAMES, (prior, post), strict=True):
        near(losses[name][0, 0], known["after_free_nats_1"], precision.tolerance)
        (gradient,) = torch.autograd.grad(losses[name].sum(), stats)
        assert not gradient.any()
    losses, *_ = kl_losses(precision, 0.0, known["post_logits"], known["prior_logits"])
    near(losses["dyn"][0, 0], known["kl_sum"], precision.tolerance)


def test_free_nats_clamp_each_step_and_not_the_mean(reference, agent, monkeypatch):
    known = reference["kl_reduction_variants"]
    per_step = torch.tensor([known["per_step_kl"]])
    monkeypatch.setattr(agent.world.dynamics.latent, "kl", lambda post, prior: per_step)
    batch = unpacked(agent, make_batch(agent, batch=1, time=3, first_at=()))
    losses = agent.world.observe(batch, make_noise(agent, batch).world).losses
    for name in KL_NAMES:
        near(losses[name].mean(), known["v3_mean_of_max_free1"], 1e-6)


def test_continue_targets_contain_the_discount(agent):
    """A record that goes on is worth gamma, a death nothing, and a time limit is no death."""
    batch = unpacked(agent, make_batch(agent, terminal_at=[(0, 1)], first_at=[(0, 2), (1, 2)]))
    noise = make_noise(agent, batch).world
    seen = agent.world.observe(batch, noise)
    assert batch.is_last[1, 1]
    target = torch.full((2, 4), 1 - 1 / 333)
    target[0, 1] = 0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        agent.world.cont(seen.feat).logit, target, reduction="none"
    )
    near(seen.losses["cont"], expected, 1e-6)


def test_observe(agent):
    batch = unpacked(agent, make_batch(agent))
    seen = agent.world.observe(batch, make_noise(agent, batch).world)
    names = {"dyn", "rep", "reward", "cont", *(f"objective/{key}" for key in EVERYTHING.observation)}
    assert set(seen.losses) == names
    assert all(loss.shape == (2, 4) and loss.isfinite().all() for loss in seen.losses.values())
    assert torch.equal(seen.feat, agent.world.dynamics.feat(seen.states))
    near(seen.losses["reward"], torch.full((2, 4), math.log(255)), 1e-6)
    assert {"kl", "entropy/post", "entropy/prior"} <= set(seen.metrics)
    assert not any(metric.requires_grad for metric in seen.metrics.values())
    assert seen.metrics["entropy/prior"] <= 3 * math.log(4) + 1e-5


def test_dreams_begin_at_their_start(agent):
    batch = unpacked(agent, make_batch(agent))
    seen = agent.world.observe(batch, make_noise(agent, batch).world)
    start = State(*(x.flatten(0, 1) for x in seen.states))
    noise = make_noise(agent, batch)
    dream = agent.world.imagine(start, agent.behaviour.act, noise.imag, noise.action)
    assert dream.feat.shape == (8, 4, agent.world.dynamics.feat_size)
    assert dream.action.shape == (8, 4, EVERYTHING.action_width)
    assert dream.reward.shape == dream.cont.shape == (8, 4)
    assert torch.equal(dream.feat[:, 0], seen.feat.flatten(0, 1))
    near(dream.cont, agent.world.cont(dream.feat).mean, 1e-6)
    near(dream.reward, agent.world.reward(dream.feat).mean, 1e-6)


def test_decode_draws_every_key(agent):
    drawn = agent.world.decode(torch.randn(2, 5, agent.world.dynamics.feat_size))
    assert drawn["camera"].shape == (2, 5, 3, 8, 8)
    assert drawn["speed"].shape == (2, 5, 2)
    near(drawn["cards"][..., :3].sum(-1), torch.ones(2, 5), 1e-6)


@pytest.mark.parametrize("frames", [1, 4, 100])
def test_computing_again_changes_nothing(agent, frames):
    """Of eight frames in parts of one, of four, and in a single part: the same losses, the same gradients."""
    coder = {"depth": 2, "mults": [2, 4], "units": 8, "layers": 1, "recompute": frames}
    again = make_agent(encoder=coder, decoder=coder)
    again.load_state_dict(agent.state_dict())
    batch = unpacked(agent, make_batch(agent))
    noise = make_noise(agent, batch).world
    calls, found = [], []
    again.world.encoder.register_forward_hook(lambda *_: calls.append("whole"))
    for part in again.world.encoder.parts:
        part.register_forward_pre_hook(lambda *_: calls.append("part"))
    for one in (agent, again):
        seen = one.world.observe(batch, noise)
        total = sum(loss.mean() for loss in seen.losses.values())
        learnt = list(one.world.parameters())
        found.append([*seen.losses.values(), *torch.autograd.grad(total, learnt, allow_unused=True)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    parts = math.ceil(batch.reward.numel() / frames) * len(again.world.encoder.parts)
    assert (calls.count("whole"), calls.count("part")) == (1, 2 * parts), "forward, and once more on the way back"
