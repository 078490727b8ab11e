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
    "pong": ["-e", "ALE/Pong-v5", "--vec", "native"],
    "pong-in-python": ["-e", "ALE/Pong-v5", "--vec", "sync"],
    "taxi": ["-e", "Taxi-v4"],
    "dmc": ["-e", "dmc:cartpole-balance"],
    "dmc-pixels": ["-e", "dmc:cartpole-balance", "-p", "dmc-vision", "--image-size", "16x16"],
    "minigrid": ["-e", "minigrid:empty-5x5"],
    "minigrid-pixels": ["-e", "minigrid:doorkey-5x5", "--env-kwarg", "view=rgb"],
    "lunar-lander": ["-e", "LunarLander-v3"],
    "hopper": ["-e", "Hopper-v5"],
    "crafter": ["-e", "crafter"],
    "procgen": ["-e", "procgen:coinrun"],
}
NEEDS = {
    "minatar": "minatar",
    "dmc": "dm_control",
    "dmc-pixels": "dm_control",
    "minigrid": "minigrid",
    "minigrid-pixels": "minigrid",
    "lunar-lander": "Box2D",
    "hopper": "mujoco",
    "crafter": "crafter",
    "procgen": "procgen",
}


@pytest.mark.parametrize("name", ENVS)
def test_round_trip(name, tmp_path, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    run = str(tmp_path / "run")

    def call(*argv: str) -> dict:
        code = main([*argv, "--json", "-q"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    repeat = 4 if "pong" in name else 2 if "dmc" in name else 1
    long = name in ("pong", "pong-in-python", "dmc-pixels", "crafter")
    call("train", *ENVS[name], "-p", "debug", "--steps", str(repeat * 80), "--run-dir", run)
    trained = call("train", "--run-dir", run, "--steps", str(repeat * 120))
    assert trained["steps"] == repeat * 120
    assert trained["updates"] > 5
    episodes = 1 if long else 2
    scores = call("evaluate", run, "--episodes", str(episodes), "--versus", "random")
    assert len(scores["returns"]) == len(scores["versus"]["returns"]) == episodes
    for mode in ("openloop", "policy"):
        out = tmp_path / f"{mode}.mp4"
        film = call(
            "imagine", run, "--mode", mode, "--context", "2", "--horizon", "3", "--samples", "2", "-o", str(out)
        )
        # A model that has learnt so little may think the episode over at any step, and then its own dream is.
        assert film["frames"] == 2 + film["dreamt"]
        assert film["dreamt"] == 3 or (mode == "policy" and film["dreamt"] in (1, 2))
        assert film["width"] % 2 == film["height"] % 2 == 0
        assert out.stat().st_size > 500
    exported = call("export", run, "-o", str(tmp_path / "exported"), "--part", "all")
    assert exported["parity"]["steps"] == 64
    assert exported["parity"]["max_abs_error"] < 1e-4
    shown = call("inspect", run)
    assert shown["ok"]
