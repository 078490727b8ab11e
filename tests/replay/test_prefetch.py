"""Feeds: the same batches whoever fetches them, whatever a thread's speed, and nothing is lost on the way back."""

import threading
import time

import numpy as np
import pytest
import torch

from dreamer_cli.replay.prefetch import DeviceFeed, Direct, Prefetch, build_feed
from dreamer_cli.replay.storage import Replay, nothing
from dreamer_cli.structs import Batch
from tests.replay.test_device_ring import assert_equal
from tests.replay.test_persistence import assert_same_future, save
from tests.replay.toy import fill, latent_of, make_replay

CPU = torch.device("cpu")


def fresh_of(batch: Batch, update: int) -> dict[str, torch.Tensor]:
    """Latents of a batch after an update, marked with its number."""
    env, count = (batch.obs["vector"][..., column].numpy().astype(int) for column in (0, 1))
    return {name: torch.from_numpy(x) for name, x in latent_of(env, count, np.full_like(env, update)).items()}


def updates_behind(batch: Batch, update: int, stored: dict[tuple[int, int], int]) -> int:
    """Of this update's batch, by how many updates the latents that it begins in are late; 0: none."""
    behind = 0
    after = batch.obs["vector"][:, 0].int().tolist()  # of the records that follow
    for (env, count), latent in zip(after, batch.start.deter.int().tolist(), strict=True):
        newest = stored.get((env, count - 1), 0)
        assert latent[:2] == [env, count - 1]
        behind = max(behind, update - newest if latent[2] < newest else 0)
    return behind


class Reader:
    """What a feed serves: it makes batches of what it is given, and hands over latents."""

    def __init__(self, feed) -> None:
        self.fetch, self.keep = (lambda batch: batch), (lambda source, latents, sound: None)
        self.feed = feed
        feed.serve(self)

    def take(self) -> Batch:
        self.source = self.feed.take()
        return self.fetch(self.source)

    def store(self, latents, sound: bool = True) -> None:
        self.keep(self.source, latents, torch.tensor(sound))
        self.feed.store(latents, torch.tensor(sound))


def live(replay: Replay, feed, updates: int, delay=lambda: None, added=(3, 0, 1, 0, 0, 5)) -> tuple[list[Batch], int]:
    """Learn and collect for a while: what was taken, and how far start latents were behind at most."""
    taken, stored, behind, reader = [], {}, 0, Reader(feed)
    for update in range(1, updates + 1):
        batch = reader.take()
        behind = max(behind, updates_behind(batch, update, stored))
        taken.append(batch)
        fresh = fresh_of(batch, update)
        stored |= {(e, c): update for e, c, _ in fresh["deter"].flatten(0, 1).int().tolist()}
        reader.store(fresh)
        for value in fresh.values():
            value.zero_()  # as a captured graph writes into the same memory again
        delay()
        fill(replay, added[update % len(added)])
    return taken, behind


def test_feeds_with_the_records_at_hand_agree():
    host, device = make_replay(), make_replay(storage="device")
    for replay in (host, device):
        fill(replay, 15)
    (direct, behind), (others, _) = live(host, Direct(host, CPU), 20), live(device, DeviceFeed(device), 20)
    assert behind == 0
    for one, two in zip(direct, others, strict=True):
        assert_equal(one, two)


def test_prefetched_records_are_those_drawn_in_order():
    """While nothing is added, the same as without a thread."""
    direct, ahead = make_replay(), make_replay()
    for replay in (direct, ahead):
        fill(replay, 15)
    feed = Prefetch(ahead, CPU)
    for _ in range(8):
        assert torch.equal(feed.take().obs["vector"], direct.sample()[0].obs["vector"])
    feed.close()


def test_a_prefetched_batch_lacks_one_update_at_most_and_no_thread_changes_that(monkeypatch):
    """With a thread that is slow at random, and one that is fast: all the same to the bit."""
    gather, generator = Replay.gather, np.random.default_rng(0)

    def slowly(self, rows):
        time.sleep(generator.uniform(0, 0.004))
        return gather(self, rows)

    runs = []
    for slow in (False, True):
        monkeypatch.setattr(Replay, "gather", slowly if slow else gather)
        replay = make_replay(per_env=12, batch=6)
        fill(replay, 12)
        feed = Prefetch(replay, CPU)
        taken, behind = live(replay, feed, 40, (lambda: time.sleep(0.001)) if not slow else (lambda: None))
        assert behind == 1  # it happens, and no more
        feed.close()
        runs.append((taken, replay))
    for one, two in zip(runs[0][0], runs[1][0], strict=True):
        assert_equal(one, two)
    assert_same_future(runs[0][1], runs[1][1], rounds=2)


