"""Losses of actor and critic against the official code, and who learns from them."""

import math

import pytest
import torch
from torch import Tensor

from dreamer_cli.behaviour import slow_critics
from dreamer_cli.behaviour.actor_critic import ActorCritic, ActorCriticConfig, Imagined
from dreamer_cli.nets.transforms import symexp_bins
from dreamer_cli.spaces import ActionPart
from dreamer_cli.structs import Batch, State
from dreamer_cli.world.model import Dream
from tests.golden import configure
from tests.small import near

POLICY, VALUE, SLOW = slice(0, 3), slice(3, 8), slice(8, 13)
SETTINGS = {
    "horizon": 3,
    "actor": {"units": 13, "unimix": 0.0},
    "critic": {"units": 13, "output": {"kind": "two_hot", "bins": 5}},
}


@pytest.fixture(autouse=True)
def _one_by_one(monkeypatch):
    """Networks without layers have no first product to share."""
    monkeypatch.setattr(slow_critics, "read", lambda feat, *heads: [head(feat) for head in heads])


@pytest.fixture
def known(reference) -> dict:
    return reference["imag_loss"]


def behaviour(bins: list[float], **settings) -> ActorCritic:
    """Networks whose layers are taken out: they read the logits off the features: 3 of the policy, 5 of each critic."""
    parts = (ActionPart("action", "discrete", (3,)),)
    behaviour = ActorCritic(configure(ActorCriticConfig, SETTINGS | settings), 13, 4, parts)
    eye = torch.eye(13)
    behaviour.actor.net = behaviour.critic.net = behaviour.slow_critic.net = torch.nn.Identity()
    behaviour.actor.out["0"].weight.data = eye[POLICY]
    for critic, columns in ((behaviour.critic, VALUE), (behaviour.slow_critic, SLOW)):
        critic.output.linear.weight.data = eye[columns].clone()
        critic.output.bins = torch.tensor(bins)
    return behaviour


def imagined(agent: ActorCritic, dream: Dream) -> Imagined:
    """Losses on a dream, of which the actor is asked again."""
    return agent.imagined(dream, lambda columns: agent.actor(dream.feat[:, columns].detach()))


def features(known: dict) -> Tensor:
    return torch.cat([torch.tensor(known[key]) for key in ("policy_logits", "value_logits", "slow_logits")], -1)


def dream(known: dict) -> Dream:
    action = torch.nn.functional.one_hot(torch.tensor(known["actions"]), 3)
    feat = features(known)
    return Dream(feat, action.to(feat.dtype), torch.tensor(known["rew"]), torch.tensor(known["con"]))


def test_imagined(known, precision):
    agent = behaviour(
        known["bins"],
        lam=known["lam"],
        entropy=known["actent"],
        slow_critic={"kind": "regulariser", "weight": known["slowreg"]},
    )
    near(symexp_bins(5, reach=2.0).to(precision.dtype), known["bins"], precision.tolerance)
    feat = features(known)
    near(agent.critic(feat).mean, known["value_pred"], precision.tolerance)
    near(agent.slow_critic(feat).mean, known["slow_pred"], precision.tolerance)
    near(torch.stack([agent.return_scale.low, agent.return_scale.high]), known["retnorm_state_before"], 0)
    learnt = imagined(agent, dream(known))
    near(learnt.ret, known["ret"], precision.tolerance)
    near(agent.return_scale.scale, known["retnorm_scale"], precision.tolerance)
    near(learnt.losses["actor"], known["policy_loss"], precision.tolerance)
    near(learnt.losses["critic"], known["value_loss"], precision.tolerance)
    near(learnt.losses["actor"].mean(), known["policy_loss_mean"], precision.tolerance)
    near(learnt.losses["critic"].mean(), known["value_loss_mean"], precision.tolerance)


def replay(known: dict, reference: dict) -> Batch:
    flags = {key: torch.tensor(reference["repl_loss"][key]).bool() for key in ("is_last", "is_terminal")}
    empty = torch.zeros(2, 4)
    return Batch({}, torch.zeros(2, 5, 3), torch.tensor(known["rew"]), empty.bool(), **flags, start=State(empty, empty))


def test_replayed(known, reference, precision):
    agent, expected = behaviour(known["bins"]), reference["repl_loss"]
    losses = agent.replayed(features(known), replay(known, reference), torch.tensor(expected["boot"]))
    near(losses["replay_critic"], expected["repval_loss"], precision.tolerance)
    near(losses["replay_critic"].mean(), expected["repval_loss_mean"], precision.tolerance)


