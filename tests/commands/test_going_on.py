"""`dreamer train` on a run that is there: complete, stopped, killed, damaged, or not what was typed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dreamer_cli.cli import main
from dreamer_cli.collector import Collector
from dreamer_cli.commands import keeping, training
from dreamer_cli.config import load_config
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import StateError
from dreamer_cli.files import DiskFullError
from dreamer_cli.log import read_episodes, read_metrics
from dreamer_cli.runs import RunDir
from tests.commands.running import TINY, same, weights

EXTENDED = pytest.mark.extended


def owed(run: Path) -> int:
    """Updates that the newest checkpoint's records are worth; debug has batches of 16 and a train ratio of 4."""
    newest = max(p for p in (run / "checkpoints").iterdir() if p.is_dir())
    state = json.loads((newest / "state.json").read_text())
    # The first is free: it comes with the 16th record, or in the round after it.
    return 1 + (state["collector"]["records"] - 16) * 4 // 16


def test_a_finished_run_goes_on(train, tmp_path):
    train("-e", "CartPole-v1", *TINY, "--steps", "60")
    before = weights(tmp_path / "run")
    code, again = train()
    assert (code, again["steps"]) == (0, 60)  # already complete: nothing is done
    assert same(before, weights(tmp_path / "run"))
    # What was settled by the device is kept, also where the same words ask for it again.
    same_words = ["--precision", "auto", "-s", "run.overlap=null", "-s", "replay.storage=host"]
    code, more = train("--steps", "120", *same_words)
    assert (code, more["steps"]) == (0, 120)
    saved = load_config(tmp_path / "run" / "config.yaml").run
    assert (saved.precision, saved.overlap) == ("fp32", False)
    assert not same(before, weights(tmp_path / "run"))
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == sorted(steps)
    updates = [line["updates"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert updates[-1] == more["updates"]
    assert abs(more["updates"] - owed(tmp_path / "run")) <= 1  # no credit of the train ratio was lost


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--seed", "7"], "run.seed"),
        (["-p", "cpu"], "presets"),
        (["-e", "Pendulum-v1"], "env.id"),
        (["--init-from", "elsewhere"], "--init-from"),
    ],
)
def test_what_is_typed_must_agree(train, tmp_path, argv, named):
    train("-e", "CartPole-v1", *TINY, "--steps", "40")
    code, result = train(*argv)
    assert code == result["exit_code"] == 4
    assert named in result["error"]["message"]
    code, _ = train(
        "-e", "CartPole-v1", "-p", "debug", "--seed", "0", "--steps", "42", "--keep", "2", "--eval-every", "0"
    )
    assert code == 0


def test_resume_never_must_and_foreign_directories(train, tmp_path):
    run = ["-e", "CartPole-v1", *TINY, "--steps", "20"]
    assert train(*run, "--resume", "must")[0] == 4
    assert main(["train", *run, "--resume", "must"]) == 4
    assert train(*run, "--name", "twice")[0] == 2
    assert not (tmp_path / "run").exists()
    assert train(*run)[0] == 0
    assert train(*run, "--resume", "never")[0] == 4
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("do not touch")
    assert train(*run, name="full")[0] == 4
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_damaged_newest_checkpoint_is_stepped_over(train, tmp_path, capsys):
    train("-e", "CartPole-v1", "-p", "debug", "-q", "--save-every", "40", "--steps", "80")
    newest = tmp_path / "run" / "checkpoints" / "000000080" / "weights.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    code, result = train("--steps", "100")
    assert (code, result["steps"]) == (0, 100)
    assert result["updates"] > 0


@EXTENDED
def test_a_checkpoint_whose_replay_is_lost_is_stepped_over(train, tmp_path, capsys):
    """The one before needs less of it; and without any, the run begins anew, and says so."""
    train("-e", "CartPole-v1", "-p", "debug", "-q", "--save-every", "40", "--steps", "80")
    newest = max((tmp_path / "run" / "replay").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--steps", "90", "-q"]) == 0
    err = capsys.readouterr().err
    assert "000000080 cannot be used" in err
    assert "are lost" in err
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--steps", "95", "-q"]) == 0
    assert "holds no checkpoint to go on from, so the run begins anew" in capsys.readouterr().err


def test_init_from_outlives_a_start_without_a_checkpoint(train, tmp_path, monkeypatch):
    train("-e", "CartPole-v1", *TINY, "--steps", "40", name="first")
    with monkeypatch.context() as patch:
        patch.setattr(Collector, "begin", lambda *_: 1 / 0)
        again = ["--steps", "4", "--seed", "5", "--init-from", str(tmp_path / "first")]
        assert train("-e", "CartPole-v1", *TINY, *again, name="second")[0] == 1
    assert train(name="second")[0] == 0
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))


