"""`call`: one call of `main` in this process, with what it printed; commands can be replaced by functions."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import dreamer_cli.commands
from dreamer_cli.cli import main
from dreamer_cli.report import Result


class Call(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one document on stdout."""
        return json.loads(self.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.fixture(scope="module", autouse=True)
def _unchecked(unchecked_shapes):
    """In all modules here."""


@pytest.fixture(autouse=True)
def _plain(monkeypatch, tmp_path):
    """No colours from the outside, no runs and no memory but those of the test."""
    for name in ("FORCE_COLOR", "NO_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TTY_COMPATIBLE", "_DREAMER_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DREAMER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def call(capsys) -> Callable[..., Call]:
    def call(*argv: str) -> Call:
        code = main(argv)
        captured = capsys.readouterr()
        return Call(code, captured.out, captured.err)

    return call


@pytest.fixture
def command(monkeypatch) -> Callable[..., list[Any]]:
    """`command("train", result_or_error_or_function)`: replaces a command; returns the list of its requests."""

    def replace(name: str, outcome: Any = None, function: str = "") -> list[Any]:
        requests: list[Any] = []

        def run(request: Any, report: Any, **options: Any) -> Result:
            requests.append(request)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome(request, report) if callable(outcome) else outcome or Result({})

        stub = SimpleNamespace(**{function or name: run})
        monkeypatch.setattr(dreamer_cli.commands, name, stub, raising=False)
        return requests

    return replace
