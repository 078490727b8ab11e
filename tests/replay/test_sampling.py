"""Items and their order, without data."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamer_cli.replay.sampling import ItemSampler

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "reference.json").read_text())["replay_online_queue"]


def make_sampler(num_envs: int = 1, per_env: int = 100, length: int = 5, online: bool = True) -> ItemSampler:
    return ItemSampler(num_envs, per_env, length, online, seed=0)


def test_online_queue_matches_the_reference():
    sampler = make_sampler(length=FIXTURE["length"])
    for _ in range(FIXTURE["records_added"]):
        sampler.add(np.array([0]))
    assert len(sampler) == FIXTURE["num_items"]
    assert list(sampler.queue) == [(0, start) for start in FIXTURE["queue_item_start_records"]]


def test_fresh_items_come_first_and_once():
    sampler = make_sampler(num_envs=2)
    for _ in range(22):
        sampler.add(np.array([0, 1]))
    env, start = sampler.draw(6)
    assert list(zip(env.tolist(), start.tolist(), strict=True)) == [(0, 1), (1, 1), (0, 6), (1, 6), (0, 11), (1, 11)]
    env, start = sampler.draw(6)
    assert list(zip(env.tolist(), start.tolist(), strict=True))[:2] == [(0, 16), (1, 16)]
    assert not sampler.queue


def test_evicted_items_leave_the_queue():
    sampler = make_sampler(per_env=12)
    for _ in range(22):
        sampler.add(np.array([0]))
    assert list(sampler.queue) == [(0, 11), (0, 16)]
    for _ in range(2):
        sampler.add(np.array([0]))
    assert sampler.draw(1)[1].tolist() == [16]


def test_evicted_items_are_passed_over_in_the_middle_of_the_queue():
    sampler = make_sampler(num_envs=2, per_env=12)
    for _ in range(7):
        sampler.add(np.array([0, 1]))
    for _ in range(15):
        sampler.add(np.array([1]))
    assert list(sampler.queue) == [(0, 1), (1, 1), (1, 6), (1, 11), (1, 16)]
    env, start = sampler.draw(3)
    assert list(zip(env.tolist(), start.tolist(), strict=True)) == [(0, 1), (1, 11), (1, 16)]


@pytest.mark.parametrize("added", [0, 3, 40])
def test_a_choice_counts_once_it_is_committed(added):
    """Whatever was added since: it may have been evicted, or more be waiting."""
    one, two = (make_sampler(per_env=30) for _ in range(2))
    for sampler in (one, two):
        for _ in range(12):
            sampler.add(np.array([0]))
    before = one.state()
    choice = one.choose(4)
    one.choose(9)
    assert one.state() == before
    env, start = two.draw(4)
    assert choice.fresh == [(0, 1), (0, 6)]
    np.testing.assert_array_equal((choice.env, choice.start), (env, start))
    for sampler in (one, two):
        for _ in range(added):
            sampler.add(np.array([0]))
    one.commit(choice)
    assert one.state() == two.state()
    np.testing.assert_array_equal(one.draw(9), two.draw(9))


def test_a_fresh_item_does_not_span_a_gap():
    """The newest records, up to id 13, were lost: the first whole item of three after them begins at 14."""
    sampler = make_sampler(per_env=30, length=3)
    sampler.load({**sampler.state(), "next": [14]}, [(0, 0, 8)])
    for _ in range(5):
        sampler.add(np.array([0]))
    assert list(sampler.queue) == [(0, 16)]  # id 15 closed 13..15, of which 13 is gone; id 18 closes 16..18


def test_every_item_is_equally_likely():
    """Streams of different lengths: 16, 3, 0 (too short) and 21 - eviction to 8."""
    sampler = make_sampler(num_envs=4, per_env=12, online=False)
    for env, number in enumerate((9, 7, 4, 25)):
        for _ in range(number):
            sampler.add(np.array([env]))
    items = {(0, s) for s in range(5)} | {(1, s) for s in range(3)} | {(3, s) for s in range(13, 21)}
    assert len(sampler) == len(items) == 16
    env, start = sampler.draw(16_000)
    drawn, counts = np.unique(np.stack([env, start], 1), axis=0, return_counts=True)
    assert {tuple(item) for item in drawn.tolist()} == items
    # Chi-squared with 15 degrees of freedom: 37.7 has a chance of one in a thousand; the seed is fixed.
    assert ((counts - 1000) ** 2 / 1000).sum() < 37.7


def test_no_item_spans_a_gap():
    """Stream 0 lost the records 4..9; stream 1 lost its newest ones and grows anew."""
    sampler = make_sampler(num_envs=2, length=3, per_env=16, online=False)
    state = {**sampler.state(), "next": [14, 14], "queue": [[0, 2], [0, 3], [0, 10], [1, 12]]}
    sampler.load(state, [(0, 0, 4), (0, 10, 14), (1, 0, 8)])
    assert sampler.records == 16
    assert list(sampler.queue) == [(0, 10)]

    def items() -> set[tuple[int, int]]:
        sampler.queue.clear()
        env, start = sampler.draw(500)
        return set(zip(env.tolist(), start.tolist(), strict=True))

    old = {(1, start) for start in range(6)}
    assert items() == {(0, 0), (0, 1), (0, 10), (0, 11)} | old
    for _ in range(2):
        sampler.add(np.array([1]))
    assert items() == {(0, 0), (0, 1), (0, 10), (0, 11)} | old
    sampler.add(np.array([1]))  # 17 records ever: id 0 is evicted, and 14, 15, 16 make an item
    assert items() == {(0, 0), (0, 1), (0, 10), (0, 11), (1, 14)} | (old - {(1, 0)})
    for _ in range(6):
        sampler.add(np.array([0]))
    assert items() & {(0, s) for s in range(4)} == set()


@pytest.mark.parametrize("online", [True, False])
def test_state_continues_the_choice(online):
    sampler = make_sampler(num_envs=2, per_env=30, online=online)
    for _ in range(40):
        sampler.add(np.array([0, 1]))
    sampler.draw(3)
    state, spans = json.loads(json.dumps(sampler.state())), sampler.spans
    other = ItemSampler(2, 30, 5, online, seed=99)
    other.load(state, spans)
    for _ in range(20):
        for one, two in zip(sampler.draw(4), other.draw(4), strict=True):
            np.testing.assert_array_equal(one, two)
        sampler.add(np.array([1]))
        other.add(np.array([1]))
