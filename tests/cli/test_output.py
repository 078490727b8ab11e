"""What reaches stdout and stderr, and the exit code, whatever a command does."""

import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest

from dreamer_cli import errors
from dreamer_cli.cli.output import document, plain
from dreamer_cli.report import Result

ESC = "\x1b"


def test_the_result_is_on_stdout_and_everything_else_on_stderr(call, command):
    def train(request, report):
        report.note("a note")
        report.warn("a warning")
        print("an environment that prints")
        return Result({"run_dir": "runs/x"}, ["runs/x"])

    command("train", train)
    done = call("train", "-e", "CartPole-v1")
    assert (done.code, done.out) == (0, "runs/x\n")
    assert done.err.splitlines() == ["a note", "warn   a warning", "an environment that prints"]


@pytest.mark.parametrize("argv", [("-q", "train"), ("train", "-q"), ("--quiet", "train", "--quiet")])
def test_quiet_leaves_result_and_warnings(call, command, argv):
    def train(request, report):
        report.note("a note")
        report.warn("a warning")
        return Result({}, ["runs/x"])

    command("train", train)
    done = call(*argv)
    assert (done.out, done.err) == ("runs/x\n", "warn   a warning\n")


@pytest.mark.parametrize("argv", [("--json", "runs", "list"), ("runs", "--json", "list"), ("runs", "list", "--json")])
def test_flags_stand_before_between_and_after_verbs(call, argv):
    done = call(*argv)
    assert done.json["schema"] == "dreamer.runs.list/1"
    assert done.json["runs"] == []
    assert done.code == 0


def test_the_success_document(call, command):
    command("train", Result({"run_dir": Path("runs/x"), "returns": (1.5, math.nan), "device": "cpu"}))
    done = call("train", "--json")
    assert done.json == {
        "schema": "dreamer.train/1",
        "ok": True,
        "exit_code": 0,
        "run_dir": "runs/x",
        "returns": [1.5, None],
        "device": "cpu",
    }
    assert done.out.count("\n") == 1


def test_a_plan_has_its_own_schema(call, command):
    command("train", Result({"budget": {}}))
    assert call("train", "--plan", "--json").json["schema"] == "dreamer.plan/1"
    assert call("train", "--plan", "--json", "--steps", "x").json["schema"] == "dreamer.plan/1"


@pytest.mark.parametrize(
    ("argv", "schema"),
    [
        (("trian", "--json"), "dreamer/1"),
        (("--json",), "dreamer/1"),
        (("--json", "--version"), "dreamer/1"),
        (("--jsn", "--json"), "dreamer/1"),
        (("runs", "--json", "lst"), "dreamer.runs/1"),
        (("runs", "list", "--json", "--bad"), "dreamer.runs.list/1"),
        (("presets", "show", "--json"), "dreamer.presets.show/1"),
        (("--json", "evaluate"), "dreamer.evaluate/1"),
        (("train", "--steps", "--json"), "dreamer.train/1"),
        (("train", "--env", "runs", "--json", "-x"), "dreamer.train/1"),
        (("train", "--help", "--json"), "dreamer.train/1"),
    ],
)
def test_every_call_with_json_prints_one_document_of_its_schema(call, argv, schema):
    done = call(*argv)
    assert done.json["schema"] == schema
    assert done.json["exit_code"] == done.code
    assert done.json["ok"] is (done.code == 0)
    assert done.json["ok"] or set(done.json["error"]) == {"code", "message", "hint"}


FAILURES = [
    (errors.UsageError("what", "do"), 2, "usage"),
    (errors.ConfigError("what", "do"), 2, "usage"),
    (errors.EnvError("what", "do"), 3, "environment"),
    (errors.StateError("what", "do"), 4, "state"),
    (errors.ResourceError("what", "do"), 5, "resources"),
    (errors.GateError("what", "do"), 6, "gate"),
    (errors.DivergedError("what", "do"), 7, "diverged"),
    (errors.Preempted("what", "do"), 75, "preempted"),
    (errors.Interrupted("what", "do"), 130, "interrupted"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (MemoryError(), 5, "resources"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 5, "resources"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), 5, "resources"),
    (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 5, "resources"),
    (OSError(errno.EROFS, "Read-only file system", "/x"), 5, "resources"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x"), 5, "resources"),
    (OSError(errno.ENOSPC, "No space left on device"), 5, "resources"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), 5, "resources"),
    (ZeroDivisionError("division by zero"), 1, "failed"),
    (RecursionError(), 1, "failed"),
    (EOFError(), 1, "failed"),
    (SystemExit(3), 1, "failed"),
    (KeyError("x"), 1, "failed"),
]


