import io

import pytest

from dreamer_cli.report import Reporter, printable, show_number


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return float(self.now)


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, ["note", "warn   warning"]),
        ({"quiet": True}, ["warn   warning"]),
        ({"verbose": True}, ["note", "detail", "warn   warning"]),
    ],
)
def test_what_is_said(flags, said):
    stream = io.StringIO()
    report = Reporter(stream=stream, **flags)
    report.note("note")
    report.detail("detail")
    report.warn("warning")
    assert stream.getvalue().splitlines() == said


def test_plain_lines_come_after_30_seconds_and_1_percent_whichever_is_later():
    stream, clock = io.StringIO(), Clock()
    report = Reporter(stream=stream, clock=clock)
    with report.progress("train", total=1000) as progress:
        progress.advance(100)  # 10 %, but at once
        assert stream.getvalue() == ""
        clock.now = 31
        progress.advance(1, **{"return": 12.5})
        assert stream.getvalue().endswith(" train=101/1000 return=12.5\n")
        clock.now = 62
        progress.advance(9)  # 31 s, but 0.9 %
        assert stream.getvalue().count("\n") == 1
        progress.advance(1)
        assert stream.getvalue().endswith(" train=111/1000 return=12.5\n")
    assert stream.getvalue().count("\n") == 2


def test_plain_lines_of_unknown_length_come_every_30_seconds():
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream=stream, clock=clock).progress("two words") as progress:
        for second in range(0, 100, 10):
            clock.now = second
            progress.advance()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [
        "two_words=4",
        "two_words=7",
        "two_words=10",
    ]


def test_a_plain_line_is_time_and_pairs():
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream=stream, clock=clock).progress("train", total=10, completed=5) as progress:
        clock.now = 30
        progress.advance(1, loss=1.23456789, where="a\nb")
    time, *pairs = stream.getvalue().split(" ")
    assert len(time) == len("2026-01-01T00:00:00")
    assert pairs == ["train=6/10", "loss=1.235", "where=a", "b\n"]


def test_a_terminal_gets_a_bar_and_notes_above_it():
    stream = Terminal()
    report = Reporter(stream=stream)
    with report.progress("train", total=3) as outer:
        with report.progress("verifying", total=2) as inner:
            inner.advance(2)
        report.note("a note")
        outer.advance(3, **{"return": 1.0})
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "a note" in text
    assert "3/3" in text
    assert "return=1" in text


@pytest.mark.parametrize("flags", [{"quiet": True}, {"quiet": True, "json": True}])
def test_quiet_shows_no_progress(flags):
    stream, clock = Terminal(), Clock()
    with Reporter(stream=stream, clock=clock, **flags).progress("train", total=2) as progress:
        clock.now = 100
        progress.advance(2)
    assert stream.getvalue() == ""


def test_forced_colour_in_a_pipe_colours_but_moves_no_cursor(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream, clock = io.StringIO(), Clock()
    report = Reporter(stream=stream, clock=clock)
    report.warn("x")
    with report.progress("train") as progress:
        clock.now = 60
        progress.advance()
    assert "\x1b[33m" in stream.getvalue()
    assert "\x1b[?25l" not in stream.getvalue()
    assert "train=1" in stream.getvalue()


def test_json_never_colours_a_pipe(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    Reporter(stream=stream, json=True).warn("x")
    assert stream.getvalue() == "warn   x\n"


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream, clock = Terminal(), Clock()
    with Reporter(stream=stream, clock=clock).progress("train") as progress:
        clock.now = 60
        progress.advance()
    assert "\x1b" not in stream.getvalue()
    assert "train=1" in stream.getvalue()


class Broken(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken(), type("BrokenTerminal", (Broken, Terminal), {})()])
def test_a_closed_pipe_does_not_end_the_work(stream):
    report = Reporter(stream=stream)
    report.note("x")
    with report.progress("train", total=2) as progress:
        progress.advance(2)
    report.warn("y")


def test_the_log_keeps_what_was_said_with_its_time(tmp_path):
    path = tmp_path / "logs" / "train.log"
    report = Reporter(stream=io.StringIO(), quiet=True)
    report.note("before")
    report.open_log(path)
    report.note("note")
    report.detail("detail")
    report.warn("warning \udc80")
    lines = [line.split(" ", 1)[1] for line in path.read_text().splitlines()]
    assert lines == ["note", "detail", "warning: warning \\udc80"]


def test_a_log_that_cannot_be_written_is_given_up_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("x")
    stream = io.StringIO()
    report = Reporter(stream=stream)
    report.open_log(tmp_path / "file" / "train.log")
    report.note("one")
    report.note("two")
    assert stream.getvalue().count("no longer writing") == 1


def test_a_log_for_crashes_only_stays_away_until_one_comes(tmp_path):
    path = tmp_path / "logs" / "evaluate.log"
    report = Reporter(stream=io.StringIO())
    report.open_log(path, notes=False)
    report.note("note")
    assert not path.parent.exists()
    assert report.log("Traceback ...", crash=True) == path
    assert "Traceback" in path.read_text()


def test_printable_keeps_letters_and_spells_out_controls():
    assert printable("größe 日本\t\n\x1b[31m\x07\u202e\udc80") == "größe 日本\t\n\\x1b[31m\\x07\\u202e\\udc80"


@pytest.mark.parametrize(("value", "text"), [(1234.5678, "1235"), (0.5, "0.5"), (3, "3"), ("x", "x"), (1e-9, "1e-09")])
def test_numbers_are_short(value, text):
    assert show_number(value) == text
