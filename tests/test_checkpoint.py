"""Whole or absent, verified or refused: checkpoints under crashes, damage and retention."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from dreamer_cli import checkpoint as checkpoint_module
from dreamer_cli import files as files_module
from dreamer_cli import manifest as manifests
from dreamer_cli import migrate
from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.errors import DivergedError, ResourceError, StateError
from dreamer_cli.files import DiskFullError, Files, write_atomic
from dreamer_cli.manifest import MANIFEST
from dreamer_cli.tensorfiles import load_into, most_bytes
from tests.crash import Recorder, rebuild, spoilable

WEIGHTS, STATE = "weights.safetensors", "state.json"


def content(step: int):
    """A small checkpoint whose every value tells its step."""
    return {WEIGHTS: {"a": torch.full((2, 3), float(step)), "b": torch.tensor(step)}}, {STATE: {"updates": step}}


def make(directory: Path, *steps: int, **settings) -> Checkpoints:
    """Checkpoints of these steps."""
    directory.mkdir(exist_ok=True)
    checkpoints = Checkpoints(directory / "checkpoints", **{"keep": 3, **settings})
    for step in steps:
        checkpoints.save(step, *content(step))
    return checkpoints


def assert_holds(checkpoints: Checkpoints, path: Path, step: int) -> None:
    loaded = checkpoints.load(path)
    assert loaded.step == step == loaded.trees[STATE]["updates"]
    assert torch.equal(loaded.tensors[WEIGHTS]["a"], torch.full((2, 3), float(step)))


def test_round_trip_of_every_dtype(tmp_path):
    dtypes = [torch.bool, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64]
    dtypes += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "strided": torch.arange(12.0).view(3, 4).t()}
    arrays = {"view": np.arange(20, dtype=np.uint8)[::3], "number": np.ones(())}
    parameter = nn.Parameter(torch.ones(3))
    checkpoints = Checkpoints(tmp_path, versions={"dreamer": "0.0"})
    path = checkpoints.save(7, {WEIGHTS: {**tensors, "parameter": parameter}, "arrays.safetensors": arrays}, {})
    assert path.name == "000000007"
    loaded = checkpoints.load(path)
    assert loaded.versions["dreamer"] == "0.0"
    for name, tensor in tensors.items():
        assert loaded.tensors[WEIGHTS][name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[WEIGHTS][name], tensor)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded.tensors["arrays.safetensors"][name], array)
    theirs = load_file(path / WEIGHTS)  # the library agrees that this is its format
    assert theirs.keys() == {*tensors, "parameter"}
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["files"][WEIGHTS][0] == (path / WEIGHTS).stat().st_size


def test_latest_and_choice(tmp_path):
    checkpoints = make(tmp_path)
    assert checkpoints.latest() is None
    with pytest.raises(StateError, match="no checkpoint yet"):
        checkpoints.choose("best")
    make(tmp_path, 10, 20, 30)
    assert checkpoints.steps() == [10, 20, 30]
    assert checkpoints.choose("best") == checkpoints.choose("last") == checkpoints.path(30)  # nothing scored yet
    assert checkpoints.mark_best(20, 5.0, "training")
    assert checkpoints.choose("best") == checkpoints.path(20)
    assert checkpoints.choose("10") == checkpoints.choose(10) == checkpoints.path(10)
    for wrong in (15, "fish", "-1", "٣"):
        with pytest.raises(StateError) as caught:
            checkpoints.choose(wrong)
        assert "10, 20, 30" in caught.value.hint
    assert_holds(checkpoints, checkpoints.read("best").path, 20)
    assert checkpoints.read("last", only=[STATE]).tensors == {}
    with pytest.raises(StateError, match="optim"):
        checkpoints.read("last", only=["optim.safetensors"])


def test_best_is_the_highest_and_evaluations_outrank_training(tmp_path):
    checkpoints = make(tmp_path, 1)
    marks = [
        (1, 3.0, "training", True),
        (2, 3.0, "training", False),
        (3, 4.0, "training", True),
        (4, float("nan"), "evaluation", False),
        (5, -1.0, "evaluation", True),
        (6, 9.0, "training", False),
        (7, 0.0, "evaluation", True),
    ]
    for step, score, by, taken in marks:
        assert checkpoints.mark_best(step, score, by) == taken
    assert checkpoints.best() == {"step": 7, "score": 0.0, "by": "evaluation"}
    for text in (
        '{"step": "x"}',
        '{"step": -1, "score": 1.0, "by": "training"}',
        '{"step": 7, "score": NaN, "by": "training"}',
        '{"step": 7, "score": 1' + "0" * 400 + ', "by": "training"}',
        '{"step": 7, "score": 1.0, "by": []}',
        "[" * 100_000,
    ):
        (tmp_path / "checkpoints" / "best.json").write_text(text)
        assert checkpoints.best() is None
        assert checkpoints.mark_best(1, 0.0, "training")


def test_the_best_of_a_given_up_future_is_forgotten(tmp_path):
    checkpoints = make(tmp_path, 10, 20)
    assert not checkpoints.forget_beyond(0)
    checkpoints.mark_best(20, 9.0, "evaluation")
    assert not checkpoints.forget_beyond(20)
    assert not checkpoints.mark_best(15, 3.0, "training")
    assert checkpoints.forget_beyond(10)
    assert checkpoints.best() is None
    assert checkpoints.mark_best(15, 3.0, "training")


def test_older_versions_are_migrated_step_by_step(tmp_path, monkeypatch):
    """Version 1 is rewritten as if this were version 3: state.json renamed its counter, then got a new one."""
    checkpoints = make(tmp_path, 10, 20)

    def to_two(content: migrate.Content) -> migrate.Content:
        trees = {name: {"count": tree["updates"]} for name, tree in content.trees.items()}
        weights = {name: {**file, "c": file["a"] * 2} for name, file in content.tensors.items()}
        return migrate.Content(weights, trees)

    def to_three(content: migrate.Content) -> migrate.Content:
        return content._replace(trees={name: {**tree, "new": 1} for name, tree in content.trees.items()})

    for module in (manifests, checkpoint_module):
        monkeypatch.setattr(module, "SCHEMA_VERSION", 3)
    with pytest.raises(StateError, match="too old"):
        checkpoints.load(checkpoints.path(20))
    monkeypatch.setattr(migrate, "CHECKPOINT", {1: to_two, 2: to_three})
    checkpoints.save(30, {WEIGHTS: {"a": torch.zeros(1)}}, {STATE: {"count": 30, "new": 5}})
    loaded = checkpoints.load(checkpoints.path(20))
    assert loaded.trees == {STATE: {"count": 20, "new": 1}}
    assert torch.equal(loaded.tensors[WEIGHTS]["c"], torch.full((2, 3), 40.0))
    assert checkpoints.read(10, only=[STATE]).trees[STATE]["count"] == 10
    assert checkpoints.read(30).trees[STATE] == {"count": 30, "new": 5}
    assert [tree["count"] for tree in checkpoints.trees(STATE)] == [10, 20, 30]
    monkeypatch.setattr(migrate, "CHECKPOINT", {1: lambda content: content.trees["gone"], 2: to_three})
    with pytest.raises(StateError, match="what schema 1 has"):
        checkpoints.load(checkpoints.path(20))
    for module in (manifests, checkpoint_module):
        monkeypatch.setattr(module, "SCHEMA_VERSION", 2)
    with pytest.raises(StateError, match="newer version") as caught:
        checkpoints.load(checkpoints.path(30))
    assert "upgrade" in caught.value.hint


def test_files_larger_than_the_model_needs_are_not_read(tmp_path, monkeypatch):
    """A sparse terabyte whose manifest agrees is refused without hashing it."""
    tensors, _ = content(10)
    checkpoints = make(tmp_path, 10, 20, limits={WEIGHTS: most_bytes(tensors[WEIGHTS])}, warn=lambda _: None)
    forged(checkpoints.path(20), WEIGHTS, 1 << 40)
    digest = manifests.file_digest

    def no_terabytes(path: Path) -> str:
        assert path.stat().st_size < 1 << 30
        return digest(path)

    monkeypatch.setattr(manifests, "file_digest", no_terabytes)
    with pytest.raises(StateError, match="has at most"):
        checkpoints.load(checkpoints.path(20))
    assert checkpoints.latest() == checkpoints.path(10)
    assert most_bytes(tensors[WEIGHTS]) >= (checkpoints.path(10) / WEIGHTS).stat().st_size


def forged(path: Path, name: str, size: int | None = None) -> None:
    """Write a manifest that vouches for a file as it is now, or for so many bytes of holes."""
    if size is not None:
        os.truncate(path / name, size)
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["sha256"]
    info = (path / name).stat()
    manifest["files"][name] = [info.st_size, "0" * 64 if size else files_module.file_digest(path / name)]
    digest = hashlib.sha256(files_module.json_bytes(manifest)).hexdigest()
    (path / MANIFEST).write_text(json.dumps({**manifest, "sha256": digest}))


def test_retention_keeps_the_newest_and_the_best_and_nothing_else_of_ours(tmp_path):
    checkpoints = make(tmp_path, 1, keep=2)
    checkpoints.mark_best(1, 1.0, "training")
    foreign = checkpoints.directory / "000000000"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("not ours")
    make(tmp_path, 2, 3, 4, keep=2)
    assert checkpoints.steps() == [0, 1, 3, 4]
    assert (foreign / "thesis.txt").exists()
    assert sorted(os.listdir(checkpoints.directory)) == sorted(
        ["000000000", "000000001", "000000003", "000000004", "best.json"]
    )
    checkpoints.mark_best(4, 2.0, "training")
    make(tmp_path, 5, keep=2)
    assert checkpoints.steps() == [0, 4, 5]


@pytest.mark.parametrize("name", [WEIGHTS, STATE, MANIFEST])
@pytest.mark.parametrize("how", ["bit", "short", "long", "missing", "empty", "zeros", "link"])
def test_damage_is_noticed_and_the_next_older_one_taken(tmp_path, name, how):
    warnings: list[str] = []
    checkpoints = make(tmp_path, 10, 20, warn=warnings.append)
    path = checkpoints.path(20) / name
    data = bytearray(path.read_bytes())
    if how == "bit":
        data[-2] ^= 1
    elif how == "short":
        data = data[:-1]
    elif how == "long":
        data += b" " if name != MANIFEST else b"x"
    elif how == "empty":
        data = bytearray()
    elif how == "zeros":
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.unlink()
    if how == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif how != "missing":
        path.write_bytes(data)
    if how == "link" and name == MANIFEST:
        return  # a manifest may be read through a link: it proves itself
    assert checkpoints.latest() == checkpoints.path(10)
    assert len(warnings) == 1
    assert "000000020" in warnings[0]
    with pytest.raises(StateError):
        checkpoints.choose(20)
    with pytest.raises(StateError):
        checkpoints.load(checkpoints.path(20))


def test_strangers_and_other_versions_are_refused(tmp_path):
    checkpoints = make(tmp_path, 10)
    (checkpoints.path(10) / "extra.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(StateError, match=r"extra\.pkl"):
        checkpoints.load(checkpoints.path(10))
    with pytest.raises(StateError, match="no checkpoint in"):
        checkpoints.latest()
    (checkpoints.path(10) / "extra.pkl").unlink()
    checkpoints.path(10).rename(checkpoints.path(11))
    with pytest.raises(StateError, match="no checkpoint in"):
        checkpoints.latest()
    with pytest.raises(StateError, match="another step"):
        checkpoints.load(checkpoints.path(11))
    manifest = checkpoints.path(11) / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace('"step":10', '"step":11'))
    with pytest.raises(StateError, match="SHA-256"):
        checkpoints.load(checkpoints.path(11))
    manifest.write_text(text)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 2}))
    with pytest.raises(StateError, match="newer version"):
        checkpoints.load(checkpoints.path(11))
    manifest.write_bytes(b"[" * 100_000)
    with pytest.raises(StateError, match="JSON"):
        checkpoints.load(checkpoints.path(11))
    manifest.write_bytes(b" " * 8_000_001)
    with pytest.raises(StateError, match="8 MB"):
        checkpoints.load(checkpoints.path(11))
    manifest.write_text(json.dumps({**json.loads(text), "schema_version": "1"}))
    with pytest.raises(StateError, match="does not say which version"):
        checkpoints.load(checkpoints.path(11))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_loading_anything_gives_a_state_error_or_the_truth(tmp_path, data):
    """Mutated files, with and without a manifest that vouches for them."""
    template, directory = tmp_path / "template", tmp_path / "any"
    if not template.exists():
        make(template, 10)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(template, directory)
    path = directory / "checkpoints" / "000000010"
    name = data.draw(st.sampled_from([WEIGHTS, STATE, MANIFEST]))
    raw = bytearray((path / name).read_bytes())
    if data.draw(st.booleans()):
        raw = bytearray(data.draw(st.binary(max_size=64)))
    else:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (path / name).write_bytes(bytes(raw))
    if name != MANIFEST and data.draw(st.booleans()):
        forged(path, name)
    try:
        loaded = Checkpoints(directory / "checkpoints").load(path)
    except StateError:
        return
    assert loaded.step == 10


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    checkpoints = make(tmp_path, 10)
    tensors, trees = content(20)
    tensors[WEIGHTS]["a"][1, 1] = float("inf")
    with pytest.raises(DivergedError, match="a is no longer finite"):
        checkpoints.save(20, tensors, trees)
    assert os.listdir(checkpoints.directory) == ["000000010"]
    tensors = {"other.safetensors": {"percentile": torch.tensor(float("inf"))}}
    checkpoints.save(20, tensors, trees)


@pytest.mark.parametrize("name", ["../up.json", "a/b.json", ".hidden", "", MANIFEST, "sp ace.json"])
def test_names_are_checked(tmp_path, name):
    with pytest.raises(ValueError, match="no name"):
        make(tmp_path).save(1, {}, {name: {}})


def test_json_that_could_not_be_read_back_is_not_written(tmp_path):
    checkpoints = make(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save(1, {}, {STATE: float("nan")})
    with pytest.raises(StateError, match="read back"):
        checkpoints.save(1, {}, {STATE: "x" * 10_000_000})
    assert checkpoints.steps() == []


class Failing(Files):
    """A disk on which the n-th change fails."""

    def __init__(self, at: int, code: int) -> None:
        self.left, self.code = at, code

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(self.code, os.strerror(self.code))

    def mkdir(self, path):
        self._count()
        super().mkdir(path)

    def write(self, path, parts):
        path.write_bytes(b"torn")
        self._count()
        path.unlink()
        return super().write(path, parts)

    def sync(self, path):
        self._count()
        super().sync(path)

    def rename(self, old, new):
        self._count()
        super().rename(old, new)


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, DiskFullError), (errno.EIO, ResourceError)])
def test_a_failing_disk_leaves_the_old_checkpoint_and_no_rest(tmp_path, code, kind):
    for at in range(1, 11):
        directory = tmp_path / str(at)
        make(directory, 10)
        checkpoints = make(directory, files=Failing(at, code))
        with pytest.raises(kind) as caught:
            checkpoints.save(20, *content(20))
        assert caught.value.exit_code == 5
        # From the rename on, the new one is there, although it may not survive a power cut.
        assert sorted(os.listdir(checkpoints.directory)) == ["000000010"] + ["000000020"] * (at == 10)
        assert_holds(checkpoints, checkpoints.latest(), 20 if at == 10 else 10)
    make(tmp_path / "11", files=Failing(11, code)).save(20, *content(20))  # ten changes make a save


def test_a_run_that_was_removed_meanwhile_is_not_begun_again(tmp_path):
    checkpoints = make(tmp_path / "run", 10)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(ResourceError, match="could not be written"):
        checkpoints.save(20, *content(20))
    assert not (tmp_path / "run").exists()


def test_space_is_checked_first(tmp_path):
    class Small(Files):
        def free(self, path):
            return 4_700_000

    checkpoints = make(tmp_path, files=Small())
    with pytest.raises(DiskFullError, match=r"needs 4\.8 MB"):
        checkpoints.save(1, {WEIGHTS: {"a": torch.zeros(1_000_000)}}, {})
    assert os.listdir(checkpoints.directory) == []
    checkpoints.save(1, {WEIGHTS: {"a": torch.zeros(900_000)}}, {})


def test_a_crash_while_a_step_is_saved_again_loses_neither(tmp_path):
    """The same step once more (an evaluation after the last save): after `clean`, its old or its new state is there.

    A second crash may hit `clean` itself; readers never see anything damaged meanwhile.
    """
    root, before, disk = tmp_path / "run", tmp_path / "before", tmp_path / "disk"
    make(root, 10, 20, keep=1)
    shutil.copytree(root, before)
    recorder = Recorder()
    make(root, keep=1, files=recorder).save(20, content(20)[0], {STATE: {"updates": 21}})
    seen, states, warnings = [], 0, []
    for length in range(len(recorder.log) + 1):
        log = recorder.log[:length]
        for spoiled in [None, *spoilable(log)]:
            rebuild(before, root, log, spoiled, disk)
            assert make(disk, warn=warnings.append).latest() in (None, disk / "checkpoints" / "000000020")
            again = tmp_path / "again"
            shutil.rmtree(again, ignore_errors=True)
            shutil.copytree(disk, again)
            cleaning = Recorder()
            make(disk, files=cleaning).clean()
            for cut in range(len(cleaning.log) + 1):
                states += 1
                rebuild(again, disk, cleaning.log[:cut], None, tmp_path / "third")
                checkpoints = make(tmp_path / "third", warn=warnings.append)
                checkpoints.clean()
                loaded = checkpoints.read("last")
                assert loaded.step == 20
                assert loaded.trees[STATE]["updates"] in (20, 21)
                assert not [path for path in checkpoints.directory.iterdir() if path.name.startswith(".")]
            seen += [loaded.trees[STATE]["updates"]] if spoiled is None else []
    assert states >= 50
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (20, 21)
    assert warnings == []


def test_clean_touches_nothing_that_is_not_ours(tmp_path):
    checkpoints = make(tmp_path, 10)
    odd = checkpoints.directory / ".replaced-000000010-abc"
    odd.mkdir()
    (odd / "thesis.txt").write_text("not ours")
    (checkpoints.directory / ".replaced-x").write_text("nor this")
    checkpoints.clean()
    assert (odd / "thesis.txt").exists()
    assert (checkpoints.directory / ".replaced-x").exists()
    assert checkpoints.steps() == [10]


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_crash_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path, keep, damaged):
    """Every prefix of the changes that a save makes, and whatever was not yet synced torn: old or new, never else."""
    root, before, disk = tmp_path / "run", tmp_path / "before", tmp_path / "disk"
    make(root, 10, 20)
    if damaged:  # a checkpoint that the resume stepped over, and that is in the way of the next one
        make(root, 30)
        (root / "checkpoints" / "000000030" / WEIGHTS).write_bytes(b"torn")
    shutil.copytree(root, before)
    recorder = Recorder()
    make(root, keep=keep, files=recorder).save(30, *content(30))
    seen, states = [], 0
    for length in range(len(recorder.log) + 1):
        log = recorder.log[:length]
        for spoiled in [None, *spoilable(log)]:
            states += 1
            rebuild(before, root, log, spoiled, disk)
            checkpoints = make(disk, warn=lambda _: None)
            path = checkpoints.latest()
            assert path is not None
            assert path.name in ("000000020", "000000030")
            assert_holds(checkpoints, path, int(path.name))
            seen += [int(path.name)] if spoiled is None else []
            checkpoints.clean()
            assert not list(checkpoints.directory.glob(".*"))
            assert_holds(checkpoints, checkpoints.latest(), int(path.name))
    assert states >= 30
    assert seen == sorted(seen)  # once committed, it stays
    assert (seen[0], seen[-1]) == (20, 30)


def test_every_file_is_synced_before_the_rename_and_the_directories_around_it(tmp_path):
    recorder = Recorder()
    checkpoints = make(tmp_path, files=recorder)
    final = checkpoints.save(10, *content(10))
    (at,) = [number for number, entry in enumerate(recorder.log) if entry[0] == "rename"]
    draft = recorder.log[at][1]
    written = [entry[1] for entry in recorder.log if entry[0] == "write"]
    assert written[-1] == draft / MANIFEST
    assert {entry[1] for entry in recorder.log[:at] if entry[0] == "sync"} == {*written, draft}
    assert recorder.log[at - 1] == ("sync", draft)
    assert recorder.log[at:] == [("rename", draft, final), ("sync", final.parent)]


def test_a_resume_below_a_damaged_checkpoint_does_not_count_it_as_newest(tmp_path):
    checkpoints = make(tmp_path, 10, 50, keep=1, warn=lambda _: None)
    (checkpoints.path(50) / STATE).write_text("{}")
    make(tmp_path, 20, keep=1)
    assert checkpoints.steps() == [20]
    assert_holds(checkpoints, checkpoints.latest(), 20)


def test_a_foreign_directory_in_the_way_is_moved_not_deleted(tmp_path):
    place = tmp_path / "checkpoints" / "000000010"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("not ours")
    checkpoints = make(tmp_path, 10)
    assert_holds(checkpoints, checkpoints.latest(), 10)
    (moved,) = checkpoints.directory.glob("damaged-000000010-*")
    assert (moved / "thesis.txt").exists()


def test_a_reader_survives_a_racing_retention(tmp_path, monkeypatch):
    """The only checkpoint is replaced by a newer one between listing and reading."""
    warnings: list[str] = []
    checkpoints = make(tmp_path, 10, warn=warnings.append)
    verify, raced = checkpoints.verify, []

    def race(path, only=None):  # as `verify`
        if not raced:
            raced.append(True)
            make(tmp_path, 20, keep=1)
        return verify(path, only)

    monkeypatch.setattr(checkpoints, "verify", race)
    assert_holds(checkpoints, checkpoints.latest(), 20)
    assert warnings == []
    raced.clear()
    load = checkpoints.load

    def late(path, only=None):
        if path.name == "000000020":
            make(tmp_path, 30, keep=1)
        return load(path, only)

    monkeypatch.setattr(checkpoints, "load", late)
    assert checkpoints.read("last").step == 30


def test_trees_of_all_kept_checkpoints(tmp_path):
    checkpoints = make(tmp_path, 10, 20, 30, warn=lambda _: None)
    (checkpoints.path(20) / STATE).write_text("{")
    assert checkpoints.trees(STATE) == [{"updates": 10}, {"updates": 30}]
    assert checkpoints.trees(STATE, up_to=20) == [{"updates": 10}]


def test_load_into_names_what_differs_and_changes_nothing():
    source, module = nn.Linear(2, 3), nn.Linear(2, 3)
    load_into(module, source.state_dict())
    assert torch.equal(module.weight, source.weight)
    wrong = {"weight": torch.zeros(3, 4), "bias": torch.zeros(3, dtype=torch.float64), "extra": torch.zeros(1)}
    with pytest.raises(StateError) as caught:
        load_into(module, wrong, "checkpoint 7")
    for text in ("checkpoint 7", "weight is (3, 4) instead of (3, 2)", "bias is torch.float64", "extra is unknown"):
        assert text in caught.value.what
    with pytest.raises(StateError, match="bias is missing"):
        load_into(module, {"weight": torch.zeros(3, 2)})
    assert torch.equal(module.weight, source.weight)
    big = nn.Sequential(*[nn.Linear(1, 1) for _ in range(5)])
    with pytest.raises(StateError, match="and 5 more"):
        load_into(big, {})


def test_atomic_files(tmp_path):
    path = tmp_path / "run.json"
    write_atomic(path, [b"old"])
    with pytest.raises(DiskFullError):
        write_atomic(path, [b"new"], Failing(3, errno.ENOSPC))
    assert path.read_bytes() == b"old"
    size, digest = write_atomic(path, [b"ne", b"", np.frombuffer(b"w!", np.uint8)])
    assert (size, digest) == (4, files_module.file_digest(path))
    assert os.listdir(tmp_path) == ["run.json"]
