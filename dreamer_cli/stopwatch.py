"""Where the time goes: a stopwatch with named sections."""

import time
from collections.abc import Callable


class Stopwatch:
    """Adds up the seconds spent in named sections.

    Sections nest, and time in an inner one is not counted for the outer one, so the totals never
    add up to more than the wall time:

        with watch("env"):
            records = envs.step(action)

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = self._lap_started = clock()
        self._open: list[str] = []
        self._since = self._started  # when the innermost open section last began to count
        self._seconds: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    def __call__(self, name: str) -> "_Section":
        """The context manager of one section."""
        return _Section(self, name)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds in each section since the beginning, sections still open included."""
        self._settle()
        return dict(self._seconds)

    @property
    def elapsed_s(self) -> float:
        """Wall seconds since the beginning."""
        return self._clock() - self._started

    def lap(self) -> tuple[float, dict[str, float]]:
        """Wall seconds since the last lap, and the seconds in each section since then."""
        self._settle()
        now = self._clock()
        wall, self._lap_started = now - self._lap_started, now
        sections = {name: total - self._taken.get(name, 0.0) for name, total in self._seconds.items()}
        self._taken = dict(self._seconds)
        return wall, sections

    def metrics(self) -> dict[str, float]:
        """A lap as metrics: `wall_seconds`, and `<section>_seconds` for each section."""
        wall, sections = self.lap()
        return {"wall_seconds": wall} | {f"{name}_seconds": seconds for name, seconds in sections.items()}

    def _settle(self) -> None:
        """Credit the innermost open section with the time until now."""
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    def _enter(self, name: str) -> None:
        self._settle()
        self._open.append(name)

    def _exit(self) -> None:
        self._settle()
        self._open.pop()


class _Section:
    """One `with watch(name):`; a class, because a generator would cost three times as much per step."""

    __slots__ = ("_name", "_watch")

    def __init__(self, watch: Stopwatch, name: str) -> None:
        self._watch = watch
        self._name = name

    def __enter__(self) -> None:
        self._watch._enter(self._name)

    def __exit__(self, *exc: object) -> None:
        self._watch._exit()
