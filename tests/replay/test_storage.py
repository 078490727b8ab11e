"""What goes in comes out: aligned, unmixed, and gone after eviction."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamer_cli.errors import ConfigError
from dreamer_cli.memory import free_memory
from dreamer_cli.replay.ring import fits_on_device, plan
from dreamer_cli.replay.storage import Replay, ReplayConfig
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.structs import Records
from tests.replay.toy import LATENT, SPEC, fill, latent_of, make_replay, records_of

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "reference.json").read_text())["replay_online_queue"]


def test_batch_holds_what_was_added():
    replay = make_replay(num_envs=3, batch=7, time=4)
    fill(replay, 33)
    batch, index = replay.sample()
    ids = index.start[:, None] + np.arange(5)
    records, action = records_of(index.env[:, None], ids)
    for key, value in records.obs.items():
        np.testing.assert_array_equal(batch.obs[key], value[:, 1:])
        assert batch.obs[key].numpy().dtype == SPEC.observation[key].dtype
    np.testing.assert_array_equal(batch.action, action)
    np.testing.assert_array_equal(batch.prev_action[..., 1], ids[:, :-1])  # the action that led to each record
    np.testing.assert_array_equal(batch.reward, records.reward[:, 1:])
    np.testing.assert_array_equal(batch.is_first, records.is_first[:, 1:])
    np.testing.assert_array_equal(batch.is_terminal, records.is_terminal[:, 1:])
    start = latent_of(index.env, index.start, np.zeros(7))
    np.testing.assert_array_equal(batch.start.deter, start["deter"])
    np.testing.assert_array_equal(batch.start.stoch, start["stoch"])
    assert batch.start.stoch.dtype == torch.int64
    assert all(value.is_contiguous() for value in (*batch.obs.values(), batch.action, batch.start.deter))


def test_flags_match_the_reference():
    """Item 6 of the reference; there its first record is trained too, here it is the context."""
    spec = EnvSpec({"x": ObsSpec("vector", (1,))}, (ActionPart("a", "discrete", (2,)),))
    latent = {"deter": ((1,), "float32"), "stoch": ((1,), "uint8")}
    length = FIXTURE["length"]
    replay = Replay(spec, 1, latent, capacity=50, batch_size=1, batch_length=length - 1)
    for count in range(FIXTURE["records_added"]):
        records = Records(
            obs={"x": np.full((1, 1), count, np.float32)},
            reward=np.zeros(1, np.float32),
            is_first=np.array([count in FIXTURE["is_first_at"]]),
            is_last=np.array([count in FIXTURE["is_last_at"]]),
            is_terminal=np.array([False]),
        )
        zero = {"deter": np.zeros((1, 1), np.float32), "stoch": np.zeros((1, 1), np.uint8)}
        replay.add(np.array([0]), records, np.zeros((1, 2), np.float32), zero)
    assert len(replay) == FIXTURE["num_items"]
    expected = FIXTURE["assembled_item_6"]
    batches = {int(index.start[0]): batch for batch, index in (replay.sample() for _ in range(4))}
    assert list(batches) == FIXTURE["queue_item_start_records"]
    batch = batches[6]
    assert batch.obs["x"][0, :, 0].tolist() == expected["records"][1:]
    assert batch.is_first[0].int().tolist() == expected["is_first"][1:]
    assert batch.is_last[0].int().tolist() == expected["is_last"][1:]


def test_abandoned_episodes_are_marked_as_ended_only_in_the_batch():
    replay = make_replay(num_envs=1, per_env=40, batch=8)
    fill(replay, 40)
    batch, index = replay.sample()
    ids = index.start[:, None] + np.arange(1, 5)
    records, _ = records_of(np.zeros_like(ids), ids)
    expected = records.is_last.copy()
    expected[:, :-1] |= records.is_first[:, 1:]
    assert (expected != records.is_last).any()
    np.testing.assert_array_equal(batch.is_last, expected)
    np.testing.assert_array_equal(replay.ring.arrays["is_last"][0, ids % 40], records.is_last)


def test_refresh_reaches_exactly_the_trained_records():
    replay = make_replay(num_envs=2, per_env=20, batch=1, online=False)
    fill(replay, 20)
    before = {name: replay.ring.arrays[name].copy() for name in LATENT}
    _, index = replay.sample()
    env, start = int(index.env[0]), int(index.start[0])
    ids = np.arange(start + 1, start + 5)
    fresh = latent_of(np.full((1, 4), env), ids[None], np.ones((1, 4)))
    replay.refresh(
        index, {"deter": torch.from_numpy(fresh["deter"]).bfloat16(), "stoch": torch.from_numpy(fresh["stoch"]).long()}
    )
    for name in LATENT:
        expected = before[name].copy()
        expected[env, ids % 20] = fresh[name][0]
        np.testing.assert_array_equal(replay.ring.arrays[name], expected)


@pytest.mark.parametrize("added", [0, 1, 2, 3, 4, 5, 18, 19, 20, 21, 30, 45])
def test_refresh_leaves_records_alone_that_took_an_evicted_ones_place(added):
    replay = make_replay(num_envs=1, per_env=20, batch=1)
    fill(replay, 21)
    index = replay.sample()[1]
    while index.start[0] != 1:
        index = replay.sample()[1]
    fill(replay, added)
    replay.refresh(index, latent_of(np.zeros((1, 4)), np.arange(2, 6)[None], np.full((1, 4), 9)))
    newest = 21 + added
    ids = np.arange(newest - 20, newest)
    version = np.where((ids >= 2) & (ids < 6), 9, 0)
    np.testing.assert_array_equal(replay.ring.arrays["deter"][0, ids % 20], latent_of(0, ids, version)["deter"])


@pytest.mark.parametrize(
    ("capacity", "max_records", "limited_by", "records"),
    [
        (100, None, "capacity", 100),
        (100, 200, "capacity", 100),
        (100, 60, "max_bytes", 60),
        (101, 100.9, "max_bytes", 100),
    ],
)
def test_the_smaller_limit_holds(capacity, max_records, limited_by, records):
    per_record = 24 + 8 + 2 * 2 + 12 + 4 + 3 + 12 + 2  # classes up to 300 take two bytes each
    max_bytes = None if max_records is None else int(max_records * per_record)
    replay = Replay(SPEC, 2, LATENT, capacity=capacity, max_bytes=max_bytes, batch_size=2, batch_length=4)
    assert replay.bytes_per_record == per_record
    assert (replay.limited_by, replay.capacity) == (limited_by, records)
    assert replay.plan.bytes == records * per_record
    assert sum(array.nbytes for array in replay.ring.arrays.values()) == replay.plan.bytes
    fill(replay, records)
    assert replay.records == records


def test_too_small_a_limit_says_what_is_enough():
    with pytest.raises(ConfigError, match="max_bytes") as caught:
        Replay(SPEC, 2, LATENT, capacity=100, max_bytes=500, batch_length=4)
    enough = int(caught.value.hint.split("=")[1].split()[0])
    assert Replay(SPEC, 2, LATENT, capacity=100, max_bytes=enough, batch_length=4).capacity == 10
    with pytest.raises(ConfigError, match="capacity"):
        Replay(SPEC, 2, LATENT, capacity=9, batch_length=4)


def test_config_fills_in_what_is_open():
    free = free_memory()
    assert free > 1_000_000
    assert ReplayConfig(max_bytes=5).limits(10_000_000, 4) == (5_000_000, 5)
    assert ReplayConfig(max_bytes=5).limits(7000, 4)[0] == 7000
    assert ReplayConfig(max_bytes=5).limits(10, 4)[0] == 4 * 65  # room for one sequence each
    capacity, max_bytes = ReplayConfig(capacity=70).limits(7000, 4)
    assert capacity == 70
    assert 0.1 * free < 4 * max_bytes < 10 * free
    with pytest.raises(ValueError, match="batch_size"):
        ReplayConfig(batch_size=0)


@pytest.mark.parametrize(
    ("wanted", "device", "free_records", "placed"),
    [
        ("auto", "cpu", 1000, "host"),
        ("auto", "cuda", 200, "device"),  # half of what is free is enough for all
        ("auto", "cuda", 199, "host"),
        ("host", "cuda", 1000, "host"),
        ("device", "cuda", 10, "device"),
        ("device", "cpu", 10, "device"),
    ],
)
def test_records_are_kept_on_a_gpu_where_they_fit(monkeypatch, wanted, device, free_records, placed):
    sizes = plan(SPEC, 2, LATENT, 100, None, 4)
    free = free_records * sizes.bytes_per_record
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (free, 10 * free))
    assert fits_on_device(sizes, free) == (free_records >= 200)
    assert fits_on_device(sizes, free, share=1.0) == (free_records >= 100)
    assert ReplayConfig(storage=wanted).place(sizes, torch.device(device)) == placed


def test_a_batch_that_is_held_stays_as_it_is():
    """The memory of a batch is used again, once nothing is left of it."""
    spec = EnvSpec({"image": ObsSpec("image", (3, 64, 64))}, SPEC.action)
    replay = Replay(spec, 1, LATENT, capacity=30, batch_size=3, batch_length=4)
    for count in range(30):
        records, action = records_of(np.array([0]), np.array([count]))
        image = np.full((1, 3, 64, 64), count, np.uint8)
        replay.add(np.array([0]), records._replace(obs={"image": image}), action, latent_of(np.array([0]), count, 0))
    (first, index), (second, where) = replay.sample(), replay.sample()
    view, address = first.obs["image"][1:].numpy(), first.obs["image"].data_ptr()
    assert second.obs["image"].data_ptr() != address
    del first
    third, _ = replay.sample()
    assert address not in (third.obs["image"].data_ptr(), second.obs["image"].data_ptr())
    np.testing.assert_array_equal(view[:, 0, 0, 0, 0], index.start[1:] + 1)
    np.testing.assert_array_equal(second.obs["image"][:, 0, 0, 0, 0], where.start + 1)
    del view
    assert replay.sample()[0].obs["image"].data_ptr() == address


def test_misuse_is_refused():
    replay = make_replay()
    with pytest.raises(ValueError, match="no sequence"):
        replay.sample()
    records, action = records_of(np.array([0, 0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="one record at a time"):
        replay.add(np.array([0, 0]), records, action, latent_of(0, np.array([0, 1]), 0))
    records, action = records_of(np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="action"):
        replay.add(np.array([0]), records, action[:, :2], latent_of(np.array([0]), 0, 0))
    with pytest.raises(ValueError, match="deter"):
        replay.add(np.array([0]), records, action, {})
    assert replay.records == 0


def test_a_replay_too_small_for_one_sequence_says_what_is_enough():
    with pytest.raises(ConfigError) as caught:
        make_replay(num_envs=2, per_env=4, time=4)
    assert caught.value.what.startswith("replay.capacity=8 is too small: each of 2 environments")
    assert "replay.capacity=10 or more" in caught.value.hint
    assert make_replay(num_envs=2, per_env=5, time=4).capacity == 10
