"""A plain GRU as memory, in the two forms that it was written in."""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.bricks import BRICKS, BrickName
from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.registry import STRICT, Units
from dreamer_cli.shapes import Float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GRUConfig:
    """A plain gated recurrent unit (PlaNet, Dreamer V1).

    Attributes:
        units: numbers of the memory (D).
        hidden: width that guess and action are brought to.
        bricks: what its layers are made of.
        reset_after: the reset gate acts on what the weights made of the memory, as in Keras and torch (V1), instead of
            on the memory itself (PlaNet).
    """

    units: Units = 200  # D
    hidden: Units = 200
    bricks: BrickName = "elu"
    reset_after: bool = True

    def build(self, stoch: int, action: int) -> "GRU":
        """A core that is fed `stoch` numbers of the latent and `action` of the action."""
        return GRU(self, stoch, action)


class GRU(nn.Module):
    """One GRU cell behind one layer. Source: PlaNet, Eq. 4 and official code; Dreamer V1, official code."""

    def __init__(self, cfg: GRUConfig, stoch: int, action: int) -> None:
        super().__init__()
        self.size = self.read_size = cfg.units
        self.inputs = BRICKS[cfg.bricks].layer(stoch + action, cfg.hidden)
        self.cell = (ResetAfter if cfg.reset_after else ResetBefore)(cfg)

    def forward(
        self, deter: Float[Tensor, "B D"], stoch: Float[Tensor, "B SK"], action: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B D"]:
        """One step of memory."""
        return self.cell(self.inputs(torch.cat([stoch, action], -1)), deter)

    def read(self, deter: Tensor) -> Tensor:
        """All of it."""
        return deter


class ResetAfter(nn.Module):
    """The cell of Keras and of `torch.nn.GRUCell`, gates in torch's order: reset, update, candidate.

    r, u = σ(W y + b + V h + d), c = tanh(W y + b + r ∘ (V h + d)), h' = u ∘ h + (1 - u) ∘ c.
    """

    def __init__(self, cfg: GRUConfig) -> None:
        super().__init__()
        linear = BRICKS[cfg.bricks].linear
        self.by_input, self.by_deter = linear(cfg.hidden, 3 * cfg.units), linear(cfg.units, 3 * cfg.units)
        nn.init.orthogonal_(self.by_deter.weight)  # as Keras does for recurrent weights

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """B hidden, B D → B D."""
        new, old = full_precision(self.by_input(x)).chunk(3, -1), full_precision(self.by_deter(deter)).chunk(3, -1)
        reset, update = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
        return blend(torch.tanh(new[2] + reset * old[2]), deter, update)


class ResetBefore(nn.Module):
    """TensorFlow 1's `GRUBlockCell`, which remembers by default: the biases of its gates begin at 1.

    r, u = σ(W [y, h] + b), c = tanh(V [y, r ∘ h] + d), h' = u ∘ h + (1 - u) ∘ c.
    """

    def __init__(self, cfg: GRUConfig) -> None:
        super().__init__()
        linear = BRICKS[cfg.bricks].linear
        self.gates, self.cand = (linear(cfg.hidden + cfg.units, n * cfg.units) for n in (2, 1))
        nn.init.ones_(self.gates.bias)

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """B hidden, B D → B D."""
        reset, update = torch.sigmoid(full_precision(self.gates(torch.cat([x, deter], -1)))).chunk(2, -1)
        cand = full_precision(self.cand(torch.cat([x, (reset * deter).to(x.dtype)], -1)))
        return blend(torch.tanh(cand), deter, update)


def blend(cand: Tensor, deter: Tensor, update: Tensor) -> Tensor:
    """update ∘ deter + (1 - update) ∘ cand, in the memory's own dtype, whatever the network ran in."""
    return torch.lerp(cand.to(deter.dtype), deter, update.to(deter.dtype))
