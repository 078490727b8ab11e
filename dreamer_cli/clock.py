"""When something is due: every so often, until some point, or so many updates for what was collected."""

import re
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from dreamer_cli.errors import ConfigError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhd])+")


def duration_s(text: str) -> float:
    """Seconds in a duration such as `90s`, `10m`, `1.5h`, `11h30m` or `2d`.

    Raises:
        ConfigError: not a duration. Suffixes are case-sensitive: `M` would be a million.
    """
    if not _DURATION.fullmatch(text):
        raise ConfigError(f"{text!r} is no duration.", hint="For example 90s, 10m or 11h30m.")
    return sum(float(part[:-1]) * _SECONDS[part[-1]] for part in re.findall(r"[0-9.]+[smhd]", text))


class Every:
    """Is something due? By steps, or by seconds on the clock; an interval of 0 means never.

    By steps, it is due once whenever a multiple of the interval was reached or passed since the last
    time, so the cadence does not drift with the size of a round and continues unchanged after a resume
    (`start` is the step at which the run goes on). Not due at `start` itself.

    Args:
        interval: steps (a number), or a duration (text: `10m`).
        start: the step at which counting begins.
        now: the clock, in seconds; tests bring their own.
    """

    def __init__(self, interval: int | str, start: int = 0, now: Callable[[], float] = time.monotonic) -> None:
        self.steps = interval if isinstance(interval, int) else 0
        self.seconds = duration_s(interval) if isinstance(interval, str) else 0.0
        self._now = now
        self._last_step = start
        self._last_s = now()

    def due(self, step: int) -> bool:
        """Whether it is time, at this step; a yes is given once."""
        if self.steps > 0:
            due = step // self.steps > self._last_step // self.steps
            self._last_step = max(step, self._last_step)
            return due
        due = self.seconds > 0 and self._now() - self._last_s >= self.seconds
        if due:
            self._last_s = self._now()
        return due


class Until:
    """Is there more to do? Ends at a step, or when time is up (`seconds`, null: no limit)."""

    def __init__(
        self, steps: int, seconds: float | int | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.steps = steps
        self._now = now
        self._deadline_s = None if seconds is None else now() + seconds

    @property
    def time_is_up(self) -> bool:
        """Whether the time limit, if there is one, was reached."""
        return self._deadline_s is not None and self._now() >= self._deadline_s

    def __call__(self, step: int) -> bool:
        """Whether to go on, at this step."""
        return step < self.steps and not self.time_is_up


class Ratio:
    """Updates owed for the records collected: train ratio = replayed records per collected record.

    Credit is an exact fraction, so nothing is lost or gained over any number of steps, in whatever
    portions they come, and a checkpoint keeps it. The first call begins the count and yields one
    update. Source: `elements.when.Ratio`, which adds up floats instead.

    Args:
        train_ratio: replayed records per collected record; 0: no updates at all.
        batch_records: records that one update replays, B·T (context not counted).
    """

    def __init__(self, train_ratio: float | int, batch_records: int) -> None:
        # Through text: 0.1 is meant as one tenth, not as the nearest binary fraction.
        self.ratio = Fraction(str(train_ratio)) / batch_records
        self._records: int | None = None
        self._credit = Fraction(0)

    def __call__(self, records: int) -> int:
        """Updates to do now that so many records were collected in all."""
        if self.ratio <= 0:
            return 0
        if self._records is None:
            self._records = records
            return 1
        self._credit += (records - self._records) * self.ratio
        self._records = records
        updates = max(0, self._credit.numerator // self._credit.denominator)
        self._credit -= updates
        return updates

    def state(self) -> dict[str, Any]:
        """The count and the fractional credit, as JSON."""
        return {"records": self._records, "credit": [self._credit.numerator, self._credit.denominator]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved `state()`; a changed train ratio applies from here on."""
        self._records = state["records"]
        self._credit = Fraction(*state["credit"])
