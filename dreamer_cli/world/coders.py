"""Observation dict → embed, and feat → observation dict. Networks are chosen per key, from the space.

Images of all keys are joined on their channels and share one convolutional stack; vectors and one-hot
categorical entries are joined and share one MLP.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dreamer_cli.errors import ConfigError, closest
from dreamer_cli.nets.blocks import MLP, BlockLinear, ChannelNorm, Conv, Layer, Linear, UpConv
from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.nets.recompute import in_parts
from dreamer_cli.nets.transforms import symexp, symlog
from dreamer_cli.registry import STRICT, Count, Layers, Units
from dreamer_cli.spaces import ObsSpec

Specs = Mapping[str, ObsSpec]


def images(specs: Specs) -> dict[str, ObsSpec]:
    """The keys that are pictures, sorted."""
    return {key: specs[key] for key in sorted(specs) if specs[key].kind == "image"}


def vectors(specs: Specs) -> dict[str, ObsSpec]:
    """The keys that are numbers or classes, sorted."""
    return {key: specs[key] for key in sorted(specs) if specs[key].kind != "image"}


def one_hot(x: Tensor, classes: tuple[int, ...]) -> Tensor:
    """... entries → ... sum(classes), a one-hot for each entry. A missing entry (-1) becomes zeros."""
    columns = [x[..., i : i + 1] == torch.arange(count, device=x.device) for i, count in enumerate(classes)]
    return torch.cat(columns, -1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CoderConfig:
    """Sizes of an encoder or a decoder.

    Attributes:
        depth: channels of a stage are depth times its entry in `mults`.
        mults: one entry for each stage that halves the picture.
        kernel: side of the convolutions; odd.
        units: width of the MLP for vectors and classes.
        layers: depth of that MLP.
        blocks: how the decoder's first layer splits the memory.
        keys: observation keys that are coded; null: all. An encoder that leaves one out never sees it, a decoder
            never draws it.
        recompute: frames that are worked on at a time, and again on the way back: slower, but in far less memory;
            0: all at once, and everything is kept.
    """

    depth: Units = 16
    mults: Annotated[tuple[Units, ...], Field(max_length=16)] = (2, 3, 4, 4)
    kernel: Annotated[int, Field(ge=1, le=64)] = 5
    units: Units = 256
    layers: Layers = 3
    blocks: Units = 8
    keys: tuple[str, ...] | None = None
    recompute: Count = 0

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel={self.kernel} is even.", hint="An odd kernel keeps the picture's size.")

    def choose(self, specs: Specs, where: str) -> Specs:
        """The observation keys that are coded; `where` names the settings in messages.

        Raises:
            ConfigError: there is no such key, or none is left.
        """
        if self.keys is None:
            return specs
        listed = f"There are: {', '.join(specs)}."
        if not self.keys:
            raise ConfigError(f"{where}.keys is empty, so nothing is left of the observation.", hint=listed)
        for key in self.keys:
            if key not in specs:
                raise ConfigError(
                    f"{where}.keys names {key!r}, which is no observation key.", hint=closest(key, specs) + listed
                )
        return {key: spec for key, spec in specs.items() if key in self.keys}


class Pyramid:
    """How often a picture is halved, and what is left.

    Halving stops before the smaller side of the result would fall below 3, so 8x8 is halved once and 64x64
    four times (4x4 is left). Sides that do not divide are padded at the bottom and right.
    The last stages' widths are used, so every picture ends with the same number of channels.
    """

    def __init__(self, specs: Specs, cfg: CoderConfig) -> None:
        sizes = {key: spec.shape[1:] for key, spec in specs.items()}
        if len(set(sizes.values())) != 1:
            listed = ", ".join(f"{key} {rows}x{columns}" for key, (rows, columns) in sizes.items())
            raise ConfigError(
                f"Images of different sizes cannot share one encoder: {listed}.", hint="Set --image-size."
            )
        self.size = next(iter(sizes.values()))
        stages = 0
        while stages < len(cfg.mults) and min(math.ceil(side / 2 ** (stages + 1)) for side in self.size) >= 3:
            stages += 1
        self.widths = [cfg.depth * mult for mult in cfg.mults[len(cfg.mults) - stages :]]
        self.small = tuple(math.ceil(side / 2**stages) for side in self.size)
        padded = [side << stages for side in self.small]
        self.padding = (0, padded[1] - self.size[1], 0, padded[0] - self.size[0])
        self.channels = sum(spec.shape[0] for spec in specs.values())
        if not stages or max(self.small) > 16:
            raise ConfigError(
                f"Images of {self.size[0]}x{self.size[1]} do not fit {len(cfg.mults)} stages of halving.",
                hint="Set --image-size 64x64, or lengthen world.encoder.mults and world.objective.decoder.mults.",
            )


class ImageEncoder(nn.Module):
    """Convolution → 2x2 max-pool → norm → SiLU, once for each halving. Source: Dreamer V3, official code."""

    def __init__(self, specs: Specs, cfg: CoderConfig) -> None:
        super().__init__()
        self.keys = list(specs)
        self.pyramid = Pyramid(specs, cfg)
        widths = [self.pyramid.channels, *self.pyramid.widths]
        self.convs = nn.ModuleList(Conv(a, b, cfg.kernel) for a, b in pairwise(widths))
        self.norms: Any = nn.ModuleList(ChannelNorm(width) for width in widths[1:])
        self.size = widths[-1] * math.prod(self.pyramid.small)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """uint8 N C Y X of each key → N E."""
        x = torch.cat([obs[key] for key in self.keys], 1)
        x = x.to(next(self.parameters()).dtype, memory_format=torch.channels_last) / 255 - 0.5
        x = F.pad(x, self.pyramid.padding)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm.silu(F.max_pool2d(conv(x), 2))
        return x.permute(0, 2, 3, 1).flatten(1)  # rows, columns, channels: the official order


class VectorEncoder(nn.Module):
    """symlog of numbers and one-hots of classes, joined, through an MLP."""

    def __init__(self, specs: Specs, cfg: CoderConfig) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.net = MLP(sum(spec.width for spec in specs.values()), cfg.units, cfg.layers)
        self.size = cfg.units

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """N n of each key → N E."""
        dtype = next(self.parameters()).dtype
        parts = [
            one_hot(obs[key], spec.classes).to(dtype) if spec.classes else symlog(obs[key].to(dtype))
            for key, spec in self.specs.items()
        ]
        return self.net(torch.cat(parts, -1))


class Encoder(nn.Module):
    """Observation dict → embed: vectors' part first, images' part after it."""

    def __init__(self, specs: Specs, cfg: CoderConfig) -> None:
        super().__init__()
        self.specs = specs = dict(cfg.choose(specs, "world.encoder"))
        parts: list[Any] = []
        if vectors(specs):
            parts.append(VectorEncoder(vectors(specs), cfg))
        if images(specs):
            parts.append(ImageEncoder(images(specs), cfg))
        self.parts = nn.ModuleList(parts)
        self.size = sum(part.size for part in parts)
        self.lead_key, spec = next(iter(specs.items()))
        self.event_dims = len(spec.shape)
        self.recompute = cfg.recompute

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Any leading axes, then each key's own → the same leading axes, then E."""
        lead = obs[self.lead_key].shape[: obs[self.lead_key].dim() - self.event_dims]
        flat = {key: obs[key].flatten(0, len(lead) - 1) for key in self.specs}
        return in_parts(self._encode, self.recompute, flat).unflatten(0, lead)

    def _encode(self, obs: dict[str, Tensor]) -> Tensor:
        return torch.cat([part(obs) for part in self.parts], -1)


