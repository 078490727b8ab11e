"""Actor and critic, learnt on dreams and on replayed states."""

from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.behaviour.actor_gradients import ACTOR_GRADIENTS, ReinforceConfig
from dreamer_cli.behaviour.returns import lambda_return, replay_return, step_weights
from dreamer_cli.nets.copies import move_slowly, slow_copy
from dreamer_cli.nets.distributions import Joint
from dreamer_cli.nets.heads import ActorConfig, HeadConfig, read
from dreamer_cli.nets.normalizers import RETURN_SCALES, PercentileConfig
from dreamer_cli.registry import STRICT, Share, Units, Weight, slot
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.spaces import ActionPart
from dreamer_cli.structs import Batch
from dreamer_cli.world.model import Dream


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BehaviourConfig:
    """How to act, and how to learn it.

    Attributes:
        horizon: steps of a dream (H).
        discount_horizon: gamma = 1 - 1/discount_horizon.
        contdisc: whether the continue head's chances contain gamma, so that dreams need no other.
        lam: the λ of λ-returns.
        entropy: weight of the actor's entropy (nats).
        slow_rate: share of the critic that moves into its slow copy at each update.
        slow_weight: how much the critic is drawn to that copy.
        actor_gradient: how the actor learns from dreams.
        return_scale: what advantages are divided by.
    """

    horizon: Units = 15
    discount_horizon: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 333.0
    contdisc: bool = True
    lam: Share = 0.95
    entropy: Weight = 3e-4
    slow_rate: Share = 0.02
    slow_weight: Weight = 1.0
    actor: ActorConfig = ActorConfig()
    critic: HeadConfig = HeadConfig(layers=3)
    actor_gradient: slot("behaviour.actor_gradient", ACTOR_GRADIENTS) = ReinforceConfig()  # type: ignore[valid-type]
    return_scale: slot("behaviour.return_scale", RETURN_SCALES) = PercentileConfig()  # type: ignore[valid-type]

    @property
    def gamma(self) -> float:
        """Discount of one record."""
        return 1 - 1 / self.discount_horizon

    @property
    def cont_scale(self) -> float:
        """What the continue head learns to say of a record that goes on."""
        return self.gamma if self.contdisc else 1.0


class Learnt(NamedTuple):
    """Losses by name, the λ-returns of the dreams (N H), and metrics."""

    losses: dict[str, Tensor]
    ret: Tensor
    metrics: dict[str, Tensor]


class Rollout:
    """The actor, leading dreams. What it said on the way is kept for its loss, so that it need not be asked twice."""

    def __init__(self, behaviour: "ActorCritic") -> None:
        self.behaviour = behaviour
        self.outputs: list[dict[str, Tensor]] = []

    def __call__(self, feat: Float[Tensor, "N F"], noise: Float[Tensor, "N A"]) -> Float[Tensor, "N A"]:
        """A sampled action."""
        with torch.enable_grad():  # dreams run without, the actor's part in them with gradients
            self.outputs.append(self.behaviour.actor.outputs(feat.detach()))
        said = {name: x.detach() for name, x in self.outputs[-1].items()}
        return self.behaviour.choose(self.behaviour.actor.distribution(said), noise)

    def policy(self) -> Joint:
        """What it said in all states but the last one (N H)."""
        steps = self.outputs[:-1]
        return self.behaviour.actor.distribution({name: torch.stack([x[name] for x in steps], 1) for name in steps[0]})


class Asked:
    """The actor, leading dreams through which gradients pass. Its loss asks it again, in states held fixed."""

    def __init__(self, behaviour: "ActorCritic") -> None:
        self.act = behaviour.act

    def __call__(self, feat: Float[Tensor, "N F"], noise: Float[Tensor, "N A"]) -> Float[Tensor, "N A"]:
        """A sampled action."""
        return self.act(feat, noise)

    def policy(self) -> None:
        """Nothing is kept."""


