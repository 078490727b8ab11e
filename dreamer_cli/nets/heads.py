"""feat → distribution: what reward, continue and critic heads say.

An output is the last layer of a head, and makes a distribution with `mean` and `loss(target)` of what it says. A head
`joins` if its first layer can be formed together with others'; then it has `first`, the layer's product, and
`go_on(x)`, everything after it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.blocks import MLP
from dreamer_cli.nets.bricks import BRICKS, BrickName, Bricks
from dreamer_cli.nets.distributions import Bernoulli, Certain, FixedNormal, SymlogTwoHot, TwoHot
from dreamer_cli.nets.loops import side_by_side
from dreamer_cli.nets.transforms import symexp_bins, symlog_bins
from dreamer_cli.registry import STRICT, Choices, Layers, Positive, Registry, Units, slot


class BinnedOutput(nn.Module):
    """Last layer of a head that predicts a number of any size; zero at first, so it starts by saying 0."""

    def __init__(self, linear: nn.Linear, bins: Tensor, says: type[TwoHot] | type[SymlogTwoHot]) -> None:
        super().__init__()
        self.linear, self.says = linear, says
        self.register_buffer("bins", bins.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> TwoHot | SymlogTwoHot:
        """... inputs → distribution over numbers (...)."""
        return self.says(self.linear(x), self.get_buffer("bins"))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TwoHotConfig:
    """A categorical over bins spaced evenly in symlog space (Dreamer V3).

    Attributes:
        bins: how many; odd numbers have one at 0.
    """

    bins: Choices = 255

    def build(self, inputs: int, bricks: Bricks) -> BinnedOutput:
        """The last layer of a head of `inputs` units."""
        return BinnedOutput(bricks.linear(inputs, self.bins, scale=0.0), symexp_bins(self.bins), TwoHot)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SymlogTwoHotConfig:
    """The same bins, but between them symlogs of numbers are mixed, and not numbers (Dreamer V3 of 2023).

    Attributes:
        bins: how many; odd numbers have one at 0.
    """

    bins: Choices = 255

    def build(self, inputs: int, bricks: Bricks) -> BinnedOutput:
        """The last layer of a head of `inputs` units."""
        return BinnedOutput(bricks.linear(inputs, self.bins, scale=0.0), symlog_bins(self.bins), SymlogTwoHot)


class PlainOutput(nn.Module):
    """Last layer of a head that predicts one number, and what that number stands for."""

    def __init__(self, linear: nn.Linear, says: Callable[[Tensor], FixedNormal | Bernoulli]) -> None:
        super().__init__()
        self.linear, self.says = linear, says

    def forward(self, x: Tensor) -> FixedNormal | Bernoulli:
        """... inputs → distribution (...)."""
        return self.says(self.linear(x).squeeze(-1))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NormalConfig:
    """The number itself, learnt by its squared error (PlaNet, Dreamer V1 and V2).

    Attributes:
        std: deviation of the normal around it; half of it makes errors count four times.
    """

    std: Positive = 1.0

    def build(self, inputs: int, bricks: Bricks) -> PlainOutput:
        """The last layer of a head of `inputs` units."""
        return PlainOutput(bricks.linear(inputs, 1), partial(FixedNormal, std=self.std))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BernoulliConfig:
    """The chance of a yes."""

    def build(self, inputs: int, bricks: Bricks) -> PlainOutput:
        """The last layer of a head of `inputs` units."""
        return PlainOutput(bricks.linear(inputs, 1), Bernoulli)


OUTPUTS = Registry(
    {
        "two_hot": TwoHotConfig,
        "two_hot_symlog": SymlogTwoHotConfig,
        "normal": NormalConfig,
        "bernoulli": BernoulliConfig,
    }
)


class Head(nn.Module):
    """An MLP and an output that makes a distribution of it."""

    def __init__(self, net: MLP, output: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.output = output
        self.joins = self.first.bias is not None

    @property
    def first(self) -> nn.Linear:
        """The product of its first layer."""
        linear: nn.Linear = self.net.layers[0].linear
        return linear

    def forward(self, feat: Tensor) -> Any:
        """... F → distribution over ..."""
        return self.output(self.net(feat))

    def go_on(self, x: Tensor) -> Any:
        """The same, from the first layer's product on."""
        first, *rest = self.net.layers
        x = first.finish(x)
        for layer in rest:
            x = layer(x)
        return self.output(x)


class Always(nn.Module):
    """A head that says 1 whatever happens, and has nothing to learn."""

    joins = False

    def forward(self, feat: Tensor) -> Certain:
        """... F → certainty over ..."""
        return Certain(feat[..., 0])


def read(feat: Tensor, *heads: Any) -> list[Any]:
    """What several heads say of the same states: ... F → distributions over ... First layers that join become one."""
    joined = [head for head in heads if head.joins]
    if len(joined) < 2:
        return [head(feat) for head in heads]
    firsts = [head.first for head in joined]
    products = iter(side_by_side(feat, [layer.weight for layer in firsts], [layer.bias for layer in firsts]))
    return [head.go_on(next(products)) if head.joins else head(feat) for head in heads]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadConfig:
    """Reward, continue or critic head.

    Attributes:
        layers: depth of its MLP.
        units: width of its MLP.
        bricks: what it is built of.
        output: what kind of distribution it gives.
    """

    layers: Layers = 1
    units: Units = 256
    bricks: BrickName = "rms_silu"
    output: slot("output", OUTPUTS) = TwoHotConfig()  # type: ignore[valid-type]

    def build(self, feat: int) -> Head:
        """A head that reads `feat` numbers."""
        bricks = BRICKS[self.bricks]
        return Head(bricks.mlp(feat, self.units, self.layers), self.output.build(self.units, bricks))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlwaysConfig:
    """Episodes never end, as far as the model knows: nothing is learnt of it (PlaNet and Dreamer V1, without ends)."""

    def build(self, feat: int) -> Always:
        """A head that reads `feat` numbers, and heeds none of them."""
        return Always()


CONTS = Registry({"head": HeadConfig, "always": AlwaysConfig})
