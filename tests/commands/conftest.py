"""Fixtures of the commands' tests."""

import json

import pytest

from dreamer_cli.cli import main


@pytest.fixture(scope="module", autouse=True)
def _unchecked(unchecked_shapes):
    """In all modules here."""


@pytest.fixture
def train(capsys, tmp_path, monkeypatch):
    """`train("--steps", "100")` → exit code and the JSON document; runs go to `tmp_path / name`."""
    monkeypatch.setenv("DREAMER_RUNS", str(tmp_path / "runs"))

    def train(*argv: str, name: str = "run") -> tuple[int, dict]:
        where = [] if "--plan" in argv else ["--run-dir", str(tmp_path / name)]
        code = main(["train", *argv, *where, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return train
