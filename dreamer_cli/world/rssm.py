"""Recurrent state-space model: a memory (core) and a guess about the present (latent)."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.bricks import BRICKS, BrickName
from dreamer_cli.registry import STRICT, Layers, Registry, Units, slot
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.structs import State
from dreamer_cli.world.beginnings import BEGINNINGS, Blank, zero_where
from dreamer_cli.world.cores import CORES, BlockGRUConfig
from dreamer_cli.world.latents import LATENTS, CategoricalConfig
from dreamer_cli.world.scan import PostLoop, scan

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
        bricks: what both networks are made of.
        initial: what an episode begins with: zeros, or a learned memory and the guess that follows (V3 of 2023).
    """

    core: slot("core", CORES) = BlockGRUConfig()  # type: ignore[valid-type]
    latent: slot("latent", LATENTS) = CategoricalConfig()  # type: ignore[valid-type]
    hidden: Units = 256
    prior_layers: Layers = 2
    post_layers: Layers = 1
    bricks: BrickName = "rms_silu"
    initial: Literal["zeros", "learned"] = "zeros"

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
        self.core: Any = cfg.core.build(stoch=self.latent.size, action=action)
        self.deter_size = self.core.read_size
        self.feat_size = self.deter_size + self.latent.size
        bricks = BRICKS[cfg.bricks]
        self.prior_net = bricks.mlp(self.deter_size, cfg.hidden, cfg.prior_layers)
        self.prior_out = bricks.linear(cfg.hidden, self.latent.stats_size)
        self.post_net = bricks.mlp(self.deter_size + embed, cfg.hidden, cfg.post_layers)
        self.post_out = bricks.linear(cfg.hidden, self.latent.stats_size)
        self.beginning = BEGINNINGS[cfg.initial](self.core.size, self._expected)
        self.core_by_hand = getattr(self.core, "by_hand", False)
        others_by_hand = hasattr(self.latent, "sample_forward") and self.post_net.by_hand and self.beginning.by_hand
        self.by_hand = self.core_by_hand and others_by_hand
        self.walk = self.walk_by_hand if self.by_hand else self.walk_step_by_step

    def initial(self, batch: int) -> State:
        """What is carried before anything was seen: zeros, for `is_first` to put the episode's beginning there."""
        zeros = self.prior_out.weight.new_zeros
        return State(zeros(batch, self.core.size), zeros(batch, *self.latent.shape))

    def blank(self, is_first: Bool[Tensor, " B"], state: State) -> State:
        """The state (B ...), as an episode begins where `is_first`."""
        return State(*self.beginning.ready()(is_first, *state))

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
        return self._observe_step(self.beginning.ready(), state, prev_action, embed, is_first, noise)

    def _observe_step(
        self, blank: Blank, state: State, prev_action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[State, Tensor]:
        deter = self._advance(*blank(is_first, *state), zero_where(is_first, prev_action))
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

    def _expected(self, deter: Tensor) -> Tensor:
        return self.latent.mode(self.prior(deter))

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
        blank, state, states, stats = self.beginning.ready(), start, [], []
        for inputs in zip(*(x.unbind(1) for x in (prev_action, embed, is_first, noise)), strict=True):
            state, stat = self._observe_step(blank, state, *inputs)
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
        advance = self._advance if torch.is_grad_enabled() or not self.core_by_hand else self._advance_in_loop()
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


DYNAMICS = Registry({"rssm": RSSMConfig})
