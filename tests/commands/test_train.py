"""`dreamer train` from the outside: what it writes, and that watching it changes nothing."""

import csv
import json
import sys

import pytest

from dreamer_cli import metrics
from dreamer_cli.cli import main
from dreamer_cli.commands import keeping
from dreamer_cli.config import load_config
from dreamer_cli.files import DiskFullError
from dreamer_cli.log import read_metrics
from tests.commands.running import TINY, same, weights
from tests.toys import toy

EXTENDED = pytest.mark.extended


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
    assert load_config(run / "config.yaml").env.vec == "sync"  # what `auto` chose for CartPole
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


def test_a_disk_that_is_full_when_the_best_is_noted(train, tmp_path, monkeypatch, capsys):
    """The weights are safe by then: a warning, and the training goes on."""

    def full(*_args):
        raise DiskFullError("the disk is full.")

    monkeypatch.setattr(keeping.Checkpoints, "mark_best", full)
    argv = ["-e", "CartPole-v1", *TINY, "--steps", "40", "--eval-every", "20"]
    assert main(["train", *argv, "--run-dir", str(tmp_path / "run")]) == 0
    assert "best.json does not say" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "000000040").is_dir()


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

    code, _ = train("--steps", "8", "--init-from", str(tmp_path / "first"), name="second")
    assert code == 0  # the same again is no contradiction
    record = json.loads((tmp_path / "second" / "run.json").read_text())
    assert record["init_from"] == {"typed": str(tmp_path / "first"), "run": str(tmp_path / "first"), "step": 40}
    assert train("--init-from", str(tmp_path / "second"), name="second")[0] == 4


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["-s", "replay.capacity=5"], 2),
        (["-s", "loss_scales={}"], 2),
        (["--log", "wandb"], 3),
        (["--init-from", "nowhere"], 4),
    ],
)
def test_a_start_that_fails_leaves_nothing_behind(train, tmp_path, monkeypatch, argv, code):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train("-e", "CartPole-v1", *TINY, "--steps", "20", *argv)[0] == code
    assert not (tmp_path / "run").exists()
    assert main(["train", "-e", "CartPole-v1", *TINY, "--steps", "20", *argv]) == code
    assert not list((tmp_path / "runs").rglob("*"))


@pytest.mark.parametrize(
    "name",
    ["Everything", *(pytest.param(n, marks=EXTENDED) for n in ("MultiDiscreteToy", "MultiBinaryToy", "Continuous"))],
)
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


@EXTENDED
@pytest.mark.parametrize(("name", "kwarg"), [("Toy", "length=1"), ("Toy", "length=1000000")])
def test_what_is_odd_but_legal_is_learnt_from(train, tmp_path, name, kwarg):
    """Episodes of one step, and without an end: no update is skipped."""
    code, result = train("-e", toy(name), "--env-kwarg", kwarg, "--vec", "sync", *TINY, "--steps", "80")
    assert (code, result["steps"]) == (0, 80)
    assert result["updates"] > 5
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all(record.get("update/skipped", 0) == 0 for record in records)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
