"""Whether it learns: `cpu` on two tasks, three seeds each, and the demo on five. By hand: an hour or more."""

import json

import pytest

from dreamer_cli.cli import main

pytestmark = pytest.mark.slow


def train_and_score(capsys, run: str, *argv: str) -> float:
    """Mean return of 20 episodes with the best checkpoint."""
    assert main(["train", "--run-dir", run, *argv, "-q"]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--episodes", "20", "--json", "-q"]) == 0
    return json.loads(capsys.readouterr().out)["return"]["mean"]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("env", "bound"), [("CartPole-v1", 475), ("Pendulum-v1", -250)])
def test_cpu_preset(capsys, tmp_path, env, bound, seed):
    argv = ["-e", env, "-p", "cpu", "--steps", "8k", "--eval-every", "1k", "--seed", str(seed)]
    assert train_and_score(capsys, str(tmp_path / "run"), *argv) >= bound


@pytest.mark.parametrize("seed", range(5))
def test_demo(capsys, tmp_path, seed):
    assert train_and_score(capsys, str(tmp_path / "run"), "-p", "demo", "--seed", str(seed)) >= 400
