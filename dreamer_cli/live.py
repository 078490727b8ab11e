"""What `train` shows while it runs: a live display on a terminal, plain `time key=value ...` lines elsewhere.

Training only hands over numbers, which costs microseconds; a thread draws them at most four times a
second, so that a long compilation or a hung environment still shows a running clock.
"""

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.text import Text

from dreamer_cli.errors import DreamerError
from dreamer_cli.live_dream import SmallDream
from dreamer_cli.live_text import Number
from dreamer_cli.live_view import SHARES, Evaluation, Phase, Snapshot, frame
from dreamer_cli.numbers import format_duration
from dreamer_cli.report import LINE_FRACTION, LINE_SECONDS, Reporter, is_terminal, printable, show_number
from dreamer_cli.stop import StopSignal

DRAW_SECONDS = 0.25
DRAW_SHARE = 0.02  # of one core at most: a slow terminal is drawn less often
MAX_POINTS = 4096  # returns kept for the curve; beyond, neighbours are merged
SPEED_SECONDS = 20.0

# Held while the thread draws. A worker forked in that moment would inherit the console's locks, locked.
_drawing = threading.Lock()


def _after_fork_in_child() -> None:
    """In a forked worker nobody draws: its prints go where the parent's streams go, not through the display."""
    _drawing.release()
    for name in ("stdout", "stderr"):
        setattr(sys, name, getattr(getattr(sys, name), "rich_proxied_file", getattr(sys, name)))


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_drawing.acquire, after_in_parent=_drawing.release, after_in_child=_after_fork_in_child)


