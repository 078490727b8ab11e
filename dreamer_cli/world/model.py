"""The world model: what happens, learnt from replay, and dreams of what would happen."""

from typing import NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.heads import BernoulliConfig, HeadConfig, read
from dreamer_cli.registry import STRICT, Weight, slot
from dreamer_cli.sections import section
from dreamer_cli.shapes import Float
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Batch, State
from dreamer_cli.world.coders import CoderConfig, Encoder
from dreamer_cli.world.objectives import OBJECTIVES, ReconstructConfig
from dreamer_cli.world.rssm import DYNAMICS, Policy, RSSMConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorldConfig:
    """Parts of the world model.

    Attributes:
        dynamics: how one moment follows from another.
        objective: what makes the state informative about the observation.
        free_nats: KL below this (nats, summed over the groups, per step) is not reduced further.
    """

    dynamics: slot("world.dynamics", DYNAMICS) = RSSMConfig()  # type: ignore[valid-type]
    encoder: CoderConfig = CoderConfig()
    objective: slot("world.objective", OBJECTIVES) = ReconstructConfig()  # type: ignore[valid-type]
    reward: HeadConfig = HeadConfig()
    cont: HeadConfig = HeadConfig(output=BernoulliConfig())
    free_nats: Weight = 1.0


class Observed(NamedTuple):
    """Posterior states of a batch (B T ...), what heads read of them (B T F), and each loss (B T)."""

    states: State
    feat: Tensor
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]


class Dream(NamedTuple):
    """N dreams of H steps, the start first: feat N H+1 F, action N H+1 A, reward and cont N H+1."""

    feat: Tensor
    action: Tensor
    reward: Tensor
    cont: Tensor


class WorldModel(nn.Module):
    """Encoder, dynamics, objective, and the reward and continue heads.

    Args:
        cont_scale: what a record that goes on is worth to the continue head: the discount, if it is folded
            into the head (`contdisc`), else 1.
    """

    def __init__(self, cfg: WorldConfig, spec: EnvSpec, cont_scale: float) -> None:
        super().__init__()
        self.free_nats, self.cont_scale = cfg.free_nats, cont_scale
        self.encoder = Encoder(spec.observation, cfg.encoder)
        self.dynamics = cfg.dynamics.build(self.encoder.size, spec.action_width)
        deter = self.dynamics.feat_size - self.dynamics.latent.size
        self.objective = cfg.objective.build(spec.observation, self.encoder.size, deter, self.dynamics.latent.size)
        self.reward = cfg.reward.build(self.dynamics.feat_size)
        self.cont = cfg.cont.build(self.dynamics.feat_size)

    def observe(self, batch: Batch, noise: Tensor) -> Observed:
        """Watch a batch, and say how wrong every part of the model was.

        noise: B T and the latent's axes. Losses: `dyn`, `rep`, `reward`, `cont`, and `objective/<key>`.
        Source: Dreamer V3, Eqs. 4 and 5.
        """
        with section("encoder"):
            embed = self.encoder(batch.obs)
        with section("observe"):
            states, post = self.dynamics.observe(embed, batch.prev_action, batch.is_first, batch.start, noise)
            feat = self.dynamics.feat(states)
            prior = self.dynamics.prior(states.deter)
            kl = self.dynamics.latent.kl
            dyn, rep = kl(post.detach(), prior), kl(post, prior.detach())
        # Free nats clamp the sum over groups at each step, not the batch mean.
        losses = {"dyn": dyn.clamp(min=self.free_nats), "rep": rep.clamp(min=self.free_nats)}
        with section("heads"):
            reward, cont = read(feat, self.reward, self.cont)
            losses["reward"] = reward.loss(batch.reward)
            losses["cont"] = cont.loss(self.cont_scale * (~batch.is_terminal).to(feat.dtype))
        with section("decoder"):
            decoded = self.objective.losses(batch.obs, embed, feat)
        losses |= {f"objective/{key}": loss for key, loss in decoded.items()}
        with torch.no_grad():
            entropy = self.dynamics.latent.entropy
            metrics = {"kl": dyn.mean(), "entropy/post": entropy(post).mean(), "entropy/prior": entropy(prior).mean()}
        return Observed(states, feat, losses, metrics)

    def imagine(
        self, start: State, policy: Policy, latent_noise: Tensor, action_noise: Float[Tensor, "N H1 A"]
    ) -> Dream:
        """Dream H steps from each of N states, led by a policy."""
        feat, action = self.dynamics.imagine(start, policy, latent_noise, action_noise)
        reward, cont = read(feat, self.reward, self.cont)
        return Dream(feat, action, reward.mean, cont.mean)

    def decode(self, feat: Float[Tensor, "*lead F"]) -> dict[str, Tensor] | None:
        """What states look like, in the observation's units; None for a model that cannot draw."""
        return self.objective.decode(feat)
