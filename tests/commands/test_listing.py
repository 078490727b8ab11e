import io
import json

import pytest

from dreamer_cli.commands.listing import list_runs
from dreamer_cli.errors import UsageError
from dreamer_cli.findrun import register
from dreamer_cli.log import HEADER
from dreamer_cli.report import Reporter
from dreamer_cli.runs import RunDir


def make_run(path, env="CartPole-v1", status="finished", started="2026-01-01T00:00:00+00:00", returns=()):
    path.mkdir(parents=True)
    run = RunDir(path)
    run.write({"status": status, "env": env, "started": started})
    rows = [f"{100 * (i + 1)},{i},0,{i},{ret},100,1.5" for i, ret in enumerate(returns)]
    run.episodes.write_text("\n".join([HEADER, *rows, "torn,li"]))
    return run


def listed(root, **options):
    report = Reporter(stream=io.StringIO())
    result = list_runs(report, runs_dir=root, **options)
    return result.json["runs"], list(result.text), report.stream.getvalue()


def test_a_run_says_how_far_and_how_well_it_went(tmp_path):
    run = make_run(tmp_path / "CartPole-v1" / "a", returns=range(30))
    run.metrics.write_text('{"step": 3500, "updates": 9}\n{"step": 36')
    (row,), text, _ = listed(tmp_path)
    assert row == {
        "path": str(run.path),
        "name": "a",
        "env": "CartPole-v1",
        "status": "finished",
        "steps": 3500,
        "last_return": 24.5,  # the mean of 20 ... 29
        "best_return": 24.5,
        "started": "2026-01-01T00:00:00+00:00",
    }
    assert text == [
        "RUN  ENV          STATUS    STEPS  LAST  BEST",
        "a    CartPole-v1  finished   3.5k  24.5  24.5",
    ]


def test_the_best_is_the_best_checkpoint_and_before_one_the_best_ten_in_a_row(tmp_path):
    run = make_run(tmp_path / "E" / "a", returns=[*[5.0] * 10, *[1.0] * 10])
    assert listed(tmp_path)[0][0]["best_return"] == 5.0
    run.checkpoints.mkdir()
    (run.checkpoints / "best.json").write_text(json.dumps({"step": 100, "score": 9.0, "by": "evaluation"}))
    assert listed(tmp_path)[0][0]["best_return"] == 9.0


def test_a_run_without_anything_has_zero_steps_and_no_returns(tmp_path):
    run = make_run(tmp_path / "E" / "a", status="running")
    run.episodes.unlink()
    (row,), text, _ = listed(tmp_path)
    assert (row["steps"], row["last_return"], row["best_return"], row["status"]) == (0, None, None, "dead")
    assert text[1].split() == ["a", "CartPole-v1", "dead", "0", "-", "-"]


def test_a_damaged_run_is_listed_as_damaged_beside_the_others(tmp_path):
    make_run(tmp_path / "E" / "a").run_json.write_text("{")
    make_run(tmp_path / "E" / "b")
    assert {row["name"]: row["status"] for row in listed(tmp_path)[0]} == {"a": "damaged", "b": "finished"}


def test_runs_come_by_start_and_filters_leave_out(tmp_path):
    make_run(tmp_path / "B" / "new", env="ALE/Pong-v5", started="2026-02-01T00:00:00+00:00")
    make_run(tmp_path / "A" / "late", status="failed", started="2026-03-01T00:00:00+00:00")
    make_run(tmp_path / "old", started="2026-01-01T00:00:00+00:00")
    assert [row["name"] for row in listed(tmp_path)[0]] == ["old", "new", "late"]
    assert [row["name"] for row in listed(tmp_path, env="ALE/Pong-v5")[0]] == ["new"]
    assert [row["name"] for row in listed(tmp_path, status="failed")[0]] == ["late"]
    with pytest.raises(UsageError):
        listed(tmp_path, status="fialed")


def test_runs_outside_the_root_are_listed_if_they_were_started_from_it(tmp_path):
    register(tmp_path / "root", make_run(tmp_path / "outside"))
    assert [row["path"] for row in listed(tmp_path / "root")[0]] == [str(tmp_path / "outside")]


def test_no_runs_is_an_empty_result_and_a_note(tmp_path):
    rows, text, said = listed(tmp_path / "nothing")
    assert (rows, text) == ([], [])
    assert "No runs under" in said


def test_the_table_fits_80_columns(tmp_path):
    env = "minigrid:MiniGrid-DoorKey-16x16-v0-with-a-long-name"
    run = make_run(tmp_path / "E" / "20260101-000000-dreamerv3-s12345", env=env, status="preempted", returns=[-1234.56])
    run.metrics.write_text('{"step": 123456789}\n')
    assert max(map(len, listed(tmp_path)[1])) <= 80
