"""Pictures → numbers, and numbers → pictures: one pair of stacks for each `conv`.

```
pooled   convolution, 2x2 maximum           up-sampling 2x, convolution          Dreamer V3
valid    stride 2, the border is lost       transposed, kernels that fit         PlaNet, Dreamer V1 and V2
same     stride 2, sides exactly halved     transposed, sides exactly doubled    Dreamer V3 of 2023
```
Pictures of all keys are joined on their channels. Flattening goes by rows, columns, channels, as in the official code.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.blocks import BlockLinear
from dreamer_cli.nets.bricks import BRICKS
from dreamer_cli.world.coder_settings import DecoderConfig, EncoderConfig, Specs
from dreamer_cli.world.pictures import Camera, Canvas, Pyramid, common_size, fits, joined_channels, last_widths


def flat(x: Tensor) -> Tensor:
    """N C Y X → N Y·X·C."""
    return x.permute(0, 2, 3, 1).flatten(1)


def unflat(x: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `flat`."""
    return x.unflatten(-1, (rows, columns, -1)).permute(0, 3, 1, 2)


# ── pooled ────────────────────────────────────────────────────────────────────────────────────────────


class PooledEncoder(nn.Module):
    """Convolution → 2x2 max-pool → norm → SiLU, once for each halving. Source: Dreamer V3, official code."""

    def __init__(self, specs: Specs, cfg: EncoderConfig) -> None:
        super().__init__()
        bricks = BRICKS[cfg.bricks]
        self.pyramid = Pyramid(specs, cfg)
        self.camera = Camera(specs, cfg.bits, self.pyramid.padding)
        widths = [self.pyramid.channels, *self.pyramid.widths]
        self.convs = nn.ModuleList(bricks.conv(a, b, cfg.kernel) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(bricks.pixels(width) for width in widths[1:])
        self.size = widths[-1] * math.prod(self.pyramid.small)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """uint8 N C Y X of each key → N E."""
        x = self.camera(obs, next(self.parameters()).dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(F.max_pool2d(conv(x), 2))
        return flat(x)


class PooledDecoder(nn.Module):
    """Memory through a block-wise projection, guess through two layers, added up; then up-convolutions.

    Source: Dreamer V3, official code (`bspace`).
    """

    def __init__(self, specs: Specs, cfg: DecoderConfig, deter: int, stoch: int) -> None:
        super().__init__()
        bricks = BRICKS[cfg.bricks]
        self.pyramid, self.canvas = Pyramid(specs, cfg), Canvas(specs, cfg.picture)
        width, area = self.pyramid.widths[-1], math.prod(self.pyramid.small)
        if deter % cfg.blocks or width % cfg.blocks:
            raise ConfigError(
                f"The decoder's blocks={cfg.blocks} do not divide {deter} units of memory and {width} channels.",
                hint=f"Set world.decoder.blocks={math.gcd(deter, width, cfg.blocks)}, or another depth.",
            )
        self.blocks = cfg.blocks
        self.from_deter = BlockLinear(deter, area * width, cfg.blocks)
        self.from_stoch = nn.Sequential(bricks.layer(stoch, 2 * cfg.units), bricks.linear(2 * cfg.units, area * width))
        self.join = bricks.pixels(width)
        widths = self.pyramid.widths[::-1]
        self.ups = nn.ModuleList(bricks.up(a, b, cfg.kernel) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(bricks.pixels(width) for width in widths[1:])
        self.out = bricks.up(widths[-1], self.pyramid.channels, cfg.kernel, last=True)

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Tensor]:
        """N D, N S·K → each key's picture, N C Y X, 0 to 1."""
        rows, columns = self.pyramid.small
        x = self.from_deter(deter.unflatten(-1, (self.blocks, -1)))
        x = x.reshape(x.shape[0], self.blocks, rows, columns, -1).permute(0, 2, 3, 1, 4).flatten(3)  # N Y X C
        x = x + self.from_stoch(stoch).unflatten(-1, (rows, columns, -1))
        x = self.join(x.permute(0, 3, 1, 2))
        for up, norm in zip(self.ups, self.norms, strict=True):
            x = norm(up(x))
        return self.canvas(self.out(x))


# ── valid and same ────────────────────────────────────────────────────────────────────────────────────


class StridedEncoder(nn.Module):
    """Convolutions of kernel 4 and stride 2, each with a norm and an activation as the bricks have them.

    Args:
        widths: channels after each.
        small: rows and columns after the last one.
        border: zeros around the input of each.
        padding: grey around the picture.
    """

    def __init__(
        self,
        specs: Specs,
        cfg: EncoderConfig,
        widths: list[int],
        small: tuple[int, ...],
        border: int = 0,
        padding: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        bricks = BRICKS[cfg.bricks]
        self.camera = Camera(specs, cfg.bits, padding)
        pairs = pairwise([joined_channels(specs), *widths])
        self.convs = nn.ModuleList(bricks.conv(a, b, 4, stride=2, padding=border) for a, b in pairs)
        self.norms = nn.ModuleList(bricks.pixels(width) for width in widths)
        self.size = widths[-1] * math.prod(small)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """uint8 N C Y X of each key → N E."""
        x = self.camera(obs, next(self.parameters()).dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x))
        return flat(x)


class StridedDecoder(nn.Module):
    """A dense layer, then transposed convolutions of stride 2, norm and activation between them.

    Args:
        feat: numbers of the state.
        small: rows and columns of what the dense layer makes.
        widths: channels of that, and after each convolution but the last.
        kernels: rows and columns of each convolution's.
        border: what is cut off around the result of each.
    """

    def __init__(
        self,
        specs: Specs,
        cfg: DecoderConfig,
        feat: int,
        small: tuple[int, ...],
        widths: list[int],
        kernels: list[tuple[int, int]],
        border: int = 0,
    ) -> None:
        super().__init__()
        bricks = BRICKS[cfg.bricks]
        self.canvas = Canvas(specs, cfg.picture)
        self.small = small
        self.start = bricks.linear(feat, math.prod(small) * widths[0])
        pairs = zip(pairwise(widths), kernels[:-1], strict=True)
        self.ups = nn.ModuleList(bricks.transposed(a, b, kernel, border) for (a, b), kernel in pairs)
        self.norms = nn.ModuleList(bricks.pixels(width) for width in widths[1:])
        self.out = bricks.transposed(widths[-1], joined_channels(specs), kernels[-1], border, last=True)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Tensor]:
        """N D, N S·K → each key's picture, N C Y X, 0 to 1 (`linear`: or beyond)."""
        x = unflat(self.start(torch.cat([stoch, deter], -1)), *self.small)
        for up, norm in zip(self.ups, self.norms, strict=True):
            x = norm(up(x))
        return self.canvas(self.out(x))


SOURCE_SIZE = 64, 64  # rows and columns of the pictures that PlaNet, V1 and V2 were made for


def valid_encoder(specs: Specs, cfg: EncoderConfig) -> StridedEncoder:
    """As many stages as fit, without a border: 64x64 ends as 2x2, and its last two rows and columns are not seen.

    Pictures of other sizes get a grey border, so that no stage leaves a row or column over, and all is seen. Source:
    PlaNet; Dreamer V1 and V2, official code, for 64x64. How other sizes are laid out is ours.
    """
    size = small = common_size(specs)
    stages = 0
    while stages < len(cfg.mults) and min(small) >= 4:
        small = (small[0] - 4) // 2 + 1, (small[1] - 4) // 2 + 1
        stages += 1
    fits(size, small, stages, cfg)
    padding = (0, 0, 0, 0)
    if size != SOURCE_SIZE:
        small, (above, below), (left, right) = _seen_whole(size, stages)
        padding = left, right, above, below
    return StridedEncoder(specs, cfg, last_widths(cfg, stages), small, padding=padding)


def _seen_whole(size: tuple[int, int], stages: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(rows, columns) after so many stages, and what has to be added before and behind rows, and columns, for that.

    Each stage makes n of 2 n + 2, so all of them together n of 2^stages (n + 2) - 2.
    """
    small = [math.ceil((side + 2) / 2**stages) - 2 for side in size]
    missing = [((n + 2) << stages) - 2 - side for n, side in zip(small, size, strict=True)]
    (above, below), (left, right) = ((n // 2, n - n // 2) for n in missing)
    return (small[0], small[1]), (above, below), (left, right)


def valid_decoder(specs: Specs, cfg: DecoderConfig, deter: int, stoch: int) -> StridedDecoder:
    """Laid out from the picture backwards: a kernel of 6 makes an even side and one of 5 an odd one, while they fit.

    64x64 begins as 1x1 and has kernels 5, 5, 6, 6. Source: PlaNet; Dreamer V1 and V2, official code. How other sizes
    are laid out is ours.
    """
    size = small = common_size(specs)
    kernels: list[tuple[int, int]] = []
    while len(kernels) < len(cfg.mults):
        kernel = 6 - small[0] % 2, 6 - small[1] % 2
        before = (small[0] - kernel[0]) // 2 + 1, (small[1] - kernel[1]) // 2 + 1
        if min(before) < 1:
            break
        small, kernels = before, [kernel, *kernels]
    fits(size, small, len(kernels), cfg)
    *widths, most = last_widths(cfg, len(kernels))
    # One pixel holds as many numbers as the encoder's four at its end.
    most *= max(1, 4 // math.prod(small))
    return StridedDecoder(specs, cfg, deter + stoch, small, [most, *widths[::-1]], kernels)


def same_encoder(specs: Specs, cfg: EncoderConfig) -> StridedEncoder:
    """With a border of 1, so that every stage halves the picture: 64x64 ends as 4x4.

    Source: Dreamer V3, official code of 2023.
    """
    pyramid = Pyramid(specs, cfg)
    return StridedEncoder(specs, cfg, pyramid.widths, pyramid.small, border=1, padding=pyramid.padding)


def same_decoder(specs: Specs, cfg: DecoderConfig, deter: int, stoch: int) -> StridedDecoder:
    """The way back: kernels of 4, every stage doubles the picture. Source: Dreamer V3, official code of 2023."""
    pyramid = Pyramid(specs, cfg)
    kernels: list[tuple[int, int]] = [(4, 4)] * len(pyramid.widths)
    return StridedDecoder(specs, cfg, deter + stoch, pyramid.small, pyramid.widths[::-1], kernels, border=1)


ENCODERS: dict[str, Any] = {"pooled": PooledEncoder, "valid": valid_encoder, "same": same_encoder}
DECODERS: dict[str, Any] = {"pooled": PooledDecoder, "valid": valid_decoder, "same": same_decoder}
