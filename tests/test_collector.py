"""What is stored and counted, against rollouts worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_cli.collector import Collector
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import EnvError, Preempted, StateError
from tests.toys import toy_config

D = 2  # width of the latent that the test's policy makes up


class Recorder:
    """A replay that keeps, for each environment, the list of its records as dicts."""

    def __init__(self, num_envs):
        self.streams = [[] for _ in range(num_envs)]

    def add(self, env_ids, records, action, latent):
        assert len(set(env_ids.tolist())) == len(env_ids) == len(action) == len(records.reward)
        for row, env in enumerate(env_ids):
            t, start = records.obs["vector"][row]
            flags = [bool(column[row]) for column in records[2:]]
            self.streams[env].append(
                {
                    "t": int(t),
                    "start": int(start),
                    "reward": float(records.reward[row]),
                    "flags": flags,  # is_first, is_last, is_terminal
                    "action": action[row].copy(),
                    "latent": latent["deter"][row].copy(),
                }
            )


class Cycling:
    """Answers with the classes 0, 1, 2, 0, ... in every environment; its latent counts its calls."""

    def initial(self, num_envs):
        return 0

    def __call__(self, records, carry):
        num = len(records.is_first)
        action = np.eye(3, dtype=np.float32)[np.full(num, carry % 3)]
        return action, {"deter": np.full((num, D), carry + 1, np.float32)}, carry + 1


def collect(cfg, num_envs, rounds, vec="sync"):
    replay = Recorder(num_envs)
    with VectorEnv(cfg, num_envs, 0, vec) as envs:
        collector = Collector(envs, replay)
        ended = [episode for _ in range(rounds) for episode in collector.step(Cycling())]
    return collector, replay, ended


def by_hand(length, ends, rounds):
    """One environment of `Timeline` under `Cycling`: (t, reward, flags, action, latent) of each stored record."""
    stored, t, reward = [], 0, 0.0
    for call in range(rounds):
        action = np.zeros(3)
        action[call % 3] = 1
        stored.append((t, reward, [t == 0, False, False], action, call + 1))
        t += 1
        reward = 10.0 * t + 5 + call % 3  # the environment counts its actions from 5
        if t == length:
            stored.append((t, reward, [False, True, ends != "truncated"], np.zeros(3), 0))
            t, reward = 0, 0.0
    return stored


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 5),
    ends=st.sampled_from(["terminated", "truncated", "both"]),
    rounds=st.integers(1, 13),
    num_envs=st.integers(1, 3),
)
def test_the_stored_records_are_those_worked_out_by_hand(length, ends, rounds, num_envs):
    collector, replay, ended = collect(toy_config("Timeline", length=length, ends=ends), num_envs, rounds)
    expected = by_hand(length, ends, rounds)
    for stream in replay.streams:
        assert len(stream) == len(expected)
        for record, (t, reward, flags, action, latent) in zip(stream, expected, strict=True):
            assert (record["t"], record["reward"], record["flags"]) == (t, reward, flags)
            np.testing.assert_array_equal(record["action"], action)
            np.testing.assert_array_equal(record["latent"], np.full(D, latent))
    assert collector.env_steps == rounds * num_envs
    assert collector.records == num_envs * len(expected)
    assert collector.episodes == len(ended) == num_envs * (rounds // length)


def test_episodes_of_different_lengths():
    collector, replay, ended = collect(toy_config("Timeline", length=2, vary=True), 4, 20)
    for env, stream in enumerate(replay.streams):
        episodes = [episode for episode in ended if episode.env == env]
        assert [episode.episode for episode in episodes] == list(range(len(episodes)))
        cuts = [i + 1 for i, record in enumerate(stream) if record["flags"][1]]
        for episode, begin, end in zip(episodes, [0, *cuts], cuts, strict=False):
            records = stream[begin:end]
            length = 2 + records[0]["start"] % 3
            assert episode.length == length == len(records) - 1  # n steps, n + 1 records
            assert [record["t"] for record in records] == list(range(length + 1))
            assert len({record["start"] for record in records}) == 1  # nothing of another episode
            assert records[0]["flags"] == [True, False, False]
            assert episode.ret == sum(record["reward"] for record in records)
    assert [episode.step for episode in ended] == sorted(episode.step for episode in ended)
    assert collector.records == sum(map(len, replay.streams)) == collector.env_steps + len(ended)


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_what_environments_tell_of_their_episodes(vec):
    """Numbers of the last step's info, by the names that `episode_info` gives; what is missing is left out."""

    class Nothing:
        def add(self, *args):
            pass

    with VectorEnv(toy_config("Telling", length=3), 2, 0, vec) as envs:
        assert envs.spec.told == ("steps", "good")
        collector = Collector(envs, Nothing())
        ended = [episode for _ in range(6) for episode in collector.step(Cycling())]
    assert [episode.told for episode in ended] == [{"steps": 3.0}] * 2 + [{"steps": 3.0, "good": 1.0}] * 2


