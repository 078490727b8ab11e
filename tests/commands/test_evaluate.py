"""`dreamer evaluate`: exactly the episodes that were asked for, and nothing played in vain."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from dreamer_cli.acting import RandomDriver
from dreamer_cli.cli import main
from dreamer_cli.commands.evaluate import env_to_play, play
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import Interrupted
from dreamer_cli.scores import extra_scores
from tests.toys import toy, toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate") / "run"
    assert main(["train", "-e", "CartPole-v1", "-p", "debug", "--steps", "20", "--run-dir", str(path), "-q"]) == 0
    return path


def test_short_episodes_are_not_preferred():
    """Which episodes count is settled before they are played: those of each environment, in order."""
    cfg = toy_config("Timeline", length=2, vary=True)
    with VectorEnv(cfg, 3, 0, "sync") as envs:
        scores = play(envs, RandomDriver(envs.spec, {}, 0), 7)
    with VectorEnv(cfg, 3, 0, "sync") as envs:
        lengths = [2 + envs.reset().obs["vector"][:, 1].astype(int) % 3 for _ in range(3)]
    assert scores.lengths == np.concatenate(lengths)[:7].tolist()


def test_an_episode_that_a_crash_cut_off_does_not_count(tmp_path):
    cfg = replace(toy_config("Faulty", fault="raises", once=str(tmp_path / "once")), on_crash="restart")
    with VectorEnv(cfg, 2, 0, "sync") as envs:
        scores = play(envs, RandomDriver(envs.spec, {}, 0), 3)
        assert envs.restarts == 1
    assert scores.lengths == [10, 10, 10]


def test_what_environments_tell_and_other_scores_stand_in_the_document(tmp_path, capsys):
    run = str(tmp_path / "run")
    env = ["-e", toy("Telling"), "--env-kwarg", "length=3"]
    assert main(["train", *env, "-p", "debug", "--steps", "60", "--run-dir", run, "-q", "-s", "run.log_every=20"]) == 0
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (record["told/steps"], record["told/good"]) == (3, 1)
    capsys.readouterr()
    assert main(["evaluate", run, "--episodes", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["told"] == {"steps": 3, "good": 1}
    assert document["scores"] == {}
    assert extra_scores("ALE/Boxing-v5", [12.1], {}) == {"human_normalised": pytest.approx(100)}


@pytest.mark.parametrize(
    ("own", "other", "kwargs"),
    [
        ("ALE/Pong-v5", "ALE/Boxing-v5", {"noop_max": 30, "mode": 1}),
        ("CartPole-v1", "Pendulum-v1", {"mode": 1}),
        ("CartPole-v1", "CartPole-v1", {"noop_max": 30, "mode": 1}),
    ],
)
def test_another_game_is_played_by_the_same_rules(own, other, kwargs):
    assert env_to_play(EnvConfig(id=own, kwargs={"noop_max": 30}), other, ("mode=1",)).kwargs == kwargs


def test_a_stop_is_noticed_at_every_step():
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 4:
            raise Interrupted("stopped")

    with VectorEnv(toy_config("Timeline", length=1000), 1, 0, "sync") as envs, pytest.raises(Interrupted):
        play(envs, RandomDriver(envs.spec, {}, 0), 1, check=check)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("option", "name"), [("--video", "film.txt"), ("--video", "film.png"), ("--output", "table.xlsx")]
)
def test_bad_names_are_refused_before_anything_is_played(run, tmp_path, monkeypatch, capsys, option, name):
    monkeypatch.setattr("dreamer_cli.commands.evaluate.play", lambda *_: pytest.fail("was played"))
    assert main(["evaluate", str(run), option, str(tmp_path / name), "-q"]) == 2
    (tmp_path / "file").touch()
    place = tmp_path / "file" / ("film.mp4" if option == "--video" else "table.csv")
    assert main(["evaluate", str(run), option, str(place), "-q"]) == 5


def test_the_table_the_files_and_the_film(run, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    argv = ["evaluate", str(run), "--episodes", "3", "--seed", "4", "--versus", "random", "-q", "--json"]
    files = ["--output", str(out / "table.csv"), "--video", str(out / "film.gif")]
    assert main([*argv, *files]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["return"]["mean"] == pytest.approx(np.mean(document["returns"]))
    assert document["versus"]["policy"] == "random"
    rows = (out / "table.csv").read_text().split()
    assert [float(row.split(",")[1]) for row in rows[1:]] == document["returns"]
    assert (out / "film.gif").stat().st_size > 0
    assert main([*argv, "--min-return", "1e6"]) == 6
    assert json.loads(capsys.readouterr().out)["returns"] == document["returns"]  # the same seed, the same games


def test_an_environment_with_other_spaces_is_refused(run, capsys):
    assert main(["evaluate", str(run), "--env", "Pendulum-v1", "-q"]) == 4
    assert "vector[4]" in (error := capsys.readouterr().err)
    assert "vector[3]" in error


FEW = ["--plan", "candidates=6", "--plan", "elites=2", "--plan", "iterations=1", "--plan", "horizon=2"]


def evaluated(capsys, *argv: str) -> dict:
    """The document of an evaluation that went well."""
    assert main(["evaluate", *argv, "--json", "-q"]) == 0
    return json.loads(capsys.readouterr().out)


def test_any_run_can_be_played_by_a_planner(run, capsys):
    argv = [str(run), "--episodes", "2", "--policy", "plan", *FEW]
    document = evaluated(capsys, *argv, "--versus", "random")
    assert document["policy"] == "plan"
    assert document["versus"]["policy"] == "random"
    assert evaluated(capsys, *argv)["returns"] == document["returns"]
    # Whoever has a critic can ask it what comes after the plan.
    shooting = [
        str(run),
        "--episodes",
        "1",
        "--policy",
        "plan",
        "--plan",
        "kind=random_shooting",
        "--plan",
        "horizon=1",
    ]
    evaluated(capsys, *shooting, "--plan", "candidates=4")
    evaluated(capsys, *argv, "--plan", "bootstrap=true")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["candidate=100"], "plan.candidate.*'candidates'"),
        (["candidates=many"], "plan.candidates is 'many', but must be a whole number"),
        (["candidates=1"], "plan.candidates is 1, but must be at least 2"),
        (["candidates=50"], "elites is 100, but there are only 50 candidates"),
        (["kind=cme"], "plan.kind is 'cme'.*Did you mean 'cem'"),
        (["kind=random_shooting", "elites=3"], "plan.elites"),
        (["candidates"], "--plan 'candidates' is no KEY=VALUE"),
    ],
)
def test_settings_that_a_planner_has_not_are_refused_before_anything_is_played(run, monkeypatch, capsys, typed, said):
    monkeypatch.setattr("dreamer_cli.commands.evaluate.play", lambda *_: pytest.fail("was played"))
    options = [word for text in typed for word in ("--plan", text)]
    assert main(["evaluate", str(run), "--policy", "plan", *options, "-q"]) == 2
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


def test_settings_of_a_planner_that_does_not_play_are_refused(run, capsys):
    assert main(["evaluate", str(run), "--plan", "candidates=10", "-q"]) == 2
    assert "--policy plan" in capsys.readouterr().err


def test_a_run_that_plans_brings_its_own_planner(tmp_path, capsys):
    path = tmp_path / "run"
    settings = {"behaviour.kind": "random_shooting", "behaviour.horizon": 2, "behaviour.candidates": 5}
    typed = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    train = ["train", "-e", "Pendulum-v1", "-p", "debug", *typed, "-s", "env.max_episode_steps=20", "--steps", "20"]
    assert main([*train, "--run-dir", str(path), "-q"]) == 0
    capsys.readouterr()
    argv = [str(path), "--episodes", "1"]
    own = evaluated(capsys, *argv, "--policy", "mode")
    assert evaluated(capsys, *argv, "--policy", "plan")["returns"] == own["returns"]
    assert evaluated(capsys, *argv, "--policy", "plan", "--plan", "candidates=20")["returns"] != own["returns"]
    assert main(["evaluate", *argv, "--policy", "plan", "--plan", "kind=cem", "--plan", "bootstrap=true", "-q"]) == 2
    assert "no critic" in capsys.readouterr().err
