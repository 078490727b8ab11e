"""Pictures at the border of the model: how large, how bright, which channels are whose."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.world.coder_settings import DecoderConfig, EncoderConfig, Specs

Settings = EncoderConfig | DecoderConfig


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────────────


def common_size(specs: Specs) -> tuple[int, int]:
    """Rows and columns of all pictures.

    Raises:
        ConfigError: they differ.
    """
    sizes = {key: spec.shape[1:] for key, spec in specs.items()}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{key} {rows}x{columns}" for key, (rows, columns) in sizes.items())
        raise ConfigError(f"Images of different sizes cannot share one encoder: {listed}.", hint="Set --image-size.")
    rows, columns = next(iter(sizes.values()))
    return rows, columns


def joined_channels(specs: Specs) -> int:
    """Channels of all pictures together."""
    return sum(spec.shape[0] for spec in specs.values())


def fits(size: tuple[int, int], small: tuple[int, ...], stages: int, cfg: Settings) -> None:
    """Nothing.

    Raises:
        ConfigError: a picture of this size cannot be made smaller, or `small` is still large.
    """
    if not stages or max(small) > 16:
        raise ConfigError(
            f"Images of {size[0]}x{size[1]} do not fit {len(cfg.mults)} stages of halving.",
            hint="Set --image-size 64x64, or lengthen world.encoder.mults and world.decoder.mults.",
        )


def last_widths(cfg: Settings, stages: int) -> list[int]:
    """Channels after each stage. The last `mults` are used, so every picture ends with the same number."""
    return [cfg.depth * mult for mult in cfg.mults[len(cfg.mults) - stages :]]


class Pyramid:
    """How often a picture is halved, and what is left, for `pooled` and `same`.

    Halving stops before the smaller side of the result would fall below 3, so 8x8 is halved once and 64x64
    four times (4x4 is left). Sides that do not divide are padded at the bottom and right.
    """

    def __init__(self, specs: Specs, cfg: Settings) -> None:
        self.size = common_size(specs)
        stages = 0
        while stages < len(cfg.mults) and min(math.ceil(side / 2 ** (stages + 1)) for side in self.size) >= 3:
            stages += 1
        self.widths = last_widths(cfg, stages)
        self.small = tuple(math.ceil(side / 2**stages) for side in self.size)
        padded = [side << stages for side in self.small]
        self.padding = (0, padded[1] - self.size[1], 0, padded[0] - self.size[0])
        self.channels = joined_channels(specs)
        fits(self.size, self.small, stages, cfg)


# ── bytes and brightness ──────────────────────────────────────────────────────────────────────────────


def bytes_to_unit(x: Tensor) -> Tensor:
    """Bytes (as floats) → 0 to 1."""
    return x / 255


def coarse_bytes_to_unit(x: Tensor, bits: int) -> Tensor:
    """Bytes (as floats) → 0 to almost 1 in 2^bits steps.

    PlaNet then adds noise from 0 to a step. It is left out here: to a Gaussian of deviation 1 its mean is a shift of
    half a step, which a bias learns, and its spread a constant. Source: PlaNet, official code.
    """
    return torch.floor(x / 2 ** (8 - bits)) / 2**bits


def brightness(bits: int) -> Callable[[Tensor], Tensor]:
    """What makes a brightness of bytes."""
    return bytes_to_unit if bits == 8 else partial(coarse_bytes_to_unit, bits=bits)


class Camera:
    """uint8 N C Y X of each key → one picture N C Y X of numbers from -0.5 to 0.5, channels last in memory.

    Args:
        bits: how many of each byte are seen.
        padding: columns left and right, rows above and below, in grey.
    """

    def __init__(self, specs: Specs, bits: int, padding: tuple[int, ...] = ()) -> None:
        self.keys, self.brightness = list(specs), brightness(bits)
        self.pad: Callable[[Tensor], Tensor] = partial(F.pad, pad=padding) if any(padding) else as_it_is

    def __call__(self, obs: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """In this dtype."""
        x = torch.cat([obs[key] for key in self.keys], 1)
        return self.pad(self.brightness(x.to(dtype, memory_format=torch.channels_last)) - 0.5)


def as_it_is(x: Tensor) -> Tensor:
    """The same."""
    return x


def from_grey(x: Tensor) -> Tensor:
    """Last convolution → brightness, where it may leave 0 to 1."""
    return full_precision(x) + 0.5


PICTURES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "linear": from_grey}


class Canvas:
    """A last convolution N C Y X → each key's picture, cropped to its size, black 0 and white 1."""

    def __init__(self, specs: Specs, picture: str) -> None:
        self.channels = {key: spec.shape[0] for key, spec in specs.items()}
        self.rows, self.columns = common_size(specs)
        self.brightness = PICTURES[picture]

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """N C Y X → N C Y X of each key."""
        x = self.brightness(x)[..., : self.rows, : self.columns]
        return dict(zip(self.channels, x.split(list(self.channels.values()), 1), strict=True))
