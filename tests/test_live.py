"""The live display: what it says at each size, on a terminal and elsewhere, and that it never gets in the way."""

import io
import math
import multiprocessing
import os
import re
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_cli.errors import DivergedError
from dreamer_cli.live import MAX_POINTS, TrainDisplay
from dreamer_cli.live_text import number, sparkline
from dreamer_cli.live_view import Evaluation, Phase, Snapshot, frame
from dreamer_cli.report import Reporter
from dreamer_cli.stop import StopSignal
from dreamer_cli.stopwatch import Stopwatch


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return float(self.now)


class Stream(io.StringIO):
    """A text stream with what type checkers ask of one."""

    name, mode, encoding = "<memory>", "w", "utf-8"


class Terminal(Stream):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def snapshot() -> Snapshot:
    """A training in full swing, with something to say in every row."""
    return Snapshot(
        env="CartPole-v1",
        about=["dreamerv3", "classic", "cpu"],
        run_dir="runs/CartPole-v1/20260412-131500-CartPole-v1-s0",
        step=531_200,
        total=1_000_000,
        updates=16_600,
        episodes=1_204,
        elapsed_s=724.0,
        eta_s=660.0,
        steps_per_s=512.0,
        updates_per_s=16.0,
        returns=[(i * 830, i / 4) for i in range(1, 640)],
        return_mean=187.4,
        return_best=200.0,
        length_mean=166.0,
        evaluation=Evaluation(500_000, 195.2, 8.1, 10),
        best_evaluation=Evaluation(400_000, 198.0, 3.0, 10),
        metrics={
            "loss/total": 4.2,
            "loss/image": 2.1,
            "loss/dyn": 0.61,
            "loss/rep": 0.61,
            "loss/actor": -0.031,
            "replay/records": 531_000,
            "replay/capacity": 1_000_000,
            "replay/bytes": 2 << 30,
            "memory/process_bytes": 3 << 30,
        },
        shares={"update": 6.0, "policy": 2.0, "env": 1.5, "other": 0.5},
        saved=("000520000", 61.0),
    )


def text_of(snapshot: Snapshot, width: int, height: int, **options: bool) -> list[str]:
    return [line.plain for line in frame(snapshot, width, height, **options)]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 24), (200, 50)])
def test_a_frame_fits_and_says_everything(snapshot, width, height):
    lines = text_of(snapshot, width, height)
    assert len(lines) <= 16
    assert all(len(line) < width for line in lines)
    text = "\n".join(lines)
    for words in ("CartPole-v1", "531,200 of 1,000,000", "187.4", "195.2 ± 8.1", "512 steps/s", "16 updates/s", "53%"):
        assert words in text
    for words in ("11m left", "12m4s", "image", "2.100", "update 60%", "531k of 1M", "000520000", "training"):
        assert words in text


def test_eighty_columns_look_as_they_were_designed(snapshot):
    lines = text_of(snapshot, 80, 24)
    assert lines[1] == "  CartPole-v1   dreamerv3 · classic · cpu                               12m4s"
    assert lines[2] == "  53%   ━━━━━━━━━━━━━━━╸──────────────    531,200 of 1,000,000       11m left"
    assert lines[15] == "  ● training                                           Ctrl-C saves and stops"


def test_a_low_terminal_gets_the_lines_that_matter(snapshot):
    lines = text_of(snapshot, 80, 10)
    assert len(lines) == 5
    assert [line.split()[0] for line in lines] == ["CartPole-v1", "53%", "return", "speed", "●"]


def test_the_bar_stands_still(snapshot):
    """Nothing to its right may push it about while numbers grow."""
    from dataclasses import replace

    spans = set()
    for step, eta in ((0, None), (999, 86_399.0), (98_765, 7_200.0), (999_999, 1.0)):
        line = text_of(replace(snapshot, step=step, eta_s=eta), 80, 24)[2]
        spans.add(re.search("[━╸─]+", line).span())
    assert len(spans) == 1


def test_an_empty_beginning(snapshot):
    text = "\n".join(text_of(Snapshot(env="A"), 80, 24))
    for words in ("no episode has ended yet", "no update yet", "no checkpoint yet", "0 of 1"):
        assert words in text


def test_without_unicode_every_character_is_ascii(snapshot):
    plain = text_of(snapshot, 80, 24, unicode=False)
    assert "".join(plain).isascii()
    assert [len(line) for line in plain] == [len(line) for line in text_of(snapshot, 80, 24)]


def test_without_colour_shares_differ_by_glyph(snapshot):
    line = next(line for line in text_of(snapshot, 80, 24, color=False) if line.strip().startswith("time"))
    assert re.search("█+▓+▒+░", line)


