"""A planner for any agent: whose settings it has, and what it expects to come after a plan."""

import torch

from dreamer_cli.agent import Agent
from dreamer_cli.behaviour.actor_critic import ActorCriticConfig
from dreamer_cli.behaviour.planners import CEMConfig, RandomShootingConfig
from dreamer_cli.planning import planner, value_after
from dreamer_cli.world.model import WorldConfig
from tests.golden import configure
from tests.small import BEHAVIOUR, VECTORS, WORLD, make_agent, near


def test_a_planners_own_settings_come_first_and_are_overlaid():
    agent = make_agent(VECTORS)
    own = RandomShootingConfig(horizon=3, candidates=7)
    found = planner(own, agent, ["candidates=5"])
    assert (found.horizon, found.candidates, found.iterations) == (3, 5, 1)
    other = planner(own, agent, ["kind=cem", "elites=20"])
    assert (other.horizon, other.candidates, other.elites) == (12, 1000, 20), "another kind inherits nothing"
    default = planner(configure(ActorCriticConfig, BEHAVIOUR), agent)
    assert (default.horizon, default.candidates, default.elites, default.iterations) == (12, 1000, 100, 10)


def test_a_value_that_holds_the_states_own_reward_loses_it():
    """A plan has counted the reward of its last state already."""
    feat = torch.randn(5, make_agent(VECTORS).world.dynamics.feat_size)
    agent = make_agent(VECTORS, awake=True)
    after = value_after(agent)
    near(after(feat), agent.behaviour.critic(feat).mean, 1e-6)
    settings = BEHAVIOUR | {"returns": {"kind": "own_reward"}, "replay_loss": False}
    older = Agent(configure(WorldConfig, WORLD), configure(ActorCriticConfig, settings), VECTORS)
    older.load_state_dict(agent.state_dict())
    without = value_after(older)
    # Plans have counted the reward of their last state, and the chance to go on from there.
    ahead = without(feat) * agent.world.cont(feat).mean
    torch.testing.assert_close(ahead, agent.behaviour.critic(feat).mean - agent.world.reward(feat).mean)
    assert (after(feat) - without(feat)).abs().min() > 1e-4


def test_planners_expect_nothing():
    agent = make_agent(VECTORS)
    agent.behaviour = CEMConfig(horizon=2, candidates=4, elites=2).build(agent.world, VECTORS.action)
    assert value_after(agent) is None
