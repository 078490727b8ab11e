"""`dreamer train` from the outside: what it writes, that it goes on, and that watching it changes nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dreamer_cli import metrics
from dreamer_cli.cli import main
from dreamer_cli.log import read_metrics
from dreamer_cli.tensorfiles import read_tensors
from tests.toys import toy

TINY = ["-p", "debug", "--save-every", "0", "-q"]


@pytest.fixture
def train(capsys, tmp_path, monkeypatch):
    """`train("--steps", "100")` → exit code and the JSON document; runs go to `tmp_path / name`."""
    monkeypatch.setenv("DREAMER_RUNS", str(tmp_path / "runs"))

    def train(*argv: str, name: str = "run") -> tuple[int, dict]:
        where = [] if "--plan" in argv else ["--run-dir", str(tmp_path / name)]
        code = main(["train", *argv, *where, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return train


def weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The weights of a run's newest checkpoint."""
    newest = max(p for p in (Path(path) / "checkpoints").iterdir() if p.is_dir())
    return read_tensors(newest / "weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_and_what_it_leaves(train, tmp_path):
    code, result = train("-e", "CartPole-v1", *TINY, "--steps", "120", "--eval-every", "60", "--dream-every", "100")
    assert (code, result["ok"], result["schema"]) == (0, True, "dreamer.train/1")
    fields = {
        "run_dir", "env", "preset", "steps", "updates", "episodes", "return_mean_last10", "eval", "checkpoint",
        "seconds", "env_steps_per_second", "updates_per_second", "device",
    }  # fmt: skip
    assert fields <= result.keys()
    assert result["steps"] == 120
    assert result["updates"] > 10
    assert result["eval"].keys() == {"checkpoint_step", "episodes", "policy", "return"}
    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["exit_code"], record["env"]) == ("finished", 0, "CartPole-v1")
    lines = read_metrics(run / "metrics.jsonl")
    assert metrics.unlisted({name for line in lines for name in line}) == []
    assert {"loss/total", "loss/vector", "entropy/actor", "update_seconds", "eval/return_mean"} <= lines[-1].keys()
    with (run / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["episodes"] > 0
    assert all(float(row["return"]) == float(row["length"]) for row in rows)  # CartPole pays 1 a step
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    assert best["by"] == "evaluation"
    assert (run / "checkpoints" / f"{best['step']:09d}" / "manifest.json").is_file()
    assert (run / "eval" / "000000060.json").is_file()
    assert (run / "videos" / "dream-000000100.mp4").stat().st_size > 1000
    assert not any(path.suffix in (".pkl", ".pt", ".pth") for path in run.rglob("*"))


def test_watching_changes_nothing(train, tmp_path):
    """Saving, evaluating, filming and logging more often gives the same weights; another seed does not."""
    common = ["-e", "CartPole-v1", "-p", "debug", "-q", "--steps", "100"]
    assert train(*common, "--save-every", "0", name="plain")[0] == 0
    often = ["--save-every", "20", "--eval-every", "30", "--dream-every", "50", "-s", "run.log_every=7"]
    assert train(*common, *often, name="watched")[0] == 0
    train(*common, "--save-every", "0", "--seed", "1", name="other")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "watched"))
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "other"))


def test_sync_and_async_give_the_same_weights(train, tmp_path):
    common = ["-e", "CartPole-v1", *TINY, "--steps", "60"]
    train(*common, "--vec", "sync", name="sync")
    train(*common, "--vec", "async", name="async")
    assert same(weights(tmp_path / "sync"), weights(tmp_path / "async"))


def test_config_yaml_repeats_the_run(train, tmp_path):
    train("-e", "CartPole-v1", *TINY, "--steps", "60", name="first")
    code, _ = train("-c", str(tmp_path / "first" / "config.yaml"), name="second")
    assert code == 0
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))


def test_a_finished_run_goes_on(train, tmp_path):
    train("-e", "CartPole-v1", *TINY, "--steps", "60")
    before = weights(tmp_path / "run")
    code, again = train()
    assert (code, again["steps"]) == (0, 60)  # already complete: nothing is done
    assert same(before, weights(tmp_path / "run"))
    code, more = train("--steps", "120")
    assert (code, more["steps"]) == (0, 120)
    assert not same(before, weights(tmp_path / "run"))
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == sorted(steps)
    updates = [line["updates"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert updates[-1] == more["updates"] > 40  # counted on, and no credit of the train ratio was lost


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--seed", "7"], "run.seed"),
        (["-s", "optim.lr=1e-3"], "optim.lr"),
        (["-p", "cpu"], "presets"),
        (["-e", "Pendulum-v1"], "env.id"),
        (["--train-ratio", "8"], "run.train_ratio"),
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


def test_plan_writes_nothing(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, plan = train("-e", "CartPole-v1", "--plan")
    assert (code, plan["schema"]) == (0, "dreamer.plan/1")
    assert plan["model"]["parameters"]["total"] == 637_381
    assert plan["budget"]["updates"] == (1_000_000 - 1024) * 32 // 1024
    assert {"replay_bytes", "model_bytes"} <= plan["memory"].keys()
    assert list(tmp_path.iterdir()) == []


def test_a_run_too_short_to_learn_warns(train, capsys, tmp_path):
    code = main(["train", "-e", "CartPole-v1", *TINY, "--steps", "4", "--run-dir", str(tmp_path / "short")])
    assert code == 0
    assert "without one update" in capsys.readouterr().err


def test_init_from_starts_with_the_weights(train, tmp_path):
    train("-e", "CartPole-v1", *TINY, "--steps", "40", name="first")
    train(
        "-e", "CartPole-v1", *TINY, "--steps", "4", "--seed", "5", "--init-from", str(tmp_path / "first"), name="second"
    )
    assert same(weights(tmp_path / "first"), weights(tmp_path / "second"))  # too short for an update of its own


@pytest.mark.parametrize("name", ["Everything", "MultiDiscreteToy", "MultiBinaryToy", "Continuous"])
def test_every_kind_of_space(train, tmp_path, capsys, name):
    """Trains, evaluates and dreams; export is in the extended tests."""
    code, result = train("-e", toy(name), *TINY, "--steps", "60")
    assert (code, result["ok"]) == (0, True)
    assert result["updates"] > 0
    run = str(tmp_path / "run")
    assert main(["evaluate", run, "--episodes", "3", "--json", "-q"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert len(scores["returns"]) == 3
    out = str(tmp_path / "dream.png")
    assert main(["imagine", run, "-o", out, "--context", "2", "--horizon", "3", "--samples", "2", "-q"]) == 0
    assert capsys.readouterr().out.split() == [out]


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
    steps = [line["step"] for line in read_metrics(run / "metrics.jsonl")]
    assert steps == sorted(set(steps)) or steps == sorted(steps)
