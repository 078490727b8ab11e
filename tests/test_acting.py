"""Who decides, and what is remembered of it."""

import numpy as np
import torch

from dreamer_cli.acting import AgentDriver, PrefillDriver, RandomDriver
from dreamer_cli.envs.vector import VectorEnv
from tests.commands.tiny import tiny_agent
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
