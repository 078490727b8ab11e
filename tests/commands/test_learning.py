"""When a training stops because it has diverged, and what is left to look at."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamer_cli.acting import RandomDriver, latent_fields
from dreamer_cli.commands import learning as module
from dreamer_cli.commands.assemble import build_agent, build_learner, build_replay
from dreamer_cli.commands.learning import MOST_SKIPPED, Learning
from dreamer_cli.commands.workload import random_records
from dreamer_cli.config import resolve
from dreamer_cli.errors import DivergedError
from dreamer_cli.files import DiskFullError
from dreamer_cli.replay.prefetch import DeviceFeed, Prefetch
from dreamer_cli.stopwatch import Stopwatch
from dreamer_cli.tensorfiles import read_tensors
from tests.small import VECTORS

RECORDS = 40


def make(debug: Path | None, storage: str = "host") -> Learning:
    """Of a debug agent, with a replay of made-up records."""
    cfg = resolve(None, ["debug"], None, [f"replay.storage={storage}", "run.steps=200"], None, {}, False).config
    agent = build_agent(cfg, VECTORS, "cpu")
    replay = build_replay(cfg, agent)
    everyone, rng = np.arange(cfg.run.num_envs), np.random.default_rng(0)
    chance = RandomDriver(VECTORS, latent_fields(agent), 0)
    for i in range(RECORDS):
        records = random_records(VECTORS, len(everyone), rng, first=i == 0)
        replay.add(everyone, records, *chance(records, None)[:2])
    return Learning(cfg, build_learner(cfg, agent), replay, Stopwatch(), debug)


def spoil(learning: Learning, reward: float = math.nan) -> None:
    """Give all records this reward, those that were read ahead too."""
    learning.replay.forget()
    for env in range(learning.cfg.run.num_envs):
        learning.replay.ring.put("reward", env, 0, np.full(RECORDS, reward, np.float32))


def latents(learning: Learning) -> list[np.ndarray]:
    learning.replay.drain()
    return [np.copy(learning.replay.ring.get("deter", env, 0, RECORDS)[0]) for env in range(learning.cfg.run.num_envs)]


def learn(learning: Learning, updates: int) -> list[float]:
    return [float(learning.update()["update/skipped"]) for _ in range(updates)]


@pytest.mark.parametrize(("feed", "most"), [("direct", MOST_SKIPPED), ("prefetch", 2), ("device", 2)])
def test_ten_in_a_row_go_on_and_eleven_do_not(tmp_path, monkeypatch, feed, most):
    monkeypatch.setattr(module, "MOST_SKIPPED", most)
    learning = make(tmp_path / "debug", "device" if feed == "device" else "host")
    if feed == "prefetch":  # as for a GPU
        learning.feed = Prefetch(learning.replay, torch.device("cpu"))
    assert isinstance(learning.feed, DeviceFeed) is (feed == "device")
    learn(learning, 2)
    spoil(learning)
    before, weights = latents(learning), {k: v.clone() for k, v in learning.learner.agent.state_dict().items()}
    assert learn(learning, most) == [1] * most
    assert all(np.array_equal(a, b) for a, b in zip(before, latents(learning), strict=True)), "nothing was stored"
    assert all(torch.equal(v, weights[k]) for k, v in learning.learner.agent.state_dict().items())

    spoil(learning, 0.5)
    assert learn(learning, 1) == [0]
    assert not all(np.array_equal(a, b) for a, b in zip(before, latents(learning), strict=True))

    spoil(learning)
    learn(learning, most)
    with pytest.raises(DivergedError, match=f"{most + 1} updates in a row were skipped") as caught:
        learning.update()
    path = tmp_path / "debug" / f"batch-{learning.updates}.safetensors"
    assert str(path) in caught.value.hint
    assert "--init-from" in caught.value.hint
    batch = read_tensors(path)
    names = {"obs/speed", "action", "reward", "is_first", "is_last", "is_terminal", "start.deter", "start.stoch"}
    assert batch.keys() == names
    size, length = learning.cfg.replay.batch_size, learning.cfg.replay.batch_length
    assert batch["reward"].shape == (size, length)
    assert bool(batch["reward"].isnan().all())
    assert batch["action"].shape[:2] == (size, length + 1)
    learning.close()


def test_a_full_disk_does_not_hide_it(tmp_path, monkeypatch):
    def full(*_):
        raise DiskFullError("the disk is full.")

    monkeypatch.setattr(module, "write_atomic", full)
    monkeypatch.setattr(module, "MOST_SKIPPED", 0)
    learning = make(tmp_path / "debug")
    spoil(learning, math.inf)
    with pytest.raises(DivergedError) as caught:
        learning.update()
    assert "could not be kept: the disk is full" in caught.value.hint
    assert caught.value.exit_code == 7


def test_without_a_place_nothing_is_kept_and_a_saved_count_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "MOST_SKIPPED", 2)
    one, other = make(None), make(None)
    spoil(one)
    learn(one, 1)
    other.learner.load_state({name: x.clone() for name, x in one.learner.state().items()})
    spoil(other)
    learn(other, 1)
    with pytest.raises(DivergedError, match="3 updates"):
        other.update()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_number_on_a_gpu_is_looked_at_without_waiting():
    number = torch.zeros((), dtype=torch.int64, device="cuda")
    afterwards, seen = module.Afterwards(number), []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(50):
            number += 1
            seen.append(afterwards.look())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    afterwards.look()
    torch.cuda.synchronize()
    assert afterwards.look() == 50
    assert seen == sorted(seen)
