"""Numbers as people type them: `400_000`, `4e5`, `400k`, `1.5M`; durations as `10m`, `11h30m`.

Suffixes are case-sensitive, because `m` and `M` both occur: `k`, `M`, `G` count, `s`, `m`, `h`, `d` are times.
Nothing is evaluated; whatever does not match the grammar below is no number.
"""

import math
import re
from decimal import Decimal
from typing import NamedTuple

from dreamer_cli.errors import UsageError

DIGITS = r"[0-9](?:_?[0-9])*"
WHOLE = re.compile(rf"[-+]?{DIGITS}")
NUMBER = re.compile(rf"([-+]?(?:{DIGITS}(?:\.(?:{DIGITS})?)?|\.{DIGITS}))(?:[eE]([-+]?[0-9]+)|([kMG]))?")
SUFFIXES = {"k": 3, "M": 6, "G": 9}

SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
DURATION = re.compile("".join(rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in SECONDS))

# Above this a number with an exponent stays a float: `1e999999999` must not become a billion digits.
LARGEST_COUNT = 10**18


class Cadence(NamedTuple):
    """How often something happens: every so many environment steps, or every so many seconds; one is None."""

    steps: int | None
    seconds: float | None


def read_number(text: str) -> int | float | None:
    """The number that `text` looks like, or None if it looks like none.

    Whole numbers come out as int however they are written, `4e5` and `1.5M` too; only `1.0`, with a point and
    nothing after it that scales, is a float, so that what was written as a float stays one.
    """
    if WHOLE.fullmatch(text):
        try:
            return int(text)
        except ValueError:  # Python reads at most 4300 digits
            return None
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    mantissa, exponent, suffix = match.groups()
    mantissa = mantissa.replace("_", "")
    if exponent is None and suffix is None:
        return float(mantissa)
    scale = exponent if exponent is not None else str(SUFFIXES[suffix])
    value = float(f"{mantissa}e{scale}")
    if abs(value) < LARGEST_COUNT and value == math.floor(value) and len(mantissa) < 40 and len(scale) < 10:
        # Exactly, not through the float: `0.3G` is 300,000,000 and never one less.
        exact = Decimal(f"{mantissa}e{scale}")
        if exact == exact.to_integral_value():
            return int(exact)
    return value


def parse_count(text: str, what: str = "the number", minimum: int | None = None) -> int:
    """A whole number from `text`.

    Raises:
        UsageError: not a whole number, or below `minimum`; a duration gets the count it may have meant as hint.
    """
    value = read_number(text.strip())
    if not isinstance(value, int):
        if value is None:
            raise UsageError(f"{what} is {text!r}, which is no number.", hint=count_hint(text))
        raise UsageError(f"{what} is {text!r}, which is no whole number.", hint=count_hint(text))
    if minimum is not None and value < minimum:
        raise UsageError(f"{what} is {text}, but must be at least {minimum}.")
    return value


def parse_float(text: str, what: str = "the number") -> float:
    """A finite number from `text`.

    Raises:
        UsageError: no number, or too large for one.
    """
    value = read_number(text.strip())
    if value is None or not math.isfinite(value):
        raise UsageError(f"{what} is {text!r}, which is no number.", hint=count_hint(text))
    return float(value)


def parse_duration(text: str, what: str = "the duration") -> float:
    """Seconds from `30s`, `10m`, `11h30m`, `2d`; larger units come first.

    Raises:
        UsageError: no duration; a bare number or a count's suffix gets a hint.
    """
    match = DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise UsageError(f"{what} is {text!r}, which is no duration.", hint=_duration_hint(text))
    seconds = sum(float(part) * size for part, size in zip(match.groups(), SECONDS.values(), strict=True) if part)
    if not math.isfinite(seconds):
        raise UsageError(f"{what} is longer than any clock can count.")
    return seconds


def parse_cadence(text: str | int, what: str = "the cadence") -> Cadence:
    """Steps from a count (`400k`), seconds from a duration (`10m`).

    Raises:
        UsageError: neither of both, or negative.
    """
    if isinstance(text, str) and read_number(text.strip()) is None:
        try:
            return Cadence(None, parse_duration(text, what))
        except UsageError as error:
            raise UsageError(
                f"{what} is {text!r}, which is neither a number of steps nor a duration.",
                hint="For example 10k for steps, 10m for minutes.",
            ) from error
    return Cadence(parse_count(str(text), what, minimum=0), None)


def count_hint(text: str) -> str:
    """What a text that is no count may have meant."""
    text = text.strip()
    number, unit = text[:-1], text[-1:]
    meant = {"m": "M", "K": "k", "g": "G", "B": "G", "b": "G"}.get(unit)
    if meant and read_number(number) is not None:
        return f"Did you mean {number}{meant}? k, M and G count; s, m, h and d are durations."
    if text and DURATION.fullmatch(text):
        return "A duration has no place here; type a number such as 400000, 400k or 1.5M."
    return "Numbers look like 400000, 400_000, 4e5, 400k or 1.5M."


def _duration_hint(text: str) -> str:
    text = text.strip()
    number, unit = text[:-1], text[-1:]
    meant = {"M": "m", "H": "h", "S": "s", "D": "d"}.get(unit)
    if meant and read_number(number) is not None:
        return f"Did you mean {number}{meant}? s, m, h and d are durations; k, M and G count."
    if isinstance(read_number(text), int):
        return f"Say in which unit: {text}s, {text}m or {text}h."
    return "Durations look like 30s, 10m, 11h30m or 2d."


def format_count(value: int | float) -> str:
    """A count for people, to three digits: 640867 → `641k`, 10498772 → `10.5M`, 950 → `950`."""
    for suffix, power in (("G", 9), ("M", 6), ("k", 3)):
        # 0.9995 because three digits round 999,600 up to the next suffix.
        if abs(value) >= 0.9995 * 10**power:
            return f"{_three_digits(value / 10**power)}{suffix}"
    return _three_digits(value)


def format_bytes(size: int | float) -> str:
    """A size in memory or on disk: 2684354560 → `2.5 GiB`."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(size) >= 2**power:
            return f"{_three_digits(size / 2**power)} {unit}"
    return f"{size:.0f} B"


def format_duration(seconds: int | float, units: int = 2) -> str:
    """A time for people in its largest `units` units: 41400 → `11h30m`; below a second as 0.25 → `0.25s`."""
    if not math.isfinite(seconds):
        return "unknown"
    if abs(seconds) < 1:
        return f"{seconds:.2g}s"
    names = list(SECONDS.items())
    first = next(index for index, (_, size) in enumerate(names) if round(abs(seconds)) >= size)
    kept = names[first : first + units]
    rest = round(abs(seconds) / kept[-1][1]) * kept[-1][1]
    if first and rest >= names[first - 1][1]:  # rounded up into the next unit: 59m59.9s
        return ("-" if seconds < 0 else "") + f"{rest // names[first - 1][1]}{names[first - 1][0]}"
    parts = []
    for name, size in kept:
        amount, rest = divmod(rest, size)
        if amount:
            parts.append(f"{amount}{name}")
    return ("-" if seconds < 0 else "") + "".join(parts)


def _three_digits(value: int | float) -> str:
    """Three significant digits, never as an exponent, without trailing zeros."""
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    text = f"{value:.{max(0, 3 - whole)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
