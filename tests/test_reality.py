"""Stretches of real records: inside one episode, in order, from a seed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamer_cli.acting import RandomDriver
from dreamer_cli.dream import Stretch
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import Interrupted, StateError
from dreamer_cli.reality import play_stretches, replay_stretches
from dreamer_cli.replay.storage import Replay
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.structs import Records
from tests.toys import toy_config


def play(lengths: list[int], length: int, envs: int = 3, seed: int = 0, progress: Any = lambda: None) -> list[Stretch]:
    cfg = replace(toy_config("Counting", lengths=lengths), vec="sync")
    with VectorEnv(cfg, envs, seed) as vector:
        driver = RandomDriver(vector.spec, {}, seed)
        return play_stretches(vector, driver, length, progress)


def check(stretch: Stretch) -> None:
    """One episode, step by step, each record with its own reward."""
    mark, step = stretch.obs["vector"].T
    assert len(set(mark)) == 1
    np.testing.assert_array_equal(np.diff(step), 1)
    np.testing.assert_array_equal(stretch.reward, step)


def test_windows_are_the_beginnings_of_episodes():
    stretches = play([1000], 10, envs=4)
    assert [len(s.reward) for s in stretches] == [10] * 4
    for stretch in stretches:
        check(stretch)
        assert stretch.obs["vector"][0, 1] == 0  # the record of the reset
        np.testing.assert_array_equal(stretch.action.sum(1), 1)  # every record was answered
        assert not stretch.is_terminal.any()


def test_an_episode_that_just_fits_shows_its_end():
    (stretch,) = play([9], 10, envs=1)
    check(stretch)
    assert stretch.is_terminal.tolist() == [False] * 9 + [True]
    assert stretch.action[-1].sum() == 0  # nothing answers the end


def test_short_episodes_are_tried_again_and_the_longest_is_taken():
    for stretch in play([3, 30, 3], 10, envs=4):
        check(stretch)
        assert len(stretch.reward) == 10
    for stretch in play([3, 6, 4], 10):
        check(stretch)
        assert len(stretch.reward) == 7  # six steps, and the record of the reset
        assert stretch.is_terminal.tolist() == [False] * 6 + [True]


def test_playing_repeats_from_a_seed_and_can_be_stopped():
    for one, other in zip(play([50], 10, seed=1), play([50], 10, seed=1), strict=True):
        np.testing.assert_array_equal(one.obs["vector"], other.obs["vector"])
        np.testing.assert_array_equal(one.action, other.action)

    def stop() -> None:
        raise Interrupted("stopped by Ctrl-C")

    with pytest.raises(Interrupted):
        play([50], 10, progress=stop)


SPEC = EnvSpec(
    {"vector": ObsSpec("vector", (2,)), "die": ObsSpec("discrete", (1,), (6,))},
    (ActionPart("action", "discrete", (2,)),),
)


def save_replay(directory: Path, episodes: list[int], saves: int = 1, envs: int = 2) -> dict[str, Any]:
    """A replay on disk in which every environment went through `episodes` (records each); returns its tree."""
    latent = {"deter": ((1,), np.dtype(np.float32)), "stoch": ((1,), np.dtype(np.uint8))}
    replay = Replay(SPEC, envs, latent, capacity=10_000, batch_length=4)
    ids, tree, zeros = np.arange(envs), {}, np.zeros(envs, bool)
    for part in range(saves):
        for number, records in enumerate(episodes):
            for t in range(records):
                mark = 100 * part + 10 * number + ids
                obs = {
                    "vector": np.stack([mark, np.full(envs, t)], 1).astype(np.float32),
                    "die": np.full((envs, 1), t % 6, np.int32),
                }
                last = zeros | (t == records - 1)
                replay.add(
                    ids,
                    Records(obs, np.full(envs, t, np.float32), zeros | (t == 0), last, last),
                    np.tile(np.eye(2, dtype=np.float32)[t % 2], (envs, 1)),
                    {"deter": np.zeros((envs, 1), np.float32), "stoch": np.zeros((envs, 1), np.uint8)},
                )
        tree = replay.save(directory)[1]
    return tree


def find(directory: Path, tree: dict[str, Any], number: int, length: int, need: int = 3, seed: int = 0) -> Any:
    warnings: list[str] = []
    rng = np.random.default_rng(seed)
    return replay_stretches(directory, tree, SPEC, number, length, need, rng, warnings.append), warnings


def test_replayed_stretches_stay_in_one_episode_and_do_not_overlap(tmp_path):
    tree = save_replay(tmp_path, [25, 4, 9])
    stretches, warnings = find(tmp_path, tree, number=6, length=8)
    assert warnings == []
    assert [len(s.reward) for s in stretches] == [8] * 6  # three of 25 records, none of 4, one of 9, in two streams
    seen: set[tuple[float, float]] = set()
    for stretch in stretches:
        check(stretch)
        assert stretch.obs["die"].dtype == np.int32
        np.testing.assert_array_equal(stretch.obs["die"][:, 0], stretch.reward % 6)
        records = set(map(tuple, stretch.obs["vector"].tolist()))
        assert not records & seen
        seen |= records
    again, _ = find(tmp_path, tree, number=6, length=8)
    for one, other in zip(stretches, again, strict=True):
        np.testing.assert_array_equal(one.obs["vector"], other.obs["vector"])


def test_short_episodes_come_only_where_long_ones_run_out(tmp_path):
    stretches, _ = find(tmp_path, save_replay(tmp_path, [25, 4, 9]), number=20, length=8)
    assert [len(s.reward) for s in stretches] == [8] * 8 + [4] * 2
    with pytest.raises(StateError, match="40 records") as error:
        find(tmp_path, save_replay(tmp_path, [25]), number=2, length=50, need=40)
    assert "--context" in error.value.hint


def test_a_chunk_that_is_gone_is_stepped_over(tmp_path):
    tree = save_replay(tmp_path, [12], saves=2)
    (tmp_path / tree["chunks"][0]["name"]).unlink()
    stretches, warnings = find(tmp_path, tree, number=4, length=6)
    assert len(warnings) == 1
    assert {s.obs["vector"][0, 0] for s in stretches} == {100, 101}
