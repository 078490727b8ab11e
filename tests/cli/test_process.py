"""What only a process of its own can show: file descriptors, pipes, exit codes."""

import json
import os
import subprocess
import sys

import pytest

# Commands are replaced inside the process, so that nothing heavy loads.
STUB = """
import os, sys, types
import dreamer_cli.commands
from dreamer_cli.report import Result

def train(request, report):
    print("python prints")
    os.write(1, b"C prints\\n")
    os.system("echo a child prints")
    if request.steps == 2:
        os.kill(os.getpid(), 15)
    return Result({"run_dir": "runs/x"}, ["runs/x"] * (request.steps or 1))

dreamer_cli.commands.train = types.SimpleNamespace(train=train)
from dreamer_cli.cli import main
sys.exit(main())
"""


def run(*argv: str, **options: object) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    return subprocess.run([sys.executable, "-c", STUB, *argv], env=environment, **options)


def test_stdout_is_the_result_whoever_else_prints():
    done = run("train", "--json", capture_output=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["run_dir"] == "runs/x"
    assert {b"python prints", b"C prints", b"a child prints"} <= set(done.stderr.splitlines())


def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    try:
        done = run("train", "-n", "100k", stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert done.returncode == 0
    assert "BrokenPipe" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's full device")
def test_a_full_disk_behind_stdout_is_exit_code_5():
    with open("/dev/full", "w") as full:
        done = run("train", stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_signal_before_the_command_watches_for_it_is_preemption_too():
    done = run("train", "-n", "2", "--name", "a", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (75, "")
    assert "SIGTERM" in done.stderr
    assert done.stderr.splitlines()[-1] == "dreamer train -n 2 --name a"
