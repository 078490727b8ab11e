"""When something is due: every so often, or so many updates for what was collected."""

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from dreamer_cli.numbers import parse_duration


class Every:
    """Is something due? By steps, or by seconds on the clock; an interval of 0 means never.

    By steps, it is due once whenever a multiple of the interval was reached or passed since it was last done,
    so the cadence does not drift with the size of a round and continues unchanged after a resume
    (`start` is the step at which the run goes on). Not due at `start` itself, unless it was owed there.

    Args:
        interval: steps (a number), or a duration (text: `10m`).
        start: the step at which counting begins.
        owed: it was due at `start`, and a stop came before it was done.
        now: the clock, in seconds; tests bring their own.
    """

    def __init__(
        self, interval: int | str, start: int = 0, owed: bool = False, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.steps = interval if isinstance(interval, int) else 0
        self.seconds = parse_duration(interval) if isinstance(interval, str) else 0.0
        self._now = now
        self._owed = owed and self.steps > 0
        self._last_step = start
        self._last_s = now()

    def due(self, step: int) -> bool:
        """Whether it is time, at this step; so it stays until it is `done`."""
        if self.steps > 0:
            return self._owed or step // self.steps > self._last_step // self.steps
        return self.seconds > 0 and self._now() - self._last_s >= self.seconds

    def done(self, step: int) -> None:
        """It was done at this step: counting begins anew."""
        self._owed = False
        self._last_step = max(step, self._last_step)
        self._last_s = self._now()


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

    def give_back(self, updates: int) -> None:
        """Updates that were owed and not done after all: the next call owes them again."""
        self._credit += updates

    def state(self) -> dict[str, Any]:
        """The count and the fractional credit, as JSON."""
        return {"records": self._records, "credit": [self._credit.numerator, self._credit.denominator]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved `state()`; a changed train ratio applies from here on."""
        self._records = state["records"]
        self._credit = Fraction(*state["credit"])
