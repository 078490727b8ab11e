"""Actor and critic, learnt on dreams and on replayed states."""

import contextlib
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.behaviour.actor_gradients import ACTOR_GRADIENTS, ReinforceConfig
from dreamer_cli.behaviour.contract import Learnt
from dreamer_cli.behaviour.curiosity import INTRINSIC, NoIntrinsicConfig
from dreamer_cli.behaviour.explorers import EXPLORERS, NoExplorerConfig
from dreamer_cli.behaviour.noise import ActionDraw
from dreamer_cli.behaviour.returns import RETURNS, NextRewardConfig, replay_return
from dreamer_cli.behaviour.slow_critics import SLOW_CRITICS, Opinion, RegulariserConfig
from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.actors import ActorConfig
from dreamer_cli.nets.copies import frozen, slow_copy
from dreamer_cli.nets.distributions import Joint
from dreamer_cli.nets.heads import HeadConfig
from dreamer_cli.nets.normalizers import RETURN_SCALES, PercentileConfig
from dreamer_cli.registry import STRICT, Share, Units, Weight, slot
from dreamer_cli.sections import section
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.spaces import ActionPart
from dreamer_cli.structs import Batch, Mode, State
from dreamer_cli.world.model import Dream, Observed, WorldModel


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ActorCriticConfig:
    """An actor and a critic that learn in dreams (Dreamer V1 to V3).

    Attributes:
        horizon: steps of a dream (H).
        discount_horizon: gamma = 1 - 1/discount_horizon.
        contdisc: whether the continue head's chances contain gamma, so that dreams need no other.
        lam: the λ of λ-returns.
        entropy: weight of the actor's entropy (nats).
        returns: which return belongs to which state.
        known_start: take a start's chance to go on from its record, not from the continue head.
        replay_loss: let the critic learn from replayed rewards, too, and the world model from the critic.
        slow_critic: what a slow copy of the critic is for.
        actor_gradient: how the actor learns from dreams.
        return_scale: what returns and advantages are divided by.
        explorer: what disturbs the actions while data is collected.
        intrinsic: a reward of the agent's own, for what it does not know yet.
    """

    horizon: Units = 15
    discount_horizon: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 333.0
    contdisc: bool = True
    lam: Share = 0.95
    entropy: Weight = 3e-4
    returns: slot("behaviour.returns", RETURNS) = NextRewardConfig()  # type: ignore[valid-type]
    known_start: bool = False
    replay_loss: bool = True
    actor: ActorConfig = ActorConfig()
    critic: HeadConfig = HeadConfig(layers=3)
    slow_critic: slot("behaviour.slow_critic", SLOW_CRITICS) = RegulariserConfig()  # type: ignore[valid-type]
    actor_gradient: slot("behaviour.actor_gradient", ACTOR_GRADIENTS) = ReinforceConfig()  # type: ignore[valid-type]
    return_scale: slot("behaviour.return_scale", RETURN_SCALES) = PercentileConfig()  # type: ignore[valid-type]
    explorer: slot("behaviour.explorer", EXPLORERS) = NoExplorerConfig()  # type: ignore[valid-type]
    intrinsic: slot("behaviour.intrinsic", INTRINSIC) = NoIntrinsicConfig()  # type: ignore[valid-type]

    def __post_init__(self) -> None:
        if self.horizon < self.returns.least_horizon:
            raise ConfigError(
                f"behaviour.horizon is {self.horizon}, but these returns need dreams of {self.returns.least_horizon} "
                "steps: the first action is judged by the second state.",
                hint=f"Set behaviour.horizon={self.returns.least_horizon} or more.",
            )
        if self.replay_loss and not self.returns.on_replay:
            raise ConfigError(
                "behaviour.replay_loss is true, but its returns count a state's reward as the next one's, and "
                "behaviour.returns as its own: one critic cannot learn both.",
                hint="Set behaviour.replay_loss=false, or behaviour.returns.kind=next_reward.",
            )

    @property
    def gamma(self) -> float:
        """Discount of one record."""
        return 1 - 1 / self.discount_horizon

    @property
    def cont_scale(self) -> float:
        """What the continue head learns to say of a record that goes on."""
        return self.gamma if self.contdisc else 1.0

    def build(self, world: WorldModel, action: tuple[ActionPart, ...]) -> "ActorCritic":
        """Actor and critic for a world, whose states they read.

        Raises:
            ConfigError: the actor's gradient needs a density that its distribution has not.
        """
        return ActorCritic(self, world.dynamics.feat_size, world.dynamics.latent.size, action)


class Imagined(NamedTuple):
    """Losses by name, returns as the actor was told them (N columns), and metrics."""

    losses: dict[str, Tensor]
    ret: Tensor
    metrics: dict[str, Tensor]


