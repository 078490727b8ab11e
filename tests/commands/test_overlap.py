"""Learning while environments step: what differs from strict order, and what does not."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from dreamer_cli import metrics
from dreamer_cli.cli import main
from dreamer_cli.collector import Collector
from dreamer_cli.commands.learning import Learning
from dreamer_cli.commands.start import settled
from dreamer_cli.config import Config, load_config
from dreamer_cli.log import read_metrics
from dreamer_cli.sections import SECTIONS
from dreamer_cli.tensorfiles import read_tensors
from tests.commands.same import contents, differing
from tests.toys import toy

STEPS = 24  # 12 rounds; the first update comes with the 16th record
STRICT, OVERLAP = ("-s", "run.overlap=false"), ("-s", "run.overlap=true")
SHORT, ENDLESS = ("--env-kwarg", "length=3"), ("--env-kwarg", "length=1000")


class Trained(NamedTuple):
    path: Path
    weights: dict[str, torch.Tensor]
    state: dict

    @property
    def updates(self) -> int:
        return self.state["updates"]


def look_at(path: Path) -> Trained:
    newest = max(p for p in (path / "checkpoints").iterdir() if p.is_dir())
    weights = read_tensors(newest / "weights.safetensors")
    return Trained(path, weights, json.loads((newest / "state.json").read_text()))


def train(path: Path, *argv: str) -> Trained:
    common = ["-e", toy("Timeline"), "-p", "debug", "-q", "--save-every", "0", "--steps", str(STEPS), "--vec", "sync"]
    assert main(["train", *common, *argv, "--run-dir", str(path)]) == 0
    return look_at(path)


def same(a: Trained, b: Trained) -> bool:
    return all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.fixture(scope="module")
def overlapped(tmp_path_factory) -> Trained:
    """Episodes of three steps, learnt from while environments step."""
    return train(tmp_path_factory.mktemp("overlap") / "run", *SHORT, *OVERLAP)


def test_without_the_end_of_an_episode_nothing_differs(tmp_path):
    """Prefill included: the first update comes in the same round."""
    argv = (*ENDLESS, "-s", "run.prefill=18")
    strict, overlap = train(tmp_path / "a", *argv, *STRICT), train(tmp_path / "b", *argv, *OVERLAP)
    assert strict.updates == overlap.updates == 1 + (STEPS - 18) // 4
    assert same(strict, overlap)


def test_ends_of_episodes_come_a_round_later_and_no_update_is_lost(tmp_path, overlapped):
    strict = train(tmp_path / "run", *SHORT, *STRICT)
    assert strict.state["collector"] == overlapped.state["collector"]
    assert strict.state["collector"]["episodes"] == 8
    assert abs(strict.updates - overlapped.updates) <= 1
    assert overlapped.updates > 3
    assert not same(strict, overlapped)


def test_it_repeats_itself_in_processes_too_and_profiled(tmp_path, overlapped):
    again = train(tmp_path / "run", *SHORT, *OVERLAP, "--vec", "async", "-s", "run.profile_every=2")
    assert same(again, overlapped)
    assert again.state["ratio"] == overlapped.state["ratio"]
    lines = read_metrics(again.path / "metrics.jsonl")
    assert metrics.unlisted({name for line in lines for name in line}) == []
    seconds = {name: value for name, value in lines[-1].items() if name.startswith("profile/")}
    assert {f"profile/{name}" for name in SECTIONS} <= seconds.keys()
    assert sum(seconds.values()) > 0


@pytest.mark.extended
def test_a_stop_in_the_middle_of_a_round_changes_nothing(tmp_path, monkeypatch):
    """The updates that are owed come before what the environments answer, as they would have."""
    argv = ["-e", toy("Timeline"), "-p", "debug", "-q", "-s", "run.train_ratio=32", *OVERLAP, "--steps", "18"]
    assert main(["train", *argv, "--run-dir", str(tmp_path / "straight")]) == 0
    update, finish, order = Learning.update, Collector.finish, []

    def stop_after_three(self):
        order.append("update")
        if order.count("update") == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self)

    def finish_too(self):
        order.append("finish")
        return finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(Learning, "update", stop_after_three)
        patch.setattr(Collector, "finish", finish_too)
        assert main(["train", *argv, "--run-dir", str(tmp_path / "run")]) == 75
    assert order[-2:] == ["update", "update"]
    stopped = look_at(tmp_path / "run")
    assert (stopped.updates, stopped.state["collector"]["env_steps"]) == (3, 2 * order.count("finish"))
    assert main(["train", "--run-dir", str(tmp_path / "run"), "-q"]) == 0
    assert differing(contents(tmp_path / "straight"), contents(tmp_path / "run")) == []


@pytest.mark.parametrize(
    ("said", "device", "continued", "then"),
    [
        (None, "cpu", False, False),
        (None, "cuda", False, True),
        (None, "cuda", True, False),
        (True, "cpu", False, True),
        (False, "cuda", False, False),
    ],
)
def test_null_is_settled_when_the_run_begins(said, device, continued, then):
    cfg = replace(Config(), run=replace(Config().run, overlap=said))
    assert settled(cfg, torch.device(device), continued).run.overlap is then


def test_a_run_keeps_to_its_order(overlapped, capsys):
    assert load_config(overlapped.path / "config.yaml").run.overlap is True
    assert main(["train", "--run-dir", str(overlapped.path), *STRICT, "--json"]) == 4
    assert "run.overlap is true, not false" in json.loads(capsys.readouterr().out)["error"]["message"]
