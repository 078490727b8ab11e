import io

import pytest
import torch

from dreamer_cli import yamlio
from dreamer_cli.checkpoint import Checkpoints
from dreamer_cli.commands.inspect import inspect
from dreamer_cli.config import resolve
from dreamer_cli.errors import StateError
from dreamer_cli.registry import to_tree
from dreamer_cli.report import Reporter
from dreamer_cli.runs import RunDir, first_record
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec

SPEC = EnvSpec({"vector": ObsSpec("vector", (4,))}, (ActionPart("action", "discrete", (2,)),))


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A finished run with two checkpoints, the older of which was the best."""
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    resolved = resolve("CartPole-v1", ["debug"])
    run.config.write_text(yamlio.dump(to_tree(resolved.config)))
    record = first_record(
        ["train"],
        env="CartPole-v1",
        spec=SPEC.to_json(),
        origins=resolved.origins,
        presets=["debug"],
        seed=0,
        device="cpu",
    )
    run.write({**record, "status": "finished", "exit_code": 0})
    run.metrics.write_text('{"step": 200, "updates": 7, "episodes": 3}\n')
    checkpoints = Checkpoints(run.checkpoints)
    for step in (100, 200):
        checkpoints.save(step, {"weights.safetensors": {"x": torch.ones(3)}}, {"state.json": {}})
    checkpoints.mark_best(100, 12.0, "training")
    return run


def look(run, **options):
    return inspect(str(run.path), Reporter(stream=io.StringIO()), **options)


def test_everything_is_told(run):
    result = look(run)
    told = result.json
    assert result.error is None
    assert (told["status"], told["env"], told["steps"], told["updates"]) == ("finished", "CartPole-v1", 200, 7)
    assert told["checkpoint_step"] == 100
    assert told["integrity"] == {"ok": True, "checkpoints": 2, "damaged": []}
    assert [(check["step"], check["best"]) for check in told["checkpoints"]] == [(100, True), (200, False)]
    assert told["observation"]["vector"]["shape"] == (4,)
    assert told["config"]["run"]["seed"] == 0
    counts = dict(told["parameters"])
    assert counts.pop("total") == sum(counts.values())
    assert {"encoder", "rssm", "decoder", "reward", "cont", "actor", "critic"} <= counts.keys()
    assert max(len(line) for line in result.text if not line.startswith("run ")) <= 80  # a path may be long
    assert "origins" not in told


def test_the_checkpoint_can_be_chosen(run):
    assert look(run, checkpoint="last").json["checkpoint_step"] == 200
    assert look(run, checkpoint=200).json["checkpoint_step"] == 200
    with pytest.raises(StateError):
        look(run, checkpoint=150)


def test_origins_say_which_layer_set_each_key(run):
    result = look(run, origin=True)
    assert result.json["origins"]["replay.batch_size"] == "preset debug"
    assert any(line.split()[:1] == ["replay.batch_size"] and "preset debug" in line for line in result.text)


def test_a_flipped_byte_is_found_and_exits_4_with_all_the_rest(run):
    path = run.checkpoints / "000000200" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = look(run)
    assert result.error is not None
    assert result.error.exit_code == 4
    assert "weights.safetensors" in result.error.what
    assert result.json["integrity"]["damaged"] == [200]
    assert result.json["checkpoint_step"] == 100


def test_a_run_without_a_checkpoint_can_be_looked_at(run):
    for path in sorted(run.checkpoints.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    result = look(run)
    assert result.error is None
    assert result.json["checkpoint_step"] is None
    assert any("none yet" in line for line in result.text)
