"""Environments that misbehave: named with step and episode, or restarted; and nothing of them is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from dreamer_cli.envs import supervisor
from dreamer_cli.envs.catalog import built_in
from dreamer_cli.envs.guardian import GUARDIAN
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.vector import VectorEnv, probe
from dreamer_cli.errors import EnvError, Preempted
from tests.toys import toy, toy_config

NOOP = np.eye(3, dtype=np.float32)[[0, 0]]
SAYS = {
    "nan": "the observation 'vector' is not finite: [0, nan, 1]",
    "inf": "the observation 'vector' is not finite: [0, inf, 1]",
    "shape": "the observation 'vector' has shape (4,), but (3,) was declared",
    "object": "the observation 'thing' has dtype object",
    "nan_reward": "the reward is nan",
    "old_api": "step() did not return five values",
    "raises": "raised ZeroDivisionError: the engine fell off",
    "unpicklable": "raised Local",
    "exits": "raised SystemExit: 3",
    "hogs": "MemoryError",
    "dies": "its process died with exit code 17",
    "hangs": "no answer for 0.3 s",
    "hangs_in_c": "no answer for 0.3 s",
    "babbles": "its process answered a message of",
}
SLOW = pytest.mark.extended


def each_way(sync: Sequence[str], parallel: Sequence[str]) -> list[Any]:
    """Every fault both ways, (fault, vec); only those that are listed in the default tests, for the time they take."""
    quick = [(fault, "sync") for fault in sync] + [(fault, "async") for fault in parallel]
    every = [(fault, vec) for fault in SAYS for vec in ("sync", "async")]
    return [pytest.param(*case, marks=() if case in quick else SLOW) for case in every]


def faulty(fault: str, **more) -> EnvConfig:
    """A toy that breaks at step 2 of every episode, unless `kwargs` say something else."""
    settings = {key: more.pop(key) for key in ("timeout_s", "on_crash", "workers", "max_bytes") if key in more}
    settings.setdefault("timeout_s", 0.3 if "hangs" in fault else 20.0)
    if fault == "hogs":
        settings.setdefault("max_bytes", 1 << 29)
    return replace(toy_config("Faulty", fault=fault, **more), **settings)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No worker, not even as a zombie."""
    yield
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("env-")]


@pytest.mark.parametrize(
    ("fault", "vec"), each_way(["nan", "object", "exits", "dies"], ["unpicklable", "hogs", "hangs", "babbles"])
)
def test_a_failure_is_named(fault, vec):
    envs = VectorEnv(faulty(fault), 2, 0, vec)
    envs.reset()
    envs.step(NOOP)
    began = time.monotonic()
    with pytest.raises(EnvError) as caught:
        envs.step(NOOP)
    assert SAYS[fault] in caught.value.what
    first = 0 if vec == "sync" else caught.value.what.partition("environment ")[2][0]  # whichever said so first
    assert f"toys.py:Faulty, step 2 of episode 1 in environment {first}: " in caught.value.what
    assert caught.value.hint or fault in ("nan_reward",)
    assert time.monotonic() - began < 10
    if fault == "unpicklable":
        assert "Traceback" in "".join(caught.value.__notes__)
    envs.close()


@pytest.mark.parametrize(("fault", "vec"), each_way(["nan", "dies"], ["old_api", "hangs"]))
def test_a_restart_cuts_the_episode_off(fault, vec, tmp_path):
    said = []
    cfg = faulty(fault, once=str(tmp_path / "once"), on_crash="restart")
    with VectorEnv(cfg, 2, 0, vec, warn=said.append) as envs:
        envs.reset()
        assert not envs.step(NOOP).is_last.any()
        broken = envs.step(NOOP)
        # A process that dies takes along what shares it; the first to come to step 2 made the file.
        together = vec == "sync" and fault in ("dies", "hangs", "hangs_in_c", "babbles")
        assert envs.restarts == (2 if together else 1)
        assert envs.crashed.sum() == envs.restarts
        np.testing.assert_array_equal(broken.is_last, envs.crashed)
        assert not broken.is_terminal.any()
        assert not broken.reward[envs.crashed].any()
        assert not broken.obs[next(iter(broken.obs))][envs.crashed].any()
        assert len(said) == 1
        assert SAYS[fault] in said[0]
        assert "step 2 of episode 1 in environment " in said[0]
        crashed = envs.crashed.copy()
        fresh = envs.reset(broken.is_last)
        np.testing.assert_array_equal(fresh.is_first, crashed)
        np.testing.assert_array_equal(envs.episodes, 1 + crashed)
        for _ in range(3):
            after = envs.step(NOOP)
            assert not envs.crashed.any()
        assert after.reward.tolist() == [1, 1]