def test_the_return_scale_divides_only_the_advantages(known):
    agent, scaled = behaviour(known["bins"], entropy=0.0), behaviour(known["bins"], entropy=0.0)
    scaled.return_scale.high.fill_(400.0)
    plain, small = imagined(agent, dream(known)), imagined(scaled, dream(known))
    near(small.losses["actor"] * scaled.return_scale.scale, plain.losses["actor"], 1e-5)
    near(small.losses["critic"], plain.losses["critic"], 0)
    near(small.ret, plain.ret, 0)


def test_without_contdisc_the_discount_is_explicit(known):
    """contdisc folds the discount into the continue head: multiplying it out gives the same losses."""
    gamma = 1 - 1 / 333
    folded, explicit = behaviour(known["bins"]), behaviour(known["bins"], contdisc=False)
    assert (folded.cfg.cont_scale, explicit.cfg.cont_scale) == (gamma, 1.0)
    one = dream(known)
    ours = imagined(folded, one._replace(cont=one.cont * gamma))
    theirs = imagined(explicit, one)
    near(ours.ret, theirs.ret, 1e-6)
    near(
        ours.losses["critic"] / gamma, theirs.losses["critic"], 1e-5
    )  # the weight of the first step is cont, undiscounted


def test_entropy_is_rewarded(known):
    feat = features(known)
    none, some = (behaviour(known["bins"], entropy=entropy) for entropy in (0.0, 0.5))
    gain = imagined(none, dream(known)).losses["actor"] - imagined(some, dream(known)).losses["actor"]
    weight = torch.tensor(known["weight"])[:, :3]
    near(gain, weight * 0.5 * none.actor(feat[:, :3]).entropy(), 1e-5)


def test_gradients_stay_where_they_belong(known, reference):
    agent = behaviour(known["bins"])
    feat = features(known).requires_grad_()
    cont, reward = (torch.tensor(known[key]).requires_grad_() for key in ("con", "rew"))
    learnt = imagined(agent, dream(known)._replace(feat=feat, cont=cont, reward=reward))
    learnt.losses["actor"].mean().backward(retain_graph=True)
    assert agent.actor.out["0"].weight.grad is not None
    assert agent.critic.output.linear.weight.grad is None
    agent.zero_grad()
    learnt.losses["critic"].mean().backward()
    assert agent.critic.output.linear.weight.grad is not None
    assert agent.actor.out["0"].weight.grad is None
    assert feat.grad is cont.grad is reward.grad is None, "nothing of a dream reaches the world model"
    assert not learnt.ret.requires_grad
    agent.replayed(feat, replay(known, reference), learnt.ret[:, :1].expand(-1, 4))["replay_critic"].mean().backward()
    assert bool(feat.grad.any()), "replayed states do learn to tell their value"
    assert all(p.grad is None for p in agent.slow_critic.parameters())


def test_at_first_nothing_is_known():
    """Zero kernels: values are exactly 0 and the losses those of a uniform guess."""
    parts = (ActionPart("action", "discrete", (6,)),)
    agent = ActorCritic(configure(ActorCriticConfig, {"horizon": 3, "critic": {"units": 8}}), 13, 4, parts)
    feat, action = torch.randn(4, 4, 13), torch.nn.functional.one_hot(torch.randint(6, (4, 4)), 6).float()
    cont = torch.rand(4, 4)
    learnt = imagined(agent, Dream(feat, action, torch.zeros(4, 4), cont))
    assert not learnt.ret.any()
    near(learnt.losses["critic"], torch.cumprod(cont[:, :3], 1) * 2 * math.log(255), 1e-5)
    near(learnt.metrics["entropy/actor"], math.log(6), 1e-3)


def test_the_slow_critic_follows_after_an_update(known):
    agent = behaviour(known["bins"], slow_critic={"kind": "regulariser", "rate": 0.25})
    slow, fast = (critic.output.linear.weight.clone() for critic in (agent.slow_critic, agent.critic))
    agent.after_update(torch.tensor(False))
    assert torch.equal(agent.slow_critic.output.linear.weight, slow)
    agent.after_update(torch.tensor(True))
    near(agent.slow_critic.output.linear.weight, 0.75 * slow + 0.25 * fast, 1e-6)
    assert torch.equal(agent.critic.output.linear.weight, fast)
