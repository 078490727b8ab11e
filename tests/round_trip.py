"""One member of the family through every command."""

import json
from pathlib import Path

import pytest

from dreamer_cli.cli import main
from tests.commands.same import contents, differing
from tests.commands.test_exact import BUSY, train, with_stops

CATCH = str(Path(__file__).with_name("catch.py")) + ":Catch"
WITHOUT_DECODER = ("r2dreamer", "infonce", "dreamerpro")


def round_trip(preset: str, env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], export: bool = True) -> None:
    """Trained, stopped and continued exactly, evaluated, dreamt, exported."""
    argv = ["-e", env, "-p", preset, *BUSY, "--steps", "110", "-s", "run.prefill=20", "-s", "env.max_episode_steps=25"]
    argv += ["-s", "run.num_envs=2", "--dream-every", "0"]
    argv += ["-s", "world.preview=true"] if preset in WITHOUT_DECODER else []
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train(straight, *argv) == 0
    assert with_stops(stopped, argv, [25, 40]) > 0
    assert differing(contents(straight), contents(stopped)) == []

    def call(*argv: str) -> dict:
        capsys.readouterr()
        code = main([*argv, "--json", "-q"])
        captured = capsys.readouterr()
        assert code == 0, captured.err + captured.out
        return json.loads(captured.out)

    for policy in ("mode", "sample", "plan"):
        quick = ["--plan", "candidates=8", "--plan", "elites=2"] if policy == "plan" else []
        scores = call("evaluate", str(straight), "--episodes", "2", "--policy", policy, *quick)
        assert len(scores["returns"]) == 2
    for mode in ("openloop", "policy"):
        out = tmp_path / f"{mode}.mp4"
        film = call(
            "imagine",
            str(straight),
            "--mode",
            mode,
            "--context",
            "2",
            "--horizon",
            "3",
            "--samples",
            "2",
            "-o",
            str(out),
        )
        # A model that has learnt so little may think the episode over at any step, and then its own dream is.
        assert film["frames"] == 2 + film["dreamt"]
        assert film["dreamt"] == 3 or (mode == "policy" and film["dreamt"] in (1, 2))
        assert out.stat().st_size > 500
    if not export:
        return
    exported = call("export", str(straight), "-o", str(tmp_path / "exported"), "--part", "all")
    assert exported["parity"]["steps"] == 64
    assert exported["parity"]["max_abs_error"] < 1e-4
