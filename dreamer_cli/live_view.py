"""What the live display looks like: a snapshot of the training in, lines of text out. No state, no terminal.

Two layouts: one column, and two where the terminal is wide enough. One too low for either gets the five
lines that matter. No boxes and no lines filled up to the right edge: those break when a window narrows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

from dreamer_cli.live_dream import SmallDream, dream_lines
from dreamer_cli.live_text import (
    ACCENT,
    FAINT,
    FEWEST,
    GOOD,
    LABEL,
    WARN,
    Number,
    bar,
    duration,
    grid,
    number,
    rate,
    sparkline,
    spread,
    titled,
    titled_rows,
    to_ascii,
)
from dreamer_cli.numbers import format_bytes, format_count

MARGIN = "  "
NARROWEST, WIDEST, TWO_COLUMNS, LOWEST = 40, 132, 112, 18
TALLEST = 17  # lines of a dream

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


@dataclass(frozen=True)
class Phase:
    """What is going on: its name, how far it is (total 0: unknown) and for how long."""

    name: str = "training"
    done: int = 0
    total: int = 0
    seconds: Number = 0.0


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one evaluation."""

    step: int
    mean: Number
    std: Number
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
        dream: the last one that was filmed.
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
    elapsed_s: Number = 0.0
    eta_s: Number | None = None
    steps_per_s: Number | None = None
    updates_per_s: Number | None = None
    returns: Sequence[tuple[int, Number]] = ()
    return_mean: Number | None = None
    return_best: Number | None = None
    length_mean: Number | None = None
    evaluation: Evaluation | None = None
    best_evaluation: Evaluation | None = None
    metrics: Mapping[str, Number | None] = field(default_factory=dict)
    shares: Mapping[str, Number] = field(default_factory=dict)
    saved: tuple[str, Number] | None = None
    phase: Phase = Phase()
    dream: SmallDream | None = None
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
    if now.dream is not None and color and unicode and height >= LOWEST and not now.status:
        pictures = dream_lines(now.dream, now.elapsed_s, min(TALLEST, height - 2 - len(body)), inner - LABEL)
        body[-1:] = [*titled_rows("dream", pictures), *([Text()] if pictures else []), body[-1]]
    lines = [Text.assemble(MARGIN, line) if line else line for line in body[: max(1, height - 1)]]
    for line in lines:
        line.truncate(width)
        line.rstrip()
    if not unicode:
        lines = [to_ascii(line) for line in lines]
    return lines