def test_phases_say_how_far_and_how_long(snapshot):
    from dataclasses import replace

    line = text_of(replace(snapshot, phase=Phase("evaluating", 3, 10, 12.0)), 80, 24)[-1]
    assert "● evaluating" in line
    assert "3 of 10  12s" in line
    line = text_of(replace(snapshot, stopping="Ctrl-C", phase=Phase("saving")), 120, 24)[-1]
    assert "Ctrl-C again stops at once" in line
    assert text_of(replace(snapshot, status="finished"), 80, 24)[-1] == "  ✓ finished after 12m4s"


numbers = st.one_of(st.none(), st.floats(), st.integers(-(10**12), 10**12))


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 250),
    height=st.integers(1, 60),
    returns=st.lists(st.tuples(st.integers(0, 10**9), st.floats()), max_size=40),
    value=numbers,
    metrics=st.dictionaries(
        st.sampled_from(["loss/total", "loss/kamera-図", "entropy/actor", "replay/records"]), st.floats()
    ),
    shares=st.dictionaries(st.sampled_from(["update", "env", "other"]), st.floats(0, 1e9)),
    unicode=st.booleans(),
)
def test_no_number_breaks_the_display(width, height, returns, value, metrics, shares, unicode):
    snapshot = Snapshot(
        env="図" * 30,
        step=10**7,
        total=10**9,
        returns=sorted(returns, key=lambda point: point[0]),
        return_mean=value,
        return_best=value,
        metrics=metrics,
        shares=shares,
    )
    lines = frame(snapshot, width, height, unicode=unicode)
    assert len(lines) <= max(1, height - 1)
    assert all(line.cell_len < max(40, width) + 1 for line in lines)


