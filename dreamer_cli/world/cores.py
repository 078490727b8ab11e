"""The memory: how deter moves on, given the last guess and the last action."""

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.blocks import BlockLinear, Layer, RMSNorm
from dreamer_cli.registry import STRICT, AtLeastOne
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

    units: AtLeastOne = 2048  # D
    hidden: AtLeastOne = 256
    blocks: AtLeastOne = 8
    layers: AtLeastOne = 1

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

    Every core has `size` (D) and maps (deter B D, stoch B S·K, action B A) → deter B D;
    `read` gives the part of it that heads see.
    """

    def __init__(self, cfg: BlockGRUConfig, stoch: int, action: int) -> None:
        super().__init__()
        self.size, self.blocks = cfg.units, cfg.blocks
        self.in_deter = Layer(cfg.units, cfg.hidden)
        self.in_stoch = Layer(stoch, cfg.hidden)
        self.in_action = Layer(action, cfg.hidden)
        # Every block sees its own slice of the memory and all three inputs.
        widths = [cfg.units + cfg.blocks * 3 * cfg.hidden] + [cfg.units] * (cfg.layers - 1)
        self.layers = nn.ModuleList(BlockLinear(width, cfg.units, cfg.blocks) for width in widths)
        self.norms = nn.ModuleList(RMSNorm(cfg.units) for _ in widths)
        self.gates = BlockLinear(cfg.units, 3 * cfg.units, cfg.blocks)

    def forward(
        self, deter: Float[Tensor, "B D"], stoch: Float[Tensor, "B SK"], action: Float[Tensor, "B A"]
    ) -> Float[Tensor, "B D"]:
        """One step of memory."""
        inputs = torch.cat([self.in_deter(deter), self.in_stoch(stoch), self.in_action(action)], -1)
        x = self._split(deter)
        x = torch.cat([x, inputs.unsqueeze(1).expand(-1, self.blocks, -1).to(x.dtype)], -1)
        for linear, norm in zip(self.layers, self.norms, strict=True):
            x = self._split(F.silu(norm(linear(x))))
        # The three gates alternate block by block: B G 3·D/G.
        reset, cand, update = self._split(self.gates(x)).chunk(3, -1)
        cand = torch.tanh(torch.sigmoid(reset) * cand)
        update = torch.sigmoid(update - 1)  # -1: remember by default
        return torch.lerp(deter, cand.flatten(1).to(deter.dtype), update.flatten(1).to(deter.dtype))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.blocks, -1))

    def read(self, deter: Tensor) -> Tensor:
        """All of it."""
        return deter


CORES = {"block_gru": BlockGRUConfig}
