import io

import pytest

from dreamer_cli.commands import doctor
from dreamer_cli.envs.catalog import SUITES
from dreamer_cli.report import Reporter


@pytest.fixture
def report():
    return Reporter(stream=io.StringIO())


def test_this_machine_is_in_order(report, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMER_RUNS", str(tmp_path / "runs"))
    result = doctor.doctor(report)
    found = {check["name"]: check["status"] for check in result.json["checks"]}
    assert result.error is None
    assert {"install", "device", "memory", "rendering", "atari", "ffmpeg", "disk", "onnx"} <= found.keys()
    assert found["ffmpeg"] == found["rendering"] == found["install"] == "ok"
    assert "torch" in result.json["versions"]
    assert not (tmp_path / "runs").exists(), "looking changes nothing"


def test_what_fails_is_named_and_the_rest_is_still_tried(report, monkeypatch):
    def broken():
        raise OSError("libGL.so.1: cannot open\nshared object file")

    for name in ("device", "memory", "atari", "ffmpeg"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    monkeypatch.setattr(doctor, "rendering", broken)
    result = doctor.doctor(report)
    assert result.error is not None
    assert result.error.exit_code == 5
    assert "rendering" in result.error.what
    (check,) = [check for check in result.json["checks"] if check["status"] == "failed"]
    assert check["detail"] == "libGL.so.1: cannot open shared object file"
    assert any(check["name"] == "disk" for check in result.json["checks"])


def test_a_missing_extra_is_no_failure_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", {"x": (("json", "no_such_module_anywhere"), "pip install x")})
    check, *others = doctor.extras()
    assert (check.status, check.hint) == ("absent", "pip install x")
    assert {other.name for other in others} == {suite.extra for suite in SUITES if suite.extra}


def test_a_place_that_cannot_be_written_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("DREAMER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    (check,) = doctor.disk()
    assert check.status == "failed"
    assert str(tmp_path) in check.detail
