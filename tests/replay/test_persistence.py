"""The replay on disk: exactly the same again, and no worse than it has to be after damage."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch

from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.errors import ResourceError, StateError
from dreamer_cli.files import DiskFullError, Files
from dreamer_cli.replay import archive, chunks
from dreamer_cli.replay.storage import Replay
from tests.crash import Recorder, rebuild, spoilable
from tests.replay.toy import fill, latent_of, make_replay


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """A dozen toy records a chunk."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 12 * 55)


def save(replay: Replay, directory) -> tuple[dict[str, torch.Tensor], dict]:
    """What a checkpoint would hold: copies, through JSON."""
    latents, tree = replay.save(directory)
    return {name: torch.as_tensor(value).clone() for name, value in latents.items()}, json.loads(json.dumps(tree))


def assert_same_future(one: Replay, two: Replay, rounds: int = 12) -> None:
    """Both go on with the same batches, bit for bit, while both learn and collect."""
    assert one.records == two.records
    assert len(one) == len(two)
    for number in range(rounds):
        (batch, index), (other, where) = one.sample(), two.sample()
        np.testing.assert_array_equal(index, where)
        for left, right in zip(_tensors(batch), _tensors(other), strict=True):
            assert left.dtype == right.dtype
            assert torch.equal(left, right)
        ids = index.start[:, None] + np.arange(1, one.batch_length + 1)
        for replay in (one, two):
            replay.refresh(index, latent_of(index.env[:, None], ids, number))
            fill(replay, 2)


def _tensors(batch):
    return [*batch.obs.values(), *batch.start, *(value for value in batch[1:] if isinstance(value, torch.Tensor))]


@pytest.mark.parametrize("added", [0, 3, 19, 20, 47])
def test_resume_equals_never_having_stopped(tmp_path, added):
    straight = make_replay(per_env=20)
    fill(straight, added)
    if len(straight):
        index = straight.sample()[1]
        ids = index.start[:, None] + np.arange(1, 5)
        straight.refresh(index, latent_of(index.env[:, None], ids, 7))
    latents, tree = save(straight, tmp_path)
    resumed = make_replay(per_env=20, seed=123)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert resumed.load(tmp_path, latents, tree) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # readers load too
    for replay in (straight, resumed):
        fill(replay, 5)
    assert_same_future(straight, resumed)


def test_a_checkpoint_is_a_cut(tmp_path):
    """Old and new checkpoint can both be loaded, whatever was collected and saved since."""
    replay = make_replay(per_env=20)
    fill(replay, 15)
    old, reference = save(replay, tmp_path), copy.deepcopy(replay)
    fill(replay, 4)
    replay.sample()
    new = save(replay, tmp_path)
    fill(replay, 30)
    save(replay, tmp_path)
    first, second = make_replay(per_env=20), make_replay(per_env=20)
    first.load(tmp_path, *old)
    second.load(tmp_path, *new)
    assert second.records == 2 * 19
    assert_same_future(first, reference)


def test_chunks_are_written_once_and_bounded(tmp_path):
    replay = make_replay(per_env=50)
    fill(replay, 30)
    _, tree = save(replay, tmp_path)
    names = [entry["name"] for entry in tree["chunks"]]
    assert names == [f"chunk-{number:08d}.safetensors" for number in range(5)]
    contents = {name: (tmp_path / name).read_bytes() for name in names}
    fill(replay, 6)
    _, tree = save(replay, tmp_path)
    assert [entry["name"] for entry in tree["chunks"]][:5] == names
    assert sum(end - begin for entry in tree["chunks"][5:] for _, begin, end in entry["spans"]) == 12
    assert all((tmp_path / name).read_bytes() == content for name, content in contents.items())
    assert save(replay, tmp_path)[1]["chunks"] == tree["chunks"]  # nothing new, nothing written


def test_many_small_chunks_are_joined_and_nothing_else_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_SMALL", 3)
    replay = make_replay(per_env=30)
    saves = []
    for _ in range(25):
        fill(replay, 2)
        latents, tree = save(replay, tmp_path)
        saves = [*saves, (latents, tree, copy.deepcopy(replay))][-2:]
        replay.prune(tmp_path, [tree for _, tree, _ in saves])
        # Joined at almost every save, because the toy's full chunks are small, too: five times twelve records.
        assert len(tree["chunks"]) <= 5
    for latents, tree, reference in saves:
        resumed = make_replay(per_env=30)
        assert resumed.load(tmp_path, latents, tree) == []
        assert_same_future(reference, resumed)


