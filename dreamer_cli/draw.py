"""A dream as pictures: a headline, then a stripe for everything that was observed, one column a sample.

Pictures do not depend on the clock, on fonts of the machine, or on anything but their arguments.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dreamer_cli.charts import Actions, ClassBars, Curves, Names, overlays, promise
from dreamer_cli.dream import Dreams
from dreamer_cli.panels import (
    CONTEXT,
    DREAM,
    GAP,
    INK,
    LABEL,
    LINE,
    MUTED,
    PAPER,
    ROWS,
    Columns,
    Panel,
    Pictures,
    brief,
    font,
    phase,
    shorten,
    text,
)
from dreamer_cli.requests import OVERLAYS
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.steering import decode

HEAD = 58
# Six columns of 64x64 pixels get scale 3; charts need less.
WIDEST, WIDEST_CHARTS, NARROWEST, TALLEST_PICTURES = 1320, 1080, 560, 640
COLUMN = (72, 360)  # pixels a column may be wide where no image says so
MOST_MOMENTS, MOST_CURVES = 10, 8


def frames(
    dream: Dreams,
    spec: EnvSpec,
    title: str,
    *,
    scale: int | None = None,
    overlay: Sequence[str] = OVERLAYS,
) -> Iterator[np.ndarray]:
    """One picture a moment, uint8 rows columns 3, all of one even size.

    Args:
        dream: what to show.
        spec: kinds of the observations and actions.
        title: stands at the top left.
        scale: screen pixels per pixel of an image; None fills about 1300 columns.
        overlay: what the model says of each moment, some of `OVERLAYS`, below its pictures.
    """
    columns, scale = fit(dream, scale)
    panels = build_panels(dream, spec, columns, scale, overlay)
    tops = np.cumsum([HEAD, *[panel.height for panel in panels]])
    legend = any(isinstance(panel, Curves) for panel in panels)
    size = (max(columns.right, NARROWEST), int(tops[-1]) + (24 if legend else 0))
    base = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), PAPER)
    for panel, top in zip(panels, tops, strict=False):
        panel.prepare(base, int(top))
    if legend:
        draw_legend(base, dream)
    for t in range(dream.moments):
        canvas = base.copy()
        draw_head(canvas, dream, title, t)
        for panel, top in zip(panels, tops, strict=False):
            panel.paint(canvas, int(top), t)
        yield np.asarray(canvas)


def strip(
    dream: Dreams,
    spec: EnvSpec,
    title: str,
    *,
    scale: int | None = None,
    overlay: Sequence[str] = OVERLAYS,
) -> np.ndarray:
    """One picture for paper: time runs to the right, every sample has its rows. Arguments as `frames`.

    Without images it is the last picture of the film, in which the curves are complete.
    """
    images = [key for key, obs in spec.observation.items() if obs.kind == "image" and key in dream.model]
    if not images:
        *_, last = frames(dream, spec, title, scale=scale, overlay=overlay)
        return last
    moments = choose_moments(dream.context, max(dream.context + 1, int(dream.length.max())))
    across = max(dream.model[key].shape[-1] for key in images)
    scale = scale or max(1, ((WIDEST - LABEL) // len(moments) - GAP) // across)
    columns = Columns(len(moments), across * scale)
    panels: list[Headline | Pictures | Numbers] = []
    for m in range(dream.samples):
        one = one_sample(dream, m)
        # Beyond the context nothing is known where there is no truth: what is seen before shows in what is dreamt.
        rows = None if dream.has_truth else ["dream"]
        panels += [Headline(one, spec)] if dream.names else []
        panels += [Pictures(key, one, columns, scale, rows) for key in images]
        panels += [Numbers(overlay, one, spec, columns)] if overlay else []
    tops = np.cumsum([HEAD + 8, *[panel.height + GAP for panel in panels]])
    canvas = Image.new("RGB", (max(columns.right, NARROWEST), int(tops[-1])), PAPER)
    text(canvas, (GAP, 20), shorten(title, canvas.width - 2 * GAP, 16), INK, 16)
    for k, t in enumerate(moments):
        name = f"t={t + 1}" if t < dream.context else f"+{t + 1 - dream.context}"
        text(canvas, (columns.left(k) + columns.width / 2, HEAD - 10), name, phase(t, dream.context), 14, "mm")
    for panel, top in zip(panels, tops, strict=False):
        panel.prepare(canvas, int(top))
        for k, t in enumerate(moments):
            panel.paint_sample(canvas, int(top), t, 0, k)
    return np.asarray(canvas)


def choose_moments(context: int, moments: int) -> list[int]:
    """Up to ten moments of a strip: first and last of the context, first and last of the dream, even steps between."""
    seen = sorted({0, context - 1}) if context else []
    dreamed = np.linspace(context, moments - 1, min(MOST_MOMENTS - len(seen), moments - context))
    return [*seen, *dreamed.round().astype(int).tolist()]


def one_sample(dream: Dreams, m: int) -> Dreams:
    """The dreams with sample `m` alone."""

    def pick(field: Any) -> Any:
        if isinstance(field, dict):
            return {key: value[m : m + 1] for key, value in field.items()}
        return field[m : m + 1] if isinstance(field, (np.ndarray, tuple)) else field

    return Dreams(*map(pick, dream))


def fit(dream: Dreams, scale: int | None) -> tuple[Columns, int]:
    """Column width and image scale that fill the width of the picture, or hold the scale asked for."""
    images = [shown.shape[-2:] for shown in dream.model.values() if shown.ndim == 5]
    room = ((WIDEST if images else WIDEST_CHARTS) - LABEL) // dream.samples - GAP
    width = int(np.clip(room, *COLUMN))
    if not images:
        return Columns(dream.samples, width), 1
    rows = len(ROWS[dream.has_truth, dream.context > 0])
    across, down = max(x for _, x in images), sum(y for y, _ in images) * rows
    if scale is None:
        scale = max(1, min(width // across, TALLEST_PICTURES // down))
    others = len(images) < len(dream.model) or dream.names
    return Columns(dream.samples, max(across * scale, min(width, 150) if others else 0)), scale


def build_panels(
    dream: Dreams, spec: EnvSpec, columns: Columns, scale: int, overlay: Sequence[str] = OVERLAYS
) -> list[Panel]:
    """A panel for every observation: pictures, then curves and class bars; then what is expected, and the actions."""
    kinds: Mapping[str, list[str]] = {
        kind: [key for key, obs in spec.observation.items() if obs.kind == kind and key in dream.model]
        for kind in ("image", "vector", "discrete")
    }
    panels: list[Panel] = [Names(first_actions(dream, spec), dream, columns)] if dream.names else []
    panels += [Pictures(key, dream, columns, scale) for key in kinds["image"]]
    moving = dream.truth if dream.has_truth else dream.model
    chosen = choose_dims({key: moving[key] for key in kinds["vector"]}, 4 if kinds["image"] else MOST_CURVES)
    height = 110 if sum(map(len, chosen.values())) <= 4 and not kinds["image"] else 64
    panels += [Curves(key, dims, dream, columns, height) for key, dims in chosen.items()]
    panels += [ClassBars(key, spec.observation[key], dream, columns) for key in kinds["discrete"]]
    panels += overlays([name for name in overlay if name != "action"], dream, columns)
    return [*panels, Actions(spec.action, dream, columns)] if "action" in overlay else panels


def first_actions(dream: Dreams, spec: EnvSpec) -> list[str]:
    """What each dream begins with, in words."""
    return [in_words(spec, action) for action in dream.action[:, dream.border]]


def in_words(spec: EnvSpec, action: np.ndarray) -> str:
    """An action A, short: the names of choices, and numbers with two digits."""
    return _short(decode(spec, action))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_short(part)}" for key, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_short, value))
    return f"{value:.2g}" if isinstance(value, float) else str(value)


class Headline:
    """Above a branch in a strip: its name, and what it promises."""

    height = 14

    def __init__(self, dream: Dreams, spec: EnvSpec) -> None:
        ((name, first, total),) = zip(dream.names, first_actions(dream, spec), dream.returns, strict=True)
        self.words = f"{name} · {promise(name, first, total)}"

    def prepare(self, canvas: Image.Image, top: int) -> None:
        """All of it."""
        text(canvas, (LABEL, top + 4), shorten(self.words, canvas.width - LABEL, 14), INK, 14)

    def paint_sample(self, canvas: Image.Image, top: int, t: int, m: int, column: int) -> None:
        """Nothing changes."""


class Numbers:
    """Below a sample's pictures in a strip: what the model expects of each moment that is shown."""

    line = 15

    def __init__(self, overlay: Sequence[str], dream: Dreams, spec: EnvSpec, columns: Columns) -> None:
        self.dream, self.spec, self.columns = dream, spec, columns
        self.rows = [name for name in overlay if name == "action" or np.isfinite(getattr(dream, name)).any()]
        self.height = self.line * len(self.rows) + GAP

    def prepare(self, canvas: Image.Image, top: int) -> None:
        """Their names."""
        for i, name in enumerate(self.rows):
            text(canvas, (LABEL - 14, top + (i + 0.5) * self.line), name, MUTED, 12, "rm")

    def paint_sample(self, canvas: Image.Image, top: int, t: int, m: int, column: int) -> None:
        """The numbers of one moment."""
        if t >= self.dream.length[m]:
            return
        for i, name in enumerate(self.rows):
            if name == "action":
                words = in_words(self.spec, self.dream.action[m, t]) if self.dream.action[m, t].any() else ""
            else:
                number = getattr(self.dream, name)[m, t]
                words = brief(number) if np.isfinite(number) else ""
            at = (self.columns.left(column) + self.columns.width / 2, top + (i + 0.5) * self.line)
            text(canvas, at, shorten(words, self.columns.width + GAP - 2, 12), phase(t, self.dream.context), 12, "mm")


