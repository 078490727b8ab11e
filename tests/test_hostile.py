"""Input that somebody made to hurt: nothing of it runs, and all of it ends in a sentence, soon and in little memory."""

import _pickle
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamer_cli import yamlio
from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.cli import main
from dreamer_cli.commands.assemble import build_agent, outline, saved_spec
from dreamer_cli.config import load_config
from dreamer_cli.errors import ConfigError, DreamerError, ResourceError, StateError
from dreamer_cli.files import json_bytes
from dreamer_cli.findrun import find_run
from dreamer_cli.lock import RunLock, is_locked
from dreamer_cli.replay.chunks import saved_entries
from dreamer_cli.runs import RunDir
from dreamer_cli.tensorfiles import HEADER_LIMIT, read_tensors, tensor_parts
from tests.hostile import TENSORS, Cost, cost, newest, pickled, vouch

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "fixtures" / "golden_run"
SECONDS, BYTES = 2.0, 200_000_000  # a second, twice over: machines that test are busy
WEIGHTS = "weights.safetensors"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A copy of a tiny run that is trained already, for harm."""
    monkeypatch.setenv("DREAMER_RUNS", str(tmp_path / "runs"))
    return Path(shutil.copytree(GOLDEN, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _in_time():
    """A read that blocks for ever fails, instead of hanging the suite."""

    def stop(number, frame):
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def commands(run: Path, out: Path) -> dict[str, list[str]]:
    """Everything that opens a run."""
    return {
        "inspect": ["inspect", str(run)],
        "evaluate": ["evaluate", str(run), "--episodes", "1"],
        "imagine": ["imagine", str(run), "-o", str(out / "dream.npz"), "--horizon", "2", "--samples", "1"],
        "replay": ["imagine", str(run), "-o", str(out / "replay.npz"), "--source", "replay", "--horizon", "2"],
        "export": ["export", str(run), "-o", str(out / "export"), "--format", "safetensors"],
        "list": ["runs", "list", "--runs-dir", str(run.parent)],
        "train": ["train", "--run-dir", str(run), "--steps", "52"],
    }


def outcome(capsys, argv: list[str]) -> tuple[int, str]:
    """The exit code, and what stderr says; never an unexpected exception."""
    code = main([*argv, "-q"])
    err = capsys.readouterr().err
    assert code != 1, err
    assert "Traceback" not in err
    return code, err


# ── nothing is unpickled or evaluated ───────────────────────────────────────────────────────────────────────────────

# That the source holds none of it is tested in `test_layout.py`.


@pytest.mark.extended
def test_everything_works_without_pickle(run, tmp_path, monkeypatch, capsys):
    """Go on with a run, and read it with every command, while unpickling and `torch.load` raise."""

    armed = True

    def guard(original):
        def refuse(*args, **kwargs):
            assert not armed, "something is unpickled"
            return original(*args, **kwargs)  # whoever was imported meanwhile may have kept this one

        return refuse

    class Refusing(pickle.Unpickler):
        __init__ = guard(pickle.Unpickler.__init__)

    functions = [(pickle, "load"), (pickle, "loads"), (torch, "load"), (np, "load")]
    for module, name in [*functions, (torch.serialization, "load"), (_pickle, "loads"), (_pickle, "load")]:
        monkeypatch.setattr(module, name, guard(getattr(module, name)))
    monkeypatch.setattr(pickle, "Unpickler", Refusing)
    for name, argv in commands(run, tmp_path).items():
        if name != "imagine":  # `replay` is it, too
            code, err = outcome(capsys, argv)
            assert code == 0, (name, err)
    for refused in (lambda: pickle.loads(b""), lambda: pickle.Unpickler(io.BytesIO(b"")), lambda: torch.load("x")):
        with pytest.raises(AssertionError, match="unpickled"):
            refused()
    armed = False


READ_BY = {
    WEIGHTS: ("evaluate", "export"), "manifest.json": ("inspect", "evaluate"), "config.yaml": ("inspect", "train"),
    "run.json": ("inspect", "list"), "best.json": ("inspect", "list"), "state.json": ("train",),
    "optimizer.safetensors": ("train",), "latents.safetensors": ("train",), "replay.json": ("train", "replay"),
    "metrics.jsonl": ("inspect", "list"), "episodes.csv": ("inspect", "list"), "chunk": ("replay",),
}  # fmt: skip


def places(run: Path, name: str) -> list[Path]:
    """Where a file of this name lies; in all checkpoints, so that none is left to fall back on."""
    if name == "chunk":
        return sorted((run / "replay").glob("chunk-*"))
    found = [path / name for path in (run / "checkpoints").iterdir() if (path / name).is_file()]
    return found or [run / "checkpoints" / name if name == "best.json" else run / name]


# Going on with a run takes a second each.
SLOWER = {"state.json", "latents.safetensors", "replay.json", "config.yaml"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.extended] if name in SLOWER else []) for name in READ_BY]
)
def test_a_pickle_under_any_name_is_never_executed(run, tmp_path, capsys, name):
    mark = tmp_path / "mark"
    pickle.loads(pickled(tmp_path / "proof"))
    assert (tmp_path / "proof").is_dir()  # it would work
    for place in places(run, name):
        assert place.is_file()
        place.write_bytes(pickled(mark, protocol=0 if place.suffix in (".yaml", ".json") else 4))
        if place.parent.parent.name == "checkpoints" and name != "manifest.json":
            vouch(place.parent)
    for command in READ_BY[name]:
        code, err = outcome(capsys, commands(run, tmp_path)[command])
        tolerated = command == "list" or name in ("best.json", "metrics.jsonl", "episodes.csv")
        assert code in ((0, 4) if tolerated or command == "replay" else (4,)), (command, code, err)
    assert not mark.exists()


# ── what it costs ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="PyYAML without libyaml is slower")
def test_text_of_any_kind_is_read_or_refused_cheaply(tmp_path):
    """Each in a child of a process without torch and pytest, of which only the cost of reading is measured."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", str(tmp_path)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found = {name: Cost(*spent) for name, spent in json.loads(done.stdout).items()}
    assert len(found) > 30
    for name, spent in found.items():
        assert spent.ended in ("fine", "StateError", "ConfigError"), (name, spent)
        assert spent.seconds < SECONDS, (name, spent)
        assert spent.bytes < BYTES, (name, spent)
    refused = [name for name, spent in found.items() if spent.ended != "fine"]
    assert {"JSON, empty lists", "JSON, deep lists", "JSON, too long", "YAML, aliases", "YAML, tags"} <= set(refused)