class ActorCritic(nn.Module):
    """Actor, critic, its slow copy, and the scale of returns."""

    def __init__(self, cfg: BehaviourConfig, feat: int, action: tuple[ActionPart, ...]) -> None:
        super().__init__()
        self.cfg = cfg
        self.actor = cfg.actor.build(feat, action)
        self.critic = cfg.critic.build(feat)
        self.slow_critic: Any = slow_copy(self.critic)
        self.return_scale: Any = cfg.return_scale.build()
        self.actor_gradient: Any = cfg.actor_gradient.build()
        self.rollout_type = Asked if self.actor_gradient.through_dynamics else Rollout

    def act(self, feat: Float[Tensor, "*lead F"], noise: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead A"]:
        """A sampled action."""
        return self.choose(self.actor(feat), noise)

    def rollout(self) -> Rollout | Asked:
        """The actor as the leader of one batch of dreams."""
        return self.rollout_type(self)

    def choose(self, policy: Joint, noise: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead A"]:
        """An action of the actor's distribution."""
        return policy.sample(noise)

    def imagined(self, dream: Dream, policy: Joint | None = None) -> Learnt:
        """Losses of actor and critic on dreams. Nothing of it reaches the world model.

        policy: what the actor said in the first H states (N H), if it is known; it is asked again, if not.
        Source: Dreamer V3, Eqs. 6, 7, 11 and 12.
        """
        cfg = self.cfg
        gamma = 1.0 if cfg.contdisc else cfg.gamma
        feat = dream.feat.detach()
        critic, slow = self.opinions(feat)
        with torch.no_grad():
            value = critic.mean
        cont = dream.cont.detach()
        ret = lambda_return(dream.reward[:, 1:], dream.cont[:, 1:], value[:, 1:], gamma=gamma, lam=cfg.lam)
        weight = step_weights(cont[:, :-1], gamma=gamma)

        self.return_scale.update(ret)
        adv = (ret - value[:, :-1]) / self.return_scale.scale
        policy = self.actor(feat[:, :-1]) if policy is None else policy
        entropy = policy.entropy()
        objective = self.actor_gradient(policy, dream.action[:, :-1], ret, adv)
        losses = {
            "actor": -weight * (objective + cfg.entropy * entropy),
            "critic": weight * self._critic_loss(critic, slow, ret),
        }
        with torch.no_grad():
            metrics = {
                "entropy/actor": entropy.mean(),
                "return/imagined": ret.mean(),
                "return/scale": self.return_scale.scale.clone(),
                "return/value": value.mean(),
                "return/advantage": adv.abs().mean(),
                "return/reward": dream.reward.mean(),
                "return/cont": cont.mean(),
            }
        return Learnt(losses, ret.detach(), metrics)

    def replayed(self, feat: Float[Tensor, "B T F"], batch: Batch, boot: Float[Tensor, "B T"]) -> dict[str, Tensor]:
        """The critic's loss on real rewards (B T-1). Its gradient does reach the world model, through feat.

        boot: the imagined return of each record's state. Source: Dreamer V3 (2024), "replay critic loss".
        """
        ret = replay_return(
            batch.reward, batch.is_last, batch.is_terminal, boot, gamma=self.cfg.gamma, lam=self.cfg.lam
        )
        inside = (~batch.is_last[:, :-1]).to(feat.dtype)
        return {"replay_critic": inside * self._critic_loss(*self.opinions(feat), ret)}

    def opinions(self, feat: Float[Tensor, "*lead F"]) -> tuple[Any, Float[Tensor, "*lead"]]:
        """The critic's distribution over returns, and the mean of its slow copy's."""
        critic, slow = read(feat, self.critic, self.slow_critic)
        with torch.no_grad():
            return critic, slow.mean

    def _critic_loss(self, critic: Any, slow: Float[Tensor, "N H1"], ret: Float[Tensor, "N H"]) -> Tensor:
        """Distance to the returns, and to the slow critic's own opinion of the same states: N H.

        The last column has no return. It is cut off the losses: cutting it off the logits would copy them all.
        """
        known = critic.loss(F.pad(ret.detach(), (0, 1)))
        return (known + self.cfg.slow_weight * critic.loss(slow))[:, :-1]

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Move the slow critic; called once the optimiser has stepped, or has not: then `sound` is false."""
        first = next(self.slow_critic.parameters())
        move_slowly(self.slow_critic, self.critic, self.cfg.slow_rate * sound.to(first.dtype))
