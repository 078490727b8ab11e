"""A dream in a terminal: half blocks, two pixels a character, the truth beside the model."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text

from dreamer_cli.live_text import FAINT

FRAMES_PER_S = 4  # the display is drawn so often
UPPER_HALF = "▀"


class SmallDream(NamedTuple):
    """Pictures of one dream: truth and model, T Y X 3 uint8; context: how many of them the model saw."""

    truth: np.ndarray
    model: np.ndarray
    context: int


def dream_lines(dream: SmallDream, seconds: float, rows: int, width: int) -> list[Text]:
    """Truth and model at a moment of the loop, and which it is; at most `rows` lines, none wider than `width`.

    Empty where there is no room.
    """
    t = int(seconds * FRAMES_PER_S) % len(dream.truth)
    _, tall, wide, _ = dream.truth.shape
    share = min(1.0, 2 * (rows - 1) / tall, (width - 3) / 2 / wide)
    size = max(2, round(wide * share)), max(2, round(tall * share) // 2 * 2)
    if rows < 4:
        return []
    pictures = [half_blocks(resized(shown[t], size)) for shown in (dream.truth, dream.model)]
    lines = [Text.assemble(left, "   ", right) for left, right in zip(*pictures, strict=True)]
    now = f"seeing {t + 1}" if t < dream.context else f"dreaming +{t + 1 - dream.context}"
    words = Text.assemble((f"{'truth':<{size[0] + 3}}", FAINT), (f"model, {now}", FAINT))
    words.truncate(width)
    return [*lines, words]


def half_blocks(picture: np.ndarray) -> list[Text]:
    """uint8 (rows, columns, 3), of an even number of rows, as lines of text."""
    lines = []
    for upper, lower in zip(picture[::2].tolist(), picture[1::2].tolist(), strict=True):
        line = Text()
        for above, below in zip(upper, lower, strict=True):
            line.append(UPPER_HALF, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        lines.append(line)
    return lines


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (Y, X, 3) in another size (X, Y), by area."""
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