def test_the_state_of_4096_environments_fits():
    """64 chunks that hold a little of every stream, which is the most before they are joined."""
    spans = [[env, 1_000_000, 1_000_064] for env in range(4096)]
    chunk = {"name": "chunk-00000000.safetensors", "size": 64_000_000, "sha256": "0" * 64, "spans": spans}
    queue = [[env, 1_000_000] for env in range(4096)] * 2
    assert json_bytes({"chunks": [chunk] * 64, "next": [1_000_064] * 4096, "queue": queue})


@pytest.mark.parametrize("kind", TENSORS)
def test_forged_tensors_are_refused(tmp_path, kind):
    (tmp_path / WEIGHTS).write_bytes(TENSORS[kind]())
    with pytest.raises(StateError, match="no readable safetensors file"):
        read_tensors(tmp_path / WEIGHTS)


def test_more_tensors_than_can_be_read_back_are_not_written():
    with pytest.raises(StateError, match="read back"):
        next(tensor_parts({str(i): torch.zeros(0) for i in range(40_000)}))
    assert len(next(tensor_parts({f"deter.{i}": torch.zeros(0) for i in range(8192)}))) < HEADER_LIMIT


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_tensor_file_is_refused_or_no_larger_than_the_file(tmp_path, data):
    whole = b"".join(
        map(bytes, tensor_parts({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.int8)}))
    )
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 4))] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"[", b"{", b'"', b"-1", b"9" * 19, b",", b"]", b"}"]))
        )
    (tmp_path / WEIGHTS).write_bytes(bytes(raw))
    try:
        tensors = read_tensors(tmp_path / WEIGHTS)
    except StateError:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) <= len(raw)


def test_a_terabyte_that_its_manifest_vouches_for_is_not_read(run, capsys, tmp_path):
    for path in (run / "checkpoints").glob("0*"):
        os.truncate(path / WEIGHTS, 1 << 40)
        vouch(path, **{WEIGHTS: [1 << 40, "0" * 64]})
    for name in ("inspect", "evaluate", "export"):
        code, err = outcome(capsys, commands(run, tmp_path)[name])
        assert code == 4
        assert "at most" in err or "no checkpoint" in err


