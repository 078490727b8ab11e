"""A run that was stopped and continued is, bit for bit, the run that was never stopped."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamer_cli.checkpoint import Loaded
from dreamer_cli.cli import main
from dreamer_cli.commands import keeping
from dreamer_cli.stop import StopSignal
from tests import kill_soak
from tests.commands.same import contents, differing
from tests.toys import toy

# Things happen at odd steps, so that a stop falls between them, before them and right on them.
BUSY = ["-p", "debug", "-q", "-s", "run.log_every=7", "--eval-every", "30", "--save-every", "17", "--dream-every", "40"]


def train(run: Path, *argv: str, stop_after: int | None = None) -> int:
    """The exit code; with `stop_after=n`, SIGTERM comes at the n-th look at the flag."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMER_RUNS", str(run.parent / "runs"))
        if stop_after is not None:
            patch.setattr(StopSignal, "requested", property(_stopping(stop_after)))
        return main(["train", "--run-dir", str(run), *argv])


def _stopping(limit: int) -> Callable[[StopSignal], str | None]:
    looks, honest = 0, StopSignal.requested.fget

    def requested(self: StopSignal) -> str | None:
        nonlocal looks
        looks += 1
        if looks == limit:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self)

    return requested


def with_stops(run: Path, argv: list[str], stops: list[int]) -> int:
    """Train to the end, stopping on the way; returns how often that was."""

    def go_on(stop_after: int | None = None) -> int:
        # Who waits for slow processes looks at the flag, too, so a stop may come before anything was begun.
        return train(run, *(["-q"] if (run / "run.json").exists() else argv), stop_after=stop_after)

    for number, stop_after in enumerate(stops):
        code = go_on(stop_after)
        if code == 0:
            return number
        assert code == 75
    assert go_on() == 0
    return len(stops)


def inexact(run: Path) -> list[str]:
    return json.loads((run / "run.json").read_text())["inexact"]


EXTENDED = pytest.mark.extended
CARTPOLE = ["-e", "CartPole-v1", *BUSY, "--steps", "110", "-s", "run.prefill=20"]
CASES = {
    "one": [*CARTPOLE, "--num-envs", "1"],
    "several": [*CARTPOLE, "--num-envs", "3"],
    "async": [*CARTPOLE, "--num-envs", "3", "--vec", "async"],
    "overlap": [*CARTPOLE, "--num-envs", "2", "-s", "run.overlap=true"],
    "pendulum": ["-e", "Pendulum-v1", *BUSY, "--steps", "90", "-s", "env.max_episode_steps=25"],
    "pixels": ["-e", "CartPole-v1", "--pixels", "--image-size", "16x16", *BUSY, "--steps", "60"],
    "atari": ["-e", "ALE/Pong-v5", "--image-size", "16x16", *BUSY, "--steps", "400", "--eval-every", "0"],
    "own": ["-e", toy("Everything"), *BUSY, "--steps", "60"],
}


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("several", [9, 40, 41, 70, 100]),
        pytest.param("one", [9, 40, 41, 70, 100], marks=EXTENDED),
        *(pytest.param(name, [12, 31, 47, 60], marks=EXTENDED) for name in list(CASES)[2:]),
    ],
)
def test_stopped_anywhere(tmp_path, name, stops):
    argv = CASES[name]
    assert train(tmp_path / "straight", *argv) == 0
    assert with_stops(tmp_path / "stopped", argv, stops) > 2
    straight, stopped = contents(tmp_path / "straight"), contents(tmp_path / "stopped")
    assert differing(straight, stopped) == []
    assert inexact(tmp_path / "stopped") == []