def test_what_crashed_tells_nothing():
    cfg = replace(toy_config("Telling", length=3), on_crash="restart")
    with VectorEnv(cfg, 1, 0, "sync") as envs:
        envs.reset()
        envs._pool.board.told[:] = 1
        envs._pool.board.clear(0)
        assert envs.told(0) == {}


def test_sync_and_async_collect_the_same():
    cfg = toy_config("Timeline", length=2, vary=True)
    (left, ours, ended), (right, theirs, also) = (collect(cfg, 2, 12, vec) for vec in ("sync", "async"))
    assert left.state_dict() == right.state_dict()
    assert [e._replace(seconds=0) for e in ended] == [e._replace(seconds=0) for e in also]
    np.testing.assert_equal(ours.streams, theirs.streams)


def test_action_repeat_counts_as_steps_but_not_as_records():
    collector, replay, ended = collect(replace(toy_config("Timeline", length=4), repeat=2), 1, 4)
    assert collector.env_steps == 8
    assert len(replay.streams[0]) == collector.records == 6
    assert [episode.length for episode in ended] == [4, 4]
    # Two steps a decision: 10 t + action is 10 + 5 + 20 + 5, then 30 + 6 + 40 + 6.
    assert [record["reward"] for record in replay.streams[0][:3]] == [0, 40, 82]


class Packing:
    """Packs the carry of `Cycling`, which is a number."""

    def pack(self, carry):
        return {"calls": torch.tensor([carry])}

    def unpack(self, tensors, num_envs):
        return int(tensors["calls"])


def saved(collector):
    """What a checkpoint would hold."""
    arrays = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in collector.arrays(Packing()).items()
    }
    return json.loads(json.dumps(collector.state_dict())), {name: value.clone() for name, value in arrays.items()}


def resumed(envs, replay, state, tensors, gone=()):
    """A collector that goes on; `replay` has the records of before. `gone`: environments whose actions are lost."""

    def actions(env, number, after):
        past = [record["action"] for record in replay.streams[env]]
        past = past[len(past) - after - number : len(past) - after]
        return None if env in gone else np.array(past, np.float32).reshape(number, 3)

    collector = Collector(envs, replay)
    return collector, collector.load(state, tensors, Packing(), actions)


VARIED = toy_config("Timeline", length=3, vary=True)


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("rounds", [0, 1, 3, 4, 7])
def test_a_saved_state_goes_on_where_it_was(rounds, middle):
    """In the middle of an episode, at its end, before the first round; in the middle of a round, too."""
    with VectorEnv(VARIED, 2, 0, "sync") as envs:
        straight = Collector(envs, expected := Recorder(2))
        expected_ends = [ended for _ in range(rounds + 8) for ended in straight.step(Cycling())]
    with VectorEnv(VARIED, 2, 0, "sync") as envs:
        collector = Collector(envs, replay := Recorder(2))
        ends = [ended for _ in range(rounds) for ended in collector.step(Cycling())]
        if middle:
            collector.begin(Cycling())
        state, tensors = saved(collector)
    with VectorEnv(VARIED, 2, 0, "sync") as envs:
        collector, lost = resumed(envs, replay, state, tensors)
        assert lost == []
        assert collector.under_way == middle
        ends += collector.finish() if middle else []
        ends += [ended for _ in range(8 - middle) for ended in collector.step(Cycling())]
    np.testing.assert_equal(replay.streams, expected.streams)
    assert [e._replace(seconds=0) for e in ends] == [e._replace(seconds=0) for e in expected_ends]
    assert collector.state_dict() == straight.state_dict()