@pytest.mark.parametrize(
    "setting",
    [
        "world.encoder.layers=1000000",
        "world.dynamics.core.units=1000000000000",
        "world.dynamics.core.units=65536",
        "world.dynamics.latent.groups=65536",
        "world.dynamics.prior_layers=101",
        "world.encoder.mults=[" + ",".join(["2"] * 1000) + "]",
        "world.encoder.mults=[" + ",".join(["x"] * 1_100) + "]",
        "world.encoder.units=99999999999999999999999999",
        "behaviour.horizon=100000000",
        "behaviour.actor.layers=100000",
        "world.reward.output.bins=1000000000",
        "replay.batch_size=1000000000000",
        "replay.batch_length=1000000000000",
        "replay.capacity=1e17",
        "run.num_envs=1000000",
        "run.steps=1e300",
    ],
)
def test_absurd_sizes_are_refused_at_once(run, setting):
    """As a run's own config.yaml: nothing is built for hours, and no memory is taken for it."""
    key, _, value = setting.partition("=")
    tree, spec = yamlio.load_file(run / "config.yaml"), saved_spec(RunDir(run))
    *parents, last = key.split(".")
    branch = tree
    for name in parents:
        branch = branch[name]
    branch[last] = yamlio.load_value(value)
    if setting.endswith(("core.units=65536", "groups=65536")):  # each is allowed, but not all of them together
        tree["world"]["dynamics"]["core"]["hidden"] = tree["world"]["dynamics"]["hidden"] = 65_536
        tree["world"]["dynamics"]["latent"]["classes"] = 65_536
    (run / "config.yaml").write_text(yamlio.dump(tree))
    spent = cost(lambda: build_agent(load_config(run / "config.yaml"), spec, "cpu"))
    assert spent.ended in ("StateError", "ConfigError", "ResourceError"), spent
    assert spent.seconds < SECONDS, spent
    assert spent.bytes < BYTES, spent


@pytest.mark.parametrize(
    "change",
    [
        {"observation": None},
        {"observation": []},
        {"observation": {"x": {"kind": "vector", "shape": [10**12]}}},
        {"observation": {"x": {"kind": "vector", "shape": [-1, -5]}}},
        {"observation": {"x": {"kind": "vector", "shape": ["5"]}}},
        {"observation": {"x": {"kind": "vector", "shape": [5], "evil": 1}}},
        {"observation": {"x": {"kind": "pickle", "shape": [5]}}},
        {"observation": {"x": {"kind": [], "shape": [5]}}},
        {"observation": {"x": {"kind": "image", "shape": [3, 10**6, 10**6]}}},
        {"observation": {"x": {"kind": "image", "shape": [64, 64]}}},
        {"observation": {"x": {"kind": "discrete", "shape": [1], "classes": [10**15]}}},
        {"observation": {str(i): {"kind": "vector", "shape": [10**6]} for i in range(100)}},
        {"action": [{"key": "a", "kind": "discrete", "classes": [10**12]}]},
        {"action": [{"key": "a", "kind": "continuous", "size": -3}]},
        {"action": [{"key": "a", "kind": "continuous", "size": 3, "dtype": "object"}]},
        {"action": [{"key": "a", "kind": "continuous", "size": 3, "dtype": "no such"}]},
        {"action": []},
        {"action": [{"key": 5, "kind": "discrete", "classes": [2]}]},
        {"repeat": 10**9},
        {"left_out": 5},
    ],
)
def test_absurd_spaces_are_refused_at_once(run, change):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "spec": {**record["spec"], **change}}))
    with pytest.raises(StateError, match="spaces"):
        saved_spec(RunDir(run))


def test_a_model_beyond_the_memory_is_refused_before_it_is_made(run, monkeypatch):
    cfg, spec = load_config(run / "config.yaml"), saved_spec(RunDir(run))
    monkeypatch.setattr("dreamer_cli.commands.assemble.total_memory", lambda: 1_000)
    with pytest.raises(ResourceError, match="this machine has"):
        build_agent(cfg, spec, "cpu")
    assert outline(cfg, spec).parameter_counts()["total"] > 250
    monkeypatch.setattr("dreamer_cli.commands.assemble.Agent", lambda *args: torch.empty(2**40, 2**40, device="meta"))
    with pytest.raises(ConfigError, match="cannot be built"):
        outline(cfg, spec)


# ── files that are none, and names that lead elsewhere ──────────────────────────────────────────────────────────────

FILES = ["run.json", "config.yaml", "metrics.jsonl", "episodes.csv", "best.json", WEIGHTS, "manifest.json", "chunk"]


def replace(place: Path, what: str) -> None:
    """Put something that is no file where one was."""
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(place)
    elif what == "directory":
        place.mkdir()
    elif what == "device":
        place.symlink_to("/dev/zero")
    else:
        place.symlink_to(place)  # a circle


ODD = ["pipe", *(pytest.param(what, marks=pytest.mark.extended) for what in ("directory", "device", "circle"))]


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_not_waited_for(run, tmp_path, capsys, name, what):
    for place in places(run, name):
        replace(place, what)
    needed = name in ("run.json", "config.yaml", WEIGHTS, "manifest.json")
    for command in ("inspect", "list", "replay" if name == "chunk" else "evaluate"):
        code, err = outcome(capsys, commands(run, tmp_path)[command])
        assert code == (4 if needed and command != "list" else 0) or (name, code) == ("chunk", 4), (command, code, err)