def test_a_disk_too_full_for_joining_still_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_SMALL", 2)
    replay = make_replay(per_env=30)
    for _ in range(2):
        fill(replay, 6)
        replay.save(tmp_path)
    fill(replay, 6)
    disk = Full()
    disk.room = 2  # one for the fresh records, one of those that joining takes
    latents, tree = replay.save(tmp_path, disk)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {entry["name"] for entry in tree["chunks"]}
    assert len(names) == 3
    resumed = make_replay(per_env=30)
    assert resumed.load(tmp_path, {k: torch.from_numpy(v.copy()) for k, v in latents.items()}, tree) == []
    assert_same_future(replay, resumed)


def test_chunks_go_when_nobody_names_them(tmp_path):
    replay = make_replay(per_env=20)
    trees = []
    for _ in range(8):
        fill(replay, 10)
        trees = [*trees, save(replay, tmp_path)[1]][-2:]
        replay.prune(tmp_path, trees)
    named = {entry["name"] for tree in trees for entry in tree["chunks"]}
    assert {path.name for path in tmp_path.iterdir()} == named
    assert len(named) <= 8  # 20 records of 2 environments by twelves, and what the older checkpoint still needs
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".tmp-abc").write_text("torn")
    replay.prune(tmp_path, [])
    assert (tmp_path / "notes.txt").exists()
    assert not (tmp_path / ".tmp-abc").exists()


def test_a_given_up_future_is_deleted_and_its_names_are_not_used_again(tmp_path):
    replay = make_replay(per_env=50)
    fill(replay, 10)
    latents, tree = save(replay, tmp_path)
    fill(replay, 10)
    future = {entry["name"] for entry in save(replay, tmp_path)[1]["chunks"]} - {e["name"] for e in tree["chunks"]}
    resumed = make_replay(per_env=50)
    resumed.load(tmp_path, latents, tree)
    fill(resumed, 3)
    again = {entry["name"] for entry in save(resumed, tmp_path)[1]["chunks"]}
    assert not again & future
    assert set(resumed.prune(tmp_path, [tree])) == future


def damage(path, how: str) -> None:
    """Hurt a file in one of the ways disks do."""
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "bit":
        content[-3] ^= 4
    elif how == "zeros":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    else:
        del content[-1:]
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["missing", "bit", "zeros", "short"])
def test_a_damaged_chunk_leaves_a_gap_that_no_sequence_spans(tmp_path, how):
    replay = make_replay(per_env=40, num_envs=1, batch=64, online=False)
    fill(replay, 40)
    latents, tree = save(replay, tmp_path)
    assert tree["chunks"][1]["spans"] == [[0, 12, 24]]
    damage(tmp_path / tree["chunks"][1]["name"], how)
    hurt = make_replay(per_env=40, num_envs=1, batch=64, online=False)
    (warning,) = hurt.load(tmp_path, latents, tree, max_lost=0.5)
    assert tree["chunks"][1]["name"] in warning
    assert "12 records" in warning
    assert (hurt.lost, hurt.records, len(hurt)) == (12, 28, 8 + 12)
    for _ in range(5):
        batch, index = hurt.sample()
        assert set(index.start.tolist()) <= {*range(8), *range(24, 36)}
        ids = index.start[:, None] + np.arange(1, 5)
        np.testing.assert_array_equal(batch.obs["vector"][..., 1], ids)
        np.testing.assert_array_equal(batch.start.deter[:, 1], index.start)
    # The gap stays when the hurt replay is saved and loaded again, and is not counted twice.
    fill(hurt, 7)
    latents, tree = save(hurt, tmp_path)
    again = make_replay(per_env=40, num_envs=1, batch=64, online=False)
    assert again.load(tmp_path, latents, tree) == []
    assert again.lost == 12
    assert_same_future(hurt, again)
    with pytest.raises(ValueError, match="no sequence"):
        make_replay().sample()


def test_too_much_damage_is_refused(tmp_path):
    replay = make_replay(per_env=40)
    fill(replay, 40)
    latents, tree = save(replay, tmp_path)
    damage(tmp_path / tree["chunks"][0]["name"], "bit")
    with pytest.raises(StateError, match="12 of 80"):
        make_replay(per_env=40).load(tmp_path, latents, tree)


@pytest.mark.parametrize("per_env", [8, 33])
def test_another_capacity_keeps_the_newest(tmp_path, per_env):
    replay = make_replay(per_env=20)
    fill(replay, 27)
    latents, tree = save(replay, tmp_path)
    other = make_replay(per_env=per_env, online=False)
    other.load(tmp_path, latents, tree)
    assert other.records == 2 * min(per_env, 20)
    for _ in range(10):
        batch, index = other.sample()
        assert index.start.min() >= 27 - min(per_env, 20)
        np.testing.assert_array_equal(batch.start.deter[:, 1], index.start)
        np.testing.assert_array_equal(batch.obs["vector"][:, 0, 1], index.start + 1)