class ImageDecoder(nn.Module):
    """Memory through a block-wise projection, guess through two layers, added up; then up-convolutions to sigmoid.

    Source: Dreamer V3, official code (`bspace`).
    """

    def __init__(self, specs: Specs, cfg: CoderConfig, deter: int, stoch: int) -> None:
        super().__init__()
        self.channels = {key: spec.shape[0] for key, spec in specs.items()}
        self.pyramid = Pyramid(specs, cfg)
        width, area = self.pyramid.widths[-1], math.prod(self.pyramid.small)
        if deter % cfg.blocks or width % cfg.blocks:
            raise ConfigError(
                f"The decoder's blocks={cfg.blocks} do not divide {deter} units of memory and {width} channels.",
                hint=f"Set world.objective.decoder.blocks={math.gcd(deter, width, cfg.blocks)}, or another depth.",
            )
        self.blocks = cfg.blocks
        self.from_deter = BlockLinear(deter, area * width, cfg.blocks)
        self.from_stoch = nn.Sequential(Layer(stoch, 2 * cfg.units), Linear(2 * cfg.units, area * width))
        self.join = ChannelNorm(width)
        widths = self.pyramid.widths[::-1]
        self.ups = nn.ModuleList(UpConv(a, b, cfg.kernel) for a, b in pairwise(widths))
        self.norms: Any = nn.ModuleList(ChannelNorm(width) for width in widths[1:])
        self.out = UpConv(widths[-1], self.pyramid.channels, cfg.kernel)

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Tensor]:
        """N D, N S·K → each key's picture, N C Y X, 0 to 1."""
        rows, columns = self.pyramid.small
        x = self.from_deter(deter.unflatten(-1, (self.blocks, -1)))
        x = x.reshape(x.shape[0], self.blocks, rows, columns, -1).permute(0, 2, 3, 1, 4).flatten(3)  # N Y X C
        x = x + self.from_stoch(stoch).unflatten(-1, (rows, columns, -1))
        x = self.join.silu(x.permute(0, 3, 1, 2))
        for up, norm in zip(self.ups, self.norms, strict=True):
            x = norm.silu(up(x))
        x = torch.sigmoid(self.out(x))[..., : self.pyramid.size[0], : self.pyramid.size[1]]
        return dict(zip(self.channels, x.split(list(self.channels.values()), 1), strict=True))


