"""How returns become a gradient for the actor."""

from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.nets.distributions import Joint
from dreamer_cli.registry import STRICT
from dreamer_cli.shapes import Float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReinforceConfig:
    """Score function: make actions likelier by how much better than expected they were (Dreamer V3, Eq. 11)."""

    def build(self) -> "Reinforce":
        """The estimator; it has no parameters."""
        return Reinforce()


class Reinforce:
    """log π(a) · advantage. `through_dynamics` says that dreams need no gradient themselves."""

    through_dynamics = False

    def __call__(
        self, policy: Joint, action: Float[Tensor, "N H A"], ret: Float[Tensor, "N H"], adv: Float[Tensor, "N H"]
    ) -> Float[Tensor, "N H"]:
        """Objective to maximise, for each step of each dream."""
        return policy.log_prob(action.detach()) * adv.detach()


ACTOR_GRADIENTS = {"reinforce": ReinforceConfig}