def test_nothing_is_written_while_the_thread_reads(monkeypatch):
    replay = make_replay(per_env=5)
    fill(replay, 5)
    began, may_go_on = threading.Event(), threading.Event()
    gather = Replay.gather

    def held(self, rows):
        began.set()
        may_go_on.wait(5)
        return gather(self, rows)

    feed = Prefetch(replay, CPU)
    feed.take()
    replay.wait()
    monkeypatch.setattr(Replay, "gather", held)
    expected = feed.take()  # begins the next one, which is the same: there is only one item per environment
    assert began.wait(5)
    adding = threading.Thread(target=fill, args=(replay, 3))
    adding.start()
    adding.join(0.05)
    assert adding.is_alive()
    assert replay.sampler.next.tolist() == [5, 5]
    may_go_on.set()
    adding.join(5)
    assert replay.sampler.next.tolist() == [8, 8]
    assert set(feed.take().obs["vector"][:, 0, 1].tolist()) == set(expected.obs["vector"][:, 0, 1].tolist()) == {1}
    feed.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_fed_the_same():
    cuda, runs = torch.device("cuda"), []
    for device in (CPU, cuda):
        replay = make_replay(per_env=12, batch=6, pin_memory=device == cuda)
        fill(replay, 12)
        feed, taken = Prefetch(replay, device), []
        for update in range(30):
            taken.append(feed.take().to(CPU))
            if device == cuda:
                torch.cuda.synchronize()  # `to` does not wait
            feed.store({name: x.to(device) for name, x in fresh_of(taken[-1], update).items()})
            fill(replay, update % 3)
        feed.close()
        runs.append(taken)
    for one, two in zip(*runs, strict=True):
        assert_equal(one, two)


@pytest.mark.parametrize("storage", ["host", "device"])
def test_going_on_from_a_save_is_as_if_nobody_had_read_ahead(tmp_path, storage):
    """Another process that goes on from the files takes what this one takes, online sequences included."""
    replay = make_replay(per_env=30, storage=storage)
    feed = Prefetch(replay, CPU) if storage == "host" else DeviceFeed(replay)
    fill(replay, 12)
    taken, _ = live(replay, feed, 11)  # records are added last, after the next batch was begun
    latents, tree = save(replay, tmp_path)
    for env, count, version in fresh_of(taken[-1], 11)["deter"].flatten(0, 1).int().tolist():
        assert latents[f"deter.{env}"][count % 30, 2] == version  # the last update's latents are in
    resumed = make_replay(per_env=30, seed=9)
    assert resumed.load(tmp_path, latents, tree) == []
    other = Prefetch(resumed, CPU) if storage == "host" else Direct(resumed, CPU)
    if storage == "host":  # the batch that was drawn ahead is not part of a save
        assert replay.load(tmp_path, latents, tree) == []
    (one, _), (two, _) = live(replay, feed, 9), live(resumed, other, 9)
    for left, right in zip(one, two, strict=True):
        assert_equal(left, right)
    feed.close()
    other.close()


def test_files_are_the_same_wherever_records_are_kept(tmp_path):
    replays = {storage: make_replay(per_env=20, storage=storage) for storage in ("host", "device")}
    saved = {}
    for storage, replay in replays.items():
        fill(replay, 15)
        live(replay, build_feed(replay, CPU), 6)
        saved[storage] = save(replay, tmp_path / storage)
    (latents, tree), (others, another) = saved["host"], saved["device"]
    assert tree == another  # with the SHA-256 of every chunk
    assert latents.keys() == others.keys()
    assert all(latents[name].dtype == others[name].dtype for name in latents)
    assert all(torch.equal(latents[name], others[name]) for name in latents)
    for storage, other in (("host", "device"), ("device", "host")):
        resumed = make_replay(per_env=20, storage=other)
        assert resumed.load(tmp_path / storage, *saved[storage]) == []
        assert_same_future(replays[other], resumed, rounds=3)