@pytest.mark.parametrize("middle", [False, True])
def test_an_episode_that_cannot_be_brought_back_is_given_up(middle):
    with VectorEnv(VARIED, 2, 0, "sync") as envs:
        collector = Collector(envs, replay := Recorder(2))
        collector.step(Cycling())
        if middle:
            collector.begin(Cycling())
        state, tensors = saved(collector)
    with VectorEnv(VARIED, 2, 0, "sync") as envs:
        collector, lost = resumed(envs, replay, state, tensors, gone=[1])
        assert len(lost) == 1
        assert "environment 1: its episode 0 cannot go on (its actions are no longer in the replay)" in lost[0]
        ends = collector.finish() if middle else []
        assert ends == []
        for _ in range(6):
            ends += collector.step(Cycling())
    flags = [record["flags"] for record in replay.streams[1]]
    stored = 1 + middle
    assert flags[stored] == [True, False, False]  # broken off: no last record, and the next one is a first
    assert [record["t"] for record in replay.streams[1][stored : stored + 3]] == [0, 1, 2]
    theirs = [ended for ended in ends if ended.env == 1]
    assert all(ended.episode > 0 for ended in theirs)
    records = replay.streams[1][stored : stored + theirs[0].length + 1]
    assert theirs[0].ret == sum(record["reward"] for record in records)
    assert replay.streams[0][1]["t"] == 1  # the other goes on


def test_what_does_not_fit_is_refused():
    with VectorEnv(VARIED, 2, 0, "sync") as envs:
        collector = Collector(envs, replay := Recorder(2))
        collector.step(Cycling())
        state, tensors = saved(collector)
    with VectorEnv(VARIED, 3, 0, "sync") as envs, pytest.raises(StateError, match="2 environments, not in 3"):
        resumed(envs, replay, state, tensors)
    with VectorEnv(VARIED, 2, 0, "sync") as envs, pytest.raises(StateError, match="obs/vector"):
        resumed(envs, replay, state, {**tensors, "obs/vector": torch.zeros(2, 3)})


def test_after_a_failed_round_nothing_is_half_counted():
    """... and the round can be saved as it was sent."""
    with VectorEnv(toy_config("Faulty", fault="nan", at=2), 2, 0, "sync") as envs:
        collector = Collector(envs, replay := Quiet())
        collector.step(Cycling())
        with pytest.raises(EnvError):
            collector.step(Cycling())
        assert collector.env_steps == 2
        assert collector.records == replay.count == 4  # the records that were acted on are stored
        assert collector.under_way
        assert saved(collector)[1]["round/action"].shape == (2, 3)


def test_a_crashed_environment_breaks_its_episode_off():
    cfg = replace(toy_config("Faulty", fault="raises", at=2, only_episode=1), on_crash="restart")
    with VectorEnv(cfg, 1, 0, "sync") as envs:
        collector = Collector(envs, replay := Quiet())
        ends = [ended for _ in range(3) for ended in collector.step(Cycling())]
    assert [(ended.episode, ended.length) for ended in ends] == [(0, 2)]
    assert (collector.records, replay.count) == (3, 3)  # no record of what followed the crash
    assert (collector.env_steps, collector.episodes) == (3, 1)


def test_an_interrupted_reset_loses_no_episode():
    with VectorEnv(toy_config("Timeline", length=2), 2, 0, "sync") as envs:
        collector = Collector(envs, replay := Recorder(2))
        collector.step(Cycling())

        def interrupted(mask):
            raise Preempted("stopped")

        envs.reset = interrupted
        ended = collector.step(Cycling())
        assert [(e.env, e.episode, e.length) for e in ended] == [(0, 0, 2), (1, 0, 2)]
        with pytest.raises(Preempted):
            collector.step(Cycling())
        assert saved(collector)[1]["is_last"].all()  # the resets are still to come
    counted = {"env_steps": 4, "records": 6, "episodes": 2, "begun": [1, 1]}
    assert collector.state_dict() == {**counted, "returns": [0.0, 0.0], "decisions": [0, 0]}
    assert [record["flags"][1] for record in replay.streams[0]] == [False, False, True]


class Quiet:
    def __init__(self):
        self.count = 0

    def add(self, env_ids, records, action, latent):
        self.count += len(env_ids)


def test_in_the_middle_of_a_round_only_ends_of_episodes_are_missing():
    with VectorEnv(toy_config("Timeline", length=2), 2, 0, "sync") as envs:
        collector = Collector(envs, replay := Recorder(2))
        collector.step(Cycling())
        collector.begin(Cycling())
        assert [record["t"] for record in replay.streams[0]] == [0, 1]  # the second was acted on just now
        assert (collector.env_steps, collector.asked, collector.now) == (2, 4, None)
        with pytest.raises(RuntimeError, match="not finished"):
            collector.begin(Cycling())
        assert [ended.length for ended in collector.finish()] == [2, 2]
        assert [record["t"] for record in replay.streams[0]] == [0, 1, 2]
        assert collector.env_steps == collector.asked == 4
        with pytest.raises(RuntimeError, match="no round"):
            collector.finish()