class TrainDisplay:
    """Shows a training from beginning to end; use it as a context manager.

    Args:
        reporter: owns the console and knows `--quiet`.
        env, about: the environment's id; words beside it (presets, size, device).
        run_dir: shown beside the last checkpoint.
        total: environment steps to reach; `start`: those done before (a continued run).
        returns: (step, return) of the episodes before `start`, for the curve.
        stop: asked whether a stop is under way.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        reporter: Reporter,
        env: str,
        total: int,
        about: Sequence[str] = (),
        run_dir: Path | str = "",
        start: int = 0,
        returns: Sequence[tuple[int, Number]] = (),
        stop: StopSignal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reporter, self._stop, self._clock = reporter, stop, clock
        self._lock = threading.Lock()
        self._started = self._said_at = self._phase_at = self._phase_said_at = clock()
        self._said_step = self._step = start
        self._updates = self._episodes = 0
        self._saved: tuple[str, float] | None = None
        self._announced: set[str] = set()
        self._phase_said = 0
        self._returns = list(returns)
        self._recent: deque[Number] = deque((r for _, r in self._returns[-10:]), maxlen=10)
        self._lengths: deque[int] = deque(maxlen=10)
        self._pace = _Pace(self._started, start)
        self._now = Snapshot(
            env=printable(env),
            about=[printable(word) for word in about],
            run_dir=printable(str(run_dir)),
            total=total,
            return_best=max((r for _, r in self._returns), default=None),
        )
        console = reporter.console
        self.live = is_terminal(console.file) and console.is_interactive and not reporter.quiet
        self._canvas: Live | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def __enter__(self) -> "TrainDisplay":
        if self.live:
            # Our own thread, not Rich's: it must not draw while a worker is being forked.
            self._canvas = Live(
                console=self._reporter.console, auto_refresh=False, get_renderable=self._frame, vertical_overflow="crop"
            )
            self._canvas.start(refresh=True)
            self._reporter.stage = lambda name, done, total: self.phase(name or Phase.name, done, total)
            self._thread = threading.Thread(target=self._draw_on, name="display", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            done = self._step >= self._now.total
            asked = self._stop.requested if self._stop is not None else None
            self.close("finished" if done else asked or "stopped", ok=done)
        elif isinstance(error, KeyboardInterrupt):
            self.close("interrupted", ok=False)
        else:
            self.close(error.name if isinstance(error, DreamerError) else "failed", ok=False)

    def update(
        self,
        step: int,
        updates: int = 0,
        episodes: int = 0,
        metrics: Mapping[str, Number | None] | None = None,
    ) -> None:
        """Tell where training stands; once a round. `metrics`: the record, if one was just written."""
        now = self._clock()
        with self._lock:
            self._step, self._updates, self._episodes = step, updates, episodes
            self._pace.sample(now, step, updates)
            if metrics is not None:
                self._take(metrics)
        # 30 s or 1 % after the last line, whichever comes later; in the log also where a display is drawn.
        if now - self._said_at >= LINE_SECONDS and step - self._said_step >= LINE_FRACTION * self._now.total:
            self._said_at, self._said_step = now, step
            self._say(_line(self._fields()))

    def episode(self, step: int, ret: Number, length: int) -> None:
        """A real episode has ended."""
        with self._lock:
            self._recent.append(ret)
            self._lengths.append(length)
            self._returns.append((step, ret))
            if len(self._returns) > MAX_POINTS:
                self._returns = _merge_neighbours(self._returns)
            best = self._now.return_best
            if best is None or ret > best:
                self._now = replace(self._now, return_best=ret)

    def evaluated(self, step: int, mean: Number, std: Number, episodes: int) -> None:
        """An evaluation has ended."""
        with self._lock:
            result, best = Evaluation(step, mean, std, episodes), self._now.best_evaluation
            better = best is None or not mean <= best.mean
            self._now = replace(self._now, evaluation=result, best_evaluation=result if better else best)
        self.event("evaluated", step=step, return_mean=mean, return_std=std, episodes=episodes)

    def dreamt(self, dream: SmallDream | None) -> None:
        """A dream was filmed; shown in a loop until the next."""
        with self._lock:
            self._now = replace(self._now, dream=dream)

    def saved(self, name: str) -> None:
        """A checkpoint was written."""
        with self._lock:
            self._saved = (printable(name), self._clock())
        self.event("saved", checkpoint=name)

    def phase(self, name: str = Phase.name, done: int = 0, total: int = 0) -> None:
        """Say what is going on, and how far it is; without arguments: training goes on.

        `total` 0 means that nobody knows. Prefer `during`, which ends by itself.
        """
        with self._lock:
            if name != self._now.phase.name:
                self._phase_at = self._phase_said_at = self._clock()
                self._phase_said = done
            self._now = replace(self._now, phase=Phase(printable(name), done, total))
        if name == Phase.name or self.live:
            return
        key = "_".join(name.split())
        if not total and key not in self._announced:
            # Once for each: a log is for reading later, and every save tells of its end anyway.
            self._announced.add(key)
            self._say(_line({"phase": key}))
        late = self._clock() - self._phase_said_at >= LINE_SECONDS
        if total and late and done - self._phase_said >= LINE_FRACTION * total:
            self._phase_said_at, self._phase_said = self._clock(), done
            self._say(_line({key: f"{done}/{total}"}))

    @contextmanager
    def during(self, name: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        """A phase; call what it yields with how much is done. The one before comes back afterwards."""
        with self._lock:
            before, since = self._now.phase, self._phase_at
        self.phase(name, 0, total)
        try:
            yield lambda done: self.phase(name, done, total)
        finally:
            with self._lock:
                self._now, self._phase_at = replace(self._now, phase=before), since

    def event(self, name: str, **fields: object) -> None:
        """Something happened: a line `time event=name key=value ...`; on a terminal only the log gets it."""
        self._say(_line({"event": name} | fields))

    def close(self, status: str, ok: bool = True) -> None:
        """Draw a last time and leave that standing, with how it ended; nothing more is shown. Once is enough."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._now = replace(self._now, status=printable(status), ok=ok)
        if self._canvas is not None:
            # After a hang-up the terminal cannot be written, and the exit code must still tell why we stopped.
            with suppress(OSError, ValueError):
                self._canvas.stop()
            self._canvas = self._reporter.stage = None
        self._say(_line(self._fields() | {"status": status}))

    def snapshot(self) -> Snapshot:
        """What is shown now."""
        with self._lock:
            now, time_s = self._now, self._clock()
            lengths = list(self._lengths)
            left = now.total - self._step
            rate = self._pace.long(time_s)
            return replace(
                now,
                step=self._step,
                updates=self._updates,
                episodes=self._episodes,
                phase=replace(now.phase, seconds=time_s - self._phase_at),
                elapsed_s=time_s - self._started,
                eta_s=left / rate if rate else None,
                steps_per_s=self._pace.steps_per_s,
                updates_per_s=self._pace.updates_per_s,
                returns=list(self._returns),
                return_mean=sum(self._recent) / len(self._recent) if self._recent else None,
                length_mean=sum(lengths) / len(lengths) if lengths else None,
                saved=(self._saved[0], time_s - self._saved[1]) if self._saved else None,
                stopping=self._stop.cause if self._stop is not None else "",
            )

    def _take(self, metrics: Mapping[str, Number | None]) -> None:
        wall = metrics.get("wall_seconds")
        shares = {name: metrics.get(f"{name}_seconds") or 0.0 for name in SHARES}
        if wall is not None:
            shares["other"] = max(0.0, wall - sum(shares.values()))
        # Fading, not jumping: each record counts for a third, and what was before for the rest.
        old, total = self._now.shares, sum(shares.values())
        if total > 0:
            weight = 1 / 3 if old else 1.0
            shares = {n: weight * s / total + (1 - weight) * old.get(n, 0.0) for n, s in shares.items()}
            self._now = replace(self._now, shares=shares)
        self._now = replace(self._now, metrics={**self._now.metrics, **metrics})

    def _frame(self) -> Group:
        console = self._reporter.console
        color = console.color_system is not None and not console.no_color
        unicode = (console.encoding or "").lower().startswith("utf")
        return Group(*frame(self.snapshot(), *console.size, color=color, unicode=unicode))

    def _draw_on(self) -> None:
        wait_s = DRAW_SECONDS
        while not self._closing.wait(wait_s):
            began = time.thread_time()
            with _drawing:
                canvas = self._canvas
                try:
                    if canvas is not None:
                        canvas.refresh()
                except (OSError, ValueError):  # the terminal is gone; training is not
                    return
            wait_s = max(DRAW_SECONDS, (time.thread_time() - began) / DRAW_SHARE)

    def _say(self, line: str) -> None:
        """A line for the log and, where no display is drawn, for the user."""
        self._reporter.log(line)
        if not self.live and not self._reporter.quiet:
            stamp = datetime.now().isoformat(timespec="seconds")
            self._reporter.say(Text(printable(f"{stamp} {line}")))

    def _fields(self) -> dict[str, object]:
        now = self.snapshot()
        fields: dict[str, object] = {
            "step": f"{now.step}/{now.total}",
            "updates": now.updates,
            "episodes": now.episodes,
            "return": now.return_mean,
            "loss": now.metrics.get("loss/total"),
            "steps_per_s": now.steps_per_s,
            "updates_per_s": now.updates_per_s,
            "elapsed": format_duration(round(now.elapsed_s)),
            "eta": format_duration(round(now.eta_s)) if now.eta_s else None,
        }
        return {name: value for name, value in fields.items() if value is not None}


