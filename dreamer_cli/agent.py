"""The agent: a model of the world and a way to behave in it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dreamer_cli.behaviour.actor_critic import ActorCritic, BehaviourConfig
from dreamer_cli.errors import ConfigError, closest
from dreamer_cli.nets.distributions import gumbel
from dreamer_cli.sections import section
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Batch, Carry, Noise, State
from dreamer_cli.world.model import WorldConfig, WorldModel

Mode = Literal["sample", "mode"]


class UpdateNoise(NamedTuple):
    """Randomness of one update, N = B·T dreams: post B T S K, imag N H S K, action N H+1 A."""

    post: Tensor
    imag: Tensor
    action: Tensor


class Losses(NamedTuple):
    """Each loss per element, the posterior states (B T ...), and scalar metrics."""

    losses: dict[str, Tensor]
    states: State
    metrics: dict[str, Tensor]


class Agent(nn.Module):
    """World and behaviour, joined: acts on observations, and says how wrong it is on replayed batches."""

    def __init__(self, world: WorldConfig, behaviour: BehaviourConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec
        self.horizon = behaviour.horizon
        self.world = WorldModel(world, spec, behaviour.cont_scale)
        self.behaviour = ActorCritic(behaviour, self.world.dynamics.feat_size, spec.action)
        self.discrete = [bool(part.classes) for part in spec.action for _ in range(part.width)]
        self.register_buffer("is_discrete", torch.tensor(self.discrete), persistent=False)

    @property
    def seen(self) -> EnvSpec:
        """The environment as the agent sees it: without observations that its encoder leaves out."""
        return replace(self.spec, observation=self.world.encoder.specs)

    # ── acting ──────────────────────────────────────────────────────────────────────────────────────────

    def initial(self, batch: int) -> Carry:
        """What is carried into an episode's first step; any values would do, is_first blanks them."""
        state = self.world.dynamics.initial(batch)
        return Carry(state, state.deter.new_zeros(batch, self.spec.action_width))

    def noise(self, batch: int, generator: torch.Generator | None = None) -> Noise:
        """Randomness of one decision in each of `batch` environments."""
        like = self.world.dynamics.initial(1).deter
        return Noise(
            self.world.dynamics.latent.noise((batch,), like, generator), self._action_noise((batch,), like, generator)
        )

    def _action_noise(self, lead: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
        """lead A: Gumbel noise in columns of categorical entries, standard normal in the others."""
        shape = (*lead, len(self.discrete))
        if all(self.discrete):
            return gumbel(shape, like, generator)
        normal = torch.empty(shape, dtype=like.dtype, device=like.device).normal_(generator=generator)
        if not any(self.discrete):
            return normal
        return torch.where(self.get_buffer("is_discrete"), gumbel(shape, like, generator), normal)

    def policy(
        self, obs: dict[str, Tensor], is_first: Bool[Tensor, " B"], carry: Carry, noise: Noise, mode: Mode = "sample"
    ) -> tuple[Float[Tensor, "B A"], Carry]:
        """What to do now, and what to carry on.

        obs: each key B and its own axes, as stored (uint8 pictures). The posterior is always sampled, as in the
        official code, in evaluation too; `mode` takes the actor's likeliest action instead of a sample.
        """
        embed = self.world.encoder(obs)
        state, _ = self.world.dynamics.observe_step(carry.state, carry.action, embed, is_first, noise.latent)
        policy = self.behaviour.actor(self.world.dynamics.feat(state))
        action = policy.sample(noise.action) if mode == "sample" else policy.mode
        return action, Carry(state, action)

    # ── learning ────────────────────────────────────────────────────────────────────────────────────────

    def update_noise(self, batch: int, length: int, generator: torch.Generator | None = None) -> UpdateNoise:
        """Randomness of one update on `batch` sequences of `length` records."""
        like = self.world.dynamics.initial(1).deter
        latent, starts = self.world.dynamics.latent, batch * length
        return UpdateNoise(
            post=latent.noise((batch, length), like, generator),
            imag=latent.noise((starts, self.horizon), like, generator),
            action=self._action_noise((starts, self.horizon + 1), like, generator),
        )

    def losses(self, batch: Batch, noise: UpdateNoise) -> Losses:
        """Watch the batch, dream on from every state in it, and learn from both.

        Gradients: the world model learns from its own losses and from the critic's on replay; dreams start in
        detached states, and move only actor and critic.
        """
        seen = self.world.observe(batch, noise.post)
        start = State(*(x.detach().flatten(0, 1) for x in seen.states))
        rollout = self.behaviour.rollout()
        differentiable = self.behaviour.actor_gradient.through_dynamics and torch.is_grad_enabled()
        with section("imagine"), torch.set_grad_enabled(differentiable):
            dream = self.world.imagine(start, rollout, noise.imag, noise.action)
        with section("actor_critic"):
            learnt = self.behaviour.imagined(dream, rollout.policy())
            boot = learnt.ret[:, 0].reshape(batch.reward.shape)
            replayed = self.behaviour.replayed(seen.feat, batch, boot)
        return Losses(
            {**seen.losses, **learnt.losses, **replayed},
            State(*(x.detach() for x in seen.states)),
            {**seen.metrics, **learnt.metrics},
        )

    def check_loss_names(self, names: Iterable[str]) -> None:
        """See that every `objective/KEY` is a loss of this agent: a typo would leave the key at its family's weight.

        Raises:
            ConfigError: it is none.
        """
        known = self.world.objective.keys
        for name in names:
            family, slash, key = name.partition("/")
            if family == "objective" and slash and key not in known:
                raise ConfigError(
                    f"loss_scales.{name} names {key!r}, which is no observation key that is decoded.",
                    hint=closest(key, known) + (f"There are: {', '.join(known)}." if known else "There is none."),
                )

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters by module, and their total; slow copies are not counted."""
        modules = {
            "encoder": self.world.encoder,
            "rssm": self.world.dynamics,
            "decoder": self.world.objective,
            "reward": self.world.reward,
            "cont": self.world.cont,
            "actor": self.behaviour.actor,
            "critic": self.behaviour.critic,
        }
        counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
        return {**counts, "total": sum(counts.values())}