@pytest.mark.parametrize("vec", ["sync", "async"])
@pytest.mark.parametrize("fault", ["raises", "dies"])
def test_a_crash_in_reset_goes_on_to_the_next_episode(fault, vec, tmp_path):
    """And what shares the process, in the middle of an episode, is told of with the next records."""
    said = []
    cfg = faulty(fault, at=0, once=str(tmp_path / "once"), on_crash="restart")
    with VectorEnv(cfg, 2, 0, vec, warn=said.append) as envs:
        assert envs.reset().is_first.all()
        assert sorted(envs.episodes.tolist()) == ([2, 2] if (fault, vec) == ("dies", "sync") else [1, 2])
        assert "step 0 of episode 1" in said[0]
        assert not envs.step(NOOP).is_last.any()
        (tmp_path / "once").unlink()
        envs.reset(np.array([True, False]))
        after = envs.step(NOOP)
        assert after.is_last.tolist() == [False, (fault, vec) == ("dies", "sync")]
        np.testing.assert_array_equal(envs.crashed, after.is_last)


def test_restarts_are_few():
    said = []
    with VectorEnv(faulty("raises", at=1, on_crash="restart"), 1, 0, "sync", warn=said.append) as envs:
        for _ in range(3):
            envs.reset()
            envs.step(NOOP[:1])
        envs.reset()
        with pytest.raises(EnvError, match="restarted 3 times within 10 minutes") as caught:
            envs.step(NOOP[:1])
        assert len(said) == envs.restarts - 1 == 3
        assert "the engine fell off" in caught.value.what


@pytest.mark.parametrize("cfg", [faulty("raises", at=0, on_crash="restart"), faulty("constructor", on_crash="restart")])
def test_what_never_works_ends_the_run(cfg):
    with pytest.raises(EnvError, match=r"no engine|restarted 3 times"), VectorEnv(cfg, 2, 0, "async") as envs:
        envs.reset()


@pytest.mark.parametrize(
    ("fault", "says", "vec"),
    [
        ("constructor", "ZeroDivisionError: no engine", "sync"),
        pytest.param("constructor", "ZeroDivisionError: no engine", "async", marks=SLOW),
        ("constructor_hangs", r"environment 0: no answer for 0\.3 s", "async"),
        pytest.param("constructor_hangs", r"environment 0: no answer for 0\.3 s", "sync", marks=SLOW),
        ("constructor_dies", "environment 0: its process died with exit code 9", "sync"),
    ],
)
def test_a_constructor_that_fails(fault, says, vec):
    with pytest.raises(EnvError, match=says):
        VectorEnv(faulty(fault), 2, 0, vec)
    if vec == "sync":
        with pytest.raises(EnvError, match=says):
            probe(faulty(fault))


def test_a_constructor_that_raises_only_in_another_worker(tmp_path):
    """Where the first could be built, and then the licence server, say, had no seat left."""
    (tmp_path / "seats.py").write_text(
        "from pathlib import Path\nfrom tests.toys import Toy\n"
        "def Seat():\n"
        "    if (taken := Path(__file__).with_name('taken')).exists():\n"
        "        raise OSError('no seat left')\n"
        "    taken.touch()\n"
        "    return Toy()\n"
    )
    with pytest.raises(EnvError, match="OSError: no seat left"):
        VectorEnv(EnvConfig(id=f"{tmp_path}/seats.py:Seat"), 2, 0, "async")


