"""feat → distribution over the flat action.

What continuous actions are like is a slot of its own. Its settings say by which `layers` the network tells of them
(one last layer each, as wide as the action), make a `distribution` of what those say, in this order (... A each), and
say whether that `has_density`.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.nets.bricks import BRICKS, BrickName
from dreamer_cli.nets.distributions import ActionPartDistribution, BoundedNormal, Grouped, Joint, OneHot
from dreamer_cli.registry import STRICT, Layers, Positive, Registry, Share, Units, Weight, slot
from dreamer_cli.spaces import ActionPart


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BoundedNormalConfig:
    """A normal distribution whose mean lies within the bounds, and whose samples need not (Dreamer V3).

    Attributes:
        min_std: smallest deviation.
        max_std: largest deviation.
    """

    min_std: Positive = 0.1
    max_std: Positive = 1.0

    layers: ClassVar[tuple[str, ...]] = ("mean", "std")
    has_density: ClassVar[bool] = True

    def distribution(self, mean: Tensor, std: Tensor) -> BoundedNormal:
        """Of raw outputs, ... A each."""
        return BoundedNormal(mean, std, self.min_std, self.max_std)


CONTINUOUS = Registry(
    {
        "bounded_normal": BoundedNormalConfig,
        "tanh_normal": "dreamer_cli.nets.actions:TanhNormalConfig",
        "trunc_normal": "dreamer_cli.nets.actions:TruncatedNormalConfig",
        "deterministic": "dreamer_cli.nets.actions:DeterministicConfig",
    }
)


class Actor(nn.Module):
    """feat → distribution over the flat action: a categorical per discrete entry, a density per number.

    `out` has one layer for each discrete part, and one or two (`_mean`, `_std`) for each continuous one.

    Attributes:
        has_density: whether the log-probability of its actions is known.
    """

    def __init__(self, cfg: "ActorConfig", feat: int, action: tuple[ActionPart, ...]) -> None:
        super().__init__()
        self.cfg = cfg
        bricks = BRICKS[cfg.bricks]
        self.net = bricks.mlp(feat, cfg.units, cfg.layers)
        self.out = nn.ModuleDict()
        self.layout: list[tuple[str, slice, tuple[int, ...]]] = []
        start = 0
        for i, part in enumerate(action):
            columns = slice(start, start + part.width)
            self.layout.append((str(i), columns, part.classes))
            for name in [str(i)] if part.classes else self._names(str(i)):
                self.out[name] = bricks.linear(cfg.units, part.width, scale=cfg.scale)
            start = columns.stop
        self.has_density = cfg.continuous.has_density or all(part.classes for part in action)

    def _names(self, part: str) -> list[str]:
        return [f"{part}_{layer}" for layer in self.cfg.continuous.layers]

    def forward(self, feat: Tensor) -> Joint:
        """... F → distribution over ... A."""
        return self.distribution(self.outputs(feat))

    def outputs(self, feat: Tensor) -> dict[str, Tensor]:
        """... F → name of each last layer → ... n."""
        x = self.net(feat)
        return {name: layer(x) for name, layer in self.out.items()}

    def distribution(self, outputs: Mapping[str, Tensor]) -> Joint:
        """The last layers' outputs (name → ... n) → distribution over ... A."""
        parts: list[tuple[slice, ActionPartDistribution]] = []
        for name, columns, classes in self.layout:
            if classes:
                parts += self._categoricals(outputs[name], columns.start, classes)
            else:
                parts.append((columns, self.cfg.continuous.distribution(*(outputs[x] for x in self._names(name)))))
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
        bricks: what it is built of.
        scale: multiplies the last kernels' initial values; small: the first policy is almost uniform.
        unimix: share of a uniform distribution in every categorical action.
        continuous: the distribution of continuous actions.
    """

    layers: Layers = 3
    units: Units = 256
    bricks: BrickName = "rms_silu"
    scale: Weight = 0.01
    unimix: Share = 0.01
    continuous: slot("continuous", CONTINUOUS) = BoundedNormalConfig()  # type: ignore[valid-type]

    def build(self, feat: int, action: tuple[ActionPart, ...]) -> Actor:
        """An actor that reads `feat` numbers."""
        return Actor(self, feat, action)
