"""What the live display looks like: a snapshot of the training in, lines of text out. No state, no terminal.

Two layouts: one column up to 99 columns, two columns from 100 on. A terminal too low for either gets the
five lines that matter. No boxes and no lines filled up to the right edge: those break when a window narrows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dreamer_cli.numbers import format_bytes, format_count, format_duration

MARGIN = "  "
LABEL = 9  # columns of a row's name
FEWEST = 8  # returns that a curve can be drawn through
NARROWEST, WIDEST, TWO_COLUMNS, LOWEST = 40, 132, 100, 18

ACCENT, GOOD, WARN, BAD, FAINT = "cyan", "green", "yellow", "red", "bright_black"
BLOCKS = " ▁▂▃▄▅▆▇█"

# Sections of the share bar in the order drawn, each with its colour and, without colour, its glyph.
SHARES = {
    "update": (ACCENT, "█"),
    "env": ("green", "▓"),
    "policy": ("magenta", "▒"),
    "replay": ("blue", "▚"),
    "eval": ("yellow", "▞"),
    "dream": ("bright_magenta", "▖"),
    "save": ("red", "▗"),
    "other": (FAINT, "░"),
}

# For terminals that cannot show the rest of Unicode: one character for one.
ASCII = str.maketrans("━─╸█▓▒░▚▞▖▗▁▂▃▄▅▆▇·±…●✓✗", "=-=#%*.&$,;_.--==#-~~o+x")


@dataclass(frozen=True)
class Phase:
    """What is going on: its name, how far it is (total 0: unknown) and for how long."""

    name: str = "training"
    done: int = 0
    total: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one evaluation."""

    step: int
    mean: float
    std: float
    episodes: int


@dataclass(frozen=True)
class Snapshot:
    """Everything that is shown, at one moment.

    Attributes:
        about: words after the environment's id: presets, size, device.
        step, total: environment steps done and to do.
        eta_s: seconds until the end, or None while it cannot be known.
        returns: (step, return) of the episodes so far, in order; may be thinned out.
        return_mean: of the last 10 episodes; `return_best`: the best episode.
        metrics: the latest value of each metric.
        shares: seconds by section, recently.
        saved: the last checkpoint's name and its age in seconds.
        stopping: who asked to stop, if anyone did.
        status: empty while running, then how it ended; `ok` says whether that is good.
    """

    env: str
    about: Sequence[str] = ()
    run_dir: str = ""
    step: int = 0
    total: int = 1
    updates: int = 0
    episodes: int = 0
    elapsed_s: float = 0.0
    eta_s: float | None = None
    steps_per_s: float | None = None
    updates_per_s: float | None = None
    returns: Sequence[tuple[int, float]] = ()
    return_mean: float | None = None
    return_best: float | None = None
    length_mean: float | None = None
    evaluation: Evaluation | None = None
    best_evaluation: Evaluation | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    saved: tuple[str, float] | None = None
    phase: Phase = Phase()
    stopping: str = ""
    status: str = ""
    ok: bool = True


def frame(now: Snapshot, width: int, height: int, color: bool = True, unicode: bool = True) -> list[Text]:
    """The display's lines, none wider than `width`, at most `height` - 1 of them."""
    # The last column stays free: some terminals wrap as soon as it is written to.
    width = max(NARROWEST, min(width - 1, WIDEST))
    inner = width - 2 * len(MARGIN)
    if height < LOWEST:
        body = [_title(now, inner), _progress(now, inner), *_returns(now, inner)[:1], _speed(now), _status(now, inner)]
    elif width + 1 >= TWO_COLUMNS:
        body = _two_columns(now, inner, color)
    else:
        body = _one_column(now, inner, color)
    lines = [Text.assemble(MARGIN, line) if line else line for line in body[: max(1, height - 1)]]
    for line in lines:
        line.truncate(width)
        line.rstrip()
    if not unicode:
        lines = [_ascii(line) for line in lines]
    return lines


