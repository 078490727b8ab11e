"""Who decides, and what is remembered of it."""

import numpy as np
import pytest
import torch

from dreamer_cli.acting import AgentDriver, PrefillDriver, RandomDriver, latent_fields
from dreamer_cli.behaviour.explorers import ActionNoiseConfig
from dreamer_cli.behaviour.planners import CEMConfig
from dreamer_cli.envs.vector import VectorEnv
from tests.commands.tiny import tiny_agent
from tests.small import make_agent
from tests.toys import toy_config


def test_while_chance_acts_the_agent_watches():
    with VectorEnv(toy_config("Continuous"), 3, 0, "sync") as envs:
        agent = tiny_agent(envs.spec)
        driver = PrefillDriver(AgentDriver(agent, "sample", 1), RandomDriver(envs.spec, {}, 2))
        watching, chance = AgentDriver(agent, "sample", 1), RandomDriver(envs.spec, {}, 2)
        now, carry, alone = envs.reset(), driver.initial(3), watching.initial(3)
        for _ in range(3):
            action, latent, carry = driver(now, carry)
            _, own, alone = watching(now, alone)
            np.testing.assert_array_equal(action, chance.actions(3))
            np.testing.assert_array_equal(carry.action.numpy(), action)
            assert torch.equal(carry.state.deter, alone.state.deter)
            np.testing.assert_array_equal(latent["stoch"], own["stoch"])
            assert latent["deter"].any()
            # What the agent sees next follows from what was really done.
            alone = alone._replace(action=torch.from_numpy(action))
            now = envs.step(action)


def test_watching_draws_as_much_as_deciding():
    """So that what follows does not depend on who acted before."""
    with VectorEnv(toy_config("Continuous"), 2, 0, "sync") as envs:
        agent = tiny_agent(envs.spec)
        watching, deciding = AgentDriver(agent, "sample", 1), AgentDriver(agent, "sample", 1)
        now = envs.reset()
        action, _, carry = deciding(now, deciding.initial(2))
        _, watched = watching.watch(now, watching.initial(2), action)
        assert all(torch.equal(a, b) for a, b in zip(watched.state, carry.state, strict=True))
        assert torch.equal(watched.action, carry.action)
        assert torch.equal(watching.generator.get_state(), deciding.generator.get_state())


def test_another_behaviour_can_decide():
    """A planner in the actor's place; what is remembered is the same but for the action."""
    with VectorEnv(toy_config("Continuous"), 2, 0, "sync") as envs:
        agent = tiny_agent(envs.spec)
        planner = CEMConfig(horizon=2, candidates=6, elites=2, iterations=2).build(agent.world, envs.spec.action)
        driver, own = AgentDriver(agent, "mode", 1, behaviour=planner), AgentDriver(agent, "mode", 1)
        now = envs.reset()
        action, latent, carry = driver(now, driver.initial(2))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            noise = agent.noise(2, generator, planner)
            expected = planner.decide(agent.world, carry.state, noise.action, "mode")
        np.testing.assert_array_equal(action, expected.numpy())
        other, seen, _ = own(now, own.initial(2))
        np.testing.assert_array_equal(latent["stoch"], seen["stoch"])
        assert not np.array_equal(action, other)


@pytest.mark.parametrize("mode", ["explore", "sample"])
def test_actions_are_disturbed_only_while_data_is_collected(mode):
    with VectorEnv(toy_config("Continuous"), 3, 0, "sync") as envs:
        agent = tiny_agent(envs.spec)
        quiet = AgentDriver(agent, "sample", 1)
        now = envs.reset()
        plain, _, _ = quiet(now, quiet.initial(3))
        agent.behaviour.explorer = ActionNoiseConfig(std=0.3).build(envs.spec.action)
        driver = AgentDriver(agent, mode, 1)
        action, _, carry = driver(now, driver.initial(3))
        assert np.array_equal(action, plain) == (mode == "sample")
        np.testing.assert_array_equal(carry.action.numpy(), action)


def test_what_is_stored_is_what_the_latent_packs():
    with VectorEnv(toy_config("Continuous"), 2, 0, "sync") as envs:
        parts = {"core": {"kind": "lstm", "units": 6, "hidden": 5}, "latent": {"kind": "gaussian", "size": 3}}
        agent = make_agent(envs.spec, dynamics={"kind": "rssm", "hidden": 8, **parts})
        fields, driver = latent_fields(agent), AgentDriver(agent, "sample", 1)
        assert fields["deter"][0] == (12,), "both halves of an LSTM's memory"
        _, latent, carry = driver(envs.reset(), driver.initial(2))
        for name, (shape, dtype) in fields.items():
            assert (latent[name].shape, latent[name].dtype) == ((2, *shape), dtype)
        np.testing.assert_array_equal(latent["stoch"], carry.state.stoch.numpy())
        np.testing.assert_array_equal(latent["deter"], carry.state.deter.numpy())
