"""Recurrent state-space model: a memory (core) and a guess about the present (latent)."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.blocks import MLP, Linear
from dreamer_cli.registry import STRICT, Layers, Units, slot
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.structs import State
from dreamer_cli.world.cores import CORES, BlockGRUConfig
from dreamer_cli.world.latents import LATENTS, CategoricalConfig
from dreamer_cli.world.scan import PostLoop, scan, zero_where

Policy = Callable[[Tensor, Tensor], Tensor]  # (feat B F, noise B A) → action B A


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RSSMConfig:
    """Memory, guess, and the networks that make the guess.

    Attributes:
        core: the memory.
        latent: the guess about the present.
        hidden: width of the networks of prior and posterior.
        prior_layers: depth of the network that guesses before seeing.
        post_layers: depth of the network that guesses after seeing.
    """

    core: slot("core", CORES) = BlockGRUConfig()  # type: ignore[valid-type]
    latent: slot("latent", LATENTS) = CategoricalConfig()  # type: ignore[valid-type]
    hidden: Units = 256
    prior_layers: Layers = 2
    post_layers: Layers = 1

    def build(self, embed: int, action: int) -> "RSSM":
        """An RSSM that sees `embed` numbers of the observation and `action` of the action."""
        return RSSM(self, embed, action)


class RSSM(nn.Module):
    """One step of observing, one step of imagining, and loops over both.

    Source: PlaNet, Eq. 4; Dreamer V3, Eq. 3.
    """

    def __init__(self, cfg: RSSMConfig, embed: int, action: int) -> None:
        super().__init__()
        self.latent: Any = cfg.latent.build()
        self.core = cfg.core.build(stoch=self.latent.size, action=action)
        self.prior_net = MLP(self.core.size, cfg.hidden, cfg.prior_layers)
        self.prior_out = Linear(cfg.hidden, self.latent.stats_size)
        self.post_net = MLP(self.core.size + embed, cfg.hidden, cfg.post_layers)
        self.post_out = Linear(cfg.hidden, self.latent.stats_size)
        self.feat_size = self.core.size + self.latent.size
        self.by_hand = hasattr(self.core, "loop") and hasattr(self.latent, "sample_forward")
        self.walk = self.walk_by_hand if self.by_hand else self.walk_step_by_step

    def initial(self, batch: int) -> State:
        """The state before anything was seen: zeros."""
        zeros = self.prior_out.weight.new_zeros
        return State(zeros(batch, self.core.size), zeros(batch, *self.latent.shape))

    def feat(self, state: State) -> Float[Tensor, "*lead F"]:
        """What heads read: memory and flat guess, joined."""
        return torch.cat([self.core.read(state.deter), state.stoch.flatten(-len(self.latent.shape))], -1)

    def prior(self, deter: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead SK"]:
        """Statistics of the guess before seeing."""
        return self.prior_out(self.prior_net(self.core.read(deter)))

    def post(self, deter: Float[Tensor, "*lead D"], embed: Float[Tensor, "*lead E"]) -> Float[Tensor, "*lead SK"]:
        """Statistics of the guess after seeing."""
        return self.post_out(self.post_net(torch.cat([self.core.read(deter), embed], -1)))

    def observe_step(
        self,
        state: State,
        prev_action: Float[Tensor, "B A"],
        embed: Float[Tensor, "B E"],
        is_first: Bool[Tensor, " B"],
        noise: Tensor,
    ) -> tuple[State, Tensor]:
        """(state before, action that followed it, what is seen now) → state now, statistics of its guess."""
        deter, stoch, prev_action = (zero_where(is_first, x) for x in (*state, prev_action))
        deter = self._advance(deter, stoch, prev_action)
        stats = self.post(deter, embed)
        return State(deter, self.latent.sample(stats, noise)), stats

    def imagine_step(self, state: State, action: Float[Tensor, "B A"], noise: Tensor) -> State:
        """(state, action taken in it) → the state that the model expects next."""
        deter = self._advance(*state, action)
        return State(deter, self.latent.sample(self.prior(deter), noise))

    def _advance(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        return self.core(deter, self._flat(stoch), within_bounds(action))

    def _advance_in_loop(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        core = self.core.loop()

        def advance(deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
            return core.forward(deter, self._flat(stoch), core.inputs(within_bounds(action)))[0]

        return advance

    def _flat(self, stoch: Tensor) -> Tensor:
        return stoch.flatten(-len(self.latent.shape))

    def observe(
        self,
        embed: Float[Tensor, "B T E"],
        prev_action: Float[Tensor, "B T A"],
        is_first: Bool[Tensor, "B T"],
        start: State,
        noise: Tensor,
    ) -> tuple[State, Tensor]:
        """Walk through T records from `start`, blanked wherever an episode begins.

        noise: B T and the latent's own axes. Returns states (B T ...) and posterior statistics (B T S·K).
        """
        return self.walk(embed, prev_action, is_first, start, noise)

    def walk_step_by_step(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State, noise: Tensor
    ) -> tuple[State, Tensor]:
        """`observe` for any parts: autograd finds the way back."""
        state, states, stats = start, [], []
        for t in range(embed.shape[1]):
            state, stat = self.observe_step(state, prev_action[:, t], embed[:, t], is_first[:, t], noise[:, t])
            states.append(state)
            stats.append(stat)
        return stack(states), torch.stack(stats, 1)

    def walk_by_hand(
        self, embed: Tensor, prev_action: Tensor, is_first: Tensor, start: State, noise: Tensor
    ) -> tuple[State, Tensor]:
        """`observe` for parts that know their own way back: one node of the graph instead of hundreds."""
        core, post = self.core.loop(), PostLoop(self.post_net, self.post_out, self.core)
        inputs = core.inputs(within_bounds(zero_where(is_first, prev_action)))
        deter, stoch, stats = scan(core, post, self.latent, inputs, post.inputs(embed), is_first, noise, start)
        return State(deter, stoch), stats

    def imagine(
        self, start: State, policy: Policy, latent_noise: Tensor, action_noise: Float[Tensor, "N H1 A"]
    ) -> tuple[Float[Tensor, "N H1 F"], Float[Tensor, "N H1 A"]]:
        """Walk H steps from `start`, led by the policy. Column t of the actions was chosen in column t of the states.

        latent_noise: N H and the latent's axes. Returns what heads read of the states (the start first) and actions
        (the last one is never taken, but losses may ask for its state's value).
        """
        # Laid out for loops, a core is no longer seen by autograd.
        advance = self._advance if torch.is_grad_enabled() or not self.by_hand else self._advance_in_loop()
        state, feats, actions = start, [self.feat(start)], []
        for t in range(latent_noise.shape[1]):
            actions.append(policy(feats[-1], action_noise[:, t]))
            deter = advance(*state, actions[-1])
            state = State(deter, self.latent.sample(self.prior(deter), latent_noise[:, t]))
            feats.append(self.feat(state))
        actions.append(policy(feats[-1], action_noise[:, -1]))
        return torch.stack(feats, 1), torch.stack(actions, 1)


def stack(states: list[State]) -> State:
    """States one after the other, joined along a new time axis (1)."""
    return State(*(torch.stack(column, 1) for column in zip(*states, strict=True)))


def within_bounds(action: Tensor) -> Tensor:
    """Samples of the policy may lie outside [-1, 1]; the environment clips them, and so does the model."""
    return action / action.abs().clamp(min=1).detach()


DYNAMICS = {"rssm": RSSMConfig}
