"""A GRU whose gates are normed together: the memory of Dreamer V2, and of V3 in 2023."""

from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.bricks import BRICKS, BrickName
from dreamer_cli.nets.kernels import full_precision, gru_gates, gru_gates_backward, gru_gates_forward
from dreamer_cli.registry import STRICT, Units
from dreamer_cli.shapes import Float
from dreamer_cli.world.fed import Fed, FedLoop

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GRULayerNormConfig:
    """A gated recurrent unit whose gates are normed together (Dreamer V2, V3 of 2023).

    Attributes:
        units: numbers of the memory (D).
        hidden: width that guess and action are brought to.
        bricks: what its layers are made of.
        bias: what is normed has a bias (V2), or none (V3 of 2023).
    """

    units: Units = 600  # D
    hidden: Units = 600
    bricks: BrickName = "elu"
    bias: bool = True

    def build(self, stoch: int, action: int) -> "GRULayerNorm":
        """A core that is fed `stoch` numbers of the latent and `action` of the action."""
        return GRULayerNorm(self, stoch, action)


class GRULayerNorm(nn.Module):
    """h' = u ∘ tanh(σ(r) ∘ c) + (1 - u) ∘ h with u = σ(v - 1), where r, c, v = norm(W [y, h] + b).

    Source: Dreamer V2, official code (`GRUCell`).
    """

    def __init__(self, cfg: GRULayerNormConfig, stoch: int, action: int) -> None:
        super().__init__()
        self.size = self.read_size = cfg.units
        self.fed = Fed(BRICKS[cfg.bricks], (stoch, action), cfg.hidden, cfg.units, 3 * cfg.units, cfg.bias)
        self.norm = nn.LayerNorm(3 * cfg.units, eps=1e-3)  # Keras' own epsilon
        self.by_hand = self.fed.by_hand

    def forward(
        self, deter: Float[Tensor, "B D"], stoch: Float[Tensor, "B SK"], action: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B D"]:
        """One step of memory."""
        gates = self.norm(full_precision(self.fed(deter, stoch, action)))
        return gru_gates(gates.unflatten(-1, (3, -1)), deter)

    def loop(self) -> "GRULayerNormLoop":
        """For time loops."""
        return GRULayerNormLoop(self)

    def read(self, deter: Tensor) -> Tensor:
        """All of it."""
        return deter


class GRULayerNormLoop:
    """The same step for time loops (see `BlockGRULoop`)."""

    def __init__(self, core: GRULayerNorm) -> None:
        self.fed, norm = FedLoop(core.fed), core.norm
        self.inputs = self.fed.inputs
        self.learnt = [*self.fed.learnt, norm.weight, norm.bias]
        self.norm = (norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)
        self.walked: list[tuple[Tensor, Tensor]] = []  # gradients of the norm's scale and shift

    def forward(self, deter: Tensor, stoch: Tensor, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """One step of memory, and what the way back needs of it."""
        gates, fed = self.fed.forward(deter, stoch, inputs)
        gates = full_precision(gates)
        normed, *moments = aten.native_layer_norm(gates, *self.norm)
        normed = normed.unflatten(-1, (3, -1))
        after, *opened = gru_gates_forward(normed, deter)
        return after, (fed, gates, moments, normed, deter, opened)

    def backward(self, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of deter, stoch and inputs."""
        fed, gates, moments, normed, deter, opened = saved
        grad, by_deter = gru_gates_backward(grad, normed, deter, *opened)
        shape, scale, shift, _ = self.norm
        back = aten.native_layer_norm_backward(
            grad.flatten(-2), gates, shape, *moments, scale, shift, [True, True, True]
        )
        self.walked.append(back[1:])
        by_memory, by_stoch, by_inputs = self.fed.backward(fed, back[0])
        return by_deter + by_memory, by_stoch, by_inputs

    def gradients(self) -> list[Tensor]:
        """Of `learnt`."""
        by_norm = [torch.stack(column).sum(0) for column in zip(*self.walked, strict=True)]
        self.walked = []
        return [*self.fed.gradients(), *by_norm]
