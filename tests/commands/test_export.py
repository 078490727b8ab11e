"""Exported files do what the agent does, say how to be run, and replace nothing that is not theirs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from dreamer_cli import formats, frozen, parity
from dreamer_cli.agent import Agent
from dreamer_cli.behaviour.contract import BEHAVIOURS
from dreamer_cli.commands import export
from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.errors import EnvError, UsageError
from dreamer_cli.interface import describe, example_source, sources_of
from dreamer_cli.requests import ExportRequest
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Carry, State
from dreamer_cli.world.model import WorldConfig
from tests.commands.tiny import CARTPOLE, QUIET, export_tiny, garage, tiny_agent
from tests.golden import configure
from tests.small import BEHAVIOUR, CARDS, CONTINUOUS, UNEQUAL, VECTOR, WORLD


@pytest.fixture(scope="module")
def garage_agent() -> Agent:
    return tiny_agent(garage().spec_dreamer)


@pytest.fixture(scope="module")
def garage_onnx(garage_agent, tmp_path_factory) -> Path:
    """The policy of an agent for every kind of observation and action."""
    out = tmp_path_factory.mktemp("garage") / "out"
    exported = export_tiny(garage_agent, out)
    assert exported.error is None
    assert exported.parity is not None
    assert exported.parity.steps == 64
    return out


@pytest.fixture(scope="module")
def cartpole_agent() -> Agent:
    return tiny_agent(make_env(EnvConfig(id="CartPole-v1")).spec_dreamer)


def random_rows(port: dict, rows: int, rng: np.random.Generator, classes: dict[str, list[int]]) -> np.ndarray:
    """A batch for one input, from what interface.json says of it and nothing else."""
    shape = [rows, *port["shape"][1:]]
    if port["dtype"] == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if port["dtype"] == "int32":
        return rng.integers(0, np.array(classes[port["key"]]), shape).astype(np.int32)
    if port["role"] == "reset":
        return rng.random(shape) < 0.1
    values = rng.normal(size=shape).astype(np.float32)
    for part in port.get("draw", []):
        columns = slice(*part["columns"])
        if part["distribution"] == "gumbel":
            values[..., columns] = rng.gumbel(size=values[..., columns].shape)
    return values


@pytest.mark.parametrize("rows", [1, 3])
def test_a_reader_of_interface_json_repeats_the_agent_for_64_steps(garage_onnx, garage_agent, rows):
    interface = json.loads((garage_onnx / "interface.json").read_text())
    session = onnxruntime.InferenceSession(garage_onnx / interface["files"]["policy"])
    outputs = [port["name"] for port in interface["outputs"]["policy"]]
    classes = {key: how.get("classes") for key, how in interface["preprocessing"].items()}
    rng = np.random.default_rng(rows)
    # What episodes begin with must not matter: is_first blanks it, NaN too.
    carry = {name: np.full([rows, *like["shape"][1:]], np.nan, like["dtype"])
             for name, like in interface["initial_state"].items()}  # fmt: skip
    ours = Carry(State(*(torch.from_numpy(carry[name]) for name in ("deter", "stoch"))),
                 torch.from_numpy(carry["prev_action"]))  # fmt: skip
    for step in range(64):
        ports = [port for port in interface["inputs"]["policy"] if port["role"] != "carry"]
        feed = {port["name"]: random_rows(port, rows, rng, classes) for port in ports}
        if step == 0:
            feed["is_first"][:] = True
        answer = dict(zip(outputs, session.run(outputs, {**feed, **carry}), strict=True))
        carry = {name: answer[output] for name, output in interface["recurrence"].items()}
        given = {name: torch.from_numpy(value) for name, value in feed.items()}
        obs = {key: given[how["input"]] for key, how in interface["preprocessing"].items()}
        noise = frozen.Noise(given["latent_noise"], given["action_noise"])
        action, ours = garage_agent.policy(obs, given["is_first"], ours, noise)
        np.testing.assert_allclose(answer["action"], action.numpy(), atol=1e-4)
        np.testing.assert_allclose(answer["next_deter"], ours.state.deter.numpy(), atol=1e-4)


def test_actions_decode_as_the_environment_does(garage_onnx, garage_agent):
    interface = json.loads((garage_onnx / "interface.json").read_text())
    part, env = frozen.policy_part(garage_agent), garage()
    run = formats.Onnx().runner(part, garage_onnx / "policy.onnx")
    for feed in parity.record(garage_agent, parity.played(env), steps=8)["policy"]:
        answer = run(feed)
        decoded = env.actions.decode(answer["action"][0])
        for described in interface["action"]:
            value = decoded
            for step in described["path"]:
                value = value[step]
            np.testing.assert_allclose(answer[described["output"]][0], value, atol=1e-6)


def test_zero_action_noise_is_the_mode(garage_agent):
    part = frozen.policy_part(garage_agent)
    feed = parity.record(garage_agent, parity.played(garage()), steps=1)["policy"][0]
    feed["action_noise"][:] = 0
    obs = {port.key: torch.from_numpy(feed[port.name]) for port in part.inputs if port.role == "observation"}
    noise = frozen.Noise(torch.from_numpy(feed["latent_noise"]), torch.from_numpy(feed["action_noise"]))
    mode, _ = garage_agent.policy(obs, torch.tensor([True]), garage_agent.initial(1), noise, mode="mode")
    np.testing.assert_allclose(formats.run_module(part.module, part, feed)["action"], mode.numpy(), atol=1e-6)


def test_interface_names_exactly_what_the_file_takes_and_gives(garage_onnx):
    text = (garage_onnx / "interface.json").read_text()
    interface = json.loads(text)
    session = onnxruntime.InferenceSession(garage_onnx / "policy.onnx")
    for side, real in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        described = {port["name"]: port["shape"] for port in interface[side]["policy"]}
        assert described == {port.name: port.shape for port in real}
    assert interface["schema"] == "dreamer.interface/1"
    assert interface["initial_state"].keys() == {"deter", "stoch", "prev_action"}
    assert interface["parity"]["max_abs_error"] <= 1e-4
    # The model carries it, too: a lost interface.json is no loss.
    inside = json.loads(session.get_modelmeta().custom_metadata_map["interface"])
    assert inside == {key: value for key, value in interface.items() if key != "parity"}


def test_a_model_with_one_weight_moved_does_not_pass(garage_onnx, garage_agent, tmp_path):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(garage_onnx / "policy.onnx")
    weight = next(value for value in model.graph.initializer if value.name == "world.dynamics.core.gates.bias")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
    onnx.save(model, tmp_path / "moved.onnx")
    part = frozen.policy_part(garage_agent)
    feeds = parity.record(garage_agent, parity.played(garage()), steps=6)["policy"]
    assert not parity.compare(part, formats.Onnx().runner(part, tmp_path / "moved.onnx"), feeds).passed
    assert parity.compare(part, formats.Onnx().runner(part, garage_onnx / "policy.onnx"), feeds).passed


@pytest.mark.extended
def test_cartpole_example_plays_an_episode_without_torch_or_dreamer(cartpole_agent, tmp_path):
    exported = export_tiny(cartpole_agent, tmp_path / "pole.onnx", CARTPOLE, opset=18)
    assert [path.name for path in exported.paths] == ["pole.onnx", "interface.json", "example.py"]
    interface = json.loads((tmp_path / "interface.json").read_text())
    assert (interface["run"], interface["checkpoint_step"]) == ("runs/x", 7)
    # Neither torch nor dreamer is where it runs: blocked names raise ImportError.
    blocked = "import sys, runpy; sys.modules.update(torch=None, dreamer_cli=None); sys.argv = ['example.py']; "
    code = blocked + f"runpy.run_path({str(tmp_path / 'example.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CartPole-v1: return "), done.stdout
    total, decisions = (float(word) for word in done.stdout.split() if word.replace(".", "").isdigit())
    assert total == decisions > 0


def test_example_settles_observations_as_the_agents_environment_does(tmp_path):
    (tmp_path / "interface.json").write_text("{}")
    names: dict = {"__name__": "example", "__file__": str(tmp_path / "example.py")}
    exec(example_source("onnx"), names)
    env = garage(keys=5)
    sources = sources_of(env)
    assert sources["camera"]["channel_axis"] == 2
    raw, _ = env.env.reset(seed=1)
    for key, settled in env.observations.read(raw).items():
        spec = env.spec_dreamer.observation[key]
        how = {"kind": spec.kind, "shape": list(spec.shape), "source": json.loads(json.dumps(sources[key]))}
        again = names["settle"](raw, how)
        assert again.dtype == settled.dtype
        # Pillow averages in fixed point: one of 255 levels may round the other way.
        np.testing.assert_allclose(again.astype(float), settled, atol=1 if spec.kind == "image" else 0)


@pytest.mark.extended
def test_world_part_as_pt2(cartpole_agent, tmp_path):
    exported = export_tiny(cartpole_agent, tmp_path, part="world", format="pt2")
    assert exported.parity is not None
    assert exported.parity.passed
    interface = json.loads((tmp_path / "interface.json").read_text())
    roles = {port["name"]: port["role"] for port in interface["outputs"]["world"]}
    assert {"reward", "cont", "next_deter", "next_stoch", "obs_vector"} == roles.keys()


def test_safetensors_hold_every_weight_and_its_config(cartpole_agent, tmp_path):
    exported = export_tiny(cartpole_agent, tmp_path, CARTPOLE, part="all", format="safetensors")
    names = ["agent.safetensors", "interface.json", "example.py", "config.yaml"]
    assert [path.name for path in exported.paths] == names
    weights = formats.read_tensors(tmp_path / "agent.safetensors")
    assert weights.keys() == cartpole_agent.state_dict().keys()
    reader: dict = {"__name__": "example", "__file__": str(tmp_path / "example.py")}
    exec((tmp_path / "example.py").read_text(), reader)
    read = reader["read"](tmp_path / "agent.safetensors")
    assert all(np.array_equal(read[name], value.numpy()) for name, value in weights.items())


def test_what_fails_the_gate_is_not_written_and_leaves_the_former_export(cartpole_agent, tmp_path, monkeypatch):
    export_tiny(cartpole_agent, tmp_path, format="safetensors")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = formats.Safetensors.write

    def write_wrong(self, parts, paths, interface):
        moved = parts[0].module.state_dict()["world.dynamics.core.gates.bias"]
        moved += 0.1
        write(self, parts, paths, interface)
        moved -= 0.1

    monkeypatch.setattr(formats.Safetensors, "write", write_wrong)
    exported = export_tiny(cartpole_agent, tmp_path, format="safetensors")
    assert exported.error is not None
    assert exported.error.exit_code == 6
    assert exported.paths == ()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    fresh = tmp_path / "new" / "place"
    assert export_tiny(cartpole_agent, fresh, format="safetensors").error is not None
    assert not fresh.exists()
    # --no-verify writes it all the same, and says that nothing was compared.
    exported = export_tiny(cartpole_agent, fresh, format="safetensors", verify=False)
    assert exported.parity is None
    assert json.loads((fresh / "interface.json").read_text())["parity"] is None


@pytest.mark.parametrize("name", ["policy.safetensors", "interface.json", "example.py", "config.yaml"])
def test_files_of_others_are_never_replaced(cartpole_agent, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=name):
        export_tiny(cartpole_agent, tmp_path, format="safetensors")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_options_that_contradict_are_usage_errors(cartpole_agent, tmp_path):
    for out, options in (
        (tmp_path / "x.onnx", {"format": "pt2"}),
        (tmp_path, {"format": "pt2", "opset": 18}),
        (tmp_path, {"opset": 9}),
        (tmp_path, {"opset": 99}),
    ):
        with pytest.raises(UsageError):
            export_tiny(cartpole_agent, out, **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        export_tiny(cartpole_agent, tmp_path / "file", format="safetensors")


def test_a_missing_extra_names_the_pip_line(cartpole_agent, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(EnvError) as caught:
        export_tiny(cartpole_agent, tmp_path)
    assert caught.value.exit_code == 3
    assert "pip install 'dreamer-cli[onnx]'" in caught.value.hint


def test_the_command_reports_what_scripts_rely_on(cartpole_agent, tmp_path, monkeypatch):
    run = SimpleNamespace(path=tmp_path / "run", config=tmp_path / "config.yaml")
    run.config.write_text("run: {}\n")
    config = SimpleNamespace(env=EnvConfig(id="CartPole-v1"), run=SimpleNamespace(eval_policy="sample"))
    loaded = SimpleNamespace(run=run, cfg=config, agent=cartpole_agent, step=400)
    monkeypatch.setattr(export, "LoadedRun", lambda *args: loaded)
    monkeypatch.setattr(export, "find_run", lambda *args: SimpleNamespace(run=run))
    result = export.export(ExportRequest(run="x", format="safetensors"), QUIET)
    assert result.json.keys() == {"run", "checkpoint_step", "format", "paths", "parity"}
    assert result.json["parity"].keys() == {"steps", "max_abs_error", "ties"}
    assert result.json["checkpoint_step"] == 400
    assert list(result.text) == result.json["paths"]
    assert Path(result.json["paths"][0]) == run.path / "export" / "policy.safetensors"


@pytest.mark.extended
def test_both_parts_of_both_agents_as_onnx(garage_agent, cartpole_agent, tmp_path):
    for name, agent in (("garage", garage_agent), ("cartpole", cartpole_agent)):
        # The second one replaces interface.json and example.py of the first, whose models stay.
        exported = export_tiny(agent, tmp_path / f"{name}.onnx", part="all")
        assert exported.parity is not None
        assert exported.parity.passed
        assert [path.name for path in exported.paths[:2]] == [f"{name}-policy.onnx", f"{name}-world.onnx"]
        assert exported.paths[0].exists()
    assert (tmp_path / "garage-world.onnx").exists()


@pytest.mark.extended
def test_weights_too_large_for_one_file_get_their_own_and_are_replaced_together(cartpole_agent, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "ONE_FILE", 0)
    for _ in range(2):
        exported = export_tiny(cartpole_agent, tmp_path)
        assert [path.name for path in exported.paths[:2]] == ["policy.onnx", "policy.onnx.data"]
        assert exported.parity is not None
        assert exported.parity.passed


@pytest.mark.extended
def test_a_second_pt2_replaces_the_first(cartpole_agent, tmp_path):
    first = export_tiny(cartpole_agent, tmp_path / "agent.pt2", format="pt2", verify=False)
    assert export_tiny(cartpole_agent, tmp_path / "agent.pt2", format="pt2").paths == first.paths


# ── other members of the family ─────────────────────────────────────────────────────────────────────────────

TURN = replace(CONTINUOUS, low=(-2.0, -2.0), high=(2.0, 2.0), shape=(2,))
MIXED = EnvSpec({"speed": VECTOR, "cards": CARDS}, (UNEQUAL, TURN))
CEM = {"horizon": 2, "candidates": 12, "elites": 3, "iterations": 2}
GAUSSIAN, LSTM = {"kind": "gaussian", "size": 5}, {"kind": "lstm", "units": 6, "hidden": 5}


def relative(spec: EnvSpec = MIXED, core=None, latent=None, behaviour=("actor_critic", BEHAVIOUR), **world) -> Agent:
    """An agent with other parts than the default; heads that start at zero are shaken."""
    torch.manual_seed(0)
    parts = {name: part for name, part in (("core", core), ("latent", latent)) if part}
    dynamics = WORLD["dynamics"] | parts | world.pop("dynamics", {})
    kind, settings = behaviour
    settings = configure(BEHAVIOURS[kind], settings)
    agent = Agent(configure(WorldConfig, WORLD | {"dynamics": dynamics} | world), settings, spec)
    agent.eval().requires_grad_(False)
    for value in agent.parameters():
        if not value.any():
            value.normal_(std=0.3)
    return agent


def noisy(settings: dict) -> dict:
    """With an explorer, which must stay behind."""
    return settings | {"explorer": {"kind": "action_noise", "epsilon": 0.1}}


RELATIVES = {
    "gaussian": {"latent": GAUSSIAN},
    "lstm": {"core": LSTM},
    "endless": {"cont": {"kind": "always"}},
    "learned beginning": {"dynamics": WORLD["dynamics"] | {"initial": "learned"}},
    "actor with explorer": {"behaviour": ("actor_critic", noisy(BEHAVIOUR))},
    "preview": {"objective": {"kind": "contrast"}, "preview": True},
    "no decoder": {"objective": {"kind": "contrast"}},
    "planner": {"latent": GAUSSIAN, "core": LSTM, "cont": {"kind": "always"}, "behaviour": ("cem", noisy(CEM))},
    "planner of classes": {"behaviour": ("cem", CEM)},
    "shooting": {"behaviour": ("random_shooting", {"horizon": 2, "candidates": 8})},
}


@pytest.mark.parametrize("name", RELATIVES)
def test_every_member_of_the_family_is_exported(name, tmp_path):
    """As weights: parts of the agent, put together from files, do what the agent does."""
    agent, form = relative(**RELATIVES[name]), formats.Safetensors()
    parts, path = frozen.frozen(agent, "all"), tmp_path / "agent.safetensors"
    form.write(parts, {part.name: path for part in parts}, {})
    recording = parity.record(agent, parity.invented(agent.spec, np.random.default_rng(0)), steps=6)
    for part in parts:
        result = parity.compare(part, form.runner(part, path), recording[part.name])
        assert (result.max_abs_error, result.ties) == (0, 0)
    interface = describe(parts, agent.seen, {}, "safetensors")
    ports = {port["name"]: port for port in (*interface["inputs"]["policy"], *interface["outputs"]["policy"])}
    state = agent.initial(1).state
    assert ports["deter"]["shape"] == ports["next_deter"]["shape"] == ["batch", *state.deter.shape[1:]]
    assert ports["stoch"]["shape"] == ports["next_stoch"]["shape"] == ["batch", *state.stoch.shape[1:]]
    kind = agent.world.dynamics.latent.noise_kind
    assert ports["latent_noise"]["draw"] == [{"distribution": kind, "columns": [0, state.stoch.shape[-1]]}]
    shown = {port.get("key") for port in interface["outputs"]["world"] if port["role"] == "observation"}
    assert shown == (set() if name == "no decoder" else {"speed", "cards"})


def test_weights_of_the_policy_are_those_that_deciding_takes():
    for name, needed in (
        ("actor with explorer", {"world.encoder", "world.dynamics", "behaviour.actor"}),
        ("planner", {"world.encoder", "world.dynamics", "world.reward"}),
    ):
        module = frozen.policy_part(relative(**RELATIVES[name])).module
        assert {".".join(key.split(".")[:2]) for key in module.state_dict()} == needed
    module = frozen.world_part(relative(**RELATIVES["preview"])).module
    parts = {".".join(key.split(".")[:2]) for key in module.state_dict()}
    assert parts == {"world.dynamics", "world.reward", "world.cont", "world.preview"}


def test_noise_of_a_planner_is_described_and_never_zero():
    agent = relative(**RELATIVES["planner"])
    interface = describe(frozen.frozen(agent, "policy"), agent.seen, {}, "onnx", policy="mode")
    assert interface["eval_policy"] == "sample", "zeros would make all plans alike"
    (noise,) = (port for port in interface["inputs"]["policy"] if port["name"] == "action_noise")
    # Rounds, steps, candidates; seven classes, two numbers, and a guess of five: nothing of the explorer.
    assert noise["shape"] == ["batch", 2, 2, 12, 14]
    assert noise["draw"] == [
        {"distribution": "gumbel", "columns": [0, 7]},
        {"distribution": "normal", "columns": [7, 9]},
        {"distribution": "normal", "columns": [9, 14]},
    ]
    (kept,) = (port for port in interface["outputs"]["policy"] if port["role"] == "kept")
    assert kept["shape"] == ["batch", 2, 3]


def test_a_planner_with_another_reward_does_not_pass():
    agent = relative(**RELATIVES["planner"])
    part = frozen.policy_part(agent)
    feeds = parity.record(agent, parity.invented(agent.spec, np.random.default_rng(0)), steps=6)["policy"]
    assert parity.compare(part, lambda feed: formats.run_module(part.module, part, feed), feeds).passed
    other = frozen.policy_part(relative(**RELATIVES["planner"]))
    for value in other.module.world.reward.parameters():
        value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    result = parity.compare(part, lambda feed: formats.run_module(other.module, part, feed), feeds)
    assert not result.passed
    assert result.worst == "kept", "the states are right, and so is what follows from the plans that were kept"


@pytest.mark.extended
@pytest.mark.parametrize("format", ["onnx", "pt2"])
@pytest.mark.parametrize("name", ["planner", "planner of classes", "shooting", "lstm"])
def test_graphs_of_the_family_do_what_the_agents_do(name, format, tmp_path):
    exported = export_tiny(relative(**RELATIVES[name]), tmp_path, part="all", format=format)
    assert exported.parity is not None
    assert exported.parity.passed
    # A reader without dreamer answers with it, and dreams on.
    done = subprocess.run([sys.executable, str(tmp_path / "example.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step") == 20 + 15
