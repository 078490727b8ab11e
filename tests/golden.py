"""The official network's own numbers (`tests/fixtures/golden`), and how its names map to ours.

One whole training computation of danijar/dreamerv3 (commit e3f0224), tiny, in float64: weights, batch, every
sample drawn, every intermediate, every loss, every gradient, and the weights after updates.
"""

import json
from functools import cache
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from dreamer_cli.agent import Agent, UpdateNoise
from dreamer_cli.behaviour.actor_critic import ActorCriticConfig
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.structs import Batch, State
from dreamer_cli.world.model import WorldConfig, WorldNoise

FIXTURES = Path(__file__).parent / "fixtures"
SPEC = EnvSpec(
    {
        "vec": ObsSpec("vector", (5,)),
        "kind": ObsSpec("discrete", (1,), (3,)),
        "pair": ObsSpec("discrete", (2,), (4, 4)),
    },
    (ActionPart("action", "continuous", size=2),),
)
WORLD = {
    "encoder": {"units": 24},
    "dynamics": {
        "kind": "rssm",
        "hidden": 16,
        "core": {"kind": "block_gru", "units": 64, "hidden": 16, "blocks": 8},
        "latent": {"kind": "categorical", "groups": 4, "classes": 5},
    },
    "decoder": {"units": 24},
    "objective": {"kind": "reconstruct"},
    "reward": {"units": 24},
    "cont": {"kind": "head", "units": 24, "output": {"kind": "bernoulli"}},
}
BEHAVIOUR = {"horizon": 4, "actor": {"units": 24}, "critic": {"units": 24, "layers": 3}}
LOSS_SCALES = {
    "dyn": 1.0, "rep": 0.1, "objective": 1.0, "reward": 1.0, "cont": 1.0,
    "actor": 1.0, "critic": 1.0, "replay_critic": 0.3,
}  # fmt: skip


@cache
def trace() -> dict[str, Tensor]:
    """Every tensor of the trace, by name."""
    files = sorted((FIXTURES / "golden").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def configure(cls: type, tree: dict):
    """Settings of a part from a plain tree."""
    return TypeAdapter(cls).validate_json(json.dumps(tree))


def module_names() -> dict[str, str]:
    """Official module → ours, without the trailing tensor name."""
    names = {
        "rssm.in_deter": "world.dynamics.core.in_deter",
        "rssm.in_stoch": "world.dynamics.core.in_stoch",
        "rssm.in_action": "world.dynamics.core.in_action",
        "rssm.prior0": "world.dynamics.prior_net.0",
        "rssm.prior1": "world.dynamics.prior_net.1",
        "rssm.post0": "world.dynamics.post_net.0",
    }
    names |= {f"enc.vec.layer{i}": f"world.encoder.parts.0.net.{i}" for i in range(3)}
    names |= {f"dec.vec.layer{i}": f"world.objective.decoder.parts.0.net.{i}" for i in range(3)}
    names |= {f"{head}.layer0": f"world.{head}.net.0" for head in ("reward", "cont")}
    names |= {f"actor.layer{i}": f"behaviour.actor.net.{i}" for i in range(3)}
    names |= {f"{c}.layer{i}": f"behaviour.{c}.net.{i}" for c in ("critic", "slow_critic") for i in range(3)}
    tensors = {}
    for theirs, ours in names.items():
        tensors |= {
            f"{theirs}.{part}": f"{ours}.linear.{name}" for part, name in (("kernel", "weight"), ("bias", "bias"))
        }
        tensors[f"{theirs}.scale"] = f"{ours}.norm.scale"
    plain = {
        "rssm.gates": "world.dynamics.core.gates",
        "rssm.core0": "world.dynamics.core.layers.0",
        "rssm.prior_out": "world.dynamics.prior_out",
        "rssm.post_out": "world.dynamics.post_out",
        "reward.out": "world.reward.output.linear",
        "cont.out": "world.cont.output.linear",
        "actor.out_mean": "behaviour.actor.out.0_mean",
        "actor.out_std": "behaviour.actor.out.0_std",
        "critic.out": "behaviour.critic.output.linear",
        "slow_critic.out": "behaviour.slow_critic.output.linear",
    }
    plain |= {
        f"dec.vec.out.{key}": f"world.objective.decoder.parts.0.out.{i}"
        for i, key in enumerate(("kind", "pair", "vec"))
    }
    for theirs, ours in plain.items():
        tensors |= {f"{theirs}.kernel": f"{ours}.weight", f"{theirs}.bias": f"{ours}.bias"}
    tensors["rssm.core0.scale"] = "world.dynamics.core.norms.0.scale"
    return tensors


def to_ours(name: str, tensor: Tensor) -> Tensor:
    """An official tensor in our layout: dense kernels are transposed, block kernels are not."""
    return tensor.T if name.endswith(".kernel") and tensor.dim() == 2 else tensor


def agent(dtype: torch.dtype) -> Agent:
    """The agent of the trace, with its weights and its return normaliser."""
    torch.set_default_dtype(dtype)  # constants such as the two-hot bins are made in it
    try:
        agent = Agent(configure(WorldConfig, WORLD), configure(ActorCriticConfig, BEHAVIOUR), SPEC)
    finally:
        torch.set_default_dtype(torch.float32)
    t = trace()
    params = {ours: to_ours(theirs, t[f"param/{theirs}"]) for theirs, ours in module_names().items()}
    buffers = {
        "behaviour.return_scale.low": t["norm/lo_before"],
        "behaviour.return_scale.high": t["norm/hi_before"],
    }
    agent.load_state_dict({k: v.to(dtype) for k, v in {**params, **buffers}.items()})
    return agent


def batch(dtype: torch.dtype) -> Batch:
    """The batch of the trace: record 0 is context, T = 6 records are trained."""
    t = trace()
    trained = {
        k: t[f"batch/{k}"][:, 1:] for k in ("vec", "kind", "pair", "reward", "is_first", "is_last", "is_terminal")
    }
    return Batch(
        obs={"vec": trained["vec"].to(dtype), "kind": trained["kind"].unsqueeze(-1), "pair": trained["pair"]},
        action=t["batch/action"].to(dtype),
        reward=trained["reward"].to(dtype),
        is_first=trained["is_first"].bool(),
        is_last=trained["is_last"].bool(),
        is_terminal=trained["is_terminal"].bool(),
        start=State(t["carry/deter"].to(dtype), t["carry/stoch"].to(dtype)),
    )


def noise(dtype: torch.dtype) -> UpdateNoise:
    """Noise that forces the recorded samples: it towers over any log-probability at the recorded class.

    Actions are forced by `force_actions`; the noise carries the actions themselves.
    """
    t = trace()

    def towering(index: Tensor) -> Tensor:
        return 1e6 * torch.nn.functional.one_hot(index.long(), 5).to(dtype)

    return UpdateNoise(
        world=WorldNoise(towering(t["forced/post_index"])),
        imag=towering(t["forced/imag_index"]),
        action=t["forced/imag_action"].to(dtype),
    )


def force_actions(agent: Agent) -> None:
    """Let the agent take its noise for the action."""
    agent.behaviour.choose = lambda policy, noise: noise  # type: ignore[method-assign]
