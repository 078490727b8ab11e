"""Vectors of environments: records worked out by hand, and sync equals async."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.pool import Local
from dreamer_cli.envs.vector import VectorEnv, episode_seed
from dreamer_cli.envs.wrappers import seconds_per_step
from dreamer_cli.errors import DivergedError, EnvError
from tests.toys import toy_config


def actions(choices):
    """One-hots of the three actions of `Timeline`."""
    return np.eye(3, dtype=np.float32)[choices]


def rollout(cfg, num_envs, steps, vec, seed=0):
    """Records of random play, as one flat list of arrays."""
    rng, seen = np.random.default_rng(5), []
    with VectorEnv(cfg, num_envs, seed, vec) as envs:
        now = envs.reset()
        for _ in range(steps):
            seen.append(now)
            now = envs.step(rng.normal(size=(num_envs, envs.spec.action_width)).astype(np.float32))
            seen.append(now)
            if now.is_last.any():
                fresh = envs.reset(now.is_last)
                seen.append(
                    type(now)(
                        *({k: v[now.is_last] for k, v in fresh.obs.items()}, *(c[now.is_last] for c in fresh[1:]))
                    )
                )
        return [array for records in seen for array in (*records.obs.values(), *records[1:])]


@pytest.mark.parametrize(("ends", "terminal"), [("terminated", True), ("truncated", False), ("both", True)])
@pytest.mark.parametrize("vec", ["sync", "async"])
def test_an_episode_by_hand(ends, terminal, vec):
    with VectorEnv(toy_config("Timeline", length=2, ends=ends), 2, seed=0, vec=vec) as envs:
        first = envs.reset()
        assert first.obs["vector"][:, 0].tolist() == [0, 0]
        assert first.reward.tolist() == [0, 0]
        assert first.is_first.all()
        assert not first.is_last.any()
        assert not first.is_terminal.any()

        middle = envs.step(actions([0, 2]))  # the environments' own 5 and 7
        assert middle.obs["vector"][:, 0].tolist() == [1, 1]
        assert middle.reward.tolist() == [15, 17]
        assert not (middle.is_first | middle.is_last | middle.is_terminal).any()

        last = envs.step(actions([1, 1]))
        assert last.obs["vector"][:, 0].tolist() == [2, 2]  # the true last observation, not the next episode's
        assert last.reward.tolist() == [26, 26]
        assert last.is_last.all()
        assert last.is_terminal.tolist() == [terminal, terminal]
        assert first.obs["vector"][:, 0].tolist() == [0, 0]  # earlier records are not overwritten


def test_masked_resets_leave_the_others_alone():
    with VectorEnv(toy_config("Timeline", length=2, vary=True), 8, seed=0, vec="sync") as envs:
        now, lengths = envs.reset(), np.zeros(8, int)
        starts = now.obs["vector"][:, 1].copy()
        for _ in range(12):
            now = envs.step(actions([0] * 8))
            lengths += 1
            np.testing.assert_array_equal(now.obs["vector"][:, 0], lengths)
            np.testing.assert_array_equal(now.obs["vector"][:, 1], starts)
            done = now.is_last
            np.testing.assert_array_equal(done, lengths == 2 + starts % 3)
            if done.any():
                fresh = envs.reset(done)
                np.testing.assert_array_equal(fresh.is_first, done)
                starts[done], lengths[done] = fresh.obs["vector"][done, 1], 0
        assert envs.episodes.sum() > 16


@pytest.mark.parametrize(
    "cfg",
    [toy_config("Timeline", vary=True), toy_config("Everything"), EnvConfig(id="MinAtar/Breakout-v1")],
    ids=["timeline", "everything", "minatar"],
)
def test_sync_equals_async(cfg):
    sync, parallel = (rollout(cfg, 3, 15, vec) for vec in ("sync", "async"))
    assert len(sync) == len(parallel)
    for left, right in zip(sync, parallel, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def test_episodes_depend_on_seed_environment_and_number_alone():
    seeds = {episode_seed(s, e, n) for s in range(5) for e in range(5) for n in range(5)}
    assert len(seeds) == 125
    assert max(seeds) < 2**31
    assert episode_seed(0, 0, 0) == 1484405855  # written down: a resumed run must meet the same episodes

    def starts(seed, begun):
        with VectorEnv(toy_config("Timeline"), 3, seed, "sync") as envs:
            envs.episodes[:] = begun
            return envs.reset().obs["vector"][:, 1].tolist()

    assert starts(0, 4) == starts(0, [4, 4, 4])
    assert starts(0, 4)[1] == starts(0, [0, 4, 0])[1]
    assert starts(0, 4) != starts(1, 4)
    assert starts(0, 4) != starts(0, 5)


def test_auto_measures(monkeypatch):
    monkeypatch.setattr("dreamer_cli.envs.vector.cores", lambda: 2)
    assert seconds_per_step(make_env(toy_config("Toy"))) < seconds_per_step(make_env(toy_config("Slow")))
    with VectorEnv(toy_config("Slow"), 2, 0) as envs:
        assert envs.vec == "async"
        assert envs.step_s > 3e-3
        assert len(envs._pool._workers) == 2
    with VectorEnv(toy_config("Slow"), 1, 0) as envs:
        assert envs.vec == "sync"
    with VectorEnv(replace(toy_config("Slow"), vec="sync"), 2, 0) as envs:
        assert envs.vec == "sync"
        assert len(envs._pool._workers) == 1
    # A fixed number, because other processes slow this one down.
    monkeypatch.setattr("dreamer_cli.envs.vector.seconds_per_step", lambda env: 0.9e-3)
    with VectorEnv(EnvConfig(id="CartPole-v1"), 2, 0) as envs:
        assert envs.vec == "sync"
        assert isinstance(envs._pool, Local)


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_pictures(vec):
    with VectorEnv(toy_config("Drawn"), 2, 0, vec, "rgb_array") as envs:
        envs.reset()
        envs.step(actions([0, 0]))
        frames = envs.render()
        assert [frame.shape for frame in frames] == [(30, 200, 3)] * 2
        assert frames[1][0, 0].tolist() == [255, 10, 0]
        assert len(envs.render([1])) == 1
    with VectorEnv(toy_config("Toy"), 1, 0, vec, "rgb_array") as envs:
        envs.reset()
        assert envs.render() is None


def test_sending_does_not_wait():
    cfg = toy_config("Slow", seconds=0.2)
    with VectorEnv(cfg, 2, 0, "async") as envs:
        envs.reset()
        envs.send(actions([0, 0]))
        assert all(worker.poll() is None for worker in envs._pool._workers)  # they have only begun
        for misuse in (envs.reset, envs.render, lambda: envs.send(actions([0, 0]))):
            with pytest.raises(RuntimeError, match="not received"):
                misuse()
        assert envs.receive().reward.tolist() == [1, 1]
        with pytest.raises(RuntimeError, match="no actions"):
            envs.receive()
        envs.send(actions([0, 0]))


def test_misuse_is_refused():
    with VectorEnv(toy_config("Timeline", length=1), 2, 0, "sync") as envs:
        with pytest.raises(RuntimeError, match="not reset"):
            envs.step(actions([0, 0]))
        envs.reset()
        with pytest.raises(ValueError, match="shape"):
            envs.step(np.zeros((2, 4), np.float32))
        with pytest.raises(DivergedError):
            envs.step(np.full((2, 3), np.nan, np.float32))
        envs.step(actions([0, 0]))
        with pytest.raises(RuntimeError, match=r"\[0, 1\]"):
            envs.step(actions([0, 0]))
    with pytest.raises(RuntimeError, match="closed"):
        envs.reset()
    envs.close()


def test_workers_do_without_torch():
    """A worker that imports torch takes seconds and hundreds of megabytes; there may be sixteen of them."""
    code = "import sys, dreamer_cli.envs.worker; print([m for m in sys.modules if m in ('torch', 'rich', 'typer')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reset_that_fails_is_still_to_come():
    """The episode that did not begin is the next one, for whoever goes on from here."""
    with VectorEnv(toy_config("Faulty", fault="raises", at=0), 1, 0, "sync") as envs:
        with pytest.raises(EnvError):
            envs.reset()
        assert envs.episodes.tolist() == [0]
        assert envs.states() == [None]  # closed, and says so


def test_a_worker_that_has_died_is_found_by_the_step_and_not_by_a_save():
    with VectorEnv(toy_config("Timeline", length=9), 1, 0, "async") as envs:
        envs.reset()
        os.kill(envs._pool._workers[0].pid, signal.SIGKILL)
        assert envs.states() == [None]
        with pytest.raises(EnvError, match="died"):
            envs.step(np.eye(3, dtype=np.float32)[:1])
