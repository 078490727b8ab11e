"""The world model: what happens, learnt from replay, and dreams of what would happen."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.heads import CONTS, BernoulliConfig, HeadConfig, read
from dreamer_cli.registry import STRICT, Weight, slot
from dreamer_cli.sections import section
from dreamer_cli.shapes import Float
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Batch, State
from dreamer_cli.world.coders import Decoder, DecoderConfig, Encoder, EncoderConfig
from dreamer_cli.world.objectives import OBJECTIVES, ReconstructConfig, Seen
from dreamer_cli.world.overshooting import Overshooting
from dreamer_cli.world.preview import Preview
from dreamer_cli.world.rssm import DYNAMICS, Policy, RSSMConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorldConfig:
    """Parts of the world model.

    Attributes:
        dynamics: how one moment follows from another.
        encoder: what makes numbers of an observation.
        decoder: what makes an observation of a state, for objectives that reconstruct, and for previews.
        objective: what makes the state informative about the observation.
        preview: train a decoder beside an objective that has none, for people to look at: the model does not feel it.
        overshooting: steps over which the prior is also trained without seeing (PlaNet); 0 and 1: none.
        cont: says whether an episode goes on.
        reward_squash: what is learnt instead of a reward: itself, or its tanh (Dreamer V2 on Atari).
        free_nats: KL below this (nats, summed over the groups) is not reduced further.
        free_nats_per: whether each step has so many nats free (PlaNet, Dreamer V3), or the mean of a batch (V1, V2).
    """

    dynamics: slot("world.dynamics", DYNAMICS) = RSSMConfig()  # type: ignore[valid-type]
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    objective: slot("world.objective", OBJECTIVES) = ReconstructConfig()  # type: ignore[valid-type]
    preview: bool = False
    overshooting: Annotated[int, Field(ge=0, le=1000)] = 0
    reward: HeadConfig = HeadConfig()
    cont: slot("world.cont", CONTS) = HeadConfig(output=BernoulliConfig())  # type: ignore[valid-type]
    reward_squash: Literal["none", "tanh"] = "none"
    free_nats: Weight = 1.0
    free_nats_per: Literal["step", "batch"] = "step"

    def __post_init__(self) -> None:
        if self.preview and OBJECTIVES.kind_of(self.objective) == "reconstruct":
            raise ConfigError(
                "world.preview is true, but the objective reconstructs what it sees: there is a decoder already.",
                hint="Leave world.preview out.",
            )


def free_each(kl: Float[Tensor, "B T"], nats: float) -> Float[Tensor, "B T"]:
    """KL of which every step has some nats free: they clamp the sum over groups (Dreamer V3, Eq. 5)."""
    return kl.clamp(min=nats)


def free_mean(kl: Float[Tensor, "B T"], nats: float) -> Float[Tensor, "B T"]:
    """KL whose mean over the batch has some nats free: that mean, in every place (Dreamer V1, official code)."""
    return kl.mean().clamp(min=nats).expand_as(kl)


FREE = {"step": free_each, "batch": free_mean}
SQUASH: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda reward: reward, "tanh": torch.tanh}


def _nothing(seen: Seen) -> dict[str, Tensor]:
    return {}


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


class WorldNoise(NamedTuple):
    """Randomness of what is learnt of a batch: post B T and the latent's axes, and what parts ask for."""

    post: Tensor
    objective: tuple[Tensor, ...] = ()
    overshoot: tuple[Tensor, ...] = ()


class WorldModel(nn.Module):
    """Encoder, dynamics, objective, and the reward and continue heads.

    Args:
        cont_scale: what a record that goes on is worth to the continue head: the discount, if it is folded
            into the head (`contdisc`), else 1.
    """

    def __init__(self, cfg: WorldConfig, spec: EnvSpec, cont_scale: float) -> None:
        super().__init__()
        self.free_nats, self.cont_scale = cfg.free_nats, cont_scale
        self.free, self.squash_reward = FREE[cfg.free_nats_per], SQUASH[cfg.reward_squash]
        self.encoder = Encoder(spec.observation, cfg.encoder)
        self.dynamics = cfg.dynamics.build(self.encoder.size, spec.action_width)

        def make_decoder() -> Decoder:
            return Decoder(spec.observation, cfg.decoder, self.dynamics.deter_size, self.dynamics.latent.size)

        self.objective: Any = cfg.objective.build(self.encoder, self.dynamics, make_decoder)
        self.reward = cfg.reward.build(self.dynamics.feat_size)
        self.cont = cfg.cont.build(self.dynamics.feat_size)
        free = partial(self.free, nats=cfg.free_nats)
        self.overshooting = Overshooting(cfg.overshooting, free, self.dynamics.latent)
        with torch.random.fork_rng(devices=[]):  # everything else begins as it would without it
            self.preview = Preview(make_decoder()) if cfg.preview else None
        self.draw = self.objective.decode if self.preview is None else self.preview.decode
        self.beside = _nothing if self.preview is None else self.preview.losses

    def noise(self, batch: int, length: int, like: Tensor, generator: torch.Generator | None = None) -> WorldNoise:
        """Randomness of one update on `batch` sequences of `length` records."""
        post = self.dynamics.latent.noise((batch, length), like, generator)
        objective = self.objective.noise(batch, length, like, generator)
        return WorldNoise(post, objective, self.overshooting.noise(batch, length, like, generator))

    def observe(self, batch: Batch, noise: WorldNoise) -> Observed:
        """Watch a batch, and say how wrong every part of the model was.

        Losses: `dyn`, `rep`, `reward`, `cont`, `objective/<key>`, and `overshoot` and `preview` where they are on.
        Source: PlaNet, Eqs. 3 and 7; Dreamer V2, Eq. 2; V3, Eqs. 4 and 5.
        """
        with section("encoder"):
            embed = self.encoder(batch.obs)
        with section("observe"):
            states, post = self.dynamics.observe(embed, batch.prev_action, batch.is_first, batch.start, noise.post)
            feat = self.dynamics.feat(states)
            prior = self.dynamics.prior(states.deter)
            kl = self.dynamics.latent.kl
            dyn, rep = kl(post.detach(), prior), kl(post, prior.detach())
        losses = {"dyn": self.free(dyn, self.free_nats), "rep": self.free(rep, self.free_nats)}
        with section("heads"):
            reward, cont = read(feat, self.reward, self.cont)
            losses["reward"] = reward.loss(self.squash_reward(batch.reward))
            losses["cont"] = cont.loss(self.cont_scale * (~batch.is_terminal).to(feat.dtype))
        seen = Seen(batch, embed, states, feat, post)
        with section("decoder"):
            informed = self.objective.losses(seen, self.encoder, self.dynamics, noise.objective)
            losses |= {f"objective/{key}": loss for key, loss in informed.items()}
            losses |= self.beside(seen)
        losses |= self.overshooting.losses(seen, self.dynamics, noise.overshoot)
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
        drawn: dict[str, Tensor] | None = self.draw(feat)
        return drawn

    def after_update(self, sound: Tensor) -> None:
        """Move slow copies; called once the optimiser has stepped, or has not: then `sound` is false."""
        self.objective.after_update(sound)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters for the optimiser: `world`, and `preview`, which moves nothing else."""
        preview = [] if self.preview is None else list(self.preview.parameters())
        apart = {id(parameter) for parameter in preview}
        own = [p for p in self.parameters() if p.requires_grad and id(p) not in apart]
        return {"world": own, "preview": preview}
