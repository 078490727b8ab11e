"""How returns become a gradient for the actor.

Every estimator is called with the policy in N H states of dreams, the actions taken there, what followed (`ret`, N H)
and how much better that was than expected (`adv`, N H), both divided by the scale of returns. It gives an objective to
maximise, N H. `through_dynamics` says whether dreams have to carry gradients, `needs_density` whether the policy must
have one, so that log π(a) is known.
"""

from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.nets.distributions import Joint
from dreamer_cli.registry import STRICT, Registry, Share, slot
from dreamer_cli.shapes import Float
from dreamer_cli.spaces import ActionPart

Actions = tuple[ActionPart, ...]


class Reinforce:
    """log π(a) · advantage."""

    through_dynamics, needs_density = False, True

    def __call__(
        self, policy: Joint, action: Float[Tensor, "N H A"], ret: Float[Tensor, "N H"], adv: Float[Tensor, "N H"]
    ) -> Float[Tensor, "N H"]:
        """Objective to maximise, for each step of each dream."""
        return policy.log_prob(action.detach()) * adv.detach()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReinforceConfig:
    """Score function: make actions likelier by how much better than expected they were (Dreamer V3, Eq. 11)."""

    def build(self, action: Actions) -> Reinforce:
        """The estimator; it has no parameters."""
        return Reinforce()


class Dynamics:
    """The return itself: its gradient runs through rewards, values and states back to the actions."""

    through_dynamics, needs_density = True, False

    def __init__(self, baseline: bool) -> None:
        self.choose = self._adv if baseline else self._ret

    def __call__(
        self, policy: Joint, action: Float[Tensor, "N H A"], ret: Float[Tensor, "N H"], adv: Float[Tensor, "N H"]
    ) -> Float[Tensor, "N H"]:
        """Objective to maximise, for each step of each dream."""
        return self.choose(ret, adv)

    def _ret(self, ret: Tensor, adv: Tensor) -> Tensor:
        return ret

    def _adv(self, ret: Tensor, adv: Tensor) -> Tensor:
        return adv


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DynamicsConfig:
    """Backpropagation through the learned dynamics (Dreamer V1, Eq. 7).

    Attributes:
        baseline: subtract the value of the state that was acted in, whose gradient counts, too (Dreamer V3 of 2023).
    """

    baseline: bool = False

    def build(self, action: Actions) -> Dynamics:
        """The estimator; it has no parameters."""
        return Dynamics(self.baseline)


class Both:
    """A mix of the two."""

    through_dynamics, needs_density = True, True

    def __init__(self, mix: float) -> None:
        self.mix = mix

    def __call__(
        self, policy: Joint, action: Float[Tensor, "N H A"], ret: Float[Tensor, "N H"], adv: Float[Tensor, "N H"]
    ) -> Float[Tensor, "N H"]:
        """Objective to maximise, for each step of each dream. As in the source, log π(a) sees the action's gradient."""
        return self.mix * ret + (1 - self.mix) * policy.log_prob(action) * adv.detach()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BothConfig:
    """Backpropagation through the dynamics, and the score function, mixed (Dreamer V2, Eq. 6).

    Attributes:
        mix: share of the gradient through the dynamics. The paper's ρ is the share of the other.
    """

    mix: Share = 0.1

    def build(self, action: Actions) -> Both:
        """The estimator; it has no parameters."""
        return Both(self.mix)


_SIMPLE = Registry({"reinforce": ReinforceConfig, "dynamics": DynamicsConfig, "both": BothConfig})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ByActionConfig:
    """One estimator for categorical actions, another for continuous ones (Dreamer V2, and V3 of 2023).

    Attributes:
        discrete: where any part of the action is categorical.
        continuous: where none is.
    """

    discrete: slot("discrete", _SIMPLE) = ReinforceConfig()  # type: ignore[valid-type]
    continuous: slot("continuous", _SIMPLE) = DynamicsConfig()  # type: ignore[valid-type]

    def build(self, action: Actions) -> Reinforce | Dynamics | Both:
        """The one that these actions ask for."""
        chosen = self.discrete if any(part.classes for part in action) else self.continuous
        built: Reinforce | Dynamics | Both = chosen.build(action)
        return built


ACTOR_GRADIENTS = Registry({**_SIMPLE.members, "by_action": ByActionConfig})
