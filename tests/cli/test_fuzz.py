"""Whatever is typed: a documented exit code, two lines or none, one JSON document, never a traceback."""

import contextlib
import io
import json
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dreamer_cli.commands
from dreamer_cli.cli import main
from dreamer_cli.cli.app import app
from dreamer_cli.report import Result

CODES = {0, 1, 2, 3, 4, 5, 6, 7, 75, 130}


def words() -> list[str]:
    """Every command and option there is, and values near the borders."""
    found, todo = {"--", "-", "--help", "--version", "-qv", "-n5", "--steps=1", "--json"}, [("", app)]
    while todo:
        name, command = todo.pop()
        found.add(name)
        found.update(option for param in command.params for option in (*param.opts, *param.secondary_opts))
        todo += getattr(command, "commands", {}).items()
    values = [
        "0",
        "-1",
        "1m",
        "4e5",
        "1e999",
        "nan",
        "best",
        "@last",
        "64x64",
        "auto",
        "x=1",
        "=",
        "\x1b[31m",
        "\udc80",
    ]
    return sorted(found) + values


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """All commands do nothing; there are no runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "evaluate", "imagine", "export", "inspect", "bench", "doctor", "presets", "envs"):
        does_nothing = SimpleNamespace(__getattr__=None)
        for function in (name, "list_presets", "show_preset", "list_envs", "check_env"):
            setattr(does_nothing, function, lambda *args, **options: Result({}, ["done"]))
        monkeypatch.setattr(dreamer_cli.commands, name, does_nothing, raising=False)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(argv=st.lists(st.sampled_from(words()) | st.text(max_size=8), max_size=6))
def test_any_arguments_end_in_good_order(stubs, argv):
    argv = [word for word in argv if word not in ("--install-completion", "--show-completion")]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    assert code in CODES - {1}, err.getvalue()
    assert "Traceback" not in err.getvalue()
    assert "\x1b" not in out.getvalue() + err.getvalue()
    if code:
        assert [line.split()[0] for line in err.getvalue().splitlines()] == ["error", "hint"]
    before = argv[: argv.index("--")] if "--" in argv else argv
    if "--json" in before and out.getvalue().startswith("{"):
        told = json.loads(out.getvalue())
        assert told["exit_code"] == code