@pytest.mark.parametrize(
    "change",
    [
        {"next": 5},
        {"next": [10**30] * 2},
        {"next": [1, 2]},
        {"next": ["1", "2"]},
        {"per_env": 0},
        {"per_env": 10**30},
        {"queue": 1},
        {"queue": [[99, 0]]},
        {"queue": [[0]]},
        {"generator": {}},
        {"generator": {"bit_generator": "os"}},
        {"generator": {"bit_generator": "PCG64", "state": {"state": -1, "inc": 2**200}}},
        {"lost": "x"},
        {"chunks": [5]},
        {"chunks": {}},
    ],
)
def test_a_forged_replay_is_refused(tmp_path, change):
    replay = make_replay(per_env=20)
    fill(replay, 9)
    latents, tree = save(replay, tmp_path)
    with pytest.raises(StateError):
        make_replay(per_env=20).load(tmp_path, latents, {**tree, **change})
    for name in tree:
        with pytest.raises(StateError):
            make_replay(per_env=20).load(tmp_path, latents, {k: v for k, v in tree.items() if k != name})


def test_another_replay_is_refused(tmp_path):
    replay = make_replay()
    fill(replay, 9)
    latents, tree = save(replay, tmp_path)
    with pytest.raises(StateError, match="environments"):
        make_replay(num_envs=3).load(tmp_path, latents, tree)
    with pytest.raises(StateError, match="deter"):
        make_replay().load(tmp_path, {**latents, "deter.1": latents["deter.1"][:, :2]}, tree)
    entry = {**tree["chunks"][0], "name": "../../etc/passwd"}
    with pytest.raises(StateError, match="chunks"):
        make_replay().load(tmp_path, latents, {**tree, "chunks": [entry]})


class Full(Files):
    """A disk with room for a few chunks."""

    room = 3

    def free(self, path):
        self.room -= 1
        return 10**9 if self.room >= 0 else 10


def test_a_full_disk_loses_nothing(tmp_path):
    replay, untouched = make_replay(per_env=50), make_replay(per_env=50)
    for each in (replay, untouched):
        fill(each, 40)
    with pytest.raises(DiskFullError, match="MB") as caught:
        replay.save(tmp_path, Full())
    assert isinstance(caught.value, ResourceError)
    assert len(list(tmp_path.iterdir())) == 3
    latents, tree = save(replay, tmp_path)
    resumed = make_replay(per_env=50)
    assert resumed.load(tmp_path, latents, tree) == []
    assert_same_future(untouched, resumed)


@pytest.mark.extended
@pytest.mark.parametrize("most_small", [64, 1])
def test_a_crash_at_any_moment_leaves_a_checkpoint_whose_replay_is_whole(tmp_path, monkeypatch, most_small):
    """Chunks are safe before a checkpoint names them, and stay until no checkpoint does; joining them, too."""
    monkeypatch.setattr(archive, "MOST_SMALL", most_small)
    root, before, disk = tmp_path / "run", tmp_path / "before", tmp_path / "disk"
    root.mkdir()

    def save_all(replay: Replay, step: int, recorder: Recorder) -> None:
        checkpoints = Checkpoints(root / "checkpoints", keep=1, files=recorder)
        latents, tree = replay.save(root / "replay", recorder)
        checkpoints.save(step, {"latents.safetensors": latents}, {"replay.json": tree})
        replay.prune(root / "replay", checkpoints.trees("replay.json"), recorder)

    replay = make_replay(per_env=12)
    fill(replay, 10)
    save_all(replay, 10, Recorder())
    shutil.copytree(root, before)
    fill(replay, 14)
    recorder = Recorder()
    save_all(replay, 24, recorder)
    assert "remove" in {entry[0] for entry in recorder.log[-3:]}  # the last change: an old chunk went
    seen = []
    for length in range(len(recorder.log) + 1):
        for spoiled in [None, *spoilable(recorder.log[:length])]:
            rebuild(before, root, recorder.log[:length], spoiled, disk)
            loaded = Checkpoints(disk / "checkpoints").read("last")
            resumed = make_replay(per_env=12)
            args = (loaded.tensors["latents.safetensors"], loaded.trees["replay.json"])
            assert resumed.load(disk / "replay", *args) == []
            assert (loaded.step, resumed.records) in [(10, 20), (24, 24)]
            seen.append(loaded.step)
    assert (seen[0], seen[-1], len(seen) > 30) == (10, 24, True)
