"""Actors: columns of every part, every continuous kind, weights' names and numbers."""

import math

import pytest
import torch
from pydantic import TypeAdapter

from dreamer_cli.nets.actors import CONTINUOUS, Actor, ActorConfig
from dreamer_cli.nets.bricks import BRICKS
from dreamer_cli.nets.distributions import BoundedNormal
from dreamer_cli.spaces import ActionPart
from tests.small import near

UNEQUAL = (3, 2, 2, 5)  # neighbours with equally many classes, and others


def actor(*parts: ActionPart, **settings: object) -> Actor:
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


BUTTONS, STICK = ActionPart("a", "discrete", (4,)), ActionPart("b", "continuous", size=2)


@pytest.mark.parametrize("bricks", BRICKS)
@pytest.mark.parametrize("kind", CONTINUOUS)
def test_every_kind_of_every_generation(kind, bricks):
    policy = actor(BUTTONS, STICK, bricks=bricks, continuous=CONTINUOUS[kind](), scale=1.0)
    dist = policy(torch.randn(3, 5, 6))
    action = dist.sample(torch.randn(3, 5, 6))
    assert action.shape == dist.mode.shape == (3, 5, 6)
    assert torch.equal(action[..., :4].sum(-1), torch.ones(3, 5))
    assert bool(action[..., 4:].std() > 0)
    total = action[..., 0].sum() + action[..., 4:].square().sum() + dist.entropy().sum()
    total.backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in policy.parameters())


def test_names_of_weights():
    """Checkpoints know them."""
    last = {kind: list(actor(BUTTONS, STICK, continuous=CONTINUOUS[kind]()).out) for kind in CONTINUOUS}
    assert last.pop("deterministic") == ["0", "1_mean"]
    assert set(map(tuple, last.values())) == {("0", "1_mean", "1_std")}
    assert list(actor(STICK).state_dict()) == [
        *("net.0.linear.weight", "net.0.linear.bias", "net.0.norm.scale"),
        *("out.0_mean.weight", "out.0_mean.bias", "out.0_std.weight", "out.0_std.bias"),
    ]


def test_who_has_a_density():
    for kind in CONTINUOUS:
        settings = CONTINUOUS[kind]()
        assert settings.has_density == (kind != "deterministic")
        assert actor(STICK, continuous=settings).has_density == settings.has_density
        assert actor(BUTTONS, STICK, continuous=settings).has_density == settings.has_density
        assert actor(BUTTONS, continuous=settings).has_density, "no action is continuous"


def test_actions_without_density_have_no_log_probability():
    dist = actor(BUTTONS, STICK, continuous=CONTINUOUS["deterministic"]())(torch.randn(2, 6))
    near(dist.entropy(), dist.parts[0][1].entropy(), 0)
    with pytest.raises(TypeError, match="density"):
        dist.log_prob(dist.mode)


def test_settings_reach_the_distribution():
    text = '{"continuous": {"kind": "bounded_normal", "min_std": 0.5, "max_std": 0.6}, "layers": 1, "units": 8}'
    dist = TypeAdapter(ActorConfig).validate_json(text).build(6, (STICK,))(100 * torch.randn(50, 6))
    std = dist.parts[0][1].std
    assert 0.5 < std.min() < std.max() < 0.6
    text = '{"continuous": {"kind": "tanh_normal", "min_std": 2.0, "init_std": 1.0}, "layers": 1, "units": 8}'
    dist = TypeAdapter(ActorConfig).validate_json(text).build(6, (STICK,))(torch.zeros(1, 6))
    near(dist.parts[0][1].std, torch.full((1, 2), 3.0), 1e-6)
    text = '{"continuous": {"kind": "trunc_normal", "min_std": 0.3}, "layers": 1, "units": 8}'
    dist = TypeAdapter(ActorConfig).validate_json(text).build(6, (STICK,))(torch.zeros(1, 6))
    near(dist.parts[0][1].std, torch.full((1, 2), 1.3), 1e-6)


JOINTS, JOYSTICK = ActionPart("a", "continuous", size=6), ActionPart("a", "discrete", (18,))


@pytest.mark.parametrize(
    ("feat", "action", "count"),
    [(230, JOINTS, 578_412), (1624, JOYSTICK, 1_138_418), (1224, JOINTS, 976_012)],
    ids=["v1", "v2-atari", "v2-dmc"],
)
def test_parameter_counts_of_earlier_generations(feat, action, count):
    with torch.device("meta"):
        policy = ActorConfig(layers=4, units=400, bricks="elu", scale=1.0).build(feat, (action,))
    assert sum(p.numel() for p in policy.parameters()) == count


@pytest.mark.parametrize("kind", ["tanh_normal", "trunc_normal", "deterministic"])
def test_outputs_may_be_collected_first(kind):
    """As dreams do: what the last layers said of each step, joined, is what they say of all steps."""
    policy = actor(BUTTONS, STICK, continuous=CONTINUOUS[kind](), scale=1.0)
    feat, noise = torch.randn(5, 3, 6), torch.randn(5, 3, 6)
    steps = [policy.outputs(feat[:, t]) for t in range(3)]
    joined = policy.distribution({name: torch.stack([said[name] for said in steps], 1) for name in steps[0]})
    near(joined.sample(noise), policy(feat).sample(noise), 1e-5)
