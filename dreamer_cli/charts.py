"""Stripes of a dream's picture for numbers: curves, chances of classes, actions."""

from collections.abc import Sequence
from typing import SupportsFloat

import numpy as np
from PIL import Image, ImageDraw

from dreamer_cli.dream import Dreams
from dreamer_cli.panels import (
    CONTEXT,
    DREAM,
    GAP,
    INK,
    LABEL,
    LINE,
    MUTED,
    SHADE,
    Color,
    Columns,
    Pixels,
    brief,
    ends,
    font,
    phase,
    shorten,
    text,
)
from dreamer_cli.spaces import ActionPart, ObsSpec

CHART, OVERLAY = 84, 30  # pixels a chart is high
SMOOTH = 4  # curves are drawn this much larger and scaled down: Pillow's lines have stairs
LOW = 56  # pixels below which a chart has no room for its range
MOST_ENTRIES, MOST_PARTS = 4, 3


class Curves:
    """Dimensions of a vector over time, a chart each: drawn once, then uncovered moment by moment.

    Args:
        tells: the model's number of now stands in the chart, too.
    """

    def __init__(
        self, name: str, dims: list[int], dream: Dreams, columns: Columns, height: int = CHART, tells: bool = False
    ) -> None:
        self.name, self.dims, self.dream, self.columns, self.chart = name, dims, dream, columns, height
        self.tells = tells
        self.height = len(dims) * (height + GAP)
        self.size = (columns.width, height)
        self.bounds = [self._bounds(dim) for dim in dims]
        cells = [(m, i) for m in range(columns.number) for i in range(len(dims))]
        self.ahead = {cell: self._draw(*cell, done=False) for cell in cells}
        self.done = {cell: self._draw(*cell, done=True) for cell in cells}

    def prepare(self, canvas: Image.Image, top: int) -> None:
        """Names, and the range that each row of charts covers."""
        for i, dim in enumerate(self.dims):
            y = top + i * (self.chart + GAP)
            low, high = self.bounds[i]
            name = self.name if self.dream.model[self.name].shape[-1] == 1 else f"{self.name}[{dim}]"
            text(canvas, (LABEL - 14, y + self.chart / 2), shorten(name, LABEL - 20, 13), INK, 13, "rm")
            if self.chart < LOW:
                continue
            text(canvas, (LABEL - 8, y + 7), f"{high:.3g}", MUTED, 11, "rm")
            text(canvas, (LABEL - 8, y + self.chart - 7), f"{low:.3g}", MUTED, 11, "rm")

    def paint(self, canvas: Image.Image, top: int, t: int) -> None:
        """Everything up to now in full, what is still to come only as a shadow of the truth."""
        now = round(self._x(t))
        for (m, i), ahead in self.ahead.items():
            left, y = self.columns.left(m), top + i * (self.chart + GAP)
            canvas.paste(ahead, (left, y))
            canvas.paste(self.done[m, i].crop((0, 0, now + 1, self.chart)), (left, y))
            draw = ImageDraw.Draw(canvas)
            draw.line((left + now, y, left + now, y + self.chart - 1), fill=phase(t, self.dream.context))
            draw.rectangle((left - 1, y - 1, left + self.size[0], y + self.chart), outline=LINE)
            number = self.dream.model[self.name][m, t, self.dims[i]]
            if self.tells and t < self.dream.length[m] and np.isfinite(number):
                text(canvas, (left + 5, y + 9), brief(number), phase(t, self.dream.context), 12, halo=3)

    def _x(self, t: Pixels) -> float:
        return t / max(1, self.dream.moments - 1) * (self.size[0] - 1)

    def _bounds(self, dim: int) -> tuple[float, float]:
        """Room for all of the truth, and for a model that strays up to once its range; beyond, it is cut off."""
        dream = self.dream
        truth = np.concatenate([dream.truth[self.name][m, :k, dim] for m, k in enumerate(dream.known)])
        model = np.concatenate([dream.model[self.name][m, :n, dim] for m, n in enumerate(dream.length)])
        model = model[np.isfinite(model)]
        if not truth.size:  # nothing is known: the dream alone sets the range
            truth = model if model.size else np.zeros(1, np.float32)
        low, high = float(truth.min()), float(truth.max())
        room = max(high - low, 1e-3, 0.02 * abs(high))
        if not dream.has_truth:  # only a few moments are known, so the dream sets the range
            room = max(room, float(np.ptp(model)) if model.size else 0.0)
        if model.size:
            lowest, highest = float(model.min()), float(model.max())
            low, high = max(low - room, min(low, lowest)), min(high + room, max(high, highest))
        margin = 0.08 * max(high - low, 1e-3, 0.02 * abs(high))
        return low - margin, high + margin

    def _draw(self, m: int, i: int, done: bool) -> Image.Image:
        """One chart, as it looks at the end (`done`) or before it has begun."""
        dream, (width, height) = self.dream, self.size
        known, length, border = int(dream.known[m]), int(dream.length[m]), dream.border
        chart = Image.new("RGB", (width * SMOOTH, height * SMOOTH), (255, 255, 255))
        draw = ImageDraw.Draw(chart)
        if dream.context:
            draw.rectangle((0, 0, self._x(border + 0.5) * SMOOTH, height * SMOOTH), fill=(236, 243, 248))
        if length < dream.moments:
            draw.rectangle((self._x(length - 1) * SMOOTH, 0, width * SMOOTH, height * SMOOTH), fill=SHADE)
        truth, model = dream.truth[self.name][m, :, self.dims[i]], dream.model[self.name][m, :, self.dims[i]]
        self._line(draw, i, truth[:known], 0, INK if done else (205, 209, 213), 2.2)
        if done:
            self._line(draw, i, model[border:length], border, DREAM, 1.8)
            self._line(draw, i, model[: dream.context], 0, CONTEXT, 1.8)
        chart = chart.resize(self.size, Image.Resampling.BOX)
        if length < dream.moments and width - self._x(length) > font(11).getlength("ended") + 4:
            text(chart, (width - 4, height - 8), "ended", MUTED, 11, "rm")
        return chart

    def _line(
        self, draw: ImageDraw.ImageDraw, i: int, values: np.ndarray, start: int, fill: Color, wide: float
    ) -> None:
        low, high = self.bounds[i]
        seen = np.flatnonzero(~np.isnan(values))  # at the end there may be no number
        if not seen.size:
            return
        start, values = start + int(seen[0]), values[seen[0] : seen[-1] + 1]
        rows = (1 - (np.nan_to_num(values) - low) / (high - low)).clip(-0.5, 1.5) * (self.chart - 1)
        points = [(self._x(start + k) * SMOOTH, float(row) * SMOOTH) for k, row in enumerate(rows)]
        if len(points) == 1:
            points = [points[0], (points[0][0] + SMOOTH, points[0][1])]
        draw.line(points, fill=fill, width=round(wide * SMOOTH), joint="curve")


