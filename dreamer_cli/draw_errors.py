"""Errors of a dream over its horizon as a picture: a chart for each measure, beside guesses that know no dynamics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dreamer_cli.panels import CONTEXT, DREAM, INK, LINE, MUTED, PAPER, Color, font, shorten, text

CHART, ACROSS = (360, 190), 3
LEFT, TOP, BELOW, HEAD, FOOT = 64, 30, 34, 44, 34
SMOOTH = 4  # as in charts.py
LINES: dict[str, tuple[str, Color]] = {
    "": ("model", DREAM),
    "/repeat": ("repeat the last frame", CONTEXT),
    "/mean": ("the mean frame", INK),
}


def plot(rows: Sequence[dict[str, Any]], title: str) -> np.ndarray:
    """uint8 (rows, columns, 3), of what `dream_error.measure` found."""
    names = [name for name in (rows[0] if rows else {}) if name not in ("step", "samples")]
    measures = [name for name in names if not name.endswith(tuple(filter(None, LINES)))]
    across = max(1, min(ACROSS, len(measures)))
    down = -(-len(measures) // across)
    cell = (LEFT + CHART[0] + 16, TOP + CHART[1] + BELOW)
    canvas = Image.new("RGB", (across * cell[0], HEAD + down * cell[1] + FOOT), PAPER)
    text(canvas, (16, HEAD / 2), shorten(title, canvas.width - 32, 16), INK, 16)
    for i, name in enumerate(measures):
        at = (i % across * cell[0] + LEFT, HEAD + i // across * cell[1] + TOP)
        _chart(canvas, at, name, rows)
    x = 16.0
    for suffix, (words, color) in LINES.items():
        if suffix and not any(name.endswith(suffix) for name in names):
            continue
        ImageDraw.Draw(canvas).line((x, canvas.height - 18, x + 24, canvas.height - 18), fill=color, width=3)
        text(canvas, (x + 30, canvas.height - 18), words, MUTED, 13)
        x += 30 + font(13).getlength(words) + 28
    return np.asarray(canvas)


def _chart(canvas: Image.Image, at: tuple[int, int], name: str, rows: Sequence[dict[str, Any]]) -> None:
    (left, top), (wide, tall) = at, CHART
    curves = {
        color: np.array([np.nan if row[name + suffix] is None else row[name + suffix] for row in rows], np.float64)
        for suffix, (_, color) in LINES.items()
        if name + suffix in rows[0]
    }
    found = np.concatenate(list(curves.values()))
    found = found[np.isfinite(found)]
    low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    if name.endswith("accuracy"):
        low, high = 0.0, 1.0
    elif 0 <= low < 0.5 * high:
        low = 0.0
    room = 0.05 * max(high - low, 1e-6)
    low, high = low - room, high + room
    chart = Image.new("RGB", (wide * SMOOTH, tall * SMOOTH), (255, 255, 255))
    draw = ImageDraw.Draw(chart)
    for color, values in reversed(curves.items()):  # the model above the others
        points = [
            (k / max(1, len(rows) - 1) * (wide - 1) * SMOOTH, (high - value) / (high - low) * (tall - 1) * SMOOTH)
            for k, value in enumerate(values.tolist())
            if np.isfinite(value)
        ]
        points += [(x + SMOOTH * 3, y) for x, y in points[:1] if len(points) == 1]
        if points:
            draw.line(points, fill=color, width=2 * SMOOTH, joint="curve")
    canvas.paste(chart.resize(CHART, Image.Resampling.BOX), at)
    ImageDraw.Draw(canvas).rectangle((left - 1, top - 1, left + wide, top + tall), outline=LINE)
    text(canvas, (left, top - 13), name, INK, 14)
    for value, y in ((high - room, top + 7), (low + room, top + tall - 7)):
        text(canvas, (left - 6, y), f"{value:.3g}", MUTED, 12, "rm")
    text(canvas, (left, top + tall + 12), "1", MUTED, 12, "mm")
    text(canvas, (left + wide - 4, top + tall + 12), str(rows[-1]["step"]), MUTED, 12, "rm")
    text(canvas, (left + wide / 2, top + tall + 12), "steps into the dream", MUTED, 12, "mm")
