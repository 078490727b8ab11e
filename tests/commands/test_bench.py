"""Benchmarks as small as they get: what is told, not how fast it is."""

import io

import pytest
import torch

from dreamer_cli import measure
from dreamer_cli.commands import bench as module
from dreamer_cli.commands import workload
from dreamer_cli.commands.bench_text import lines
from dreamer_cli.config import resolve
from dreamer_cli.errors import EnvError, Interrupted, ResourceError, UsageError
from dreamer_cli.report import Reporter
from dreamer_cli.requests import BenchRequest
from tests.small import EVERYTHING


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(measure, "REPEAT_S", 1e-4)
    monkeypatch.setattr(measure, "LARGEST_SIDE", {"cpu": 256})
    monkeypatch.setattr(workload, "RECORDS", 64)
    for place in (measure, workload):
        monkeypatch.setattr(place, "WARM_UP", 0)


def bench(**options):
    request = BenchRequest(preset=("debug",), device="cpu", repeats=1, **options)
    return module.bench(request, Reporter(quiet=True, stream=io.StringIO()))


def cases(**options):
    return list(module._cases(BenchRequest(preset=("debug",), **options), torch.get_num_threads()))


def test_several_configurations_with_all_parts(monkeypatch):
    monkeypatch.setattr(module, "peak_on_cpu", lambda cfg, spec: cfg.replay.batch_size << 20)
    result = bench(
        sweep=(("replay.batch_size", ("2", "3")),),
        sections=True,
        threads=1,
        settings=("run.num_envs=1", "replay.batch_length=4", "behaviour.horizon=1"),
    )
    document = result.json
    first, second = document["runs"]
    for key in ("update", "policy", "replay", "env", "device", "dtype", "threads"):
        assert document[key] == first[key]
    assert (document["device"], document["dtype"], document["threads"]) == ("cpu", "float32", 1)
    update = document["update"]
    assert update["min"] <= update["seconds"] <= update["max"]
    assert update["per_second"] * update["seconds"] == pytest.approx(1)
    assert update["floor_ratio"] * update["floor_seconds"] == pytest.approx(update["seconds"])
    assert update["gflop"] == pytest.approx(update["floor_seconds"] * update["matmul_gflop_per_second"])
    # Every product of an update has a row for each record of the batch.
    assert second["update"]["gflop"] == pytest.approx(1.5 * update["gflop"], rel=0.01)
    assert [run["update"]["peak_bytes"] for run in document["runs"]] == [2 << 20, 3 << 20]
    assert document["policy"]["steps_per_second"] * document["policy"]["seconds"] == pytest.approx(1)
    assert document["policy"]["batched"]["num_envs"] == 16
    assert document["replay"]["sample_ms"] > 0
    assert document["env"]["steps_per_second"] > 0
    assert document["env"]["collected_steps_per_second"] > 0
    assert document["env"]["bare_steps_per_second"] is None, "CartPole has no vector of its own here"
    assert document["env"]["id"] == "CartPole-v1"
    assert sum(document["sections"].values()) > 0
    assert max(map(len, result.text)) <= 80
    assert sum("batch_size=3" in line for line in result.text) == 3


def test_what_was_not_asked_for_is_null():
    document = bench(only=("replay",), env="CartPole-v1").json
    assert document["replay"]["insert_ms"] > 0
    assert document["update"] is document["policy"] is document["env"] is document["sections"] is None
    assert [*document["runs"][0]["spaces"]["observation"]] == ["vector"]


def test_every_combination_is_one_configuration(monkeypatch):
    found = cases(size=("1m", "12m"), precision=("fp32", "bf16"), sweep=(("behaviour.horizon", ("5", "7")),), threads=1)
    assert [case.label for case in found[:3]] == ["1m fp32 horizon=5", "1m fp32 horizon=7", "1m bf16 horizon=5"]
    assert len(found) == 8
    last = found[-1]
    assert (last.cfg.behaviour.horizon, last.dtype, last.threads) == (7, torch.bfloat16, 1)
    assert last.cfg.world.dynamics.core.units > found[0].cfg.world.dynamics.core.units
    (both,) = cases(sweep=(("size", ("12m",)),))
    assert both.cfg.world.dynamics.core.units == last.cfg.world.dynamics.core.units


def test_threads_are_those_of_a_training():
    before = torch.get_num_threads()
    try:
        found = cases(sweep=(("run.threads", ("2", "null")),))
        assert [case.threads for case in found] == [2, before]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"env": "CartPole-v1", "obs": "px"}, UsageError),
        ({"size": ("1m",), "sweep": (("size", ("1m", "12m")),)}, UsageError),
        ({"sweep": (("replay.no_such_key", ("1",)),)}, UsageError),
        ({"sweep": (("replay.batch_length", ("1",)),)}, UsageError),
        ({"env": "NoSuchEnvironment-v0"}, EnvError),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_built(options, error):
    with pytest.raises(error):
        cases(**options)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    request = BenchRequest(preset=("debug",), device="cuda")
    with pytest.raises(ResourceError, match="cuda"):
        module.bench(request, Reporter(quiet=True, stream=io.StringIO()))


def test_interrupted_and_threads_put_back(monkeypatch):
    def press(*_):
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    monkeypatch.setattr(module, "in_turns", press)
    with pytest.raises(Interrupted):
        bench(threads=before + 1, only=("env",))
    assert torch.get_num_threads() == before


def test_emulated_bf16_is_warned_of(monkeypatch):
    monkeypatch.setattr(module, "emulates_bf16", lambda device: True)
    stream = io.StringIO()
    module._warn(cases(precision=("bf16",)), Reporter(stream=stream))
    assert "bf16" in stream.getvalue()


def test_records_are_made_up_in_every_kind():
    work = workload.Workload(resolve(presets=["debug"], settings=["run.device=cpu"]).config, EVERYTHING)
    assert {key: str(value.dtype) for key, value in work.batch.obs.items()} == {
        "camera": "torch.uint8", "speed": "torch.float32", "cards": "torch.int32"
    }  # fmt: skip
    assert work.batch.action.shape == (2, 9, EVERYTHING.action_width)
    work.update()


def test_sections_are_those_of_the_median_update():
    work = object.__new__(workload.Workload)
    work.heard = [
        {"encoder": 9.0, "other": 9.0},
        {"encoder": 3.0, "other": 1.0},
        {"encoder": 1.0, "other": 1.0},
        {"encoder": 0.0, "other": 7.0},
    ]
    assert work.by_section == {"encoder": 3.0, "other": 1.0}


@pytest.mark.extended
def test_memory_grows_with_the_batch():
    def peak(size):
        cfg = resolve(presets=["debug"], settings=["run.device=cpu", "replay.batch_length=64", size]).config
        return workload.peak_on_cpu(cfg, workload.SPECS["px"])

    small, large = peak("replay.batch_size=4"), peak("replay.batch_size=32")
    assert 0 < small < large
    assert lines(bench(only=("env",)).json)


def test_games_are_measured_without_anything_of_ours():
    document = bench(
        env="ALE/Pong-v5", only=("env",), settings=("env.image_size=[16,16]",), sweep=(("env.vec", ("sync", "native")),)
    )
    for run in document.json["runs"]:
        played = run["env"]
        assert min(played[f"{way}steps_per_second"] for way in ("", "collected_", "bare_")) > 10
    assert [run["env"]["vec"] for run in document.json["runs"]] == ["sync", "native"]
    assert any("BARE" in line for line in document.text)