def test_a_sparkline_is_the_mean_of_each_stretch():
    points = [(step, 0.0 if step <= 50 else 10.0) for step in range(0, 101, 5)]
    assert sparkline(points, 4, 1) == ["▁▁▇█"]  # the third stretch still holds one 0.0
    top, bottom = sparkline(points, 4, 2)
    assert top[0] == " "
    assert bottom[0] == "▁"
    assert (top[-1], bottom[-1]) == ("█", "█")
    assert sparkline(points[:3], 4, 1) == [""]  # three points are no curve yet


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.02, "0.020"),
        (-0.031, "-0.031"),
        (4e-4, "0.0004"),
        (12.345, "12.35"),
        (1234.5, "1,234"),
        (1e9, "1.0e+09"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def plain_display(**settings) -> tuple[TrainDisplay, Stream, Clock]:
    stream, clock = Stream(), Clock()
    display = TrainDisplay(Reporter(stream=stream), "A-v0", total=1000, clock=clock, **settings)
    return display, stream, clock


def test_plain_lines_come_every_half_minute_or_percent_whichever_is_later():
    display, stream, clock = plain_display()
    with display:
        clock.now = 29
        display.update(500)
        assert stream.getvalue() == ""  # 1 %, but not 30 s
        clock.now = 31
        display.update(501, updates=7, episodes=2, metrics={"loss/total": 2.5})
        first = stream.getvalue()
        clock.now = 62
        display.update(510)
        assert stream.getvalue() == first  # 30 s, but not 1 %
        clock.now = 63
        display.update(511)
        assert len(stream.getvalue().splitlines()) == 2
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d step=501/1000 updates=7 episodes=2 loss=2.5 ", first)
    assert stream.getvalue().splitlines()[-1].endswith("status=stopped")
    assert "\x1b" not in stream.getvalue()


def test_plain_notes_for_evaluations_checkpoints_and_long_phases():
    display, stream, clock = plain_display()
    with display:
        display.phase("compiling")
        with display.during("evaluating", 10) as done:
            for i in range(1, 11):
                clock.now += 4
                done(i)
        display.evaluated(step=500, mean=10.0, std=1.5, episodes=10)
        display.saved("000000500")
        display.event("stopped early", why="no reason at all")
    text = stream.getvalue()
    assert "phase=compiling" in text
    assert "evaluating=8/10" in text
    assert text.count("evaluating=") == 1
    assert "event=evaluated step=500 return_mean=10 return_std=1.5 episodes=10" in text
    assert "event=saved checkpoint=000000500" in text
    assert "why='no reason at all'" in text


def test_quiet_says_nothing():
    stream, clock = Terminal(), Clock()
    with TrainDisplay(Reporter(quiet=True, stream=stream), "A-v0", total=10, clock=clock) as display:
        clock.now = 60
        display.update(10, metrics={"loss/total": 1.0})
        display.saved("000000010")
    assert stream.getvalue() == ""


def test_on_a_terminal_it_draws_leaves_a_summary_and_gives_everything_back(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    stream, threads = Terminal(), threading.active_count()
    reporter, streams = Reporter(stream=stream), (sys.stdout, sys.stderr)
    with TrainDisplay(reporter, "A-v0", total=10) as display:
        assert display.live
        for step in range(1, 11):
            display.episode(step, ret=float(step), length=1)
            display.update(step, updates=step)
        with reporter.progress("evaluating", total=4) as task:  # shows inside the display, not below it
            task.advance(3)
            assert display.snapshot().phase.name == "evaluating"
            assert display.snapshot().phase.done == 3
        assert display.snapshot().phase.name == "training"
        reporter.warn("something scrolls by above")
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert "✓ finished after" in text
    assert "something scrolls by above" in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back
    assert (sys.stdout, sys.stderr) == streams
    assert threading.active_count() == threads
    assert reporter.stage is None


def test_a_terminal_that_went_away_does_not_hide_why_training_stopped(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    def hang_up(text: str) -> int:
        raise OSError(5, "Input/output error")

    def train() -> None:
        with TrainDisplay(Reporter(stream=stream), "A-v0", total=10):
            stream.write = hang_up
            raise DivergedError("loss is NaN")

    with pytest.raises(DivergedError):
        train()


def test_an_error_is_what_the_last_frame_says():
    display, stream, _ = plain_display()
    with pytest.raises(DivergedError), display:
        raise DivergedError("loss is NaN")
    assert stream.getvalue().rstrip().endswith("status=diverged")


def test_a_stop_under_way_is_shown():
    stop = StopSignal(max_time_s=0)
    display, stream, _ = plain_display(stop=stop)
    assert display.snapshot().stopping == "--max-time"
    with display:
        pass
    assert stream.getvalue().rstrip().endswith("status=preempted")


def test_the_time_left_is_that_of_the_recent_pace():
    display, _, clock = plain_display()
    display.update(0)
    clock.now = 100  # compiling, which says nothing about the pace
    display.update(100, updates=1)
    for _ in range(10):
        clock.now += 1
        display.update(display.snapshot().step + 10, updates=2)
    now = display.snapshot()
    assert now.steps_per_s == pytest.approx(10)
    assert now.eta_s == pytest.approx(80)


def test_history_stays_bounded_and_a_continued_run_brings_its_own():
    display, _, _ = plain_display(start=500, returns=[(i, float(i)) for i in range(20)])
    assert display.snapshot().return_best == 19
    assert display.snapshot().return_mean == 14.5
    for i in range(2 * MAX_POINTS):
        display.episode(500 + i, ret=1.0, length=1)
    assert len(display.snapshot().returns) <= MAX_POINTS


def test_time_shares_fade_and_the_rest_is_other():
    display, _, _ = plain_display()
    display.update(1, metrics={"wall_seconds": 10.0, "update_seconds": 6.0, "env_seconds": 3.0})
    assert display.snapshot().shares["other"] == pytest.approx(0.1)
    display.update(2, metrics={"wall_seconds": 10.0, "update_seconds": 0.0, "env_seconds": 10.0})
    assert display.snapshot().shares["update"] == pytest.approx(0.4)


def _print_in_child() -> None:
    print("from a worker", file=sys.stderr)
    os._exit(0 if not hasattr(sys.stderr, "rich_proxied_file") else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_forked_while_it_draws_neither_hang_nor_draw(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("dreamer_cli.live.DRAW_SECONDS", 0.0)
    monkeypatch.setattr("dreamer_cli.live.DRAW_SHARE", math.inf)  # draws all the time
    context = multiprocessing.get_context("fork")
    with TrainDisplay(Reporter(stream=Terminal()), "A-v0", total=10):
        for _ in range(5):
            worker = context.Process(target=_print_in_child)
            worker.start()
            worker.join(timeout=10)
            assert worker.exitcode == 0


def test_the_stopwatch_counts_inner_sections_once():
    clock = Clock()
    watch = Stopwatch(clock)
    with watch("update"):
        clock.now += 3
        with watch("save"):
            clock.now += 2
        clock.now += 1
        assert watch.seconds == {"update": 4, "save": 2}
    clock.now += 4
    assert watch.elapsed_s == 10
    assert watch.lap() == (10, {"update": 4, "save": 2})
    with watch("update"):
        clock.now += 1
    assert watch.metrics() == {"wall_seconds": 1, "update_seconds": 1, "save_seconds": 0}


def test_the_stopwatch_survives_an_error():
    clock = Clock()
    watch = Stopwatch(clock)

    def fail() -> None:
        with watch("env"):
            clock.now += 1
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    clock.now += 5
    assert watch.seconds == {"env": 1}
