"""Numbers mean what they look like, and nothing else is a number."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_cli import numbers
from dreamer_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("400000", 400_000),
        ("400_000", 400_000),
        ("4e5", 400_000),
        ("4E+5", 400_000),
        ("400k", 400_000),
        ("1.5M", 1_500_000),
        ("2G", 2_000_000_000),
        ("0.3G", 300_000_000),
        (" 12 ", 12),
        ("010", 10),
        ("0", 0),
        ("-3k", -3000),
        ("+5", 5),
        ("1.25e2", 125),
    ],
)
def test_counts(text, value):
    assert numbers.parse_count(text) == value
    assert type(numbers.parse_count(text)) is int


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1m", "Did you mean 1M?"),
        ("1.5m", "Did you mean 1.5M?"),
        ("400K", "Did you mean 400k?"),
        ("2g", "Did you mean 2G?"),
        ("30s", "duration"),
        ("11h30m", "duration"),
        ("2d", "duration"),
        ("1.5", "400k"),
        ("1e-4", "400k"),
        ("", "400k"),
        ("abc", "400k"),
        ("1__0", "400k"),
        ("_1", "400k"),
        ("1e5k", "400k"),
        ("0x10", "400k"),
        ("٣", "400k"),
        ("1e999999999", "400k"),
        ("inf", "400k"),
        ("__import__('os')", "400k"),
    ],
)
def test_what_is_no_count(text, hint):
    with pytest.raises(UsageError) as caught:
        numbers.parse_count(text, "--steps")
    assert caught.value.what.startswith("--steps is ")
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_counts_have_a_minimum():
    assert numbers.parse_count("1", minimum=1) == 1
    with pytest.raises(UsageError, match="at least 1"):
        numbers.parse_count("0", minimum=1)


def test_a_huge_exponent_costs_nothing():
    assert numbers.read_number("1e999999999999") == math.inf
    assert numbers.read_number("1e-999999999999") == 0
    assert numbers.read_number("9" * 5000) is None


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("32", 32.0), ("1k", 1000.0), (".5", 0.5), ("-2.5", -2.5)])
def test_floats(text, value):
    assert numbers.parse_float(text) == value
    assert type(numbers.parse_float(text)) is float


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "10m", "", "1,5"])
def test_what_is_no_float(text):
    with pytest.raises(UsageError):
        numbers.parse_float(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("11h30m", 41400), ("2d", 172800), ("1d2h3m4s", 93784), ("1.5h", 5400), ("0s", 0)],
)
def test_durations(text, seconds):
    assert numbers.parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10M", "Did you mean 10m?"),
        ("1H", "Did you mean 1h?"),
        ("600", "600s, 600m or 600h"),
        ("30m11h", "look like"),
        ("m", "look like"),
        ("", "look like"),
        ("-5m", "look like"),
        ("10 m", "look like"),
        ("400k", "look like"),
    ],
)
def test_what_is_no_duration(text, hint):
    with pytest.raises(UsageError) as caught:
        numbers.parse_duration(text, "--max-time")
    assert "--max-time" in caught.value.what
    if hint != "look like":
        assert hint in caught.value.hint


def test_cadences():
    assert numbers.parse_cadence("10m") == (None, 600)
    assert numbers.parse_cadence("10k") == (10_000, None)
    assert numbers.parse_cadence(5) == (5, None)
    for wrong in ("-1", "1.5", "often", "10M30s"):
        with pytest.raises(UsageError):
            numbers.parse_cadence(wrong)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (999.6, "1k"), (400_000, "400k"), (640_867, "641k"), (999_600, "1M"),
     (10_498_772, "10.5M"), (165_967_124, "166M"), (2e9, "2G"), (0.5, "0.5"), (-1500, "-1.5k")],
)  # fmt: skip
def test_format_count(value, text):
    assert numbers.format_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25s"), (59.4, "59s"), (59.9, "1m"), (3599.9, "1h"), (41400, "11h30m"), (100_000, "1d4h"),
     (math.inf, "unknown"), (math.nan, "unknown"), (-90, "-1m30s")],
)  # fmt: skip
def test_format_duration(seconds, text):
    assert numbers.format_duration(seconds) == text


def test_format_bytes():
    assert [numbers.format_bytes(n) for n in (12, 1024, 2684354560)] == ["12 B", "1 KiB", "2.5 GiB"]


@given(st.integers(1, 10**9))
def test_whole_seconds_survive_printing_all_units(seconds):
    assert numbers.parse_duration(numbers.format_duration(seconds, units=4)) == seconds


@given(st.integers(-(10**17), 10**17), st.sampled_from(["{}", "{:_}", "{}e0", "0{}"]))
def test_every_spelling_of_an_int_is_that_int(value, spelling):
    text = spelling.format(abs(value))
    assert numbers.parse_count(text if value >= 0 else "-" + text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back(value):
    assert numbers.parse_float(repr(value)) == value


@given(st.text(max_size=12))
def test_arbitrary_text_is_a_number_or_a_usage_error(text):
    for parse in (numbers.parse_count, numbers.parse_float, numbers.parse_duration, numbers.parse_cadence):
        with contextlib.suppress(UsageError):
            parse(text)
