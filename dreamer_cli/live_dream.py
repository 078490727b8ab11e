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
    if rows < 4:
        return []
    small = [fitted(shown[t], (width - 3) // 2, 2 * (rows - 1)) for shown in (dream.truth, dream.model)]
    lines = [Text.assemble(left, "   ", right) for left, right in zip(*map(half_blocks, small), strict=True)]
    now = f"seeing {t + 1}" if t < dream.context else f"dreaming +{t + 1 - dream.context}"
    words = Text.assemble((f"{'truth':<{small[0].shape[1] + 3}}", FAINT), (f"model, {now}", FAINT))
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


def fitted(picture: np.ndarray, wide: int, tall: int) -> np.ndarray:
    """uint8 (Y, X, 3), as large as `wide` columns and `tall` rows allow, of an even number of rows.

    Enlarged by whole numbers only, so that pixels stay sharp.
    """
    rows, columns, _ = picture.shape
    share = min(wide / columns, tall / rows)
    if share >= 1:
        return np.kron(picture, np.ones((int(share), int(share), 1), np.uint8))[: rows * int(share) // 2 * 2]
    return resized(picture, (max(1, int(columns * share)), max(2, int(rows * share) // 2 * 2)))


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (Y, X, 3) in another size (X, Y), by area."""
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