@pytest.mark.parametrize("what", ["pipe", "device", "circle"])
def test_logs_locks_and_indices_that_are_no_files(run, tmp_path, what, monkeypatch):
    (tmp_path / "index.jsonl").unlink(missing_ok=True)
    replace(tmp_path / "index.jsonl", what)
    assert find_run(str(run), tmp_path).run.path == run
    find_run("@last", tmp_path)
    replace(run / ".lock", what)
    assert is_locked(run / ".lock") or what == "pipe"  # nobody can hold a pipe's lock for long
    with pytest.raises((DreamerError, OSError)):
        RunLock(run / ".lock")


def test_a_log_does_not_lead_out_of_the_run(run, tmp_path, capsys):
    """Tracebacks hold texts of the run's choice: they must not be appended to whatever a link names."""
    precious = tmp_path / "precious"
    precious.write_text("alias ls=ls\n")
    shutil.rmtree(run / "logs", ignore_errors=True)
    (run / "logs").mkdir()
    (run / "logs" / "evaluate.log").symlink_to(precious)
    (run / "config.yaml").write_text("world: $(touch /tmp/x)\n")
    assert outcome(capsys, commands(run, tmp_path)["evaluate"])[0] == 4
    assert precious.read_text() == "alias ls=ls\n"


@pytest.mark.parametrize(
    "which", ["../000000080", "/etc", "best/..", "80/../80", "-1", "٨٠", "000000080/", "", "9" * 5000, "1e2", "\0"]
)
def test_checkpoint_names_lead_nowhere(run, capsys, which):
    code, _ = outcome(capsys, ["inspect", str(run), "--checkpoint", which])
    assert code in (2, 4)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/b.json", "..", "x\0y", "x\ny", "", "sp ace"])
def test_manifest_names_lead_nowhere(run, name):
    for path in (run / "checkpoints").glob("0*"):
        vouch(path, **{name: [0, "0" * 64]})
    with pytest.raises(StateError, match="no checkpoint in"):
        Checkpoints(run / "checkpoints", warn=lambda _: None).latest()


@pytest.mark.parametrize(
    "entry",
    [
        5,
        {},
        {"name": "../chunk-00000000.safetensors"},
        {"name": "/etc/passwd"},
        {"name": "chunk-00000000.safetensors\n"},
        {"name": ["chunk-00000000.safetensors"]},
        {"spans": [[0, 0]]},
        {"spans": [[0, 5, 2]]},
        {"spans": [[-1, 0, 2]]},
        {"spans": [[0, -5, 2]]},
        {"spans": [[0, 0, 2.5]]},
        {"spans": [[0, 0, True]]},
        {"spans": [[0, 0, 5], [0, 4, 8]]},
        {"spans": 7},
    ],
)
def test_chunk_lists_lead_nowhere_and_name_nothing_twice(entry):
    sound = {"name": "chunk-00000000.safetensors", "size": 1, "sha256": "0" * 64, "spans": [[0, 0, 2]]}
    assert saved_entries({"chunks": [sound]}) == [sound]
    with pytest.raises(StateError):
        saved_entries({"chunks": [{**sound, **entry} if entry and isinstance(entry, dict) else entry]})
    with pytest.raises(StateError, match="twice"):
        saved_entries({"chunks": [sound, sound]})


@pytest.mark.extended
@pytest.mark.parametrize("change", [{}, [], None, "x"])
@pytest.mark.parametrize("name", ["state.json", "replay.json"])
def test_a_forged_state_is_refused_not_obeyed(run, tmp_path, capsys, name, change):
    for path in (run / "checkpoints").glob("0*"):
        (path / name).write_text(json.dumps(change))
        vouch(path)
    code, err = outcome(capsys, commands(run, tmp_path)["train"])
    assert code == 4, err


def test_the_newest_is_found_though_names_are_odd(run):
    """What is no checkpoint's name is no checkpoint, and a newer one that is forged is stepped over."""
    before = newest(run)
    for name in ("1e9", "000000099x", "99", "-00000099", "٠٠٠٠٠٠٠٩٩"):
        (run / "checkpoints" / name).mkdir()
    (run / "checkpoints" / "000000099").symlink_to(before)
    shutil.copytree(before, run / "checkpoints" / ("9" * 200))
    warnings: list[str] = []
    assert Checkpoints(run / "checkpoints", warn=warnings.append).latest() == before
    assert len(warnings) == 1
