"""Runs of every release so far can be read, and go on (`tests/fixtures/make_golden_run.py` makes one)."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.cli import main
from dreamer_cli.manifest import SCHEMA_VERSION

RUNS = sorted((Path(__file__).parent / "fixtures").glob("golden_run*/"))


@pytest.fixture(params=RUNS, ids=lambda path: path.name)
def golden(request, tmp_path, monkeypatch) -> Path:
    """A copy of a golden run."""
    monkeypatch.setenv("DREAMER_RUNS", str(tmp_path / "runs"))
    return Path(shutil.copytree(request.param, tmp_path / "run"))


def test_there_is_one_of_this_release():
    versions = [Checkpoints(run / "checkpoints").verify(Checkpoints(run / "checkpoints").latest()) for run in RUNS]
    assert SCHEMA_VERSION in [manifest["schema_version"] for manifest in versions]


def test_it_is_small_and_tells_nothing_of_where_it_was_made(golden):
    files = [path for path in golden.rglob("*") if path.is_file()]
    assert 5 < len(files) < 20
    assert sum(path.stat().st_size for path in files) < 100_000
    for path in files:
        text = path.read_bytes().decode(errors="replace")
        assert not re.search(r"/(home|tmp|root|work|Users|mnt)/", text), path
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text) or len(socket.gethostname()) < 4, path


def test_it_is_read_and_goes_on(golden, tmp_path, capsys):
    before = Checkpoints(golden / "checkpoints").latest()
    steps = int(before.name)
    told = {}
    for name, argv in {
        "inspect": ["inspect", str(golden)],
        "evaluate": ["evaluate", str(golden), "--episodes", "1"],
        "imagine": ["imagine", str(golden), "--source", "replay", "--horizon", "2", "-o", str(tmp_path / "dream.npz")],
        "train": ["train", "--run-dir", str(golden), "--steps", str(steps + 12), "--resume", "must"],
    }.items():
        assert main([*argv, "--json"]) == 0, name
        told[name] = json.loads(capsys.readouterr().out)
    assert told["inspect"]["integrity"] == {"ok": True, "checkpoints": 1, "damaged": []}
    assert told["evaluate"]["checkpoint_step"] == told["imagine"]["checkpoint_step"] == steps
    assert told["train"]["steps"] >= steps + 12
    after = Checkpoints(golden / "checkpoints")
    assert after.steps() == [steps, told["train"]["steps"]]
    # The replay went on, too: what was there is still named, and nothing twice.
    old, new = (after.load(path, only=["replay.json"]).trees["replay.json"] for path in (before, after.latest()))
    assert new["chunks"][: len(old["chunks"])] == old["chunks"]
    assert sum(new["next"]) > sum(old["next"])
