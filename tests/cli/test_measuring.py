"""`dreamer bench` on the command line."""

import pytest

from dreamer_cli.cli.measuring import parse_sweep
from dreamer_cli.errors import UsageError
from dreamer_cli.report import Result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replay.batch_size=8,16, 32", ("replay.batch_size", ("8", "16", "32"))),
        ("world.encoder.mults=[1,2],[2,3,4]", ("world.encoder.mults", ("[1,2]", "[2,3,4]"))),
        ("size=1m,1m", ("size", ("1m",))),
    ],
)
def test_a_sweep_is_a_key_and_values(text, expected):
    assert parse_sweep(text) == expected


@pytest.mark.parametrize("text", ["", "replay.batch_size", "=1,2", "a=", "a=1,,2"])
def test_a_sweep_without_key_or_values_is_refused(text):
    with pytest.raises(UsageError, match="--sweep"):
        parse_sweep(text)


def test_options_become_a_request(call, command):
    (request,) = (
        command("bench", Result({"update": None})),
        call("bench", "--size", "1m,12m", "--only", "replay,update", "--sweep", "a.b=1,2", "--no-compile", "--json"),
    )[0]
    assert (request.size, request.only, request.sweep) == (("1m", "12m"), ("replay", "update"), (("a.b", ("1", "2")),))
    assert (request.compile, request.threads, request.obs, request.repeats) == (False, None, None, 5)


@pytest.mark.parametrize(
    "argv",
    [
        ["--only", "updat"],
        ["--size", "1m,3m"],
        ["--precision", "fp16"],
        ["--sweep", "size=1m,2m"],
        ["--sweep", "x"],
        ["--repeats", "0"],
        ["--obs", "sound"],
        ["--only", "env", "--sections"],
    ],
)
def test_what_is_mistyped_exits_2_with_a_hint(call, argv):
    done = call("bench", *argv, "--json")
    assert done.code == 2
    assert done.json["schema"] == "dreamer.bench/1"
    assert done.json["error"]["hint"]


def test_a_small_one_from_the_command_line(call, monkeypatch):
    from dreamer_cli import measure

    monkeypatch.setattr(measure, "REPEAT_S", 1e-4)
    done = call("bench", "-p", "debug", "--only", "env", "--repeats", "1", "--json")
    assert done.code == 0
    assert done.json["ok"]
    assert done.json["env"]["steps_per_second"] > 0
    assert done.json["update"] is None
    assert {"device", "dtype", "threads"} <= done.json.keys()
