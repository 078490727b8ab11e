"""A small agent, batches for it, and known answers compared in both precisions."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from dreamer_cli.acting import RandomDriver
from dreamer_cli.agent import Agent, UpdateNoise
from dreamer_cli.behaviour.actor_critic import ActorCriticConfig
from dreamer_cli.errors import ConfigError
from dreamer_cli.learner import Learner
from dreamer_cli.optim.laprop import LaPropConfig
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.structs import Batch, State
from dreamer_cli.world.model import WorldConfig
from tests.golden import LOSS_SCALES, configure

DISCRETE = ActionPart("press", "discrete", (4,))
UNEQUAL = ActionPart("move", "discrete", (3, 2, 2))
CONTINUOUS = ActionPart("turn", "continuous", size=2)
VECTOR = ObsSpec("vector", (2,))
CARDS = ObsSpec("discrete", (2,), (3, 4))
IMAGE = ObsSpec("image", (3, 8, 8))

# Every kind of observation, every kind of action.
EVERYTHING = EnvSpec({"camera": IMAGE, "speed": VECTOR, "cards": CARDS}, (UNEQUAL, CONTINUOUS))
VECTORS = EnvSpec({"speed": VECTOR}, (DISCRETE,))

CODER = {"depth": 2, "mults": [2, 4], "units": 8, "layers": 1}
WORLD: dict[str, Any] = {
    "encoder": CODER,
    "dynamics": {
        "kind": "rssm",
        "hidden": 8,
        "core": {"kind": "block_gru", "units": 16, "hidden": 8, "blocks": 8},
        "latent": {"kind": "categorical", "groups": 3, "classes": 4},
    },
    "decoder": CODER,
    "objective": {"kind": "reconstruct"},
    "reward": {"units": 8},
    "cont": {"kind": "head", "units": 8, "output": {"kind": "bernoulli"}},
}
BEHAVIOUR = {"horizon": 3, "actor": {"units": 8, "layers": 1}, "critic": {"units": 8, "layers": 1}}


def near(actual: Tensor, expected: Any, tolerance: float) -> None:
    """Known answers are float64; `actual` is whatever the test runs in."""
    torch.testing.assert_close(
        actual.detach(), torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance
    )


def make_agent(spec: EnvSpec = EVERYTHING, seed: int = 0, awake: bool = False, **world: Any) -> Agent:
    """A small agent with fresh weights. `awake`: the last layers that begin at zero get weights too."""
    torch.manual_seed(seed)
    agent = Agent(configure(WorldConfig, WORLD | world), configure(ActorCriticConfig, BEHAVIOUR), spec)
    if awake:
        for head in (agent.world.reward, agent.behaviour.critic, agent.behaviour.slow_critic):
            torch.nn.init.normal_(head.output.linear.weight, std=0.1)
    return agent


def make_obs(specs: Mapping[str, ObsSpec], lead: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """Random observations as environments and replay give them."""
    obs = {}
    for key, spec in specs.items():
        if spec.kind == "image":
            obs[key] = torch.randint(256, (*lead, *spec.shape), dtype=torch.uint8, generator=generator)
        elif spec.kind == "vector":
            obs[key] = 3 * torch.randn(*lead, *spec.shape, generator=generator)
        else:
            entries = [torch.randint(n, lead, dtype=torch.int32, generator=generator) for n in spec.classes]
            obs[key] = torch.stack(entries, -1)
    return obs


def make_batch(
    agent: Agent,
    batch: int = 2,
    time: int = 4,
    first_at: Iterable[tuple[int, int]] = ((1, 2),),
    terminal_at: Iterable[tuple[int, int]] = (),
    seed: int = 0,
) -> Batch:
    """A random batch as the replay gives it; (sequence, step) pairs say where episodes begin and die."""
    generator = torch.Generator().manual_seed(seed)
    flags = {name: torch.zeros(batch, time, dtype=torch.bool) for name in ("is_first", "is_last", "is_terminal")}
    for b, t in first_at:
        flags["is_first"][b, t] = True
        if t:
            flags["is_last"][b, t - 1] = True
    for b, t in terminal_at:
        flags["is_last"][b, t] = flags["is_terminal"][b, t] = True
    like = agent.world.dynamics.initial(batch).deter
    latent = agent.world.dynamics.latent
    stoch = latent.sample(torch.zeros(batch, latent.stats_size), latent.noise((batch,), like, generator))
    action = torch.from_numpy(RandomDriver(agent.spec, {}, seed).actions(batch * (time + 1)))
    return Batch(
        obs=make_obs(agent.spec.observation, (batch, time), generator),
        action=action.unflatten(0, (batch, time + 1)).to(like.dtype),
        reward=torch.randn(batch, time, generator=generator),
        start=State(torch.randn(like.shape, generator=generator).tanh(), latent.pack(stoch)),
        **flags,
    )


def unpacked(agent: Agent, batch: Batch) -> Batch:
    """The batch as `Agent.losses` takes it: the start's guess as one-hots."""
    stoch = agent.world.dynamics.latent.unpack(batch.start.stoch).to(batch.start.deter.dtype)
    return batch._replace(start=State(batch.start.deter, stoch))


def refused(cls: type, **settings: Any) -> ConfigError:
    """The error for the user that is inside pydantic's when a part refuses its settings."""
    with pytest.raises(ValidationError) as caught:
        cls(**settings)
    error = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(error, ConfigError)
    return error


def make_noise(agent: Agent, batch: Batch, seed: int = 0) -> UpdateNoise:
    """Randomness of one update."""
    return agent.update_noise(*batch.reward.shape, torch.Generator().manual_seed(seed))


def make_learner(agent: Agent, seed: int = 0, bf16: bool = False, warmup: int = 0, lr: float = 1e-3) -> Learner:
    """A learner with a step size that shows."""
    return Learner(agent, LaPropConfig(lr=lr, warmup=warmup), LOSS_SCALES, bf16=bf16, seed=seed)
