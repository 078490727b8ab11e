"""The memory: how deter moves on, given the last guess and the last action."""

from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.blocks import BlockLinear, Layer, RMSNorm
from dreamer_cli.nets.kernels import gru_gates, gru_gates_backward, gru_gates_forward
from dreamer_cli.nets.loops import NormSiLU, Product
from dreamer_cli.registry import STRICT, Layers, Registry, Units
from dreamer_cli.shapes import Float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BlockGRUConfig:
    """Dreamer V3's memory: wide, but its recurrent weights connect only within blocks.

    Attributes:
        units: numbers of the memory (D).
        hidden: width that memory, guess and action are each brought to before they meet.
        blocks: of the recurrent weights; `units` must divide by it.
        layers: block-wise layers before the gates.
    """

    units: Units = 2048  # D
    hidden: Units = 256
    blocks: Units = 8
    layers: Layers = 1

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.units % self.blocks:
            blocks = max(1, self.blocks)
            raise ConfigError(
                f"units={self.units} does not split into {self.blocks} equal blocks.",
                hint=f"Try units={max(1, self.units // blocks) * blocks}.",
            )

    def build(self, stoch: int, action: int) -> "BlockGRU":
        """A core that is fed `stoch` numbers of the latent and `action` of the action."""
        return BlockGRU(self, stoch, action)