def test_legal_extremes_simply_work():
    """Rewards of 1e300 and episodes of one step."""
    with VectorEnv(faulty("huge_reward", at=1), 2, 0, "async") as envs:
        envs.reset()
        assert (envs.step(NOOP).reward > 1e38).all()
    with VectorEnv(toy_config("Timeline", length=1), 2, 0, "async") as envs:
        for _ in range(3):
            envs.reset()
            assert envs.step(NOOP).is_last.all()


@pytest.mark.parametrize("fault", [pytest.param("hangs", marks=SLOW), "hangs_in_c", "constructor_hangs"])
def test_a_request_to_stop_is_answered_at_once(fault):
    began = []

    def stop():
        began.append(time.monotonic())
        if began[-1] - began[0] > 0.3:  # not in the middle of the start
            raise Preempted("asked to")

    cfg = faulty(fault, at=1, timeout_s=60)
    if fault == "constructor_hangs":
        with pytest.raises(Preempted):
            VectorEnv(cfg, 1, 0, "async", check_stop=stop)
    else:
        envs = VectorEnv(cfg, 1, 0, "async")
        envs.reset()
        envs.check_stop = stop
        with pytest.raises(Preempted):
            envs.step(NOOP[:1])
    assert time.monotonic() - began[-1] < 0.5


def test_a_worker_that_is_killed():
    envs = VectorEnv(toy_config("Toy"), 2, 0, "async")
    envs.reset()
    os.kill(envs._pool._workers[1].pid, signal.SIGKILL)
    with pytest.raises(EnvError, match="environment 1: its process died with exit code -9") as caught:
        envs.step(NOOP)
    assert "--num-envs" in caught.value.hint


def test_workers_leave_signals_to_the_trainer_and_stand_apart():
    with VectorEnv(toy_config("Timeline", length=9), 2, 0, "async") as envs:
        envs.reset()
        for worker in envs._pool._workers:
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
                os.kill(worker.pid, getattr(signal, name))
            assert os.getpgid(worker.pid) == os.getsid(worker.pid) == worker.pid
            assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text().strip() == "500"
        assert envs.step(np.eye(3, dtype=np.float32)[[0, 0]]).reward.tolist() == [15, 15]


def test_a_guardian_that_is_gone_is_replaced():
    with VectorEnv(toy_config("Toy"), 1, 0, "sync"):
        first = GUARDIAN._process
        assert first.poll() is None
        first.kill()
        first.wait()
        with VectorEnv(toy_config("Toy"), 1, 0, "sync"):
            assert GUARDIAN._process.poll() is None
            assert len(GUARDIAN._groups) == 2
    assert not GUARDIAN._groups