@pytest.mark.parametrize(("error", "code", "name"), FAILURES, ids=lambda value: repr(value)[:40])
def test_every_exception_has_its_exit_code_and_two_lines(call, command, error, code, name):
    command("train", error)
    done = call("train")
    assert (done.code, done.out) == (code, "")
    first, second, *more = done.err.splitlines()
    assert more == (["dreamer train"] if code == 75 else [])
    assert first.startswith("error  ")
    assert second.startswith("hint   ")
    assert len(second) > len("hint   ")
    assert "Traceback" not in done.err
    told = call("train", "--json").json
    assert (told["ok"], told["exit_code"], told["error"]["code"]) == (False, code, name)


def test_errors_of_several_lines_become_two(call, command):
    command("train", errors.EnvError("first\nsecond\n\tthird", "do\nthis"))
    assert call("train").err == "error  first second third\nhint   do this\n"


def test_verbose_shows_the_traceback_before_the_two_lines(call, command):
    command("train", ZeroDivisionError("division by zero"))
    for argv in (("-v", "train"), ("train", "--verbose")):
        lines = call(*argv).err.splitlines()
        assert lines[0].startswith("Traceback")
        assert lines[-2] == "error  Unexpected ZeroDivisionError: division by zero"


def test_the_traceback_is_kept_in_the_run_and_the_hint_names_the_file(call, command, tmp_path):
    log = tmp_path / "run" / "logs" / "train.log"

    def train(request, report):
        report.open_log(log)
        report.note("begins")
        raise ZeroDivisionError("division by zero")

    command("train", train)
    done = call("train", "-q")
    assert str(log) in done.err
    assert "begins" in log.read_text()
    assert "ZeroDivisionError: division by zero" in log.read_text()


def test_a_gate_that_was_missed_prints_result_and_error(call, command):
    command("train", Result({"mean": 3.0}, ["the table"], errors.GateError("too low", "train on")))
    done = call("train")
    assert (done.code, done.out) == (6, "the table\n")
    assert done.err.startswith("error  too low\n")
    told = call("train", "--json").json
    assert (told["ok"], told["mean"], told["error"]["code"]) == (False, 3.0, "gate")


def test_preempted_ends_stderr_with_the_command_that_goes_on(call, command):
    error = errors.Preempted("Stopped by SIGTERM.", "Continue: dreamer train --run-dir runs/x")
    command("train", Result({}, ["runs/x"], error, command="dreamer train --run-dir runs/x"))
    done = call("train")
    assert (done.code, done.out) == (75, "runs/x\n")
    assert done.err.splitlines() == [
        "error  Stopped by SIGTERM.",
        "hint   The command on the next line continues it.",
        "dreamer train --run-dir runs/x",
    ]
    assert call("train", "--json").json["error"]["hint"] == "Continue: dreamer train --run-dir runs/x"


def test_control_characters_reach_no_terminal(call, command):
    command("train", Result({}, [f"runs/{ESC}[31mred"]))
    assert call("train").out == "runs/\\x1b[31mred\n"
    done = call(f"tr{ESC}[2Jain")
    assert ESC not in done.err
    assert done.code == 2


def test_escapes_reach_a_pipe_only_if_forced_and_json_never(call, command, monkeypatch):
    def train(request, report):
        report.warn("a warning")
        raise errors.EnvError(f"bad {ESC}[31m")

    command("train", train)
    for name in ("GITHUB_ACTIONS", "PY_COLORS", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.setenv(name, "1")
    for argv in (("train",), ("--help",), ("train", "--help"), ("runs",), ("nothing",)):
        done = call(*argv)
        assert ESC not in done.out + done.err, argv
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert ESC in call("train").err
    assert ESC in call("--help").out
    for argv in (("train", "--json"), ("--json", "--help"), ("train", "--json", "--help"), ("nothing", "--json")):
        done = call(*argv)
        assert ESC not in done.out + done.err, argv
        assert done.json


def test_no_color_wins(call, command, monkeypatch):
    command("train", errors.EnvError("bad"))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert f"{ESC}[1;31m" not in call("train").err


def test_plain_values():
    values = {
        "inf": math.inf,
        "array": np.array([1.0, np.nan]),
        "scalar": np.float32(np.inf),
        "count": np.int64(3),
        1: {Path("x")},
        "yes": np.bool_(True),
        "big": 2**70,
        "bytes": b"x",
    }
    expected = {"inf": None, "array": [1.0, None], "scalar": None, "count": 3, "1": ["x"], "yes": True, "big": 2**70}
    assert plain(values) == {**expected, "bytes": "b'x'"}


def test_a_result_cannot_overwrite_the_head_of_the_document():
    told = document("dreamer.x/1", Result({"ok": "maybe", "exit_code": 9}), None)
    assert told == {"schema": "dreamer.x/1", "ok": True, "exit_code": 0}


def test_a_stdout_that_knows_few_characters_gets_the_others_spelled_out(command, capfd, monkeypatch):
    from dreamer_cli.cli import main

    command("train", Result({}, ["runs/größe-日本"]))
    with open(os.dup(1), "w", encoding="ascii") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["train"]) == 0
    assert capfd.readouterr().out == "runs/gr\\xf6\\xdfe-\\u65e5\\u672c\n"