def overlays(names: Sequence[str], dream: Dreams, columns: Columns) -> list[Curves]:
    """What the model expects of each moment, a low chart each; what has no numbers is left out."""
    real = {"reward": dream.true_reward, "cont": dream.true_cont}
    panels = []
    for name in names:
        numbers: np.ndarray = getattr(dream, name)
        if np.isfinite(numbers).any():
            known = dream.known if name in real else np.zeros_like(dream.known)
            truth = real.get(name, numbers)
            alone = dream._replace(truth={name: truth[..., None]}, model={name: numbers[..., None]}, known=known)
            panels.append(Curves(name, [0], alone, columns, OVERLAY, tells=True))
    return panels


def promise(name: str, first: str, total: SupportsFloat) -> str:
    """What a branch begins with, unless its name says so, and the return that the model promises."""
    known = first.casefold() == name.casefold()
    return f"return {brief(total)}" if known else f"begins with {first} · return {brief(total)}"


class Names:
    """What each dream is called, what it begins with, and the rewards that it promises."""

    height = 34 + GAP

    def __init__(self, first: Sequence[str], dream: Dreams, columns: Columns) -> None:
        self.first, self.dream, self.columns = first, dream, columns

    def prepare(self, canvas: Image.Image, top: int) -> None:
        """All of it: nothing here changes."""
        for m, (name, first, total) in enumerate(zip(self.dream.names, self.first, self.dream.returns, strict=True)):
            left, width = self.columns.left(m), self.columns.width
            text(canvas, (left, top + 9), shorten(name, width, 14), INK, 14)
            text(canvas, (left, top + 26), shorten(promise(name, first, total), width, 12), MUTED, 12)

    def paint(self, canvas: Image.Image, top: int, t: int) -> None:
        """Nothing."""