class Rollout:
    """The actor, leading dreams. What it said on the way is kept for its loss, so that it need not be asked twice.

    Args:
        through: whether gradients pass from the dream into the actions that led it.
    """

    def __init__(self, behaviour: "ActorCritic", through: bool) -> None:
        self.behaviour, self.through = behaviour, through
        self.outputs: list[dict[str, Tensor]] = []

    def __call__(self, feat: Float[Tensor, "N F"], noise: Float[Tensor, "N A"]) -> Float[Tensor, "N A"]:
        """A sampled action."""
        with torch.enable_grad():  # most dreams run without, the actor's part in them with gradients
            self.outputs.append(self.behaviour.actor.outputs(feat.detach()))
        said = self.outputs[-1]
        said = said if self.through else {name: x.detach() for name, x in said.items()}
        return self.behaviour.choose(self.behaviour.actor.distribution(said), noise)

    def policy(self, columns: slice) -> Joint:
        """What it said in these columns of the states."""
        steps = self.outputs[columns]
        return self.behaviour.actor.distribution({name: torch.stack([x[name] for x in steps], 1) for name in steps[0]})


class ActorCritic(nn.Module):
    """Actor, critic, its slow copy, and the scale of returns. See `ActorCriticConfig`.

    Args:
        feat: numbers of a state that they read; stoch: those of them that are the guess.
    """

    needs: tuple[str, ...] = ("behaviour.actor",)

    def __init__(self, cfg: ActorCriticConfig, feat: int, stoch: int, action: tuple[ActionPart, ...]) -> None:
        super().__init__()
        self.cfg, self.horizon, self.action_width = cfg, cfg.horizon, sum(part.width for part in action)
        self.actor = cfg.actor.build(feat, action)
        self.critic = cfg.critic.build(feat)
        self.slow: Any = cfg.slow_critic.build()
        self.slow_critic: Any = slow_copy(self.critic) if self.slow.keeps_copy else None
        self.return_scale: Any = cfg.return_scale.build()
        self.returns = cfg.returns.build(1.0 if cfg.contdisc else cfg.gamma, cfg.lam)
        self.actor_gradient: Any = cfg.actor_gradient.build(action)
        self.through_dynamics: bool = self.actor_gradient.through_dynamics
        self.explorer: Any = cfg.explorer.build(action)
        self.intrinsic: Any = cfg.intrinsic.build(feat, self.action_width, stoch)
        self.draw = ActionDraw(action)
        self.deciders = {"explore": self._explore, "sample": self._sample, "mode": self._mode}
        self.value = self._value_in_passing if self.through_dynamics else self._value_as_said
        self.start_cont = self._known if cfg.known_start else self._predicted
        self.replayed = self.replay_losses if cfg.replay_loss else self._nothing
        if self.actor_gradient.needs_density and not self.actor.has_density:
            raise ConfigError(
                "behaviour.actor_gradient needs log π(a), but a deterministic actor has no such density.",
                hint="Set behaviour.actor_gradient.kind=dynamics, or behaviour.actor.continuous.kind=bounded_normal.",
            )

    # ── acting ──────────────────────────────────────────────────────────────────────────────────────────

    def action_noise(
        self, batch: int, world: WorldModel, like: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Randomness of one decision in each of `batch` environments: B A, and the explorer's columns after it."""
        noise = self.draw((batch,), like, generator)
        more = self.explorer.noise(batch, like, generator)
        return torch.cat([noise, more], -1) if more.shape[-1] else noise

    def decide(self, world: WorldModel, state: State, noise: Tensor, mode: Mode) -> Float[Tensor, "B A"]:
        """What to do in a state; `noise` as `action_noise` gives it."""
        return self.deciders[mode](self.actor(world.dynamics.feat(state)), noise)

    def act(self, feat: Float[Tensor, "*lead F"], noise: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead A"]:
        """A sampled action in states as heads read them."""
        return self.choose(self.actor(feat), noise)

    def choose(self, policy: Joint, noise: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead A"]:
        """An action of the actor's distribution."""
        return policy.sample(noise)

    def _sample(self, policy: Joint, noise: Tensor) -> Tensor:
        return self.choose(policy, noise[..., : self.action_width])

    def _explore(self, policy: Joint, noise: Tensor) -> Tensor:
        explored: Tensor = self.explorer(self._sample(policy, noise), noise[..., self.action_width :])
        return explored

    def _mode(self, policy: Joint, noise: Tensor) -> Tensor:
        return policy.mode

    # ── learning ────────────────────────────────────────────────────────────────────────────────────────

    def dream_noise(
        self, starts: int, world: WorldModel, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Randomness of N dreams: latents N H ..., actions N H+1 A."""
        latent = world.dynamics.latent.noise((starts, self.horizon), like, generator)
        return latent, self.draw((starts, self.horizon + 1), like, generator)

    def learn(
        self, world: WorldModel, seen: Observed, batch: Batch, latent_noise: Tensor, action_noise: Tensor
    ) -> Learnt:
        """Dream on from every state of a batch, and learn from dreams and from what was seen.

        Gradients: dreams start in detached states and move only actor and critic; the critic's loss on replay moves
        the world model, too.
        """
        start = State(*(x.detach().flatten(0, 1) for x in seen.states))
        differentiable = self.through_dynamics and torch.is_grad_enabled()
        rollout = Rollout(self, differentiable)
        lent = frozen(world) if differentiable else contextlib.nullcontext()
        with section("imagine"), torch.set_grad_enabled(differentiable), lent:
            dream = world.imagine(start, rollout, latent_noise, action_noise)
            dream = self.start_cont(dream, world, batch)
            dream = dream._replace(reward=self.intrinsic.reward(dream.feat, dream.action, dream.reward))
        with section("actor_critic"):
            losses, ret, metrics = self.imagined(dream, rollout.policy)
            boot = ret[:, 0].reshape(batch.reward.shape)
            losses |= self.replayed(seen.feat, batch, boot)
            losses |= self.intrinsic.losses(seen.feat, batch.action, seen.states.stoch.flatten(2), batch.is_first)
        return Learnt(losses, metrics)

    def imagined(self, dream: Dream, policy: Callable[[slice], Joint]) -> Imagined:
        """Losses of actor and critic on dreams. Nothing of it reaches the world model.

        policy: what the actor said, or says, in these columns of the states.
        Source: Dreamer V3, Eqs. 6, 7, 11 and 12; V1, Eqs. 7 and 8; V2, Eqs. 5 and 6.
        """
        opinion = self.slow(dream.feat.detach(), self.critic, self.slow_critic)
        value = self.value(dream, opinion)
        credit = self.returns(dream.reward, dream.cont, value)
        self.return_scale.update(credit.ret)
        scale = self.return_scale.scale
        adv = (credit.ret - credit.base) / scale
        said = policy(credit.acted)
        entropy = said.entropy()
        objective = self.actor_gradient(said, dream.action[:, credit.acted], credit.ret / scale, adv)
        losses = {
            "actor": -credit.weight * (objective + self.cfg.entropy * entropy),
            "critic": credit.value_weight * self._critic_loss(opinion, credit.target, credit.valued),
        }
        with torch.no_grad():
            metrics = {
                "entropy/actor": entropy.mean(),
                "return/imagined": credit.ret.mean(),
                "return/scale": scale.clone(),
                "return/value": opinion.value.mean(),
                "return/advantage": adv.abs().mean(),
                "return/reward": dream.reward.mean(),
                "return/cont": dream.cont.mean(),
            }
        return Imagined(losses, credit.ret.detach(), metrics)

    def _value_as_said(self, dream: Dream, opinion: Opinion) -> Tensor:
        return opinion.value

    def _value_in_passing(self, dream: Dream, opinion: Opinion) -> Tensor:
        """Values through which a gradient passes to the states, but not to the critic."""
        with frozen(self.critic):
            value: Tensor = self.slow.value(dream.feat, self.critic, self.slow_critic)
            return value

    def _predicted(self, dream: Dream, world: WorldModel, batch: Batch) -> Dream:
        return dream

    def _known(self, dream: Dream, world: WorldModel, batch: Batch) -> Dream:
        known = world.cont_scale * (~batch.is_terminal).to(dream.cont.dtype).flatten().unsqueeze(1)
        return dream._replace(cont=torch.cat([known, dream.cont[:, 1:]], 1))

    def _nothing(self, feat: Tensor, batch: Batch, boot: Tensor) -> dict[str, Tensor]:
        return {}

    def replay_losses(
        self, feat: Float[Tensor, "B T F"], batch: Batch, boot: Float[Tensor, "B T"]
    ) -> dict[str, Tensor]:
        """The critic's loss on real rewards (B T-1). Its gradient does reach the world model, through feat.

        boot: the imagined return of each record's state. Source: Dreamer V3 (2024), "replay critic loss".
        """
        ret = replay_return(
            batch.reward, batch.is_last, batch.is_terminal, boot, gamma=self.cfg.gamma, lam=self.cfg.lam
        )
        inside = (~batch.is_last[:, :-1]).to(feat.dtype)
        opinion = self.slow(feat, self.critic, self.slow_critic)
        return {"replay_critic": inside * self._critic_loss(opinion, ret, slice(0, ret.shape[1]))}

    def _critic_loss(self, opinion: Opinion, target: Float[Tensor, "N _"], columns: slice) -> Float[Tensor, "N _"]:
        """The critic's loss in some columns of the states.

        The others have no target. They are cut off the losses: cutting them off the logits would copy them all.
        """
        missing = opinion.value.shape[1] - columns.stop
        return self.slow.loss(opinion, F.pad(target.detach(), (columns.start, missing)))[:, columns]

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Move the slow critic; called once the optimiser has stepped, or has not: then `sound` is false."""
        self.slow.after_update(self.critic, self.slow_critic, sound)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that are learnt, for the optimiser."""
        actor, critic = list(self.actor.parameters()), list(self.critic.parameters())
        return {"actor": actor, "critic": critic, "ensemble": list(self.intrinsic.parameters())}