def _one_column(now: Snapshot, inner: int, color: bool) -> list[Text]:
    blank = Text()
    losses = _grid(_losses(now.metrics), columns=max(1, (inner - LABEL) // 16), rows=2)
    return [
        _title(now, inner),
        blank,
        _progress(now, inner),
        blank,
        *_returns(now, inner),
        _evaluation(now),
        blank,
        *_labelled("loss", losses),
        _speed(now, memory=True),
        *_shares(now, inner, color),
        _row("replay", _replay_words(now)),
        _saved(now, inner),
        blank,
        _status(now, inner),
    ]


def _two_columns(now: Snapshot, inner: int, color: bool) -> list[Text]:
    blank = Text()
    gap, right_width = 5, 48
    left_width = inner - gap - right_width
    left = [*_chart(now, left_width, rows=5), blank, _evaluation(now), _saved(now, left_width)]
    right = [
        *_labelled("loss", _grid(_losses(now.metrics), columns=2, rows=4)),
        blank,
        _speed(now),
        *_shares(now, right_width, color, lines=2),
        *_memory_rows(now),
    ]
    rows = max(len(left), len(right))
    body = []
    for a, b in zip(left + [blank] * (rows - len(left)), right + [blank] * (rows - len(right)), strict=True):
        a = a.copy()
        a.truncate(left_width, pad=True)
        body.append(Text.assemble(a, " " * gap, b))
    return [_title(now, inner), blank, _progress(now, inner), blank, *body, blank, _status(now, inner)]


def _title(now: Snapshot, inner: int) -> Text:
    left = Text.assemble((now.env, "bold"), "   ", (" · ".join(now.about), FAINT))
    return _spread(left, Text(_duration(now.elapsed_s), FAINT), inner)


def _progress(now: Snapshot, inner: int) -> Text:
    share = min(1.0, now.step / now.total) if now.total else 1.0
    # Rounded down: 100 % is said only when it is so.
    percent = Text(f"{math.floor(100 * share)}%".ljust(6), "bold")
    counts = f"{now.step:,} of {now.total:,}"
    left = f"{_duration(now.eta_s)} left" if now.eta_s is not None and share < 1 and not now.status else ""
    # A width that does not change from frame to frame, so that the bar stands still.
    words = f"{counts:>{2 * len(f'{now.total:,}') + 4}}{left:>15}"
    room = inner - len(percent.plain) - len(words) - 2
    if room < 8:
        return Text.assemble(percent, f"{counts}   {left}".rstrip())
    return Text.assemble(percent, _bar(share, room, GOOD if now.status and now.ok else ACCENT), "  ", words)


def _returns(now: Snapshot, inner: int) -> list[Text]:
    if now.return_mean is None:
        return [_row("return", Text("no episode has ended yet", FAINT)), _row("", Text())]
    best = Text.assemble(("best ", FAINT), _number(now.return_best))
    mean = Text(f"{_number(now.return_mean):<8}", "bold")
    room = inner - LABEL - 8 - 2 - 3 - 14
    spark = sparkline(now.returns, room, 1)[0]
    first = _row("return", Text.assemble(mean, "  ", (spark, GOOD), "   ", best))
    return [first, _row("", _episodes(now))]


def _chart(now: Snapshot, width: int, rows: int) -> list[Text]:
    """The return as a row of words, and its curve below, as wide as there is room."""
    if now.return_mean is None:
        return [*_returns(now, width)[:1], *[Text()] * rows]
    words = Text.assemble(
        (_number(now.return_mean), "bold"), ("   best ", FAINT), _number(now.return_best), "   ", _episodes(now)
    )
    values = [value for _, value in now.returns]
    if len(values) < FEWEST:
        return [_row("return", words), *[Text()] * rows]
    scale = [f"{max(values):.3g}", *[""] * (rows - 2), f"{min(values):.3g}"]
    curve = sparkline(now.returns, width - LABEL - 9, rows)
    drawn = [
        Text.assemble(" " * LABEL, (line, GOOD), " ", (label, FAINT)) for line, label in zip(curve, scale, strict=True)
    ]
    return [_row("return", words), *drawn]


def _episodes(now: Snapshot) -> Text:
    words = f"{now.episodes:,} episode" + ("s" if now.episodes != 1 else "")
    if now.length_mean is not None:
        words += f", {now.length_mean:,.0f} steps long"
    return Text(words, FAINT)


def _evaluation(now: Snapshot) -> Text:
    if now.evaluation is None:
        return _row("eval", Text("none yet", FAINT))
    last, best = now.evaluation, now.best_evaluation
    text = Text.assemble(
        (_number(last.mean), "bold"),
        f" ± {_number(last.std, like=last.mean)}",
        (f"   at {format_count(last.step)} steps", FAINT),
    )
    if best is not None and best.step != last.step:
        text.append_text(
            Text.assemble(("   best ", FAINT), _number(best.mean), (f" at {format_count(best.step)}", FAINT))
        )
    return _row("eval", text)


def _losses(metrics: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    """Names and values in the order of interest; `rep` is left out, because it has the value of `dyn`."""
    known = ["total", "dyn", "rep", "reward", "cont", "actor", "critic", "replay_critic"]
    keys = sorted(
        name.removeprefix("loss/") for name in metrics if name.startswith("loss/") and name[len("loss/") :] not in known
    )
    order = ["total", *keys[:2], "dyn", "reward", "cont", "actor", "critic"]
    losses = [(name, metrics[f"loss/{name}"]) for name in order if f"loss/{name}" in metrics]
    if "entropy/actor" in metrics:
        losses.append(("entropy", metrics["entropy/actor"]))
    return losses


def _grid(cells: Sequence[tuple[str, float | None]], columns: int, rows: int) -> list[Text]:
    """Names and values in aligned columns, filled row by row; what does not fit is left out."""
    if not cells:
        return [Text("no update yet", FAINT), *[Text()] * (rows - 1)]
    lines = []
    for row in range(rows):
        line = Text()
        for name, value in cells[row * columns : (row + 1) * columns]:
            line.append(set_cell_size(name[:7], 8), FAINT)
            line.append(f"{_number(value):<8}")
        lines.append(line)
    return lines


def _speed(now: Snapshot, memory: bool = False) -> Text:
    text = Text.assemble(
        f"{_rate(now.steps_per_s):>5}", (" steps/s", FAINT), f"{_rate(now.updates_per_s):>8}", (" updates/s", FAINT)
    )
    if memory and (words := _memory_words(now)):
        text.append_text(Text.assemble(("   memory ", FAINT), words))
    return _row("speed", text)


def _shares(now: Snapshot, inner: int, color: bool, lines: int = 1) -> list[Text]:
    """Where the time goes: a bar divided up, and a legend beside it (or below it, with two lines)."""
    total = sum(now.shares.values())
    if total <= 0:
        return [_row("time", Text("not measured yet", FAINT)), *[Text()] * (lines - 1)]
    parts = {name: now.shares[name] / total for name in SHARES if now.shares.get(name, 0.0) / total >= 0.005}
    room = inner - LABEL if lines > 1 else max(10, inner - LABEL - 48)
    legend = Text()
    for name, share in sorted(parts.items(), key=lambda part: -part[1]):
        style, glyph = SHARES[name]
        word = Text.assemble((f"{'━' if color else glyph} ", style), (f"{name} ", FAINT), f"{round(100 * share)}%")
        gap = "  " if legend else ""
        if cell_len(legend.plain + gap + word.plain) > (room if lines > 1 else 46):
            break
        legend.append_text(Text.assemble(gap, word))
    bar, drawn, end = Text(), 0, 0.0
    for name, share in parts.items():
        style, glyph = SHARES[name]
        end += share
        cells = round(end * room) - drawn
        bar.append(("━" if color else glyph) * cells, style)
        drawn += cells
    if lines > 1:
        return [_row("time", bar), _row("", legend)]
    return [_row("time", Text.assemble(bar, "  ", legend))]


def _memory_rows(now: Snapshot) -> list[Text]:
    return [
        _row("replay", _replay_words(now)),
        _row("memory", _memory_words(now) or Text("not measured yet", FAINT)),
    ]


def _replay_words(now: Snapshot) -> Text:
    records, capacity = now.metrics.get("replay/records"), now.metrics.get("replay/capacity")
    if records is None:
        return Text("empty", FAINT)
    text = Text()
    if capacity:
        text.append_text(_bar(records / capacity, 10, ACCENT))
        text.append(f" {format_count(records)} of {format_count(capacity)} records")
    else:
        text.append(f"{format_count(records)} records")
    size = now.metrics.get("replay/bytes")
    if size is not None:
        text.append(f"  {format_bytes(size)}", FAINT)
    return text


def _memory_words(now: Snapshot) -> Text:
    process, device = now.metrics.get("memory/process_bytes"), now.metrics.get("memory/device_bytes")
    text = Text(format_bytes(process)) if process is not None else Text()
    if device is not None:
        text.append_text(Text.assemble((", GPU ", FAINT), format_bytes(device)))
    return text


def _saved(now: Snapshot, inner: int) -> Text:
    if now.saved is None:
        return _row("saved", Text("no checkpoint yet", FAINT))
    name, age_s = now.saved
    text = Text.assemble(name, (f"   {_duration(age_s)} ago", FAINT) if not now.status else "")
    room = inner - LABEL - cell_len(text.plain) - 3
    # The whole path, or the run's name, which every command takes as well.
    path = next((p for p in (now.run_dir, now.run_dir.rstrip("/").rpartition("/")[2]) if cell_len(p) <= room), "")
    if path:
        text.append_text(Text.assemble("   ", (path, FAINT)))
    return _row("saved", text)


def _status(now: Snapshot, inner: int) -> Text:
    if now.status:
        mark = Text.assemble(("✓ " if now.ok else "✗ ", GOOD if now.ok else WARN), now.status)
        return Text.assemble(mark, (f" after {_duration(now.elapsed_s)}", FAINT))
    phase = now.phase
    words = Text.assemble(("● ", WARN if now.stopping else GOOD), phase.name)
    if phase.total:
        words.append_text(Text.assemble("  ", _bar(phase.done / phase.total, 12, ACCENT)))
        words.append(f" {phase.done:,} of {phase.total:,}", FAINT)
    if phase.seconds >= 2 and phase.name != Phase.name:
        words.append(f"  {_duration(phase.seconds)}", FAINT)
    if now.stopping:
        hint = Text(f"{now.stopping}: saving, then stopping · Ctrl-C again stops at once", WARN)
        if cell_len(words.plain) + 3 + cell_len(hint.plain) > inner:
            hint = Text(f"{now.stopping}: saving and stopping", WARN)
    else:
        hint = Text("Ctrl-C saves and stops", FAINT)
    return _spread(words, hint, inner)


def _row(label: str, value: Text) -> Text:
    return Text.assemble((f"{label:<{LABEL}}", FAINT), value)


def _labelled(label: str, lines: Sequence[Text]) -> list[Text]:
    return [_row(label if i == 0 else "", line) for i, line in enumerate(lines)]


def _spread(left: Text, right: Text, width: int) -> Text:
    """One text at each end of the line; the left one gives way."""
    left = left.copy()
    left.truncate(max(0, width - cell_len(right.plain) - 2), overflow="ellipsis", pad=True)
    return Text.assemble(left, "  ", right)


def _bar(share: float, width: int, style: str) -> Text:
    filled = max(0.0, min(1.0, share)) * width
    whole = int(filled)
    half = "╸" if filled - whole >= 0.5 else ""
    return Text.assemble(("━" * whole + half, style), ("─" * (width - whole - len(half)), FAINT))


def sparkline(points: Sequence[tuple[int, float]], width: int, rows: int) -> list[str]:
    """A curve of block characters, top row first, `width` columns of equal length in steps.

    Each column is the mean of its values; one without any repeats its neighbour. The lowest column
    still shows a sliver, so that no data and the minimum look different.
    """
    finite = [(step, value) for step, value in points if math.isfinite(value)]
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


def _number(value: float | None, like: float | None = None) -> str:
    """Four digits or so, at most 8 characters; as many decimals as `like`, a larger number beside it."""
    if value is None or not math.isfinite(value):
        return "none" if value is None else str(value)
    size = abs(value)
    if size >= 1e6 or 0 < size < 5e-5:
        return f"{value:.1e}"
    size = size if like is None else max(size, abs(like))
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.01 else 4
    return f"{value:,.{decimals if value else 0}f}"


def _rate(value: float | None) -> str:
    return "…" if value is None else format_count(value)


def _duration(seconds: float) -> str:
    return format_duration(max(0, round(seconds)))


def _ascii(line: Text) -> Text:
    line = line.copy()
    line.plain = line.plain.translate(ASCII).encode("ascii", "replace").decode()
    return line