def _one_column(now: Snapshot, inner: int, color: bool) -> list[Text]:
    blank = Text()
    losses = grid(_losses(now.metrics), columns=max(1, (inner - LABEL) // 16), rows=2)
    return [
        blank,
        _title(now, inner),
        _progress(now, inner),
        blank,
        *_returns(now, inner),
        _evaluation(now),
        blank,
        *titled_rows("loss", losses),
        _speed(now, inner),
        *_shares(now, inner, color),
        titled("replay", _replay_words(now)),
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
        *titled_rows("loss", grid(_losses(now.metrics), columns=2, rows=4)),
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
    return [blank, _title(now, inner), _progress(now, inner), blank, *body, blank, _status(now, inner)]


def _title(now: Snapshot, inner: int) -> Text:
    left = Text.assemble((now.env, "bold"), "   ", (" · ".join(now.about), FAINT))
    return spread(left, Text(duration(now.elapsed_s), FAINT), inner)


def _progress(now: Snapshot, inner: int) -> Text:
    share = min(1.0, now.step / now.total) if now.total else 1.0
    # Rounded down: 100 % is said only when it is so.
    percent = Text(f"{math.floor(100 * share)}%".ljust(6), "bold")
    counts = f"{now.step:,} of {now.total:,}"
    left = f"{duration(now.eta_s)} left" if now.eta_s is not None and share < 1 and not now.status else ""
    # A width that does not change from frame to frame, so that the bar stands still.
    words = f"{counts:>{2 * len(f'{now.total:,}') + 4}}{left:>15}"
    room = inner - len(percent.plain) - len(words) - 2
    if room < 8:
        return Text.assemble(percent, f"{counts}   {left}".rstrip())
    return Text.assemble(percent, bar(share, room, GOOD if now.status and now.ok else ACCENT), "  ", words)


def _returns(now: Snapshot, inner: int) -> list[Text]:
    if now.return_mean is None:
        return [titled("return", Text("no episode has ended yet", FAINT)), titled("", Text())]
    best = Text.assemble(("best ", FAINT), number(now.return_best))
    mean = Text(f"{number(now.return_mean):<8}", "bold")
    room = inner - LABEL - 8 - 2 - 3 - 14
    spark = sparkline(now.returns, room, 1)[0]
    first = titled("return", Text.assemble(mean, "  ", (spark, GOOD), "   ", best))
    return [first, titled("", _episodes(now))]


def _chart(now: Snapshot, width: int, rows: int) -> list[Text]:
    """The return as a row of words, and its curve below, as wide as there is room."""
    if now.return_mean is None:
        return [*_returns(now, width)[:1], *[Text()] * rows]
    words = Text.assemble(
        (number(now.return_mean), "bold"), ("   best ", FAINT), number(now.return_best), "   ", _episodes(now)
    )
    values = [value for _, value in now.returns]
    if len(values) < FEWEST:
        return [titled("return", words), *[Text()] * rows]
    scale = [f"{max(values):.3g}", *[""] * (rows - 2), f"{min(values):.3g}"]
    curve = sparkline(now.returns, width - LABEL - 9, rows)
    drawn = [
        Text.assemble(" " * LABEL, (line, GOOD), " ", (label, FAINT)) for line, label in zip(curve, scale, strict=True)
    ]
    return [titled("return", words), *drawn]


def _episodes(now: Snapshot) -> Text:
    words = f"{now.episodes:,} episode" + ("s" if now.episodes != 1 else "")
    if now.length_mean is not None:
        words += f" of {now.length_mean:,.0f} steps"
    return Text(words, FAINT)


def _evaluation(now: Snapshot) -> Text:
    if now.evaluation is None:
        return titled("eval", Text("none yet", FAINT))
    last, best = now.evaluation, now.best_evaluation
    text = Text.assemble(
        (number(last.mean), "bold"),
        f" ± {number(last.std, like=last.mean)}",
        (f"   at {format_count(last.step)} steps", FAINT),
    )
    if best is not None and best.step != last.step:
        text.append_text(
            Text.assemble(("   best ", FAINT), number(best.mean), (f" at {format_count(best.step)}", FAINT))
        )
    return titled("eval", text)


def _losses(metrics: Mapping[str, Number | None]) -> list[tuple[str, Number | None]]:
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


def _speed(now: Snapshot, room: int = 0) -> Text:
    """Speeds and, if there is `room` in this line, memory."""
    line = titled(
        "speed",
        Text.assemble(
            f"{rate(now.steps_per_s):>5}", (" steps/s", FAINT), f"{rate(now.updates_per_s):>8}", (" updates/s", FAINT)
        ),
    )
    memory = Text.assemble(("   memory ", FAINT), _memory_words(now))
    fits = line.cell_len + memory.cell_len <= room and "memory/process_bytes" in now.metrics
    return Text.assemble(line, memory) if fits else line


def _shares(now: Snapshot, inner: int, color: bool, lines: int = 1) -> list[Text]:
    """Where the time goes: a bar divided up, and a legend beside it (or below it, with two lines)."""
    total = sum(now.shares.values())
    if total <= 0:
        return [titled("time", Text("not measured yet", FAINT)), *[Text()] * (lines - 1)]
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
        return [titled("time", bar), titled("", legend)]
    return [titled("time", Text.assemble(bar, "  ", legend))]


def _memory_rows(now: Snapshot) -> list[Text]:
    return [
        titled("replay", _replay_words(now)),
        titled("memory", _memory_words(now) or Text("not measured yet", FAINT)),
    ]


def _replay_words(now: Snapshot) -> Text:
    records, capacity = _known(now, "replay/records"), _known(now, "replay/capacity")
    if records is None:
        return Text("empty", FAINT)
    text = Text()
    if capacity:
        text.append_text(bar(records / capacity, 10, ACCENT))
        text.append(f" {format_count(records)} of {format_count(capacity)} records")
    else:
        text.append(f"{format_count(records)} records")
    size = _known(now, "replay/bytes")
    if size is not None:
        text.append(f"  {format_bytes(size)}", FAINT)
    return text


def _memory_words(now: Snapshot) -> Text:
    process, device = _known(now, "memory/process_bytes"), _known(now, "memory/device_bytes")
    text = Text(format_bytes(process)) if process is not None else Text()
    if device is not None:
        text.append_text(Text.assemble((", GPU ", FAINT), format_bytes(device)))
    return text


def _known(now: Snapshot, name: str) -> Number | None:
    """The latest value of a metric, if it has a finite one."""
    value = now.metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _saved(now: Snapshot, inner: int) -> Text:
    if now.saved is None:
        return titled("saved", Text("no checkpoint yet", FAINT))
    name, age_s = now.saved
    text = Text.assemble(name, (f"   {duration(age_s)} ago", FAINT) if not now.status else "")
    room = inner - LABEL - text.cell_len - 3
    # The whole path, or the run's name, which every command takes as well.
    path = next((p for p in (now.run_dir, now.run_dir.rstrip("/").rpartition("/")[2]) if cell_len(p) <= room), "")
    if path:
        text.append_text(Text.assemble("   ", (path, FAINT)))
    return titled("saved", text)


def _status(now: Snapshot, inner: int) -> Text:
    if now.status:
        mark = Text.assemble(("✓ " if now.ok else "■ ", GOOD if now.ok else WARN), now.status)
        return Text.assemble(mark, (f" after {duration(now.elapsed_s)}", FAINT))
    phase = now.phase
    words = Text.assemble(("● ", WARN if now.stopping else GOOD), phase.name)
    if phase.total:
        words.append_text(Text.assemble("  ", bar(phase.done / phase.total, 12, ACCENT)))
        words.append(f" {phase.done:,} of {phase.total:,}", FAINT)
    if phase.seconds >= 2 and phase.name != Phase.name:
        words.append(f"  {duration(phase.seconds)}", FAINT)
    if now.stopping:
        hint = Text(f"{now.stopping}: saving, then stopping · Ctrl-C again stops at once", WARN)
        if words.cell_len + 3 + hint.cell_len > inner:
            hint = Text(f"{now.stopping}: saving and stopping", WARN)
    else:
        hint = Text("Ctrl-C saves and stops", FAINT)
    return spread(words, hint, inner)