@EXTENDED
@pytest.mark.parametrize("stop_after", range(3, 60, 4))
def test_stopped_once_at_every_kind_of_moment(tmp_path, straight, stop_after):
    """In the middle of a round, of its updates, of an evaluation; right after it, and before it."""
    _, expected = straight
    assert with_stops(tmp_path / "stopped", CASES["several"], [stop_after]) == 1
    assert differing(expected, contents(tmp_path / "stopped")) == []


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run that was never stopped, and what it holds."""
    run = tmp_path_factory.mktemp("exact") / "straight"
    assert train(run, *CASES["several"]) == 0
    return run, contents(run)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Runs that were stopped: while chance acts, and in the middle of the updates of a round."""
    found = {}
    for when, stop_after in (("early", 7), ("late", 66)):
        run = tmp_path_factory.mktemp("exact") / when
        assert train(run, *CASES["several"], stop_after=stop_after) == 75
        found[when] = run
    return found


def _tensors(file: str, prefix: str) -> Callable[[Loaded], None]:
    def lose(loaded: Loaded) -> None:
        for name, tensor in loaded.tensors[file].items():
            if name.startswith(prefix):
                tensor.zero_()

    return lose


def _generator(name: str) -> Callable[[Loaded], None]:
    def lose(loaded: Loaded) -> None:
        loaded.tensors[keeping.OPTIMIZER][name] = torch.Generator().manual_seed(0).get_state()

    return lose


def _tree(file: str, **changes: object) -> Callable[[Loaded], None]:
    return lambda loaded: loaded.trees[file].update(changes)


def _counted(**changes: object) -> Callable[[Loaded], None]:
    return lambda loaded: loaded.trees[keeping.STATE]["collector"].update(changes)


PCG = np.random.PCG64(1).state
LOST: dict[str, Callable[[Loaded], None]] = {
    "weights": _tensors(keeping.WEIGHTS, "world"),
    "slow critic": _tensors(keeping.WEIGHTS, "behaviour.slow_critic"),
    "moments": _tensors(keeping.OPTIMIZER, "optim"),
    "randomness of updates": _generator("generator"),
    "randomness of actions": _generator("acting"),
    "choice of batches": _tree(keeping.REPLAY, generator=PCG),
    "fresh sequences": _tree(keeping.REPLAY, queue=[]),
    "latents": _tensors(keeping.LATENTS, ""),
    "environments": lambda loaded: loaded.tensors[keeping.ENVS].clear(),
    "memory of the policy": _tensors(keeping.ENVS, "carry"),
    "returns so far": _counted(returns=[0.0, 0.0, 0.0]),
    "credit of the train ratio": lambda loaded: loaded.trees[keeping.STATE]["ratio"].update(credit=[0, 1]),
    "number of updates": _tree(keeping.STATE, updates=0),
    "means under way": lambda loaded: loaded.trees[keeping.STATE]["log"].update(numbers={}, tensors=[]),
}


@EXTENDED
@pytest.mark.parametrize("part", [None, "randomness of chance", *LOST])
def test_every_part_of_the_state_counts(tmp_path, monkeypatch, straight, halves, part):
    """Without any one of them, the continued run is another one; with all of them, it is the same."""
    lose = _tree(keeping.STATE, random=PCG) if part == "randomness of chance" else LOST.get(part or "", lambda _: None)
    run = tmp_path / "run"
    shutil.copytree(halves["early" if part == "randomness of chance" else "late"], run)
    take_up = keeping.Keeper._take_up

    def take_up_less(self: keeping.Keeper, loaded: Loaded) -> None:
        lose(loaded)
        take_up(self, loaded)

    monkeypatch.setattr(keeping.Keeper, "_take_up", take_up_less)
    assert train(run, "-q") == 0
    same = not differing(straight[1], contents(run))
    assert same == (part is None)


@EXTENDED
def test_killed_at_random(tmp_path):
    """With `kill -9`, in processes of their own; the long one is `python -m tests.kill_soak`."""
    argv = [*kill_soak.TINY, "--steps", "900"]
    kill_soak.train(tmp_path / "straight", *argv)
    assert kill_soak.kill_at_random(tmp_path / "killed", argv, kills=3, seed=1) > 0
    assert differing(contents(tmp_path / "straight"), contents(tmp_path / "killed")) == []