class VectorDecoder(nn.Module):
    """One MLP, then each key's own last layer: symlog numbers, or logits of its classes."""

    def __init__(self, specs: Specs, cfg: CoderConfig, feat: int) -> None:
        super().__init__()
        self.keys = list(specs)
        self.net = MLP(feat, cfg.units, cfg.layers)
        self.out = nn.ModuleList(Linear(cfg.units, spec.width) for spec in specs.values())

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Tensor]:
        """N D, N S·K → each key's raw outputs, N n."""
        x = self.net(torch.cat([stoch, deter], -1))
        return {key: out(x) for key, out in zip(self.keys, self.out, strict=True)}


class Decoder(nn.Module):
    """(deter, stoch) → raw outputs for every key; their losses, and what they say in the observation's units."""

    def __init__(self, specs: Specs, cfg: CoderConfig, deter: int, stoch: int) -> None:
        super().__init__()
        self.specs = specs = dict(cfg.choose(specs, "world.objective.decoder"))
        self.split = (deter, stoch)
        parts: list[Any] = []
        if vectors(specs):
            parts.append(VectorDecoder(vectors(specs), cfg, deter + stoch))
        if images(specs):
            parts.append(ImageDecoder(images(specs), cfg, deter, stoch))
        self.parts = nn.ModuleList(parts)

    def forward(self, feat: Tensor) -> dict[str, Tensor]:
        """... F → each key's raw outputs, float32 at least: pictures 0 to 1, numbers in symlog space, logits."""
        deter, stoch = feat.flatten(0, -2).split(self.split, -1)
        out = {key: value for part in self.parts for key, value in part(deter, stoch).items()}
        return {key: full_precision(value).unflatten(0, feat.shape[:-1]) for key, value in out.items()}

    def losses(self, out: dict[str, Tensor], obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each key's loss, B T: squared errors summed (never averaged) over the key, cross-entropies over entries.

        Source: Dreamer V3, Eq. 5 and section "Robust predictions"; the sums as in the official code.
        """
        return {key: self._loss(spec, out[key], obs[key]) for key, spec in self.specs.items()}

    def _loss(self, spec: ObsSpec, out: Tensor, target: Tensor) -> Tensor:
        if spec.kind == "image":
            return (out - target.to(out.dtype) / 255).square().flatten(2).sum(-1)
        if spec.kind == "vector":
            return (out - symlog(target.to(out.dtype))).square().sum(-1)
        parts = [
            torch.log_softmax(logits, -1).gather(-1, target[..., i : i + 1].long()).squeeze(-1)
            for i, logits in enumerate(out.split(spec.classes, -1))
        ]
        return -torch.stack(parts).sum(0)

    def display(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw outputs in the observation's units: pictures 0 to 1, numbers, probabilities of each entry's classes."""
        shown = {}
        for key, spec in self.specs.items():
            if spec.kind == "image":
                shown[key] = out[key]
            elif spec.kind == "vector":
                shown[key] = symexp(out[key])
            else:
                shown[key] = torch.cat([torch.softmax(x, -1) for x in out[key].split(spec.classes, -1)], -1)
        return shown
