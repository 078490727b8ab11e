"""Signals and deadlines: what is asked for, by whom, and that a second Ctrl-C ends everything at once."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from dreamer_cli.errors import Interrupted, Preempted
from dreamer_cli.stop import BOUNCE_S, StopSignal

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="POSIX signals")


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return float(self.now)


@pytest.mark.parametrize(
    ("number", "reason", "cause", "error"),
    [
        (signal.SIGINT, "interrupted", "Ctrl-C", Interrupted),
        (signal.SIGTERM, "preempted", "SIGTERM", Preempted),
        (signal.SIGUSR1, "preempted", "SIGUSR1", Preempted),
        (signal.SIGHUP, "preempted", "SIGHUP", Preempted),
    ],
)
def test_a_signal_sets_the_flag_and_nothing_else(number, reason, cause, error):
    with StopSignal() as stop:
        assert stop.requested is None
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested == reason
        assert stop.cause == cause
        with pytest.raises(error):
            stop.check()


def test_the_first_request_names_the_reason():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "preempted"
        assert stop.cause == "SIGTERM"


def test_repeated_sigterm_never_ends_the_process():
    with StopSignal() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == "preempted"


def test_one_ctrl_c_delivered_twice_counts_once():
    clock = Clock()
    with StopSignal(clock=clock) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        clock.now += BOUNCE_S / 2
        os.kill(os.getpid(), signal.SIGINT)  # the process still being here is the test
        assert stop.requested == "interrupted"


def test_the_deadline():
    clock = Clock()
    stop = StopSignal(max_time_s=60, clock=clock)
    clock.now += 59
    assert stop.requested is None
    clock.now += 1
    assert stop.requested == "preempted"
    assert stop.cause == "--max-time"
    with pytest.raises(Preempted, match="--max-time"):
        stop.check()


def test_restore_puts_the_old_handlers_back():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    stop = StopSignal().install()
    assert all(signal.getsignal(n) != handler for n, handler in before.items())
    stop.install()  # a second time changes nothing
    stop.restore()
    assert {n: signal.getsignal(n) for n in before} == before
    stop.restore()


def test_nohup_is_respected():
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested is None
    finally:
        signal.signal(signal.SIGHUP, old)


def test_outside_the_main_thread_only_the_deadline_works():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with StopSignal(max_time_s=0) as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [("preempted", before)]


SECOND_CTRL_C = """
import multiprocessing, os, signal, sys, time
from dreamer_cli.stop import StopSignal

def work(): time.sleep(60)

with StopSignal() as stop:
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    print(worker.pid, flush=True)
    while True:
        time.sleep(0.01)  # whoever looks at the flag is busy
"""


def test_a_second_ctrl_c_stops_at_once_and_takes_the_workers_along():
    process = subprocess.Popen(
        [sys.executable, "-c", SECOND_CTRL_C], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    time.sleep(2 * BOUNCE_S + 0.1)
    assert process.poll() is None
    os.kill(worker, signal.SIGINT)  # a terminal sends it to the workers, too: none of their business
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "stopped at once" in err
    assert "Traceback" not in err
    assert _gone(worker)


def _gone(pid: int) -> bool:
    """Whether the process ends within 5 s; a zombie that nobody reaped yet has ended."""
    for _ in range(50):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False
