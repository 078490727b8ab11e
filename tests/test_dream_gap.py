"""The dream gap against dreams stepped by hand; and which states it is taken from."""

import numpy as np
import pytest
import torch

from dreamer_cli.dream_gap import EVERY, MOST, DreamGap
from dreamer_cli.structs import Carry, Records, State
from tests.small import make_agent


def record(reward, is_last=False, is_terminal=False):
    """One moment of two environments; the second one never ends."""
    flags = np.array([[is_last, False], [is_terminal, False]])
    return Records({}, np.array([reward, 1.0], np.float32), np.zeros(2, bool), *flags)


def play(gap, agent, lengths, terminal, counts=True):
    """Episodes of the first environment, of random states; returns the states and actions that were decided in."""
    random, seen = torch.Generator().manual_seed(0), []
    for length in lengths:
        for t in range(length):
            carry = agent.initial(2)
            state = State(*(torch.randn(x.shape, generator=random) for x in carry.state))
            carry = Carry(state, torch.randn(carry.action.shape, generator=random))
            seen.append(carry)
            gap.decided(carry)
            gap.followed(record(t, t == length - 1, terminal and t == length - 1), np.array([counts, True]))
    return seen


def test_rewards_are_those_that_are_learnt():
    agent = make_agent(awake=True)
    agent.world.squash_reward = torch.tanh
    gap = DreamGap(agent, "mode", 3, num_envs=2)
    play(gap, agent, [gap.horizon + 4], terminal=False)
    assert gap._real == [pytest.approx(sum(np.tanh(range(gap.horizon))))]


def test_what_is_not_finite_is_no_gap():
    agent = make_agent(awake=True)
    gap = DreamGap(agent, "mode", 3, num_envs=2)
    play(gap, agent, [gap.horizon + 4], terminal=False)
    gap._real[0] = float("nan")
    assert gap.measure() is None


def test_it_is_what_the_model_promises_less_what_came():
    agent = make_agent(awake=True)
    gap = DreamGap(agent, "mode", 3, num_envs=2)
    horizon = gap.horizon
    seen = play(gap, agent, [EVERY + horizon + 4], terminal=False)
    found = gap.measure()
    # States 0 and 20 have so many rewards after them: t, t + 1, ...; what is still open counts nowhere.
    real = [sum(range(t, t + horizon)) for t in (0, EVERY)]
    starts = [seen[t] for t in (0, EVERY)]
    state = State(*(torch.stack([getattr(start.state, name)[0] for start in starts]) for name in State._fields))
    action = torch.stack([start.action[0] for start in starts])
    random, world, behaviour = torch.Generator().manual_seed(3), agent.world, agent.behaviour
    total, alive = torch.zeros(2), torch.ones(2)
    with torch.no_grad():
        for _ in range(horizon):
            state = world.dynamics.imagine_step(state, action, world.dynamics.latent.noise((2,), agent.like, random))
            feat = world.dynamics.feat(state)
            total = total + alive * world.reward(feat).mean
            alive = alive * (world.cont(feat).mean / world.cont_scale).clamp(0, 1)
            action = behaviour.decide(world, state, behaviour.action_noise(2, world, agent.like, random), "mode")
    gaps = total.numpy() - real
    assert found == pytest.approx((gaps.mean(), gaps.std(ddof=1), horizon, 2), rel=1e-5)
    assert gaps.std() > 0


@pytest.mark.parametrize(("terminal", "states"), [(True, 1), (False, 0)])
def test_an_end_is_a_fact_but_a_cut_is_not(terminal, states):
    agent = make_agent(awake=True)
    gap = DreamGap(agent, "sample", 0, num_envs=2)
    play(gap, agent, [gap.horizon - 1], terminal)
    found = gap.measure()
    assert (found.states if found else 0) == states
    assert gap.measure() is None or np.isfinite(gap.measure()).all()


def test_only_what_is_scored_counts_and_not_without_end():
    agent = make_agent(awake=True)
    gap = DreamGap(agent, "sample", 0, num_envs=2)
    play(gap, agent, [30, 30], terminal=True, counts=False)
    assert gap.measure() is None
    play(gap, agent, [1] * (MOST + 50), terminal=True)
    assert MOST - 30 < gap.measure().states <= MOST
