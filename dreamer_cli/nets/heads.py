"""feat → distribution."""

from collections.abc import Mapping

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.blocks import MLP, Linear
from dreamer_cli.nets.distributions import Bernoulli, BoundedNormal, Grouped, Joint, OneHot, TwoHot
from dreamer_cli.nets.loops import side_by_side
from dreamer_cli.nets.transforms import symexp_bins
from dreamer_cli.registry import STRICT, Choices, Layers, Positive, Share, Units, Weight, slot
from dreamer_cli.spaces import ActionPart


class TwoHotOutput(nn.Module):
    """Last layer of a head that predicts a number of any size; zero at first, so it starts by saying 0."""

    def __init__(self, inputs: int, bins: int) -> None:
        super().__init__()
        self.linear = Linear(inputs, bins, scale=0.0)
        self.register_buffer("bins", symexp_bins(bins).to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> TwoHot:
        """... inputs → distribution over numbers (...)."""
        return TwoHot(self.linear(x), self.get_buffer("bins"))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TwoHotConfig:
    """A categorical over bins spaced evenly in symlog space (Dreamer V3).

    Attributes:
        bins: how many; odd numbers have one at 0.
    """

    bins: Choices = 255

    def build(self, inputs: int) -> TwoHotOutput:
        """The last layer of a head of `inputs` units."""
        return TwoHotOutput(inputs, self.bins)


class BernoulliOutput(nn.Module):
    """Last layer of a head that predicts a chance."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = Linear(inputs, 1)

    def forward(self, x: Tensor) -> Bernoulli:
        """... inputs → distribution over {0, 1} (...)."""
        return Bernoulli(self.linear(x).squeeze(-1))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BernoulliConfig:
    """The chance of a yes."""

    def build(self, inputs: int) -> BernoulliOutput:
        """The last layer of a head of `inputs` units."""
        return BernoulliOutput(inputs)


OUTPUTS = {"two_hot": TwoHotConfig, "bernoulli": BernoulliConfig}


class Head(nn.Module):
    """An MLP and an output that makes a distribution of it."""

    def __init__(self, net: MLP, output: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.output = output

    def forward(self, feat: Tensor) -> TwoHot | Bernoulli:
        """... F → distribution over ..."""
        return self.output(self.net(feat))

    def go_on(self, x: Tensor) -> TwoHot | Bernoulli:
        """The same, from the first layer's product on."""
        first, *rest = self.net.layers
        x = first.norm.silu(x)
        for layer in rest:
            x = layer(x)
        return self.output(x)


def read(feat: Tensor, *heads: Head) -> list[TwoHot | Bernoulli]:
    """What several heads say of the same states: ... F → distributions over ... Their first layers are one product."""
    firsts = [head.net.layers[0].linear for head in heads]
    products = side_by_side(feat, [layer.weight for layer in firsts], [layer.bias for layer in firsts])
    return [head.go_on(x) for head, x in zip(heads, products, strict=True)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadConfig:
    """Reward, continue or critic head.

    Attributes:
        layers: depth of its MLP.
        units: width of its MLP.
        output: what kind of distribution it gives.
    """

    layers: Layers = 1
    units: Units = 256
    output: slot("output", OUTPUTS) = TwoHotConfig()  # type: ignore[valid-type]

    def build(self, feat: int) -> Head:
        """A head that reads `feat` numbers."""
        return Head(MLP(feat, self.units, self.layers), self.output.build(self.units))


class Actor(nn.Module):
    """feat → distribution over the flat action: a categorical per discrete entry, a bounded normal per number.

    `out` has one layer for each discrete part and two (`_mean`, `_std`) for each continuous one.
    """

    def __init__(self, cfg: "ActorConfig", feat: int, action: tuple[ActionPart, ...]) -> None:
        super().__init__()
        self.cfg = cfg
        self.net = MLP(feat, cfg.units, cfg.layers)
        self.out = nn.ModuleDict()
        self.layout: list[tuple[str, slice, tuple[int, ...]]] = []
        start = 0
        for i, part in enumerate(action):
            columns = slice(start, start + part.width)
            self.layout.append((str(i), columns, part.classes))
            for name in [str(i)] if part.classes else [f"{i}_mean", f"{i}_std"]:
                self.out[name] = Linear(cfg.units, part.width, scale=cfg.scale)
            start = columns.stop

    def forward(self, feat: Tensor) -> Joint:
        """... F → distribution over ... A."""
        return self.distribution(self.outputs(feat))

    def outputs(self, feat: Tensor) -> dict[str, Tensor]:
        """... F → name of each last layer → ... n."""
        x = self.net(feat)
        return {name: layer(x) for name, layer in self.out.items()}

    def distribution(self, outputs: Mapping[str, Tensor]) -> Joint:
        """The last layers' outputs (name → ... n) → distribution over ... A."""
        parts: list = []
        for name, columns, classes in self.layout:
            if classes:
                parts += self._categoricals(outputs[name], columns.start, classes)
            else:
                mean, std = outputs[f"{name}_mean"], outputs[f"{name}_std"]
                parts.append((columns, BoundedNormal(mean, std, self.cfg.min_std, self.cfg.max_std)))
        return Joint(parts)

    def _categoricals(self, logits: Tensor, start: int, classes: tuple[int, ...]) -> list[tuple[slice, Grouped]]:
        """Neighbouring entries with equally many classes share one distribution: few, larger operations."""
        parts, first = [], 0
        while first < len(classes):
            count = 1
            while first + count < len(classes) and classes[first + count] == classes[first]:
                count += 1
            offset = sum(classes[:first])
            block = logits[..., offset : offset + count * classes[first]].unflatten(-1, (count, classes[first]))
            columns = slice(start + offset, start + offset + count * classes[first])
            parts.append((columns, Grouped(OneHot(block, self.cfg.unimix))))
            first += count
        return parts


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ActorConfig:
    """The policy network.

    `unimix` is 1 % as the paper says; the official code configures it and then ignores it.

    Attributes:
        layers: depth of its MLP.
        units: width of its MLP.
        scale: multiplies the last kernels' initial values; small: the first policy is almost uniform.
        unimix: share of a uniform distribution in every categorical action.
        min_std: smallest deviation of continuous actions.
        max_std: largest deviation of continuous actions.
    """

    layers: Layers = 3
    units: Units = 256
    scale: Weight = 0.01
    unimix: Share = 0.01
    min_std: Positive = 0.1
    max_std: Positive = 1.0

    def build(self, feat: int, action: tuple[ActionPart, ...]) -> Actor:
        """An actor that reads `feat` numbers."""
        return Actor(self, feat, action)
