"""Every kind of environment through every command: train, go on, evaluate, imagine, export. Extended tier."""

import json

import pytest

from dreamer_cli.cli import main
from tests.toys import toy

pytestmark = pytest.mark.extended

ENVS = {
    "cartpole": ["-e", "CartPole-v1"],
    "pendulum": ["-e", "Pendulum-v1"],
    "pixels": ["-e", "CartPole-v1", "-s", "env.pixels=both", "--image-size", "16x24"],
    "dict": ["-e", toy("Everything")],
    "multi-discrete": ["-e", toy("MultiDiscreteToy")],
    "multi-binary": ["-e", toy("MultiBinaryToy")],
    "minatar": ["-e", "MinAtar/Breakout-v1"],
    "pong": ["-e", "ALE/Pong-v5"],
}


@pytest.mark.parametrize("name", ENVS)
def test_round_trip(name, tmp_path, capsys):
    run = str(tmp_path / "run")

    def call(*argv: str) -> dict:
        code = main([*argv, "--json", "-q"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    repeat = 4 if name == "pong" else 1
    call("train", *ENVS[name], "-p", "debug", "--steps", str(repeat * 80), "--run-dir", run)
    trained = call("train", "--run-dir", run, "--steps", str(repeat * 120))
    assert trained["steps"] == repeat * 120
    assert trained["updates"] > 5
    scores = call("evaluate", run, "--episodes", "1" if name == "pong" else "2", "--versus", "random")
    assert len(scores["returns"]) == len(scores["versus"]["returns"]) == (1 if name == "pong" else 2)
    for mode in ("openloop", "policy"):
        out = tmp_path / f"{mode}.mp4"
        film = call(
            "imagine", run, "--mode", mode, "--context", "2", "--horizon", "3", "--samples", "2", "-o", str(out)
        )
        assert film["frames"] == 5
        assert film["width"] % 2 == film["height"] % 2 == 0
        assert out.stat().st_size > 500
    exported = call("export", run, "-o", str(tmp_path / "exported"), "--part", "all")
    assert exported["parity"]["steps"] == 64
    assert exported["parity"]["max_abs_error"] < 1e-4
    shown = call("inspect", run)
    assert shown["ok"]
