"""The agent: acts, says how wrong it is, and lets each loss move only what it should."""

import math

import pytest
import torch

from dreamer_cli.behaviour.actor_critic import ActorCriticConfig
from dreamer_cli.errors import ConfigError
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.structs import Carry, Noise, State
from dreamer_cli.world.model import WorldConfig
from tests.golden import configure
from tests.small import (
    BEHAVIOUR,
    EVERYTHING,
    VECTORS,
    WORLD,
    Agent,
    make_agent,
    make_batch,
    make_noise,
    make_obs,
    near,
    unpacked,
)


@pytest.fixture
def agent() -> Agent:
    return make_agent()


@pytest.fixture
def obs() -> dict[str, torch.Tensor]:
    """One observation of each of three environments."""
    return make_obs(EVERYTHING.observation, (3,), torch.Generator().manual_seed(0))


NEVER = torch.zeros(3, dtype=torch.bool)

# ── acting ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_policy(agent, obs):
    noise = agent.noise(3, torch.Generator().manual_seed(0))
    action, carry = agent.policy(obs, NEVER, agent.initial(3), noise)
    assert action.shape == (3, EVERYTHING.action_width) == (3, 9)
    for columns in (slice(0, 3), slice(3, 5), slice(5, 7)):
        assert torch.equal(action[:, columns].sum(-1), torch.ones(3)), "a one-hot for each categorical entry"
        assert action[:, columns].max() == 1
    assert torch.equal(carry.action, action)
    again, same = agent.policy(obs, NEVER, agent.initial(3), noise)
    assert torch.equal(action, again), "all randomness is in the noise"
    assert torch.equal(same.state.deter, carry.state.deter)


def test_mode_takes_the_likeliest_action(agent, obs):
    noises = [agent.noise(3, torch.Generator().manual_seed(0))._replace(action=torch.randn(3, 9)) for _ in range(2)]
    modes = [agent.policy(obs, NEVER, agent.initial(3), noise, "mode")[0] for noise in noises]
    assert torch.equal(*modes)
    samples = [agent.policy(obs, NEVER, agent.initial(3), noise, "sample")[0] for noise in noises]
    assert not torch.equal(*samples)


def test_a_new_episode_knows_nothing_of_the_carry(agent, obs):
    is_first = torch.tensor([True, False, True])
    noise = agent.noise(3, torch.Generator().manual_seed(0))
    _, used = agent.policy(obs, NEVER, agent.initial(3), noise)
    dirty = Carry(State(*(torch.full_like(x, float("nan")) for x in used.state)), torch.full((3, 9), float("nan")))
    mixed = Carry(*(pick(is_first, a, b) for a, b in zip(dirty, used, strict=True)))
    fresh, kept = (agent.policy(obs, is_first, carry, noise) for carry in (mixed, used))
    assert torch.equal(fresh[0], kept[0])
    assert torch.equal(fresh[1].state.deter, kept[1].state.deter)
    start, _ = agent.policy(obs, NEVER, agent.initial(3), noise)
    assert torch.equal(fresh[0][is_first], start[is_first])


def pick(mask, a, b):
    """Rows of `a` where the mask says so, else of `b`; through named tuples."""
    if isinstance(a, tuple):
        return type(a)(*(pick(mask, x, y) for x, y in zip(a, b, strict=True)))
    return torch.where(mask.reshape(-1, *[1] * (a.dim() - 1)), a, b)


def test_acting_and_learning_see_the_same_states(agent):
    """The same records, noise and beginnings: the policy's carries are the states that a batch is observed with."""
    time = 5
    generator = torch.Generator().manual_seed(0)
    obs = make_obs(EVERYTHING.observation, (3, time), generator)
    is_first = torch.zeros(3, time, dtype=torch.bool)
    is_first[:, 0] = is_first[1, 3] = True
    noises = [agent.noise(3, generator) for _ in range(time)]
    carry, carries = agent.initial(3), []
    for t in range(time):
        _, carry = agent.policy({key: x[:, t] for key, x in obs.items()}, is_first[:, t], carry, noises[t])
        carries.append(carry)
    prev_action = torch.stack([torch.zeros(3, 9), *(carry.action for carry in carries[:-1])], 1)
    states, _ = agent.world.dynamics.observe(
        agent.world.encoder(obs),
        prev_action,
        is_first,
        agent.initial(3).state,
        torch.stack([n.latent for n in noises], 1),
    )
    near(states.deter, torch.stack([carry.state.deter for carry in carries], 1), 1e-5)
    assert torch.equal(states.stoch, torch.stack([carry.state.stoch for carry in carries], 1))


