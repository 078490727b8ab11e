"""Stripes of a dream's picture, one column a sample: what a panel is, and the one for images.

A panel paints itself on a canvas at one moment. Colours are from Okabe and Ito, which colour-blind
eyes tell apart: blue is what the model saw, vermilion what it dreams, ink what is real.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol, SupportsFloat, runtime_checkable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreamer_cli.dream import Dreams
from dreamer_cli.spaces import as_bytes, as_rgb

PAPER, INK, MUTED, LINE = (250, 250, 247), (45, 52, 60), (112, 120, 128), (208, 212, 216)
CONTEXT, DREAM, SHADE = (0, 114, 178), (213, 94, 0), (233, 236, 238)
Color = tuple[int, int, int]
Pixels = int | float

LABEL = 96  # pixels left of the first column
GAP = 12


@functools.cache  # unpacking it takes longer than writing with it
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font: no font files to find."""
    return ImageFont.load_default(size=size)


def phase(t: int, context: int) -> Color:
    """The colour of a moment: seen or dreamed."""
    return CONTEXT if t < context else DREAM


class Columns(NamedTuple):
    """Where the samples stand."""

    number: int
    width: int

    def left(self, sample: int) -> int:
        """First pixel of a sample's column."""
        return LABEL + sample * (self.width + GAP)

    @property
    def right(self) -> int:
        """Width of the picture."""
        return self.left(self.number)


@runtime_checkable
class Panel(Protocol):
    """A stripe of the picture; `top` is its first row of pixels."""

    height: int

    def prepare(self, canvas: Image.Image, top: int) -> None:
        """Paint what never changes, mostly labels."""

    def paint(self, canvas: Image.Image, top: int, t: int) -> None:
        """Paint moment `t`."""


def text(
    canvas: Image.Image,
    at: tuple[Pixels, Pixels],
    words: str,
    fill: Color,
    size: int = 13,
    anchor: str = "lm",
    halo: int = 0,
) -> None:
    """Write in Pillow's anchors: `lm` left middle, `mm` centre, `rm` right middle; `halo` pixels of white around it."""
    ImageDraw.Draw(canvas).text(
        at, words, fill=fill, font=font(size), anchor=anchor, stroke_width=halo, stroke_fill=(255, 255, 255)
    )


def shorten(words: str, width: Pixels, size: int) -> str:
    """`words`, cut with an ellipsis until they fit into `width` pixels."""
    if font(size).getlength(words) <= width:
        return words
    while words and font(size).getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"


def brief(number: SupportsFloat) -> str:
    """Two digits behind the point, or three digits in all where numbers are large."""
    number = float(number)
    return f"{round(number, 2) + 0.0:.2f}" if abs(number) < 100 else f"{number:.3g}"  # 0.0: no -0.00


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image C Y X, uint8 or float 0..1, as uint8 Y X 3."""
    return as_rgb(as_bytes(image))


# By whether there is a truth beyond the context, and a context.
ROWS = {(True, True): ["truth", "model", "error"], (False, True): ["truth", "dream"], (False, False): ["dream"]}


class Pictures:
    """An image: what happened, what the model shows, and in open loop their difference.

    Args:
        rows: others than these, from `ROWS`.
    """

    def __init__(
        self, name: str, dream: Dreams, columns: Columns, scale: int, rows: Sequence[str] | None = None
    ) -> None:
        self.name, self.dream, self.columns, self.scale = name, dream, columns, scale
        self.rows = rows or ROWS[dream.has_truth, dream.context > 0]
        _, _, _, y, x = dream.model[name].shape
        self.tile = (x * scale, y * scale)
        self.height = len(self.rows) * (self.tile[1] + GAP)

    def prepare(self, canvas: Image.Image, top: int) -> None:
        """Row labels; the key of the observation stands once."""
        for i, row in enumerate(self.rows):
            middle = top + i * (self.tile[1] + GAP) + self.tile[1] / 2
            text(canvas, (LABEL - 14, middle), row, INK, 14, "rm")
            below = self.name if i == 0 else "grey: none" if row == "error" else ""
            text(canvas, (LABEL - 14, middle + 17), shorten(below, LABEL - 20, 11), MUTED, 11, "rm")

    def paint(self, canvas: Image.Image, top: int, t: int) -> None:
        """The same moment of all samples."""
        for m in range(self.columns.number):
            self.paint_sample(canvas, top, t, m, m)

    def paint_sample(self, canvas: Image.Image, top: int, t: int, m: int, column: int) -> None:
        """Tiles of one sample, framed in the colour of the moment where they are the model's."""
        dream = self.dream
        truth = as_picture(dream.truth[self.name][m, max(0, min(t, int(dream.known[m]) - 1))])
        model = as_picture(dream.model[self.name][m, min(t, int(dream.length[m]) - 1)])
        past_truth, past_dream = ends(dream, m, t)
        left = self.columns.left(column) + (self.columns.width - self.tile[0]) // 2
        for i, row in enumerate(self.rows):
            at = (left, top + i * (self.tile[1] + GAP))
            if row == "truth":
                self._tile(canvas, at, truth, LINE, past_truth)
            elif row == "error":
                error = ((model.astype(np.int16) - truth) // 2 + 128).clip(0, 255).astype(np.uint8)
                self._tile(canvas, at, error, LINE, past_dream)
            else:
                self._tile(canvas, at, model, phase(t, dream.context), past_dream)

    def _tile(self, canvas: Image.Image, at: tuple[int, int], picture: np.ndarray, frame: Color, over: str) -> None:
        tile = Image.fromarray(picture).resize(self.tile, Image.Resampling.NEAREST)
        if over:
            tile = Image.blend(tile, Image.new("RGB", self.tile, PAPER), 0.72)
        left, top = at
        right, bottom = left + self.tile[0], top + self.tile[1]
        ImageDraw.Draw(canvas).rectangle((left - 3, top - 3, right + 2, bottom + 2), fill=LINE if over else frame)
        canvas.paste(tile, at)
        words = over if font(12).getlength(over) <= self.tile[0] else ""
        text(canvas, ((left + right) / 2, (top + bottom) / 2), words, INK, 12, "mm")


def ends(dream: Dreams, sample: int, t: int) -> tuple[str, str]:
    """What to write over truth and model at moment `t` once there is nothing more to show; else empty."""
    truth = ("ended" if dream.has_truth else "unknown") if t >= dream.known[sample] else ""
    model = ("ended" if dream.has_truth else "dream over") if t >= dream.length[sample] else ""
    return truth, model