def test_processes_are_started_anew_where_there_is_no_fork_server(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with VectorEnv(toy_config("Timeline"), 2, 0, "sync") as envs:
        envs.reset()
        assert envs.step(NOOP).reward.tolist() == [15, 15]


def test_several_to_a_worker():
    with VectorEnv(replace(toy_config("Timeline"), workers=2), 5, 0, "async") as envs:
        assert [worker.rows for worker in envs._pool._workers] == [[0, 1, 2], [3, 4]]
    with pytest.raises(ValueError, match="no number of processes"):
        EnvConfig(workers=0)
    with pytest.raises(ValueError, match="too little"):
        EnvConfig(max_bytes=1000)


def test_patience_counts_from_the_last_progress_and_not_while_stopped(monkeypatch):
    patience, now = supervisor.Patience(1.0), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def after(seconds, progress):
        nonlocal now
        now += seconds
        return patience.spent(progress)

    assert not after(0.3, 1)  # it was asked
    assert not after(0.3, 1)
    assert not after(3600, 1)  # Ctrl-Z, and `fg` an hour later: counts as two looks
    assert not after(0.2, 2)  # it got on
    assert not any([after(0.2, 2) for _ in range(4)])
    assert after(0.25, 2)


@pytest.mark.parametrize(
    ("env_id", "trusted"),
    [
        ("CartPole-v1", True),
        ("FrozenLake-v1", True),
        ("ALE/Pong-v5", True),
        ("MinAtar/Breakout-v1", True),
        ("tests.toys:Toy", False),
        ("Nothing-v0", False),
        ("Lookalike/CartPole-v1", False),
        ("Wrapped/CartPole-v1", False),
        ("Near/CartPole-v1", False),
        ("Called/CartPole-v1", False),
    ],
)
def test_what_may_run_in_the_trainer_is_what_is_registered(env_id, trusted, monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    own = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    gymnasium.register("Lookalike/CartPole-v1", "tests.toys:Toy")
    gymnasium.register("Near/CartPole-v1", "gymnasium.envs.classic_controller:Toy")
    gymnasium.register("Called/CartPole-v1", lambda: None)
    wrapper = gymnasium.envs.registration.WrapperSpec("Own", "tests.toys:Own", {})
    gymnasium.register("Wrapped/CartPole-v1", own, additional_wrappers=(wrapper,))
    assert built_in(env_id) == trusted


# ── nothing is left ─────────────────────────────────────────────────────────────────────────────────────────


def alive(pid: int) -> bool:
    """Whether a process runs; not as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], within_s: float) -> bool:
    """Whether all of them end in time."""
    deadline = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize("fault", [pytest.param("nothing", marks=SLOW), "dies", pytest.param("hangs", marks=SLOW)])
def test_what_an_environment_has_started_ends_with_it(fault, tmp_path):
    child = tmp_path / "child"
    envs = VectorEnv(faulty(fault, at=1, child=str(child)), 1, 0, "async")
    envs.reset()
    if fault == "nothing":
        envs.step(NOOP[:1])
        envs.close()
    else:
        with pytest.raises(EnvError):
            envs.step(NOOP[:1])
    assert gone([int(child.read_text())], 2)


# Without torch, which takes seconds to import.
TRAINER = """
import sys
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.pool import Workers
from dreamer_cli.envs.probe import open_probe
env_id, fault, child = sys.argv[1:]
cfg = EnvConfig(id=env_id, kwargs={"fault": fault, "at": 1, "child": child})
first = open_probe(cfg, None, False, lambda: None)
envs = Workers(cfg, None, 2, first.spec, 1, first=first)
envs.reset([0, 1], [0, 0], [1, 2], lambda: None)
envs.send([0, 1], lambda: None)
print(first.worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("fault", ["hangs_in_c", pytest.param("nothing", marks=SLOW)])
def test_nothing_outlives_a_killed_trainer(fault, tmp_path):
    """Its workers idle, or hang where no signal handler and no thread of theirs can run."""
    child = tmp_path / "child"
    arguments = [sys.executable, "-c", TRAINER, toy("Faulty"), fault, str(child)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
        pids = [*map(int, trainer.stdout.readline().split()), int(child.read_text())]
        pids += [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and parent(path) in pids]
        pids += [
            int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and parent(path) == trainer.pid
        ]
        assert len(pids) >= 5  # worker, sleep, fork server, resource tracker, guardian
        time.sleep(0.3)
        assert all(map(alive, pids))
        trainer.kill()
        assert gone(pids, 2)


def parent(process: Path) -> int:
    """The parent of a process in /proc."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


@pytest.mark.extended
@pytest.mark.parametrize("fault", ["raises", "dies"])
def test_a_thousand_restarts_leave_nothing(fault, monkeypatch):
    monkeypatch.setattr("dreamer_cli.envs.vector.RESTARTS", 10_000)
    cfg = faulty(fault, at=1, on_crash="restart")

    def left() -> tuple[int, int, int, int]:
        shared, fds = len(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))
        ours = {os.getpid(), parent(Path(f"/proc/{envs._pool._workers[0].pid}"))}  # and the fork server's
        zombies = [p for p in Path("/proc").glob("[0-9]*") if parent(p) in ours and not alive(int(p.name))]
        return shared, fds, len(zombies), len(multiprocessing.active_children())

    with VectorEnv(cfg, 2, 0, "async") as envs:
        counts = []
        for cycle in range(500):
            envs.reset()
            assert envs.step(NOOP).is_last.all()
            if cycle in (20, 499):
                counts.append(left())
        assert envs.restarts == 1000
    assert counts[0] == counts[1]
