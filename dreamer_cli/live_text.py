"""Pieces of text that displays are put together from: bars, curves, columns, numbers of a steady width."""

import math
from collections.abc import Sequence

from rich.cells import set_cell_size
from rich.text import Text

from dreamer_cli.numbers import format_count, format_duration

ACCENT, GOOD, WARN = "cyan", "green", "yellow"
FAINT = "dim"  # not bright_black, which is invisible in some colour schemes

LABEL = 9  # columns of a row's name
FEWEST = 8  # values that a curve can be drawn through
HUGE = 1e150  # beyond it, sums and differences would overflow
BLOCKS = " ▁▂▃▄▅▆▇█"

# For terminals that cannot show the rest of Unicode: one character for one.
ASCII = str.maketrans("━─╸█▓▒░▚▞▖▗▁▂▃▄▅▆▇·±…●✓■", "=-=#%*.&$,;_.--==#-~~o+x")

Number = float | int  # for those who check types at run time: an int is no float there


def titled(label: str, value: Text) -> Text:
    """One row: its name, then what it has to say."""
    return Text.assemble((f"{label:<{LABEL}}", FAINT), value)


def titled_rows(label: str, lines: Sequence[Text]) -> list[Text]:
    """Several rows under one name."""
    return [titled(label if i == 0 else "", line) for i, line in enumerate(lines)]


def spread(left: Text, right: Text, width: int) -> Text:
    """One text at each end of the line; the left one gives way."""
    left = left.copy()
    left.truncate(max(0, width - right.cell_len - 2), overflow="ellipsis", pad=True)
    return Text.assemble(left, "  ", right)


def bar(share: Number, width: int, style: str) -> Text:
    """How much of something: a line, the filled part of it in a colour."""
    filled = max(0.0, min(1.0, share)) * width
    whole = int(filled)
    half = "╸" if filled - whole >= 0.5 else ""
    return Text.assemble(("━" * whole + half, style), ("─" * (width - whole - len(half)), FAINT))


def sparkline(points: Sequence[tuple[int, Number]], width: int, rows: int) -> list[str]:
    """A curve of block characters, top row first, `width` columns of equal length in steps.

    Each column is the mean of its values; one without any repeats its neighbour. The lowest column
    still shows a sliver, so that no data and the minimum look different.
    """
    finite = [(step, value) for step, value in points if abs(value) < HUGE]
    if width <= 0 or len(finite) < FEWEST:
        return [""] * rows
    sums, counts, last = [0.0] * width, [0] * width, max(1, finite[-1][0])
    for step, value in finite:
        column = min(width - 1, max(0, step * width // last))
        sums[column] += value
        counts[column] += 1
    means: list[float] = []
    for total, count in zip(sums, counts, strict=True):
        means.append(total / count if count else means[-1] if means else math.nan)
    known = [mean for mean in means if not math.isnan(mean)]
    low, high = min(known), max(known)
    levels = [
        0 if math.isnan(m) else 1 + round((m - low) / (high - low) * (8 * rows - 1)) if high > low else 4 * rows
        for m in means
    ]
    return ["".join(BLOCKS[max(0, min(8, level - 8 * row))] for level in levels) for row in reversed(range(rows))]


def number(value: Number | None, like: Number | None = None) -> str:
    """Four digits or so, at most 8 characters; as many decimals as `like`, a larger number beside it."""
    if value is None or not math.isfinite(value):
        return "none" if value is None else str(value)
    size = abs(value)
    if size >= 1e6 or 0 < size < 5e-5:
        return f"{value:.1e}"
    size = size if like is None else max(size, abs(like))
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.01 else 4
    return f"{value:,.{decimals if value else 0}f}"


def rate(value: Number | None) -> str:
    """So many per second."""
    return "…" if value is None else format_count(value)


def duration(seconds: Number) -> str:
    """Whole seconds, minutes, hours; never a fraction that flickers."""
    return format_duration(max(0, round(seconds)))


def to_ascii(line: Text) -> Text:
    """The same line, as wide as before, for terminals without Unicode."""
    line = line.copy()
    line.plain = line.plain.translate(ASCII).encode("ascii", "replace").decode()
    return line


def grid(cells: Sequence[tuple[str, Number | None]], columns: int, rows: int) -> list[Text]:
    """Names and values in aligned columns, filled row by row; what does not fit is left out."""
    if not cells:
        return [Text("no update yet", FAINT), *[Text()] * (rows - 1)]
    lines = []
    for row in range(rows):
        line = Text()
        for name, value in cells[row * columns : (row + 1) * columns]:
            line.append(set_cell_size(name[:7], 8), FAINT)
            line.append(f"{number(value):<8}")
        lines.append(line)
    return lines