def test_a_resume_that_fails_changes_nothing_and_closes_its_environments(train, tmp_path, monkeypatch):
    train("-e", "CartPole-v1", *TINY, "--steps", "20")
    before = (tmp_path / "run" / "run.json").read_bytes(), (tmp_path / "run" / "config.yaml").read_bytes()
    closed = []
    monkeypatch.setattr(VectorEnv, "close", lambda self: closed.append(self))

    def fail(keeper):
        raise StateError("no")

    monkeypatch.setattr(keeping.Keeper, "load", fail)
    assert train("--steps", "60")[0] == 4
    assert len(closed) == 1
    assert before == ((tmp_path / "run" / "run.json").read_bytes(), (tmp_path / "run" / "config.yaml").read_bytes())


OWN = """
from pathlib import Path
import numpy as np
from gymnasium import spaces
from tests.toys import Toy

class Own(Toy):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-1, 1, (int(Path(__file__).with_name("width").read_text()),), np.float32)
"""


def test_an_environment_from_a_file_is_found_from_everywhere(train, tmp_path, monkeypatch, capsys):
    """... and one that shows something else than it did is refused."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "width").write_text("3")
    assert train("-e", "./own.py:Own", *TINY, "--steps", "20")[0] == 0
    assert train("-e", "own.py:Own", "--steps", "24")[0] == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train("--steps", "30")[0] == 0
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "1", "-q"]) == 0
    capsys.readouterr()
    (tmp_path / "width").write_text("4")
    code, result = train("--steps", "40")
    assert code == 4
    assert "vector[4]" in result["error"]["message"]
    assert "vector[3]" in result["error"]["message"]


@EXTENDED
def test_a_stop_in_the_last_evaluation(train, tmp_path, monkeypatch, capsys):
    """Everything was saved before; going on makes up for the evaluation, once."""
    played = []

    def stop_while_playing(*args):
        played.append(1)
        if len(played) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return play(*args)

    play = training.play_evaluation
    monkeypatch.setattr(training, "play_evaluation", stop_while_playing)
    run = str(tmp_path / "run")
    argv = ["train", "-e", "CartPole-v1", *TINY, "--steps", "60", "--eval-every", "1000", "--run-dir", run]
    assert main(argv) == 75
    out, err = capsys.readouterr()
    assert out.strip() == run
    assert err.rstrip().splitlines()[-1] == f"dreamer train --run-dir {run}"
    assert RunDir(Path(run)).read()["status"] == "preempted"
    assert len(weights(run)) > 0
    code, result = train()
    assert (code, result["eval"]["checkpoint_step"], len(played)) == (0, 60, 2)
    assert main(["train", "--run-dir", run]) == 0
    assert "already complete at step 60; --steps M goes on" in capsys.readouterr().err
    code, again = train()
    assert (code, again["eval"], len(played)) == (0, result["eval"], 2)


def test_a_full_disk_at_the_end_is_not_called_saved(train, tmp_path, monkeypatch):
    saves = []

    def full(*_args, **_options):
        saves.append(1)
        raise DiskFullError("the disk is full.", hint="Free some space.")

    monkeypatch.setattr(keeping, "PAUSE_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(keeping.Checkpoints, "save", full)
        code, result = train("-e", "CartPole-v1", *TINY, "--steps", "20")
    assert (code, len(saves)) == (5, 3)
    assert "3 saves in a row failed" in result["error"]["message"]
    assert RunDir(tmp_path / "run").read()["status"] == "failed"
    assert train()[0] == 0


@EXTENDED
def test_a_crash_after_an_evaluation_was_saved(train, tmp_path, monkeypatch):
    """The record is there, once; means that it took are not counted again."""
    common = ["-e", "CartPole-v1", *TINY, "--steps", "60", "--eval-every", "30", "-s", "run.log_every=1000"]
    assert train(*common, name="straight")[0] == 0
    saved = keeping.Keeper.save

    def crash_afterwards(*args):
        saved(*args)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(keeping.Keeper, "save", crash_afterwards)
        assert train(*common)[0] == 1
    assert train()[0] == 0
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    straight = read_metrics(tmp_path / "straight" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [line["step"] for line in straight] == [30, 60]
    assert lines[0]["loss/total"] == straight[0]["loss/total"]
    assert all("eval/return_mean" in line for line in lines)
    assert abs(lines[-1]["updates"] - owed(tmp_path / "run")) <= 1


@EXTENDED
def test_a_run_goes_on_with_less_room_elsewhere(train, tmp_path, monkeypatch, capsys):
    """On another type of device random numbers begin anew; in less memory the oldest records go; all of it is said."""
    argv = ["train", "-e", "CartPole-v1", *TINY[:-1], "--run-dir", str(tmp_path / "run")]
    assert main([*argv, "--steps", "60"]) == 0
    assert "the replay holds up to" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "checkpoints" / "000000060" / "manifest.json").read_text())["versions"][
        "dreamer"
    ]
    load = keeping.Checkpoints.load

    def from_a_gpu(*args):
        loaded = load(*args)
        loaded.trees[keeping.STATE]["device"] = "cuda"
        for name in ("generator", "acting"):
            loaded.tensors[keeping.OPTIMIZER][name] = torch.zeros(16, dtype=torch.uint8)
        return loaded

    monkeypatch.setattr(keeping.Checkpoints, "load", from_a_gpu)
    record = RunDir(tmp_path / "run")
    record.update(versions={}, device="cuda")
    bytes_per_record = (
        read_metrics(record.metrics)[-1]["replay/bytes"] // read_metrics(record.metrics)[-1]["replay/records"]
    )
    less = ["-s", f"replay.max_bytes={40 * bytes_per_record}"]
    assert main([*argv[:1], *argv[-2:], "--steps", "80", *less]) == 0
    err = capsys.readouterr().err
    assert "random numbers on cpu begin anew" in err
    assert "the oldest" in err
    now = record.read()
    assert (now["device"], now["status"], now["origins"]["run.steps"]) == ("cpu", "finished", "--steps")
    assert any("found no room" in why for why in now["inexact"])
    assert now["versions"]["dreamer"]


def start(run: Path, *argv: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "dreamer_cli", "train", "--run-dir", str(run), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(run: Path, process: subprocess.Popen, beyond: int) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        steps = [int(p.name) for p in (run / "checkpoints").glob("0*") if (p / "manifest.json").exists()]
        if steps and max(steps) > beyond:
            return max(steps)
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint beyond {beyond}: {process.communicate()}")


@pytest.mark.extended
def test_killed_preempted_and_continued(tmp_path):
    """kill -9, then SIGTERM, then on to the end: nothing is lost, and every exit code is right."""
    run = tmp_path / "run"
    first = start(run, "-e", "CartPole-v1", "-p", "debug", "--steps", "100k", "--save-every", "20")
    saved = wait_for_checkpoint(run, first, 0)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = start(run)
    later = wait_for_checkpoint(run, second, saved)
    second.send_signal(signal.SIGTERM)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 75
    assert out.strip() == str(run)
    assert err.rstrip().splitlines()[-1] == f"dreamer train --run-dir {run}"
    assert "Traceback" not in err
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("preempted", 75)
    assert main(["train", "--run-dir", str(run), "--steps", str(later + 60), "-q"]) == 0
    lines = read_metrics(run / "metrics.jsonl")
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert abs(lines[-1]["updates"] - owed(run)) <= 1
    rows = read_episodes(run / "episodes.csv")
    assert len({(row.env, row.episode) for row in rows}) == len(rows) == lines[-1]["episodes"]


def test_a_run_ends_when_an_evaluation_is_good_enough(train):
    code, result = train("-e", "CartPole-v1", *TINY, "--steps", "1000", "--eval-every", "40", "-s", "run.stop_return=1")
    assert (code, result["steps"]) == (0, 40)
    code, again = train()
    assert (code, again["steps"]) == (0, 40)
