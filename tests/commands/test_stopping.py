"""Stopping in good order, wherever a training is: what was learnt is saved, at once, and with the right exit code."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dreamer_cli.cli import main
from dreamer_cli.collector import Collector
from dreamer_cli.commands import training
from dreamer_cli.commands.learning import Learning
from dreamer_cli.tensorfiles import read_tensors
from tests.commands.same import contents, differing, newest
from tests.toys import toy

TINY = ["-p", "debug", "-q", "--save-every", "0"]
SOON_S = 8.0  # from the request to the end; these tests share two cores with others


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """`train(*argv)` → exit code; the run is `tmp_path / "run"`."""
    monkeypatch.setenv("DREAMER_RUNS", str(tmp_path / "runs"))
    return lambda *argv: main(["train", "--run-dir", str(tmp_path / "run"), *argv])


@pytest.fixture
def soon():
    """`soon(number)` sends this process a signal in a moment; `soon.seconds()` have gone by since."""
    timers: list[threading.Timer] = []
    sent = 0.0

    def send(number: int) -> None:
        nonlocal sent
        sent = time.monotonic()
        os.kill(os.getpid(), number)

    def soon(number: int = signal.SIGTERM, delay_s: float = 0.3) -> None:
        timers.append(threading.Timer(delay_s, send, [number]))
        timers[-1].start()

    soon.seconds = lambda: time.monotonic() - sent
    yield soon
    for timer in timers:
        timer.cancel()


@pytest.fixture
def hangs(soon):
    """A function that waits for ten minutes, during which SIGTERM comes."""

    def hang(*_: object) -> None:
        soon()
        time.sleep(600)

    return hang


def state(run: Path) -> dict:
    return json.loads((newest(run) / "state.json").read_text())


def when(monkeypatch, owner: type, name: str, soon) -> None:
    """Send SIGTERM soon after this method was called for the first time."""
    method, called = getattr(owner, name), []

    def once(*args, **kwargs):
        if not called:
            soon()
        called.append(1)
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, once)


def test_while_waiting_for_a_slow_environment(train, tmp_path, monkeypatch, soon):
    """The round is saved as it was sent, and goes on from there."""
    when(monkeypatch, Collector, "finish", soon)
    assert train("-e", toy("Slow"), "--env-kwarg", "seconds=600", "--vec", "async", *TINY, "--steps", "8") == 75
    assert soon.seconds() < SOON_S
    assert "round/action" in read_tensors(newest(tmp_path / "run") / "envs.safetensors")
    assert state(tmp_path / "run")["collector"]["env_steps"] == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "preempted"


def test_while_the_environment_is_being_built(train, tmp_path, soon, capsys):
    """Nothing is there to save, and nothing is left behind; the last line starts it anew."""
    soon(delay_s=2)
    assert train("-e", toy("SlowToBuild"), *TINY, "--steps", "8") == 75
    assert soon.seconds() < SOON_S
    assert not (tmp_path / "run").exists()
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert last.startswith(f"dreamer train --run-dir {tmp_path / 'run'} -e")


def test_while_filming(train, tmp_path, monkeypatch, hangs, soon):
    with monkeypatch.context() as patch:
        patch.setattr(training, "film_replayed", hangs)
        assert train("-e", "CartPole-v1", *TINY, "--steps", "80", "--dream-every", "40") == 75
    assert soon.seconds() < SOON_S
    assert state(tmp_path / "run")["owed"] == ["dream"]
    assert train() == 0
    assert (tmp_path / "run" / "videos" / "dream-000000040.mp4").exists()


def test_while_compiling(train, tmp_path, monkeypatch, hangs, soon):
    """What was collected is saved before; the update that was being compiled is still owed."""
    monkeypatch.setattr(Learning, "update", hangs)
    assert train("-e", "CartPole-v1", "--compile", *TINY, "--steps", "80") == 75
    assert soon.seconds() < SOON_S
    saved = state(tmp_path / "run")
    assert saved["updates"] == 0
    assert saved["collector"]["records"] >= 16
    assert saved["ratio"]["credit"] == [1, 1]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("overlap", ["true", pytest.param("false", marks=pytest.mark.extended)])
def test_saving_before_compiling_changes_nothing(train, tmp_path, monkeypatch, overlap):
    monkeypatch.setattr("dreamer_cli.nets.kernels.Kernel.choose", lambda *_: None)  # which would take a minute
    argv = ["-e", "CartPole-v1", *TINY, "--steps", "40", "-s", f"run.overlap={overlap}"]
    for name, how in (("plain", "--no-compile"), ("compiled", "--compile")):
        assert train(*argv, how) == 0
        os.rename(tmp_path / "run", tmp_path / name)
    assert differing(contents(tmp_path / "plain"), contents(tmp_path / "compiled")) == []


def test_while_the_first_estimate_is_made(train, tmp_path, monkeypatch, hangs, soon):
    monkeypatch.setattr("dreamer_cli.commands.start.estimate", hangs)
    assert train("-e", "CartPole-v1", *TINY, "--steps", "80") == 75
    assert soon.seconds() < SOON_S
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_while_chance_acts(train, tmp_path, monkeypatch, soon, number):
    if signal.getsignal(number) == signal.SIG_IGN:  # nohup, which is respected
        pytest.skip("this process ignores the signal")
    when(monkeypatch, Collector, "finish", lambda: soon(number))
    code = train("-e", "CartPole-v1", *TINY, "--steps", "20k", "-s", "run.prefill=20k")
    assert code == (130 if number == signal.SIGINT else 75)
    assert soon.seconds() < SOON_S
    assert state(tmp_path / "run")["collector"]["env_steps"] > 0


@pytest.mark.extended
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_the_whole_group(tmp_path, number):
    """As schedulers and closing terminals send it: neither workers nor what starts them may go before the trainer."""
    run = tmp_path / "run"
    argv = ["-e", toy("Slow"), "--vec", "async", "-p", "debug", "-q", "--steps", "100k", "--save-every", "20"]
    command = [sys.executable, "-m", "dreamer_cli", "train", "--run-dir", str(run), *argv]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while not list((run / "checkpoints").glob("0*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (75, str(run)), err


def test_the_time_is_up(train, tmp_path):
    began = time.monotonic()
    assert train("-e", "CartPole-v1", *TINY, "--steps", "20k", "-s", "run.prefill=20k", "--max-time", "3s") == 75
    assert 3 <= time.monotonic() - began < 3 + SOON_S
    assert (newest(tmp_path / "run") / "manifest.json").exists()


def test_an_environment_that_fails_costs_nothing_that_was_learnt(train, tmp_path, monkeypatch):
    """Mended, the run goes on where it was, and is the one in which nothing failed."""
    broken = tmp_path / "broken"
    argv = ["-e", toy("Breakable"), "--env-kwarg", f"flag={broken}", "--vec", "sync", *TINY, "--steps", "60"]
    assert train(*argv) == 0
    os.rename(tmp_path / "run", tmp_path / "straight")
    broken.touch()
    assert train(*argv) == 3
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", 3)
    assert state(tmp_path / "run")["updates"] > 0
    broken.unlink()
    assert train() == 0
    assert differing(contents(tmp_path / "straight"), contents(tmp_path / "run")) == []
