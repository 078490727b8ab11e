import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_cli.clock import Every, Ratio

FIXTURES = json.loads((Path(__file__).parent / "fixtures" / "reference.json").read_text())


class Clock:
    """A clock that goes only when told to."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def fires(every: Every, step: int) -> bool:
    due = every.due(step)
    if due:
        assert every.due(step)  # until it is done
        every.done(step)
    return due


def test_every_by_steps_fires_once_for_each_crossed_multiple_or_several_together():
    every = Every(10)
    assert [step for step in (0, 4, 10, 10, 19, 21, 55, 59, 60) if fires(every, step)] == [10, 21, 55, 60]


@pytest.mark.parametrize("undone", [False, True])
def test_every_goes_on_after_a_resume_as_if_it_had_not_stopped(undone):
    """Also where the stop came before it was done."""
    steps = list(range(0, 200, 7))
    straight = Every(30)
    expected = [fires(straight, step) for step in steps]
    for cut in range(1, len(steps)):
        stopped = Every(30)
        for step in steps[: cut - undone]:
            fires(stopped, step)
        last = steps[cut - 1]
        resumed = Every(30, start=last, owed=stopped.due(last))
        assert [fires(resumed, step) for step in steps[cut - undone :]] == expected[cut - undone :]


def test_every_by_seconds():
    clock = Clock()
    every = Every("10s", now=clock)
    due = []
    for clock.time in (100.0, 109.9, 110.0, 115.0, 119.9, 120.0, 190.0, 190.1):
        due.append(fires(every, 0))
    assert due == [False, False, True, False, False, True, True, False]


@pytest.mark.parametrize("interval", [0, "0s"])
def test_every_zero_is_never(interval):
    every = Every(interval)
    assert not any(every.due(step) for step in range(100))


def test_ratio_matches_the_reference():
    fixture = FIXTURES["train_ratio"]
    ratio = Ratio(32, 1024)
    updates = {step: ratio(step) for step in range(1024, 1154)}
    assert [step for step, number in updates.items() if number] == fixture["update_steps"]
    assert set(updates.values()) == {0, 1}
    for train_ratio, expected in [
        (1024, fixture["with_ratio_1024/1024_first_10"]),
        (2048, fixture["with_ratio_2048/1024_first_5"]),
    ]:
        ratio = Ratio(train_ratio, 1024)
        assert [ratio(step) for step in range(1024, 1024 + len(expected))] == expected


@given(
    st.one_of(st.integers(1, 4096), st.floats(0.001, 4096)),
    st.integers(1, 2048),
    st.lists(st.integers(0, 500), min_size=1, max_size=60),
    st.data(),
)
def test_ratio_never_loses_credit(train_ratio, batch_records, portions, data):
    """Portions do not matter, nor does a save and resume between them: only how much was collected."""
    whole, parts = Ratio(train_ratio, batch_records), Ratio(train_ratio, batch_records)
    assert whole(7) == parts(7) == 1
    records = done = 0
    for portion in portions:
        records += portion
        done += parts(7 + records)
        if data.draw(st.booleans()):
            state = json.loads(json.dumps(parts.state()))
            parts = Ratio(train_ratio, batch_records)
            parts.load(state)
    assert done == whole(7 + records)
    assert abs(done - records * train_ratio / batch_records) < 1 + 1e-6


def test_ratio_zero_never_updates():
    assert not any(Ratio(0, 1024)(step) for step in range(10))
    frozen = Ratio(0, 16)
    assert [frozen(step) for step in (0, 1000)] == [0, 0]


@given(st.floats(0.01, 64), st.lists(st.integers(0, 50), min_size=1, max_size=40), st.data())
def test_updates_given_back_are_owed_again(train_ratio, portions, data):
    whole, stopped = Ratio(train_ratio, 16), Ratio(train_ratio, 16)
    records = done = expected = 0
    for portion in portions:
        records += portion
        owed = stopped(records)
        back = data.draw(st.integers(0, owed))
        stopped.give_back(back)
        done += owed - back
        expected += whole(records)
    assert done + stopped(records) == expected
