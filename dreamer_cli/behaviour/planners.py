"""Search instead of an actor: dream of many plans, and do what the best of them begin with.

```
 round i    draw M plans ──▶ dream of each, H steps ──▶ keep the E best ──▶ draw the next round's around them
 noise      B rounds H M, and of every plan's step the columns of its action, then those of its guess
```
One tensor holds all randomness. Plans of one environment lie together (`state` is repeated row by row).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.behaviour.contract import Learnt
from dreamer_cli.behaviour.explorers import EXPLORERS, NoExplorerConfig
from dreamer_cli.behaviour.noise import ActionDraw
from dreamer_cli.behaviour.plans import parts_of
from dreamer_cli.errors import ConfigError
from dreamer_cli.registry import STRICT, Choices, Layers, Registry, Share, Units, slot
from dreamer_cli.shapes import Bool, Float, Int
from dreamer_cli.spaces import ActionPart
from dreamer_cli.structs import Batch, Mode, State
from dreamer_cli.world.model import Observed

Value = Callable[[Tensor], Tensor]  # feat N F → what is to be expected after these states, N


@runtime_checkable
class Dreamable(Protocol):
    """What a planner asks of a world."""

    dynamics: Any
    reward: Any
    cont: Any


class Found(NamedTuple):
    """What a search came to: action B A, the candidates that were kept in each round B R E, all their scores B R M."""

    action: Tensor
    kept: Tensor
    scores: Tensor


class Planner(nn.Module):
    """Finds an action anew for every state; learns nothing, and has no parameters.

    A plan is worth the rewards that it is expected to earn, each weighed with the predicted chance that the episode
    lasts so long. PlaNet knows no such chances, and adds the rewards up as they are: so does this, where `world.cont`
    always says 1. A discount that is folded into them counts, too.

    Args:
        elites: candidates that the next round is drawn around; the last ones make the action.
        value: what to expect after a plan's last state; None adds nothing.
    """

    through_dynamics = False
    needs: tuple[str, ...] = ("world.reward", "world.cont")  # see `Behaviour`

    def __init__(
        self,
        action: tuple[ActionPart, ...],
        *,
        horizon: int,
        candidates: int,
        elites: int,
        iterations: int,
        unimix: float,
        explorer: Any,
        value: Value | None = None,
    ) -> None:
        super().__init__()
        self.horizon, self.candidates, self.elites, self.iterations = horizon, candidates, elites, iterations
        self.parts = parts_of(action, unimix)
        self.widths = [part.width for part in self.parts]
        self.draw = ActionDraw(action)
        self.explorer: Any = explorer
        self.value = value or nothing

    # ── acting ──────────────────────────────────────────────────────────────────────────────────────────

    def action_noise(
        self, batch: int, world: Dreamable, like: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """B rounds H M n: columns of the action, of the flat guess, and the explorer's, alike for all candidates."""
        latent, action = world.dynamics.latent, sum(self.widths)
        width = action + latent.size
        noise = like.new_empty(batch, self.iterations, self.horizon, self.candidates, width + self.explorer.width)
        lead = (batch, self.horizon, self.candidates)
        for i in range(self.iterations):  # round by round, because the guesses' can be large
            noise[:, i, ..., :action] = self.draw(lead, like, generator)
            noise[:, i, ..., action:width] = latent.noise(lead, like, generator).flatten(3)
        noise[..., width:] = self.explorer.noise(batch, like, generator)[:, None, None, None]
        return noise

    def decide(self, world: Dreamable, state: State, noise: Tensor, mode: Mode) -> Float[Tensor, "B A"]:
        """What to do in a state. A search has no other way to sample than to its best: both modes are one."""
        action = self.search(world, state, noise).action
        if mode != "explore":
            return action
        explored: Tensor = self.explorer(action, noise[:, 0, 0, 0, sum(self.widths) + world.dynamics.latent.size :])
        return explored

    def search(
        self,
        world: Dreamable,
        state: State,
        noise: Float[Tensor, "B R H M n"],
        kept: Int[Tensor, "B R E"] | None = None,
    ) -> Found:
        """What to do in a state, and how that was found.

        kept: candidates to keep in each round, whatever they are worth; None keeps the best ones.
        Source: PlaNet, Algorithm 2 (arXiv 1811.04551).
        """
        starts = State(*(self._for_each_candidate(x) for x in state))
        stats = [part.begin(noise, noise.shape[0], self.horizon) for part in self.parts]
        chosen, scores = [], []
        for i in range(self.iterations):
            columns = noise[:, i, ..., : sum(self.widths)].split(self.widths, -1)
            drawn = [part.draw(stat, own) for part, stat, own in zip(self.parts, stats, columns, strict=True)]
            plans = torch.cat(drawn, -1)  # B H M A
            scores.append(self.score(world, starts, plans, noise[:, i]))
            chosen.append(scores[-1].topk(self.elites).indices if kept is None else kept[:, i])
            index = chosen[-1][:, None, :, None].expand(-1, self.horizon, -1, plans.shape[-1])
            elites = plans.gather(2, index).split(self.widths, -1)
            stats = [part.refit(own) for part, own in zip(self.parts, elites, strict=True)]
        action = torch.cat([part.first(stat) for part, stat in zip(self.parts, stats, strict=True)], -1)
        return Found(action, torch.stack(chosen, 1), torch.stack(scores, 1))

    def score(
        self, world: Dreamable, starts: State, plans: Float[Tensor, "B H M A"], noise: Float[Tensor, "B H M n"]
    ) -> Float[Tensor, "B M"]:
        """What every plan is expected to earn; `starts` has a row (B·M) for each."""
        dynamics, first = world.dynamics, sum(self.widths)
        latent = dynamics.latent
        state, total, weight = starts, plans.new_zeros(()), plans.new_ones(())
        for t in range(self.horizon):
            guess = noise[:, t, :, first : first + latent.size].flatten(0, 1).unflatten(-1, latent.shape)
            state = dynamics.imagine_step(state, plans[:, t].flatten(0, 1), guess)
            feat = dynamics.feat(state)
            total = total + weight * world.reward(feat).mean
            weight = weight * world.cont(feat).mean
        total = total + weight * self.value(feat)
        return total.unflatten(0, (-1, plans.shape[2]))

    def _for_each_candidate(self, x: Tensor) -> Tensor:
        """B ... → B·M ..., the copies of a row one after the other."""
        return x.unsqueeze(1).expand(-1, self.candidates, *x.shape[1:]).flatten(0, 1)

    # ── learning ────────────────────────────────────────────────────────────────────────────────────────

    def dream_noise(
        self, starts: int, world: Dreamable, like: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Nothing is learnt in dreams, so nothing is drawn for them."""
        return like.new_empty(0), like.new_empty(0)

    def learn(
        self, world: Dreamable, seen: Observed, batch: Batch, latent_noise: Tensor, action_noise: Tensor
    ) -> Learnt:
        """Nothing."""
        return Learnt({}, {})

    def after_update(self, sound: Bool[Tensor, ""]) -> None:
        """Nothing moves."""

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """There are none."""
        return {}


def nothing(feat: Float[Tensor, "N F"]) -> float:
    """The value of what lies beyond a plan, for those who do not know."""
    return 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CEMConfig:
    """The cross-entropy method: round by round, draw plans around the best ones so far (PlaNet).

    PlaNet knows continuous actions only. Categorical entries are ours: each is drawn from a distribution over its
    classes, which becomes how often the best plans have them.

    Attributes:
        horizon: steps of a plan (H).
        candidates: plans that are drawn in each round (M).
        elites: how many of them the next round is drawn around.
        iterations: rounds of a decision.
        unimix: share of a uniform distribution in what the next round draws classes from.
        bootstrap: add what a critic expects after a plan's last state; only where there is a critic.
        explorer: what disturbs the actions while data is collected.
    """

    horizon: Layers = 12
    candidates: Choices = 1000
    elites: Units = 100
    iterations: Layers = 10
    unimix: Share = 0.01
    bootstrap: bool = False
    explorer: slot("behaviour.explorer", EXPLORERS) = NoExplorerConfig()  # type: ignore[valid-type]

    def __post_init__(self) -> None:
        if self.elites > self.candidates:
            raise ConfigError(
                f"elites is {self.elites}, but there are only {self.candidates} candidates to choose from.",
                hint=f"Set elites={max(1, self.candidates // 10)}, or more candidates.",
            )

    @property
    def cont_scale(self) -> float:
        """What the continue head learns to say of a record that goes on."""
        return 1.0

    def build(self, world: Dreamable, action: tuple[ActionPart, ...], value: Value | None = None) -> Planner:
        """A planner for a world.

        Raises:
            ConfigError: it shall add a value, and there is none.
        """
        if self.bootstrap and value is None:
            raise ConfigError(
                "bootstrap is true, but there is no critic that knows what comes after a plan.",
                hint="Set bootstrap=false. `dreamer evaluate --policy plan` can use it on runs that have a critic.",
            )
        return Planner(
            action,
            horizon=self.horizon,
            candidates=self.candidates,
            elites=self.elites,
            iterations=self.iterations,
            unimix=self.unimix,
            explorer=self.explorer.build(action),
            value=value if self.bootstrap else None,
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomShootingConfig:
    """Draw plans once, and do what the best of them begins with.

    Attributes:
        horizon: steps of a plan (H).
        candidates: plans that are drawn (M).
        explorer: what disturbs the actions while data is collected.
    """

    horizon: Layers = 12
    candidates: Choices = 1000
    explorer: slot("behaviour.explorer", EXPLORERS) = NoExplorerConfig()  # type: ignore[valid-type]

    @property
    def cont_scale(self) -> float:
        """What the continue head learns to say of a record that goes on."""
        return 1.0

    def build(self, world: Dreamable, action: tuple[ActionPart, ...], value: Value | None = None) -> Planner:
        """A planner of one round, whose only elite is its first choice; it uses no value."""
        return Planner(
            action,
            horizon=self.horizon,
            candidates=self.candidates,
            elites=1,
            iterations=1,
            unimix=0.0,
            explorer=self.explorer.build(action),
        )


PLANNERS = Registry({"cem": CEMConfig, "random_shooting": RandomShootingConfig})