def test_noise_is_gumbel_for_classes_and_normal_for_numbers(agent):
    noise: Noise = agent.noise(4000, torch.Generator().manual_seed(0))
    euler = 0.5772
    near(noise.action[:, :7].mean(), euler, 0.04)
    near(noise.action[:, :7].std(), math.pi / math.sqrt(6), 0.04)
    near(noise.action[:, 7:].mean(), 0.0, 0.06)
    near(noise.action[:, 7:].std(), 1.0, 0.04)
    near(noise.latent.mean(), euler, 0.04)


@pytest.mark.parametrize("parts", [(EVERYTHING.action[0],), (EVERYTHING.action[1],)], ids=["discrete", "continuous"])
def test_one_kind_of_action(parts):
    agent = make_agent(EnvSpec({"speed": ObsSpec("vector", (2,))}, parts))
    obs = make_obs(agent.spec.observation, (3,), torch.Generator())
    action, _ = agent.policy(obs, NEVER, agent.initial(3), agent.noise(3))
    assert action.shape == (3, parts[0].width)
    batch = unpacked(agent, make_batch(agent))
    assert all(bool(loss.isfinite().all()) for loss in agent.losses(batch, make_noise(agent, batch)).losses.values())


# ── what each loss moves ────────────────────────────────────────────────────────────────────────────────────

EVERY_STATE = {"encoder", "core", "post"}
MOVES = {
    # Straight through the sample into the posterior, its embedding, and the memory.
    "objective/camera": EVERY_STATE | {"decoder"},
    "objective/speed": EVERY_STATE | {"decoder"},
    "objective/cards": EVERY_STATE | {"decoder"},
    "reward": EVERY_STATE | {"reward"},
    "cont": EVERY_STATE | {"cont"},
    "rep": EVERY_STATE,  # and not the prior
    "dyn": EVERY_STATE | {"prior"},  # posterior and encoder through earlier steps only
    "actor": {"actor"},
    "critic": {"critic"},
    "replay_critic": EVERY_STATE | {"critic"},
}


def moved(agent: Agent, loss: torch.Tensor) -> set[str]:
    """Names of the modules that a loss has a gradient for."""
    dynamics, behaviour = agent.world.dynamics, agent.behaviour
    modules = {
        "encoder": [agent.world.encoder],
        "core": [dynamics.core],
        "prior": [dynamics.prior_net, dynamics.prior_out],
        "post": [dynamics.post_net, dynamics.post_out],
        "decoder": [agent.world.objective],
        "reward": [agent.world.reward],
        "cont": [agent.world.cont],
        "actor": [behaviour.actor],
        "critic": [behaviour.critic],
        "slow_critic": [behaviour.slow_critic],
    }
    agent.zero_grad()
    loss.mean().backward(retain_graph=True)
    grads = {name: [p.grad for module in group for p in module.parameters()] for name, group in modules.items()}
    return {name for name, group in grads.items() if any(grad is not None and grad.any() for grad in group)}


def test_what_each_loss_moves():
    agent = make_agent(awake=True, free_nats=0.0)
    batch = unpacked(agent, make_batch(agent, first_at=()))
    losses = agent.losses(batch, make_noise(agent, batch)).losses
    assert {name: moved(agent, loss) for name, loss in losses.items()} == MOVES


def test_dyn_leaves_the_posterior_of_its_own_step_alone():
    """With one record per sequence nothing comes earlier, so nothing else can move posterior and encoder."""
    agent = make_agent(awake=True, free_nats=0.0)
    batch = unpacked(agent, make_batch(agent, time=1, first_at=()))
    losses = agent.world.observe(batch, make_noise(agent, batch).world).losses
    assert moved(agent, losses["dyn"]) == {"core", "prior"}
    assert moved(agent, losses["rep"]) == EVERY_STATE