def choose_dims(vectors: Mapping[str, np.ndarray], most: int) -> dict[str, list[int]]:
    """Which dimensions get a chart: all if there is room, else the first of each key in turn that move at all."""
    every = {key: list(range(value.shape[-1])) for key, value in vectors.items()}
    if sum(map(len, every.values())) <= most:
        return every
    moving = {key: [d for d in dims if np.ptp(vectors[key][..., d]) > 0] or dims[:1] for key, dims in every.items()}
    ranked = sorted((rank, i, key) for i, (key, dims) in enumerate(moving.items()) for rank in range(len(dims)))
    counts = {key: sum(k == key for _, _, k in ranked[:most]) for key in moving}
    return {key: dims[: counts[key]] for key, dims in moving.items() if counts[key]}


def draw_head(canvas: Image.Image, dream: Dreams, title: str, t: int) -> None:
    """Title, what moment this is, and a bar of all moments with the border between seen and dreamed."""
    draw, right, color = ImageDraw.Draw(canvas), canvas.width - GAP, phase(t, dream.context)
    seen = t < dream.context
    dreamed, horizon = t + 1 - dream.context, dream.moments - dream.context
    now = f"context {t + 1} of {dream.context}" if seen else f"dream +{dreamed} of {horizon}"
    wide = max(font(14).getlength(f"dream +{dream.moments} of {dream.moments}"), 120) + 20
    draw.rounded_rectangle((right - wide, 8, right, 32), radius=5, fill=color)
    text(canvas, (right - wide / 2, 20), now, (255, 255, 255), 14, "mm")
    text(canvas, (GAP, 20), shorten(title, right - wide - 2 * GAP, 16), INK, 16)
    step = (right - GAP) / dream.moments
    for k in range(dream.moments):
        shade = phase(k, dream.context) if k <= t else LINE
        draw.rectangle((GAP + k * step, 39, GAP + (k + 1) * step - (1 if step > 3 else 0), 43), fill=shade)


def draw_legend(canvas: Image.Image, dream: Dreams) -> None:
    """What the colours of the curves mean."""
    x, y = float(LABEL), canvas.height - 14
    draw = ImageDraw.Draw(canvas)
    for color, words in ((INK, "truth"), (CONTEXT, "model, seeing"), (DREAM, "model, dreaming")):
        draw.line((x, y, x + 22, y), fill=color, width=3)
        text(canvas, (x + 28, y), words, MUTED, 12)
        x += 28 + font(12).getlength(words) + 24
