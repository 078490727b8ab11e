"""Tiny agents to export, and an environment that has every kind of observation and action."""

from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from dreamer_cli.agent import Agent
from dreamer_cli.behaviour.actor_critic import ActorCriticConfig
from dreamer_cli.commands import export
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.wrappers import DreamerEnv
from dreamer_cli.nets.actors import ActorConfig
from dreamer_cli.nets.heads import BernoulliConfig, HeadConfig
from dreamer_cli.report import Reporter
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.world.coders import DecoderConfig, EncoderConfig
from dreamer_cli.world.cores import BlockGRUConfig
from dreamer_cli.world.latents import CategoricalConfig
from dreamer_cli.world.model import WorldConfig
from dreamer_cli.world.rssm import RSSMConfig

QUIET = Reporter(quiet=True)
CARTPOLE = export.Origin(env=EnvConfig(id="CartPole-v1"), run="runs/x", checkpoint_step=7, config_text="run: {}\n")


class Garage(gymnasium.Env):
    """Every kind of observation and action at once; an episode lasts 20 steps."""

    everything = {  # noqa: RUF012  never changed
        "camera": spaces.Box(0, 255, (40, 100, 3), np.uint8),
        "speed": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        "gear/now": spaces.Discrete(5, start=-1),
        "depth": spaces.Box(np.float32(0), np.float32(1), (12, 12, 1)),
        "lights": spaces.MultiDiscrete([2, 3]),
    }
    action_space = spaces.Dict(
        {
            "pedals": spaces.Box(np.float32([0, -2]), np.float32([1, 3])),
            "gear": spaces.MultiDiscrete([3, 3]),
            "horn": spaces.Discrete(2, start=4),
        }
    )

    def __init__(self, keys: int) -> None:
        self.observation_space = spaces.Dict(dict(list(self.everything.items())[:keys]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.left = 20
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.left -= 1
        return self.observation_space.sample(), 0.0, self.left == 0, False, {}


def garage(keys: int = 3) -> DreamerEnv:
    # Three keys are one of each kind, and a graph that is converted in seconds.
    return DreamerEnv(Garage(keys), "garage", size=(8, 8))


def tiny_agent(spec: EnvSpec) -> Agent:
    """Two thousand times smaller than the default; heads that start at zero are shaken, or nothing could differ."""
    torch.manual_seed(0)
    core, latent = BlockGRUConfig(units=32, hidden=16, blocks=4), CategoricalConfig(groups=4, classes=4)
    world = WorldConfig(
        dynamics=RSSMConfig(core=core, latent=latent, hidden=16),
        encoder=EncoderConfig(depth=4, units=16, layers=1),
        decoder=DecoderConfig(depth=4, units=16, layers=1, blocks=4),
        reward=HeadConfig(units=16),
        cont=HeadConfig(units=16, output=BernoulliConfig()),
    )
    behaviour = ActorCriticConfig(actor=ActorConfig(units=16, layers=1, scale=1.0), critic=HeadConfig(units=16))
    agent = Agent(world, behaviour, spec).eval().requires_grad_(False)
    for value in agent.parameters():
        if not value.any():
            value.normal_(std=0.3)
    return agent


def export_tiny(agent: Agent, out: Path, origin: export.Origin | None = None, **options) -> export.Exported:
    return export.freeze(agent, out, QUIET, origin or export.Origin(), **options)
