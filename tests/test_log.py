"""What is written, what survives a crash, and what a continued run finds."""

import json
import logging
import math
import os
import sys
import types
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_cli import metrics
from dreamer_cli.errors import EnvError, UsageError
from dreamer_cli.log import Episode, MetricsLog, read_episodes, read_metrics, warnings_to
from dreamer_cli.sinks import open_sinks


def episode(step: int, ret: float = 1.0) -> Episode:
    return Episode(step=step, updates=step // 10, env=0, episode=step, ret=ret, length=7, seconds=0.5)


def test_a_record_holds_the_means_since_the_last_one(tmp_path):
    with MetricsLog(tmp_path, clock=lambda: 1234.5678) as log:
        log.add({"loss/total": torch.tensor(1.0), "kl": 2.0})
        log.add({"loss/total": torch.tensor(4.0), "kl": 4.0})
        record = log.write(100, 2, 0, {"replay/records": 50})
        log.add({"loss/total": torch.tensor(10.0)})
        log.write(200, 3, 0)
    first, second = read_metrics(tmp_path)
    assert first == record
    assert list(first)[:4] == ["time", "step", "updates", "episodes"]
    assert first["time"] == 1234.568
    assert (first["loss/total"], first["kl"], first["replay/records"]) == (2.5, 3.0, 50)
    assert second["loss/total"] == 10.0
    assert "kl" not in second


def test_tensors_that_the_next_update_overwrites_are_counted_as_they_were(tmp_path):
    shared = torch.tensor(1.0)  # as a CUDA graph's output
    with MetricsLog(tmp_path) as log:
        log.add({"kl": shared})
        shared.fill_(3.0)
        log.add({"kl": shared})
        assert log.write(1, 2, 0)["kl"] == 2.0


def test_tensors_of_many_values_half_precision_and_gradients(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.add({"kl": torch.tensor([1.0, 3.0], requires_grad=True), "loss/total": torch.tensor(0.5).bfloat16()})
        record = log.write(1, 1, 0)
    assert (record["kl"], record["loss/total"]) == (2.0, 0.5)


def test_what_is_not_finite_is_null(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.add({"kl": torch.tensor(math.nan), "loss/total": math.inf})
        log.write(1, 1, 0, {"optim/lr": -math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    (record,) = read_metrics(tmp_path)
    assert record["kl"] is record["loss/total"] is record["optim/lr"] is None


def test_records_of_the_last_step_are_counted(tmp_path):
    """A checkpoint in the middle of a round, a record at its step, and a crash: it is written once more, not twice."""
    with MetricsLog(tmp_path) as log:
        log.write(5, 0, 0)
        state = log.state()
        log.write(5, 1, 0)
        log.write(6, 1, 0)
    with MetricsLog(tmp_path, step=5, records=state["records"]) as log:
        log.write(5, 1, 0)
        assert log.state()["records"] == 2
    assert [(record["step"], record["updates"]) for record in read_metrics(tmp_path)] == [(5, 0), (5, 1)]


def test_what_is_not_finite_does_not_spoil_the_mean_of_the_others(tmp_path):
    with MetricsLog(tmp_path) as log:
        for value in (1.0, math.nan, 3.0):
            log.add({"kl": torch.tensor(value), "loss/total": value, "fine": torch.tensor(1.0)})
        record = log.write(1, 3, 0)
    assert (record["kl"], record["loss/total"], record["fine"]) == (2.0, 2.0, 1.0)


def test_every_line_is_on_disk_at_once(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, 0, 0)
        log.episode(episode(5))
        assert len(read_metrics(tmp_path)) == 1
        assert read_episodes(tmp_path) == [episode(5)]


def test_episodes_are_rows_and_count_into_the_next_record(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.episode(episode(10, ret=1.0))
        log.episode(episode(20, ret=2.0))
        record = log.write(20, 2, 2)
    assert (record["episode/return"], record["episode/length"], record["episode/count"]) == (1.5, 7.0, 2)
    lines = (tmp_path / "episodes.csv").read_text().splitlines()
    assert lines[0] == "step,updates,env,episode,return,length,seconds"
    assert lines[1] == "10,1,0,10,1,7,0.5"
    assert [row.ret for row in read_episodes(tmp_path)] == [1.0, 2.0]


def test_readers_skip_a_torn_last_line_and_need_no_file(tmp_path):
    assert read_metrics(tmp_path) == []
    assert read_episodes(tmp_path) == []
    with MetricsLog(tmp_path) as log:
        log.write(1, 0, 0)
        log.episode(episode(1))
    for name, torn in (("metrics.jsonl", b'{"time": 3, "ste'), ("episodes.csv", b"20,2,0,20,1")):
        with (tmp_path / name).open("ab") as file:
            file.write(torn)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1]
    assert [row.step for row in read_episodes(tmp_path / "episodes.csv")] == [1]


def test_a_continued_run_drops_what_lies_beyond_its_step(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in (10, 20, 30):
            log.write(step, 0, 0)
            log.episode(episode(step))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"time": 1, "step": 15')
    with MetricsLog(tmp_path, step=20) as log:
        log.write(25, 0, 0)
        log.episode(episode(25))
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20, 25]
    assert [row.step for row in read_episodes(tmp_path)] == [10, 20, 25]
    assert (tmp_path / "episodes.csv").read_text().count("step,") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episodes.csv", "metrics.jsonl"]


def test_a_continued_run_leaves_whole_files_untouched(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(10, 0, 0)
    inode = os.stat(tmp_path / "metrics.jsonl").st_ino
    MetricsLog(tmp_path, step=10).close()
    assert os.stat(tmp_path / "metrics.jsonl").st_ino == inode


def test_saved_means_make_a_continued_record_equal(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    values = [torch.tensor(x) for x in (0.1, 0.7, math.nan, 3.3)]
    with MetricsLog(tmp_path / "a") as log:
        for value in values[:2]:
            log.add({"kl": value, "loss/total": float(value)})
        state = json.loads(json.dumps(log.state(), allow_nan=False))
        for value in values[2:]:
            log.add({"kl": value, "loss/total": float(value)})
        straight = log.write(1, 4, 0)
    with MetricsLog(tmp_path / "b") as log:
        log.restore(state)
        for value in values[2:]:
            log.add({"kl": value, "loss/total": float(value)})
        assert metrics.repeatable(log.write(1, 4, 0)) == metrics.repeatable(straight)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400), step=st.integers(0, 50), junk=st.binary(max_size=20))
def test_whatever_a_crash_leaves_a_run_can_go_on(tmp_path_factory, cut, step, junk):
    path = tmp_path_factory.mktemp("run")
    with MetricsLog(path) as log:
        for at in (10, 20, 30):
            log.write(at, 0, 0)
            log.episode(episode(at))
    for name in ("metrics.jsonl", "episodes.csv"):
        file = path / name
        file.write_bytes(file.read_bytes()[:cut] + junk)
    with MetricsLog(path, step=step) as log:
        log.write(60, 0, 0)
        log.episode(episode(60))
    steps = [record["step"] for record in read_metrics(path)]
    assert steps[-1] == 60
    assert all(at <= step for at in steps[:-1])
    assert read_episodes(path)[-1] == episode(60)


def test_a_full_disk_loses_lines_but_not_the_training(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, 0, 0)
        good, log._metrics._file = log._metrics._file, _Full(log._metrics._file)
        with pytest.warns(RuntimeWarning, match="disk is full"):
            log.write(2, 0, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once, not at every record
            log.write(3, 0, 0)
        log._metrics._file = good
        log.write(4, 0, 0)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 4]


class _Full:
    """A file on a disk that takes five more bytes of every line."""

    def __init__(self, file) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data[:5])


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path, sinks=open_sinks(["tensorboard"], tmp_path)) as log:
        log.write(10, 1, 0, {"kl": 2.0, "loss/total": math.nan})
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    (scalar,) = events.Scalars("kl")
    assert (scalar.step, scalar.value) == (10, 2.0)
    assert "loss/total" not in events.Tags()["scalars"]


@pytest.mark.parametrize(
    ("name", "module", "hint"),
    [
        ("tensorboard", "torch.utils.tensorboard", "pip install 'dreamer-cli[tensorboard]'"),
        ("wandb", "wandb", "pip install wandb"),
    ],
)
def test_a_missing_package_is_named_with_the_line_to_type(tmp_path, monkeypatch, name, module, hint):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvError) as error:
        open_sinks([name], tmp_path)
    assert error.value.hint == hint


def test_an_unknown_sink_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError) as error:
        open_sinks(["tensorbord"], tmp_path)
    assert "Did you mean 'tensorboard'?" in error.value.hint


def test_wandb_stays_offline_without_a_key(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finish")
    )
    fake = types.SimpleNamespace(init=lambda **settings: calls.append(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with MetricsLog(tmp_path, sinks=open_sinks(["wandb"], tmp_path)) as log:
        log.write(10, 1, 0, {"kl": 2.0})
    settings, (step, values), last = calls
    assert settings["mode"] == "offline"
    assert step == 10
    assert values["kl"] == 2.0
    assert last == "finish"


def test_a_sink_that_fails_is_switched_off_and_training_goes_on(tmp_path):
    class Broken:
        """Somebody else's logger on a bad day."""

        def write(self, record: dict) -> None:
            raise ConnectionError("no route to host")

        def close(self) -> None:
            raise AssertionError("it was switched off")

    with MetricsLog(tmp_path, sinks=[Broken()]) as log:
        with pytest.warns(RuntimeWarning, match="no route to host"):
            log.write(1, 0, 0)
        log.write(2, 0, 0)
    assert len(read_metrics(tmp_path)) == 2


def test_warnings_and_library_logs_become_plain_lines():
    said: list[str] = []
    with warnings_to(said.append):
        warnings.warn("\x1b[33mWARN: old\nspace\x1b[0m", UserWarning, stacklevel=1)
        logging.getLogger("some.package").warning("careful: %d", 3)
        logging.getLogger("some.package").info("not worth a line")
    assert len(said) == 2
    assert said[0].startswith("warning: UserWarning: WARN: old space (")
    assert said[1] == "warning: some.package: careful: 3"


def test_readers_do_without_torch(tmp_path):
    """`runs list` and `plot` read runs; a second of importing torch would be felt."""
    import subprocess

    code = "import sys, dreamer_cli.log, dreamer_cli.live, dreamer_cli.stop; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_metric_is_listed_once_and_explained():
    for name in ("loss/total", "loss/image", "entropy/actor", "optim/grad_norm", "update_seconds", "episode/return"):
        assert metrics.find(name) is not None
    assert metrics.unlisted(["kl", "loss/position", "made_up", "loss/", "loss/total"]) == ["loss/", "made_up"]
    names = [name for section in metrics.SECTIONS.values() for name in section]
    assert len(names) == len(set(names)) == len(metrics.METRICS)
    assert all(metric.meaning and not metric.meaning.endswith(".") for metric in metrics.METRICS.values())


def test_what_the_log_adds_by_itself_is_listed(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.episode(episode(1))
        assert metrics.unlisted(log.write(1, 0, 1)) == []


def test_the_reference_page_names_every_metric():
    page = metrics.reference_page()
    assert all(f"| `{name}` |" in page for name in [*metrics.METRICS, *metrics.FAMILIES])