def test_peeking_changes_nothing_and_sees_no_half_written_latents():
    one, two = make_replay(), make_replay()
    feeds = []
    for replay in (one, two):
        fill(replay, 15)
        feeds.append(Prefetch(replay, CPU))
    (taken, _), (others, _) = live(one, feeds[0], 8, lambda: one.peek(3)), live(two, feeds[1], 8)
    for left, right in zip(taken, others, strict=True):
        assert_equal(left, right)
    for feed in feeds:
        feed.close()


def test_misuse_and_failures_are_heard(monkeypatch):
    replay = make_replay()
    feed = build_feed(replay, CPU)
    assert isinstance(feed, Direct)
    assert isinstance(build_feed(make_replay(storage="device"), CPU), DeviceFeed)
    with pytest.raises(ValueError, match="device"):
        Prefetch(make_replay(storage="device"), CPU)
    prefetch = Prefetch(replay, CPU)
    for each in (feed, prefetch):
        with pytest.raises(ValueError, match="no sequence"):
            each.take()
        with pytest.raises(ValueError, match="no batch"):
            each.store({})
    fill(replay, 9)
    batch = prefetch.take()
    prefetch.store({name: x[:, :2] for name, x in fresh_of(batch, 1).items()})
    prefetch.take()
    with pytest.raises(ValueError, match="deter is"):
        prefetch.take()
    prefetch.take()  # and goes on
    prefetch.close()
    assert replay.wait is replay.drain is replay.forget is nothing
    assert threading.active_count() == 1 or not any(t.name.startswith("prefetch") for t in threading.enumerate())


@pytest.mark.parametrize("storage", ["host", "device"])
def test_saving_and_peeking_change_nothing(tmp_path, storage):
    """Between any two updates, before or after records came in: the same batches, and the same latents in the end."""
    replays = [make_replay(per_env=12, batch=6, storage=storage) for _ in range(2)]
    feeds = [Prefetch(x, CPU) if storage == "host" else DeviceFeed(x) for x in replays]
    for replay in replays:
        fill(replay, 12)
    turns = iter(range(1000))

    def disturb() -> None:
        turn = next(turns)
        if turn % 3 != 1:
            save(replays[1], tmp_path)
        if turn % 2:
            replays[1].peek(turn)

    (one, _), (two, _) = live(replays[0], feeds[0], 30), live(replays[1], feeds[1], 30, disturb)
    save(replays[1], tmp_path)
    for left, right in zip(one, two, strict=True):
        assert_equal(left, right)
    for feed in feeds:
        feed.drain()
    for env in range(2):
        begin, end = int(replays[0].sampler.oldest[env]), int(replays[0].sampler.next[env])
        for name in ("deter", "stoch"):
            ours, theirs = (np.concatenate(x.ring.get(name, env, begin, end)) for x in replays)
            np.testing.assert_array_equal(ours, theirs)
    (one, _), (two, _) = live(replays[0], feeds[0], 5), live(replays[1], feeds[1], 5)
    for left, right in zip(one, two, strict=True):
        assert_equal(left, right)
    for feed in feeds:
        feed.close()


@pytest.mark.parametrize("kind", [Direct, Prefetch, DeviceFeed], ids=lambda kind: kind.__name__)
def test_latents_of_a_skipped_update_are_not_stored(kind):
    replay = make_replay(storage="device" if kind is DeviceFeed else "host")
    fill(replay, 15)
    feed = DeviceFeed(replay) if kind is DeviceFeed else kind(replay, CPU)
    reader = Reader(feed)

    def versions() -> set[int]:
        feed.drain()
        return {int(x) for env in range(2) for x in np.concatenate(replay.ring.get("deter", env, 0, 15))[:, 2]}

    for update, sound in [(1, True), (2, False), (3, True), (4, False), (5, False)]:
        batch = reader.take()
        fresh = {name: torch.full_like(x, 0 if sound else -1) + x for name, x in fresh_of(batch, update).items()}
        reader.store(fresh, sound)
    assert versions() <= {0, 1, 3}
    assert 3 in versions()
    feed.close()
