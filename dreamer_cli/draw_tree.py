"""Branches as a tree: what was seen stands at the root, and every future grows from it to the right.

```
          ┌── LEFT  · return 3.1   ▢ ▢ ▢ ▢ ▢ ▢
   ▢ ─────┼── RIGHT · return 0.4   ▢ ▢ ▢ ▢ ▢ ▢      one moment each; the newest moves until the next begins
          └── noop  · return 1.0   ▢ ▢ ▢ ▢ ▢ ▢
```
"""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from dreamer_cli.charts import promise
from dreamer_cli.draw import HEAD, WIDEST, draw_head, first_actions
from dreamer_cli.dream import Dreams
from dreamer_cli.errors import UsageError
from dreamer_cli.panels import CONTEXT, DREAM, GAP, INK, LINE, MUTED, PAPER, Color, as_picture, brief, shorten, text
from dreamer_cli.requests import OVERLAYS
from dreamer_cli.spaces import EnvSpec

MOST = 8  # moments of a branch that stay
WORDS = 20  # pixels above a branch for what is written there
LINE_HEIGHT = 14  # of a number below a picture
BEND = 44  # pixels between root and branches


def frames(
    dream: Dreams, spec: EnvSpec, title: str, *, scale: int | None = None, overlay: Sequence[str] = OVERLAYS
) -> Iterator[np.ndarray]:
    """One picture a moment; arguments as of `draw.frames`.

    Raises:
        UsageError: nothing that is observed is a picture.
    """
    images = [key for key, obs in spec.observation.items() if obs.kind == "image" and key in dream.model]
    if not images:
        raise UsageError("A tree is made of pictures, and here there are none.", hint="--layout grid")
    tree = _Tree(dream, spec, images[0], scale, overlay)
    for t in range(dream.moments):
        yield tree.paint(title, t)


def last(
    dream: Dreams, spec: EnvSpec, title: str, *, scale: int | None = None, overlay: Sequence[str] = OVERLAYS
) -> np.ndarray:
    """The whole tree, as the film ends."""
    *_, picture = frames(dream, spec, title, scale=scale, overlay=overlay)
    return picture


class _Tree:
    """Where everything stands. Arguments as of `frames`; key: of the picture."""

    def __init__(self, dream: Dreams, spec: EnvSpec, key: str, scale: int | None, overlay: Sequence[str]) -> None:
        self.dream, self.key = dream, key
        self.overlay = [
            name for name in overlay if name != "action" and np.isfinite(getattr(dream, name)[:, dream.context :]).any()
        ]
        *_, rows, columns = dream.model[key].shape
        # The root is a moment of its own, even where nothing was seen.
        self.root, over = dream.border, max(dream.border + 1, int(dream.length.max()) - 1)
        ends = np.linspace(self.root, over, min(MOST, over - self.root) + 1)[1:]
        self.ends = sorted({round(end) for end in ends.tolist()})
        room = (WIDEST - BEND - 2 * GAP) // (MOST + 1) - GAP
        self.scale = scale or max(1, room // columns)
        self.tile = (columns * self.scale, rows * self.scale)
        first = first_actions(dream, spec)
        self.words = [
            f"{name} · {promise(name, start, total)}"
            for name, start, total in zip(dream.names, first, dream.returns, strict=True)
        ]
        self.branch = WORDS + self.tile[1] + LINE_HEIGHT * (1 + len(self.overlay)) + GAP
        height = HEAD + dream.samples * self.branch
        width = GAP + self.tile[0] + BEND + len(self.ends) * (self.tile[0] + GAP)
        self.size = (max(width, 560) + width % 2, height + height % 2)

    def paint(self, title: str, t: int) -> np.ndarray:
        """The picture of a moment."""
        canvas = Image.new("RGB", self.size, PAPER)
        draw_head(canvas, self.dream, title, t)
        draw = ImageDraw.Draw(canvas)
        middle = HEAD + (self.size[1] - HEAD) // 2
        root = (GAP, middle - self.tile[1] // 2)
        bend, left = GAP + self.tile[0] + BEND // 2, GAP + self.tile[0] + BEND
        grows = t > self.root
        for m, words in enumerate(self.words):
            top = HEAD + m * self.branch + WORDS
            beside = top + self.tile[1] // 2
            stem: Color = DREAM if grows else LINE
            draw.line([(root[0] + self.tile[0], middle), (bend, middle), (bend, beside), (left, beside)], stem, 2)
            text(canvas, (left, top - WORDS / 2 - 1), shorten(words, self.size[0] - left - GAP, 14), INK, 14)
            self._branch(canvas, m, (left, top), t)
        self._root(canvas, root, t)
        return np.asarray(canvas)

    def _root(self, canvas: Image.Image, at: tuple[int, int], t: int) -> None:
        """What was really seen; from the prior alone, the first guess."""
        dream, t = self.dream, min(t, self.root)
        shown = dream.truth if dream.context else dream.model
        self._paste(canvas, at, as_picture(shown[self.key][0, t]), CONTEXT if dream.context else DREAM)
        words = "seen" if dream.context else "guessed"
        text(canvas, (at[0] + self.tile[0] / 2, at[1] + self.tile[1] + 14), words, MUTED, 13, "mm")

    def _branch(self, canvas: Image.Image, m: int, at: tuple[int, int], t: int) -> None:
        begin, length = self.root, int(self.dream.length[m])
        for k, end in enumerate(self.ends):
            now = min(t, end)
            if now > begin and begin < length - 1:
                place = (at[0] + k * (self.tile[0] + GAP), at[1])
                now = min(now, length - 1)
                self._paste(canvas, place, as_picture(self.dream.model[self.key][m, now]), DREAM)
                if now == length - 1 < self.dream.moments - 1:
                    words = shorten("dream over", self.tile[0], 12)
                    text(canvas, (place[0] + self.tile[0] + GAP, place[1] + self.tile[1] / 2), words, MUTED, 12)
                numbers = {name: getattr(self.dream, name)[m, now] for name in self.overlay}
                lines = [f"{name} {brief(number)}" if np.isfinite(number) else "" for name, number in numbers.items()]
                for i, words in enumerate([f"+{now + 1 - self.dream.context}", *lines]):
                    below = place[1] + self.tile[1] + 10 + LINE_HEIGHT * i
                    text(canvas, (place[0], below), words, MUTED if i else DREAM, 12)
            begin = end

    def _paste(self, canvas: Image.Image, at: tuple[int, int], picture: np.ndarray, frame: Color) -> None:
        left, top = at
        box = (left - 3, top - 3, left + self.tile[0] + 2, top + self.tile[1] + 2)
        ImageDraw.Draw(canvas).rectangle(box, fill=frame)
        canvas.paste(Image.fromarray(picture).resize(self.tile, Image.Resampling.NEAREST), at)