class ClassBars:
    """Discrete entries: a bar for the chance of every class, the true one marked."""

    row = 46

    def __init__(self, name: str, spec: ObsSpec, dream: Dreams, columns: Columns) -> None:
        self.name, self.classes, self.dream, self.columns = name, spec.classes, dream, columns
        self.shown = min(len(spec.classes), MOST_ENTRIES)
        self.height = self.shown * (self.row + GAP)

    def prepare(self, canvas: Image.Image, top: int) -> None:
        """Names of the entries."""
        for i in range(self.shown):
            name = self.name if len(self.classes) == 1 else f"{self.name}[{i}]"
            y = top + i * (self.row + GAP) + self.row / 2
            text(canvas, (LABEL - 14, y), shorten(name, LABEL - 20, 13), INK, 13, "rm")
        if self.shown < len(self.classes):
            text(canvas, (LABEL - 14, y + 17), f"{self.shown} of {len(self.classes)}", MUTED, 11, "rm")

    def paint(self, canvas: Image.Image, top: int, t: int) -> None:
        """Bars stand on a line; the true class has a mark below it."""
        draw, dream = ImageDraw.Draw(canvas), self.dream
        for m in range(self.columns.number):
            past_truth, past_dream = ends(dream, m, t)
            left, start = self.columns.left(m), 0
            for i in range(self.shown):
                classes, floor = self.classes[i], top + i * (self.row + GAP) + self.row - 9
                chance = np.nan_to_num(dream.model[self.name][m, t, start : start + classes]).clip(0, 1)
                fill = LINE if past_dream else phase(t, dream.context)
                for k, p in enumerate(chance):
                    x0, x1 = left + k * self.columns.width / classes, left + (k + 1) * self.columns.width / classes
                    box = (x0, floor - p * (self.row - 12), max(x0, x1 - 2), floor)
                    draw.rectangle(box, fill=fill)
                    if k == dream.truth[self.name][m, t, i] and not past_truth:
                        draw.rectangle(((x0 + x1) / 2 - 3, floor + 4, (x0 + x1) / 2 + 3, floor + 8), fill=INK)
                draw.line((left, floor + 1, left + self.columns.width - 1, floor + 1), fill=LINE)
                start += classes


class Actions:
    """The action that answers the moment: a filled cell, or bars between -1 and 1."""

    row = 18

    def __init__(self, parts: tuple[ActionPart, ...], dream: Dreams, columns: Columns) -> None:
        self.dream, self.columns = dream, columns
        self.entries: list[tuple[str, int, ActionPart, int]] = []  # name, first column, part, columns
        start = 0
        for part in parts:
            label = "action" if part.key == "action" or len(parts) == 1 else part.key
            widths = part.classes or (part.size,)
            for i, width in enumerate(widths):
                self.entries.append((label if len(widths) == 1 else f"{label}[{i}]", start, part, width))
                start += width
        self.entries = self.entries[:MOST_PARTS]
        self.height = len(self.entries) * (self.row + GAP)

    def prepare(self, canvas: Image.Image, top: int) -> None:
        """Names of the parts."""
        for i, (label, *_) in enumerate(self.entries):
            y = top + i * (self.row + GAP) + self.row / 2
            text(canvas, (LABEL - 14, y), shorten(label, LABEL - 20, 13), INK, 13, "rm")

    def paint(self, canvas: Image.Image, top: int, t: int) -> None:
        """Real actions in ink; beyond them they are the dream's, and coloured so."""
        # The last record of the context is answered by the agent already.
        dreamed = not self.dream.has_truth and t >= self.dream.border
        for m in range(self.columns.number):
            over = bool(ends(self.dream, m, t)[1])
            fill = LINE if over else DREAM if dreamed else INK
            for i, (_, start, part, width) in enumerate(self.entries):
                at = (self.columns.left(m), top + i * (self.row + GAP))
                values = self.dream.action[m, t, start : start + width]
                if part.kind == "discrete":
                    chosen = int(values.argmax()) if values.any() and not over else None
                    self._cells(canvas, at, chosen, part.names, width, fill)
                else:
                    self._levels(canvas, at, values, fill)

    def _cells(
        self,
        canvas: Image.Image,
        at: tuple[int, int],
        chosen: int | None,
        names: tuple[str, ...],
        count: int,
        fill: Color,
    ) -> None:
        """A row of cells with the chosen one filled, and its name or number at the end."""
        draw, (left, top) = ImageDraw.Draw(canvas), at
        name = "" if chosen is None else names[chosen] if len(names) == count else str(chosen)
        room = 22 if len(names) != count else max(font(12).getlength(n) for n in names) + 8
        room = min(room, self.columns.width * 0.6)
        wide = min(self.row, (self.columns.width - room) / count)
        for k in range(count):
            box = (left + k * wide, top + 2, left + (k + 1) * wide - (2 if wide > 4 else 0), top + self.row - 2)
            draw.rectangle(box, fill=fill if k == chosen else (232, 234, 236))
        text(canvas, (left + count * wide + 5, top + self.row / 2), shorten(name, room, 12), fill, 12)

    def _levels(self, canvas: Image.Image, at: tuple[int, int], values: np.ndarray, fill: Color) -> None:
        """A bar a number, up for positive; raw values beyond [-1, 1] are clipped as the environment does."""
        draw, (left, top) = ImageDraw.Draw(canvas), at
        wide, half = min(24, self.columns.width / len(values)), self.row / 2
        for k, value in enumerate(np.nan_to_num(values).clip(-1, 1)):
            x0, x1 = left + k * wide, left + (k + 1) * wide - (3 if wide > 6 else 0)
            draw.rectangle((x0, top, x1, top + self.row), fill=(238, 239, 240))
            y0, y1 = sorted((top + half, top + half - value * half))
            draw.rectangle((x0, y0, x1, y1), fill=fill)
