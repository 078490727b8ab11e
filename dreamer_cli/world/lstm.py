"""An LSTM as memory: what it says and what it keeps are two things."""

from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.bricks import BRICKS, BrickName
from dreamer_cli.nets.kernels import Kernel, full_precision
from dreamer_cli.registry import STRICT, Units
from dreamer_cli.shapes import Float
from dreamer_cli.world.fed import Fed, FedLoop

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LSTMConfig:
    """Long short-term memory. No published Dreamer has it.

    Attributes:
        units: numbers that heads see (D); as many again are kept beside them.
        hidden: width that guess and action are brought to.
        bricks: what its layers are made of.
    """

    units: Units = 512  # D
    hidden: Units = 256
    bricks: BrickName = "rms_silu"

    def build(self, stoch: int, action: int) -> "LSTM":
        """A core that is fed `stoch` numbers of the latent and `action` of the action."""
        return LSTM(self, stoch, action)


class LSTM(nn.Module):
    """c' = σ(f) ∘ c + σ(i) ∘ tanh(g), h' = σ(o) ∘ tanh(c'), where i, f, g, o = W [y, h] + b.

    deter is h and c side by side (2 D), so that both are blanked, carried and stored; heads see h. The bias of f begins
    at 1: it remembers by default. Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 (f).
    """

    def __init__(self, cfg: LSTMConfig, stoch: int, action: int) -> None:
        super().__init__()
        self.size, self.read_size = 2 * cfg.units, cfg.units
        self.fed = Fed(BRICKS[cfg.bricks], (stoch, action), cfg.hidden, cfg.units, 4 * cfg.units)
        with torch.no_grad():
            self.fed.product.bias[cfg.units : 2 * cfg.units] = 1.0
        self.by_hand = self.fed.by_hand

    def forward(
        self, deter: Float[Tensor, "B HC"], stoch: Float[Tensor, "B SK"], action: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B HC"]:
        """One step of memory."""
        gates = self.fed(self.read(deter), stoch, action)
        return lstm_gates_forward.plain(gates, deter)[0]

    def loop(self) -> "LSTMLoop":
        """For time loops."""
        return LSTMLoop(self)

    def read(self, deter: Tensor) -> Tensor:
        """h: ... 2D → ... D."""
        return deter[..., : self.read_size]


class LSTMLoop:
    """The same step for time loops (see `BlockGRULoop`)."""

    def __init__(self, core: LSTM) -> None:
        self.fed, self.read = FedLoop(core.fed), core.read
        self.inputs, self.learnt, self.gradients = self.fed.inputs, self.fed.learnt, self.fed.gradients

    def forward(self, deter: Tensor, stoch: Tensor, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """One step of memory, and what the way back needs of it."""
        gates, fed = self.fed.forward(self.read(deter), stoch, inputs)
        after, *opened = lstm_gates_forward(gates, deter)
        return after, (fed, gates, deter, opened)

    def backward(self, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of deter, stoch and inputs."""
        fed, gates, deter, opened = saved
        grad, by_cell = lstm_gates_backward(grad, gates, deter, *opened)
        by_memory, by_stoch, by_inputs = self.fed.backward(fed, grad)
        return torch.cat([by_memory.to(by_cell.dtype), by_cell], -1), by_stoch, by_inputs


@Kernel
def lstm_gates_forward(gates: Tensor, deter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gates (... 4 D: input, forget, candidate, output), h and c side by side (... 2 D) → the next h and c.

    And (enter, keep, cand, show, cell) as they came out: the gates, and tanh of the next c.
    """
    enter, keep, cand, show = full_precision(gates).chunk(4, -1)
    enter, keep, show = torch.sigmoid(enter), torch.sigmoid(keep), torch.sigmoid(show)
    cand = torch.tanh(cand)
    kept = keep * deter.chunk(2, -1)[1] + enter * cand
    cell = torch.tanh(kept)
    return torch.cat([show * cell, kept], -1).to(deter.dtype), enter, keep, cand, show, cell


@Kernel
def lstm_gates_backward(
    grad: Tensor, gates: Tensor, deter: Tensor, enter: Tensor, keep: Tensor, cand: Tensor, show: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of the gates and of c; h went into the gates only."""
    by_memory, by_cell = grad.chunk(2, -1)
    pull = by_cell + aten.tanh_backward(by_memory * show, cell)
    by_gates = [
        aten.sigmoid_backward(pull * cand, enter),
        aten.sigmoid_backward(pull * deter.chunk(2, -1)[1], keep),
        aten.tanh_backward(pull * enter, cand),
        aten.sigmoid_backward(by_memory * cell, show),
    ]
    return torch.cat(by_gates, -1).to(gates.dtype), pull * keep