class _Pace:
    """How fast it goes: recently, for the speed, and over a longer time, for the time left."""

    def __init__(self, now: float, step: int) -> None:
        self.steps_per_s: float | None = None
        self.updates_per_s: float | None = None
        self._started = now
        self._samples: deque[tuple[float, int, int]] = deque([(now, step, 0)])
        self._learning = False

    def sample(self, now: float, step: int, updates: int) -> None:
        """Note where training stands; kept about once a second, so that the figures stand still to be read."""
        if updates > 0 and not self._learning:
            # Random first steps and compiling say nothing about the pace from here on; and the first that is
            # heard of a continued run's updates is where their count begins.
            self._learning, self._started = True, now
            self._samples = deque([(now, step, updates)])
        if now - self._samples[-1][0] < 1.0:
            return
        self._samples.append((now, step, updates))
        while len(self._samples) > 2 and now - self._samples[1][0] > self._window(now):
            self._samples.popleft()
        then = next(
            sample for sample in self._samples if now - sample[0] <= SPEED_SECONDS or sample is self._samples[-2]
        )
        self.steps_per_s = (step - then[1]) / (now - then[0])
        self.updates_per_s = (updates - then[2]) / (now - then[0])

    def long(self, now: float) -> float:
        """Environment steps per second, evaluations and saves included; 0 while it cannot be known."""
        first, last = self._samples[0], self._samples[-1]
        return (last[1] - first[1]) / (now - first[0]) if now - self._started >= 5 else 0.0

    def _window(self, now: float) -> float:
        return min(900.0, max(60.0, (now - self._started) / 4))


def _merge_neighbours(points: Sequence[tuple[int, Number]]) -> list[tuple[int, Number]]:
    """Half as many points: the means of pairs."""
    pairs = zip(points[::2], points[1::2], strict=False)
    return [(b[0], (a[1] + b[1]) / 2) for a, b in pairs] + list(points[len(points) // 2 * 2 :])


def _line(fields: Mapping[str, object]) -> str:
    """`key=value ...`; a value with a space in it is quoted, so that the line can be taken apart again."""
    pairs = []
    for key, value in fields.items():
        text = show_number(value) if not isinstance(value, float) or math.isfinite(value) else "nan"
        pairs.append(f"{key}={text!r}" if any(c.isspace() for c in text) else f"{key}={text}")
    return " ".join(pairs)
