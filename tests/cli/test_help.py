"""Help, version and completion: complete, readable at 80 columns, instant, without torch."""

import json
import os
import subprocess
import sys
import time

import pytest

from dreamer_cli.cli.app import app, verbs
from dreamer_cli.cli.env_ids import env_ids, remembered

COMMANDS = ["train", "evaluate", "imagine", "play", "export", "inspect", "bench", "doctor", "runs list", "presets list"]
COMMANDS += ["presets show", "envs list", "envs check"]


def test_the_commands_of_this_release():
    assert verbs() == {
        "train": {},
        "evaluate": {},
        "imagine": {},
        "play": {},
        "export": {},
        "inspect": {},
        "bench": {},
        "doctor": {},
        "runs": {"list": {}},
        "presets": {"list": {}, "show": {}},
        "envs": {"list": {}, "check": {}},
    }


def test_dreamer_alone_prints_help_and_exits_0(call):
    done = call()
    assert (done.code, done.err) == (0, "")
    for name in verbs():
        assert f" {name} " in done.out
    assert call("--help").out == done.out


@pytest.mark.parametrize("verb", ["runs", "presets", "envs"])
def test_a_group_alone_prints_its_help_and_exits_0(call, verb):
    done = call(verb)
    assert done.code == 0
    assert "list" in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_fits_80_columns_and_explains_every_option(call, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = call(*name.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    command = app
    for verb in name.split():
        command = command.commands[verb]
    for param in command.params:
        assert all(option in done.out for option in param.opts if option.startswith("--")), param.name
        assert param.help, param.name
    for flag in ("--quiet", "--verbose", "--json", "--help"):
        assert flag in done.out


def test_version(call):
    done = call("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("dreamer 0.")
    assert call("--version", "--json").json["version"] == done.out.split()[1]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("dreamer ev", ["evaluate"]),
        ("dreamer runs ", ["list"]),
        ("dreamer train --vec ", ["auto", "sync", "async", "native"]),
        ("dreamer train --env CartP", ["CartPole-v1"]),
        ("dreamer envs check ALE/Pong", ["ALE/Pong-v5"]),
        ("dreamer train --siz", ["--size"]),
        ("dreamer evaluate @", ["@last"]),
        ("dreamer train --steps 1m --resu", ["--resume"]),
    ],
)
def test_completion(call, monkeypatch, words, offered):
    monkeypatch.setenv("_DREAMER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - (not words.endswith(" "))))
    done = call()
    assert done.code == 0
    assert done.out.split() == offered
    assert done.err == ""


def test_completion_offers_presets(call, monkeypatch):
    monkeypatch.setenv("_DREAMER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "dreamer train -p dreamer")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert "dreamerv3" in call().out.split()


def test_ids_are_found_once_as_long_as_nothing_is_installed(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr("dreamer_cli.envs.catalog.all_newest", lambda: found.append(1) or [f"Id-v{len(found)}"])
    assert env_ids() == env_ids() == ["Id-v1"]
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    assert env_ids() == env_ids() == ["Id-v2"]
    (site / "new_package").mkdir()
    os.utime(site, ns=(0, 7))
    assert env_ids() == ["Id-v3"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"mark": 1, "ids": []}', b"\xff"])
def test_a_broken_memory_of_ids_costs_only_time(monkeypatch, text):
    monkeypatch.setattr("dreamer_cli.envs.catalog.all_newest", lambda: ["Id-v1"])
    remembered().parent.mkdir(parents=True)
    remembered().write_bytes(text)
    assert env_ids() == ["Id-v1"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(remembered()))  # a file, where nothing can be written
    assert env_ids() == ["Id-v1"]


WITHOUT_TORCH = """
import os, sys, io, contextlib
from dreamer_cli.cli import main
os.environ["XDG_CACHE_HOME"] = os.getcwd()
from dreamer_cli.cli.env_ids import installed, remembered
from dreamer_cli.files import json_bytes
remembered().parent.mkdir(parents=True)
remembered().write_bytes(json_bytes({"mark": installed(), "ids": ["Known-v1"]}))
with contextlib.redirect_stdout(io.StringIO()):
    codes = [main([]), main(["train", "--help"]), main(["--version"]), main(["nothing"]), main(["runs", "list"])]
    os.environ |= {"_DREAMER_COMPLETE": "complete_bash", "COMP_WORDS": "dreamer train -p ", "COMP_CWORD": "3"}
    codes.append(main([]))
    os.environ["COMP_WORDS"] = "dreamer train -e "
    codes.append(main([]))
heavy = {"torch", "gymnasium", "imageio", "numpy", "matplotlib"} & set(sys.modules)
print(codes, sorted(heavy))
"""


def test_help_version_completion_and_errors_load_no_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "[0, 0, 0, 2, 0, 0, 0] []\n", done.stderr


def test_help_is_instant():
    """Processor time, and the best of up to three, so that a busy machine does not decide."""
    seconds: list[float] = []
    while len(seconds) < 3 and (not seconds or min(seconds) >= 0.5):
        before, began = os.times(), time.monotonic()
        subprocess.run([sys.executable, "-m", "dreamer_cli", "--help"], capture_output=True, check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        seconds.append(min(spent, time.monotonic() - began))
    assert min(seconds) < 0.5


def test_help_as_json_is_one_document(call):
    done = call("train", "--help", "--json")
    assert "--steps" in json.loads(done.out)["help"]