class BlockGRU(nn.Module):
    """h' = u ∘ c + (1 - u) ∘ h with gates from block-diagonal layers. Source: Dreamer V3 (2024), official code.

    Every core has `size` (D) and maps (deter B D, stoch B S·K, action B A) → deter B D, in deter's own dtype;
    `read` gives the part of it that heads see: its first `read_size` numbers. Where `by_hand` is true, `loop()` lays
    it out for time loops.
    """

    by_hand = True

    def __init__(self, cfg: BlockGRUConfig, stoch: int, action: int) -> None:
        super().__init__()
        self.size = self.read_size = cfg.units
        self.blocks = cfg.blocks
        self.in_deter: Any = Layer(cfg.units, cfg.hidden)
        self.in_stoch: Any = Layer(stoch, cfg.hidden)
        self.in_action = Layer(action, cfg.hidden)
        # Every block sees its own slice of the memory and all three inputs.
        widths = [cfg.units + cfg.blocks * 3 * cfg.hidden] + [cfg.units] * (cfg.layers - 1)
        self.layers: Any = nn.ModuleList(BlockLinear(width, cfg.units, cfg.blocks) for width in widths)
        self.norms: Any = nn.ModuleList(RMSNorm(cfg.units) for _ in widths)
        self.gates = BlockLinear(cfg.units, 3 * cfg.units, cfg.blocks)

    def forward(
        self, deter: Float[Tensor, "B D"], stoch: Float[Tensor, "B SK"], action: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B D"]:
        """One step of memory."""
        inputs = torch.cat([self.in_deter(deter), self.in_stoch(stoch), self.in_action(action)], -1)
        x = self.split(deter)
        x = torch.cat([x, inputs.unsqueeze(1).expand(-1, self.blocks, -1).to(x.dtype)], -1)
        for linear, norm in zip(self.layers, self.norms, strict=True):
            x = self.split(norm.silu(linear(x)))
        return gru_gates(self.split_gates(self.gates(x)), self.split(deter)).flatten(1)

    def split(self, x: Tensor) -> Tensor:
        """B G·n → B G n."""
        return x.unflatten(-1, (self.blocks, -1))

    def split_gates(self, gates: Tensor) -> Tensor:
        """B 3·D → B G 3 D/G: the three gates alternate block by block."""
        return gates.unflatten(-1, (self.blocks, 3, -1))

    def loop(self) -> "BlockGRULoop":
        """For time loops."""
        return BlockGRULoop(self)

    def read(self, deter: Tensor) -> Tensor:
        """All of it."""
        return deter


class BlockGRULoop:
    """The same step for time loops (see `nets/loops.py`).

    Every core's `loop()` has `inputs(action)`, what the actions alone decide: for all steps at once where they are
    known. A step maps (deter B D, stoch B S·K, inputs B ...) → deter B D.
    """

    def __init__(self, core: BlockGRU) -> None:
        self.core = core
        first, *rest = core.layers
        hidden = core.in_deter.linear.out_features
        # Every block has weights for its own slice of the memory, and for the three inputs, which all blocks share:
        # one dense product instead of G with the same rows.
        own, *shared = first.weight.split([core.size // core.blocks, 2 * hidden, hidden], 1)
        by_state, self.by_action = (part.transpose(0, 1).flatten(1) for part in shared)
        self.in_deter, self.in_stoch = core.in_deter.linear.loop(), core.in_stoch.linear.loop()
        # Memory and guess go through their norms together, B 2 hidden.
        scales = torch.stack([core.in_deter.norm.scale, core.in_stoch.norm.scale])
        self.join = NormSiLU(scales, core.in_deter.norm.eps)
        self.own, self.by_state = Product(own), Product(by_state)
        self.norms = [norm.loop() for norm in core.norms]
        self.rest = [layer.loop() for layer in rest]
        self.gates = core.gates.loop()
        self.parts: list[Any] = [self.in_deter, self.in_stoch, self.join, self.own, self.by_state, self.gates]
        self.parts += [*self.norms, *self.rest]
        self.learnt = [x for part in self.parts for x in part.learnt]

    def inputs(self, action: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead D"]:
        """What the first layer gets from the action, and its bias."""
        return self.core.in_action(action) @ self.by_action + self.core.layers[0].bias

    def forward(self, deter: Tensor, stoch: Tensor, inputs: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """One step of memory, and what the way back needs of it."""
        pair = deter.new_empty(len(deter), 2, self.join.scale.shape[1], dtype=self.own.dtype)
        self.in_deter.forward(deter, out=pair[:, 0])
        self.in_stoch.forward(stoch, out=pair[:, 1])
        joined, kept = self.join.forward(pair)
        x = self.own.add_to(self.by_state.forward(joined.flatten(1), inputs), deter)
        hidden = []
        for i, norm in enumerate(self.norms):
            x = self.rest[i - 1].forward(x) if i else x
            x, normed = norm.forward(x)
            hidden.append((x, normed))
        gates = self.core.split_gates(self.gates.forward(x))
        memory = self.core.split(deter)
        after, *opened = gru_gates_forward(gates, memory)
        return after.flatten(1), (deter, stoch, joined, kept, hidden, gates, memory, opened)

    def backward(self, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of deter, stoch and inputs."""
        deter, stoch, joined, kept, hidden, gates, memory, opened = saved
        grad, by_memory = gru_gates_backward(self.core.split(grad), gates, memory, *opened)
        grad = self.gates.backward(hidden[-1][0], grad.flatten(1))
        for i in reversed(range(len(self.norms))):
            grad = self.norms[i].backward(hidden[i][1], grad)
            grad = self.rest[i - 1].backward(hidden[i - 1][0], grad) if i else grad
        by_inputs = grad
        by_deter = self.own.backward(deter, grad).add_(by_memory.flatten(1))
        pair = self.by_state.backward(joined.flatten(1), grad)
        pair = self.join.backward(kept, pair.view(joined.shape))
        by_deter += self.in_deter.backward(deter, pair[:, 0])
        return by_deter, self.in_stoch.backward(stoch, pair[:, 1]), by_inputs

    def gradients(self) -> list[Tensor]:
        """Of `learnt`."""
        return [grad for part in self.parts for grad in part.gradients()]


CORES = Registry(
    {
        "block_gru": BlockGRUConfig,
        "gru": "dreamer_cli.world.gru:GRUConfig",
        "gru_ln": "dreamer_cli.world.gru_ln:GRULayerNormConfig",
        "lstm": "dreamer_cli.world.lstm:LSTMConfig",
    }
)