def test_zero_kernels_hold_back_their_gradients():
    """A fresh critic and reward head move themselves, and through a kernel of zeros nothing else."""
    agent = make_agent()
    batch = unpacked(agent, make_batch(agent))
    losses = agent.losses(batch, make_noise(agent, batch)).losses
    assert moved(agent, losses["replay_critic"]) == {"critic"}
    assert moved(agent, losses["reward"]) == {"reward"}


# ── at the beginning ────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_fresh_agent_says():
    """The official network's values at initialisation: 24 numbers, 6 continuous actions."""
    spec = EnvSpec({"state": ObsSpec("vector", (24,))}, (ActionPart("action", "continuous", size=6),))
    agent = make_agent(spec)
    batch = unpacked(agent, make_batch(agent))
    result = agent.losses(batch, make_noise(agent, batch))
    feat = agent.world.dynamics.feat(result.states)
    assert not agent.world.reward(feat).mean.any()
    assert not agent.behaviour.critic(feat).mean.any()
    near(result.losses["reward"], torch.full((2, 4), math.log(255)), 1e-6)
    inside = (~batch.is_last[:, :-1]).float()
    near(result.losses["replay_critic"], inside * 2 * math.log(255), 1e-6)
    near(result.metrics["entropy/actor"], 7.833, 1e-2)
    assert not result.metrics["return/imagined"].any()
    assert bool(result.metrics["kl"].isfinite())
    near(agent.world.cont(feat).mean, torch.full((2, 4), 0.5), 0.5)


def test_losses_have_a_value_for_every_element(agent):
    batch = unpacked(agent, make_batch(agent))
    result = agent.losses(batch, make_noise(agent, batch))
    shapes = dict.fromkeys(MOVES, (2, 4)) | {"actor": (8, 3), "critic": (8, 3), "replay_critic": (2, 3)}
    assert {name: loss.shape for name, loss in result.losses.items()} == shapes
    assert not any(x.requires_grad for x in (*result.states, *result.metrics.values()))
    assert [x.shape for x in result.states] == [(2, 4, 16), (2, 4, 3, 4)]


def test_parameter_counts_leave_out_slow_copies(agent):
    counts = agent.parameter_counts()
    assert counts["total"] == sum(p.numel() for p in agent.parameters() if p.requires_grad)
    slow = sum(p.numel() for p in agent.behaviour.slow_critic.parameters())
    assert counts["total"] + slow == sum(p.numel() for p in agent.parameters())


def test_weights_of_losses_must_name_keys_that_are_decoded(agent):
    known = {f"objective/{key}": 0.5 for key in agent.spec.observation}
    agent.check_loss_scales({"dyn": 1.0, "objective": 0.0, **known})
    wrong = next(iter(agent.spec.observation))[:-1]
    with pytest.raises(ConfigError, match=f"names '{wrong}'") as caught:
        agent.check_loss_scales({f"objective/{wrong}": 1.0})
    assert f"Did you mean '{wrong}" in caught.value.hint
    for nothing in ({"objective": 0.0}, {"objective": 1.0, **dict.fromkeys(known, 0.0)}):
        with pytest.raises(ConfigError, match="nothing makes the state say what was seen"):
            agent.check_loss_scales(nothing)


def test_weights_travel_by_name(agent):
    """All that makes an agent act is in its state dict, running statistics too."""
    other = make_agent(seed=1)
    other.load_state_dict(agent.state_dict())
    batch = unpacked(agent, make_batch(agent))
    noise = make_noise(agent, batch)
    ours, theirs = agent.losses(batch, noise).losses, other.losses(batch, noise).losses
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {"behaviour.return_scale.low", "behaviour.return_scale.high"} <= set(agent.state_dict())


def test_building_is_determined_by_the_seed():
    first, same, other = (make_agent(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_an_agent_can_be_built_without_memory():
    with torch.device("meta"):
        agent = Agent(configure(WorldConfig, WORLD), configure(ActorCriticConfig, BEHAVIOUR), VECTORS)
    assert all(p.is_meta for p in agent.parameters())
