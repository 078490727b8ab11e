"""The agent: a model of the world and a way to behave in it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamer_cli.behaviour.contract import Behaviour
from dreamer_cli.errors import ConfigError, closest
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Batch, Carry, Mode, Noise, State
from dreamer_cli.world.model import WorldConfig, WorldModel, WorldNoise

# What learns beside world, actor and critic: a run may go on without it, or begin with it.
BESIDE = ("world.preview.", "behaviour.intrinsic.")


class UpdateNoise(NamedTuple):
    """Randomness of one update, N = B·T dreams: world, imag N H S K, action N H+1 A."""

    world: WorldNoise
    imag: Tensor
    action: Tensor


class Losses(NamedTuple):
    """Each loss per element, the posterior states (B T ...), and scalar metrics."""

    losses: dict[str, Tensor]
    states: State
    metrics: dict[str, Tensor]


class Agent(nn.Module):
    """World and behaviour, joined: acts on observations, and says how wrong it is on replayed batches."""

    def __init__(self, world: WorldConfig, behaviour: Any, spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec
        self.world = WorldModel(world, spec, behaviour.cont_scale)
        self.behaviour: Any = behaviour.build(self.world, spec.action)

    @property
    def seen(self) -> EnvSpec:
        """The environment as the agent sees it: without observations that its encoder leaves out."""
        return replace(self.spec, observation=self.world.encoder.specs)

    @property
    def like(self) -> Tensor:
        """A number of the dtype and on the device that randomness is drawn in."""
        return self.world.dynamics.initial(1).deter

    # ── acting ──────────────────────────────────────────────────────────────────────────────────────────

    def initial(self, batch: int) -> Carry:
        """What is carried into an episode's first step; any values would do, is_first blanks them."""
        state = self.world.dynamics.initial(batch)
        return Carry(state, state.deter.new_zeros(batch, self.spec.action_width))

    def noise(self, batch: int, generator: torch.Generator | None = None, behaviour: Behaviour | None = None) -> Noise:
        """Randomness of one decision in each of `batch` environments, as the agent's own behaviour makes it."""
        like = self.like
        latent = self.world.dynamics.latent.noise((batch,), like, generator)
        return Noise(latent, (behaviour or self.behaviour).action_noise(batch, self.world, like, generator))

    def policy(
        self,
        obs: dict[str, Tensor],
        is_first: Bool[Tensor, " B"],
        carry: Carry,
        noise: Noise,
        mode: Mode = "sample",
        behaviour: Behaviour | None = None,
    ) -> tuple[Float[Tensor, "B A"], Carry]:
        """What to do now, and what to carry on.

        obs: each key B and its own axes, as stored (uint8 pictures). The posterior is always sampled, as in the
        official code, in evaluation too; `mode` takes the actor's likeliest action instead of a sample.
        behaviour: another one than the agent's own, a planner in its place.
        """
        embed = self.world.encoder(obs)
        state, _ = self.world.dynamics.observe_step(carry.state, carry.action, embed, is_first, noise.latent)
        action = (behaviour or self.behaviour).decide(self.world, state, noise.action, mode)
        return action, Carry(state, action)

    # ── learning ────────────────────────────────────────────────────────────────────────────────────────

    def update_noise(self, batch: int, length: int, generator: torch.Generator | None = None) -> UpdateNoise:
        """Randomness of one update on `batch` sequences of `length` records."""
        like = self.like
        world = self.world.noise(batch, length, like, generator)
        return UpdateNoise(world, *self.behaviour.dream_noise(batch * length, self.world, like, generator))

    def losses(self, batch: Batch, noise: UpdateNoise) -> Losses:
        """Watch the batch, let the behaviour learn from it, and say how wrong both were."""
        seen = self.world.observe(batch, noise.world)
        learnt = self.behaviour.learn(self.world, seen, batch, noise.imag, noise.action)
        return Losses(
            {**seen.losses, **learnt.losses},
            State(*(x.detach() for x in seen.states)),
            {**seen.metrics, **learnt.metrics},
        )

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Move slow copies; called once the optimiser has stepped, or has not: then `sound` is false."""
        self.world.after_update(sound)
        self.behaviour.after_update(sound)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """What an optimiser may treat apart: `world`, `actor`, `critic`, and what learns beside them."""
        world = self.world.groups()
        preview = world.pop("preview")
        return {**world, **self.behaviour.groups(), "preview": preview}

    def check_loss_scales(self, scales: Mapping[str, float]) -> None:
        """See that every `objective/KEY` is a loss of this agent, lest a typo leave it at its family's weight.

        Raises:
            ConfigError: it is none, or all losses of the objective weigh nothing.
        """
        known = self.world.objective.keys
        for name in scales:
            family, slash, key = name.partition("/")
            if family == "objective" and slash and key not in known:
                raise ConfigError(
                    f"loss_scales.{name} names {key!r}, which is no loss of this objective.",
                    hint=closest(key, known) + (f"There are: {', '.join(known)}." if known else "There is none."),
                )
        if not any(scales.get(f"objective/{key}", scales.get("objective", 1.0)) for key in known):
            raise ConfigError(
                "All losses of the objective weigh 0: nothing makes the state say what was seen, and there is no world "
                "to dream of.",
                hint="Leave loss_scales.objective at 1.0, or choose another world.objective.kind.",
            )

    def fitting(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Another agent's weights for this one: parts that learn beside both may be new here, or be left behind."""
        own = self.state_dict()
        kept = {name: x for name, x in weights.items() if name in own or not name.startswith(BESIDE)}
        return {name: x for name, x in own.items() if name.startswith(BESIDE)} | kept

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters by module, and their total; slow copies are not counted."""
        world, behaviour = self.world, self.behaviour
        counts = {
            "encoder": _count(world.encoder),
            "rssm": _count(world.dynamics),
            "decoder": _count(getattr(world.objective, "decoder", world.preview)),
            "reward": _count(world.reward),
            "cont": _count(world.cont),
            "actor": _count(getattr(behaviour, "actor", None)),
            "critic": _count(getattr(behaviour, "critic", None)),
        }
        total = sum(parameter.numel() for group in self.groups().values() for parameter in group)
        other = {"objective": _count(world.objective), "intrinsic": _count(getattr(behaviour, "intrinsic", None))}
        other["objective"] -= _count(getattr(world.objective, "decoder", None))
        return {**counts, **{name: count for name, count in other.items() if count}, "total": total}


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters() if p.requires_grad)
