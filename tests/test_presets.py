"""Preset files: found in a checkout and in a wheel, merged in the documented order, with known origins."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dreamer_cli import migrate, presets, yamlio
from dreamer_cli.checks import validate
from dreamer_cli.commands import presets as command
from dreamer_cli.config import Config, resolve
from dreamer_cli.errors import ConfigError, StateError, UsageError
from dreamer_cli.trees import leaves, merge, nest, parse_settings

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of small presets instead of ours: one slot, and two algorithms of which one knows no sizes."""
    texts = {
        "base": "env: {id: null, repeat: 1}\nrun: {steps: 1, envs: 1}\ncore: {kind: gru, units: 8, norm: true}",
        "dreamerv3": "extends: base\nabout: {kind: algorithm}\ncore: {kind: block, units: 16}",
        "planet": "extends: base\nabout: {kind: algorithm, sizes: false}\nenv: {repeat: 2}",
        "classic": "about: {kind: suite, envs: [CartPole-v*]}\nenv: {repeat: 4}\nrun: {envs: 4}",
        "size1m": "about: {kind: size}\ncore: {units: 100}",
        "size12m": "about: {kind: size}\ncore: {units: 1200}",
        "cpu": "about: {kind: overlay}\nrun: {envs: 2}\ncore: {units: 50}",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(presets, "directory", lambda: tmp_path)
    presets._read_once.cache_clear()
    yield tmp_path
    presets._read_once.cache_clear()


# --- trees


def test_merging_keeps_what_is_not_named():
    tree, origins = {}, {}
    merge(tree, origins, {"a": {"x": 1, "y": [1, 2]}, "b": 2}, "low")
    merge(tree, origins, {"a": {"y": [3]}, "c": {"d": {}}}, "high")
    assert tree == {"a": {"x": 1, "y": [3]}, "b": 2, "c": {"d": {}}}
    assert origins == {"a.x": "low", "a.y": "high", "b": "low", "c.d": "high"}


def test_another_kind_drops_what_the_slot_inherited():
    tree, origins = {}, {}
    merge(tree, origins, {"core": {"kind": "gru", "units": 8, "head": {"kind": "mse"}}}, "low")
    merge(tree, origins, {"core": {"kind": "gru", "units": 9}}, "same kind")
    assert tree["core"] == {"kind": "gru", "units": 9, "head": {"kind": "mse"}}
    merge(tree, origins, {"core": {"kind": "lstm"}}, "high")
    assert tree == {"core": {"kind": "lstm"}}
    assert origins == {"core.kind": "high"}


def test_settings_for_a_kind_hold_only_where_the_slot_has_it():
    low = {"core": {"kind": "gru", "units": 8}, "latent": {"kind": "gaussian", "size": 3}}
    layer = {
        "core": {"hidden": 5, "kind=gru": {"units": 9}, "kind=lstm": {"units": 7}},
        "latent": {"kind=categorical": {"groups": 4, "classes": 4}},
        "head": {"kind": "mlp", "kind=mlp": {"output": {"kind=two_hot": {"bins": 3}, "kind": "two_hot"}}},
    }
    tree, origins = {}, {}
    merge(tree, origins, low, "low")
    merge(tree, origins, layer, "layer")
    assert tree == {
        "core": {"kind": "gru", "hidden": 5, "units": 9},
        "latent": {"kind": "gaussian", "size": 3},
        "head": {"kind": "mlp", "output": {"kind": "two_hot", "bins": 3}},
    }
    assert (origins["core.units"], origins["latent.size"]) == ("layer", "low")
    # A later layer that names another kind has what earlier ones said of it, below its own settings.
    later, known = {}, {}
    blocks: list = []
    merge(later, known, low, "low", blocks=blocks)
    merge(later, known, layer, "layer", blocks=blocks)
    merge(later, known, {"latent": {"kind": "categorical", "classes": 5}}, "high", blocks=blocks)
    assert later["latent"] == {"kind": "categorical", "groups": 4, "classes": 5}
    assert (known["latent.groups"], known["latent.classes"]) == ("layer", "high")
    # The kind that the same layer names counts, and what the slot inherited is gone.
    merge(tree, origins, {"core": {"kind": "lstm", "kind=lstm": {"units": 7}, "kind=gru": {"units": 1}}}, "high")
    assert tree["core"] == {"kind": "lstm", "units": 7}
    assert set(origins) == {key for key, _ in leaves(tree)}
    with pytest.raises(ConfigError, match=r"core.kind=gru is 7, but must be a mapping"):
        merge(tree, origins, {"core": {"kind=gru": 7}}, "wrong")
    with pytest.raises(ConfigError, match="names another kind"):
        merge(tree, origins, {"core": {"kind=gru": {"kind": "lstm"}}}, "wrong")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("world: {dynamics: {latent: {kind=gausian: {size: 8}}}}", "world.dynamics.latent.kind is 'gausian'"),
        ("world: {kind=foo: {preview: true}}", "world.kind=foo .* is in no slot that has kinds"),
        ("world: {dynamics: {latent: {kind=gaussian: {sizee: 8}}}}", "kind=gaussian.sizee"),
        ("behaviour: {kind=actor_critic: {intrinsic: {kind=disagrement: {models: 3}}}}", "'disagrement'"),
        ("loss_scales: {kind=x: {dyn: 3}}", "is in no slot"),
    ],
)
def test_settings_for_kinds_that_there_are_not_are_refused(tmp_path, text, what):
    """Also where the slot holds another kind, and nothing of it would apply."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what):
        resolve(presets=[str(path)])


def test_the_order_of_overlays_does_not_matter_to_kinds():
    ways = [resolve(presets=["dreamerv3", *order]) for order in (["cpu", "plan2explore"], ["plan2explore", "cpu"])]
    assert ways[0].config.behaviour == ways[1].config.behaviour
    assert ways[0].config.behaviour.intrinsic.models == 5
    small = resolve(presets=["cpu"], settings=["behaviour.kind=cem"]).config
    assert small.behaviour.candidates == 100
    told = resolve(presets=["planet", "plan2explore"])
    assert any("plan2explore changes nothing" in note for note in told.notes)


def test_a_kind_among_the_environments_arguments_is_no_slot():
    tree = {"env": {"kwargs": {"kind": "a", "size": 1, "inner": {"kind": "b", "x": 1}}}}
    merge(tree, {}, {"env": {"kwargs": {"kind": "c", "inner": {"kind": "d"}}}}, "")
    assert tree == {"env": {"kwargs": {"kind": "c", "size": 1, "inner": {"kind": "d", "x": 1}}}}


def test_an_empty_mapping_empties_and_values_replace_mappings():
    tree, origins = {}, {}
    merge(tree, origins, {"a": {"x": 1}, "b": {"y": {"z": 2}}}, "low")
    merge(tree, origins, {"a": {}, "b": None}, "high")
    assert tree == {"a": {}, "b": None}
    assert origins == {"a": "high", "b": "high"}
    merge(tree, origins, {"a": {"w": 3}}, "top")
    assert origins == {"a.w": "top", "b": "high"}


def test_merging_leaves_the_overlay_alone():
    overlay = {"a": {"x": [1]}}
    tree = {}
    merge(tree, {}, overlay, "")
    tree["a"]["x"].append(2)
    tree["a"]["y"] = 3
    assert overlay == {"a": {"x": [1]}}


def test_nest_and_leaves_are_inverse():
    assert nest("a.b.c", 1) == {"a": {"b": {"c": 1}}}
    assert list(leaves(nest("a.b.c", {"d": [1], "e": {}}))) == [("a.b.c.d", [1]), ("a.b.c.e", {})]


@pytest.mark.parametrize("order", [1, -1])
def test_settings_mean_the_same_in_any_order(order):
    settings = ["core.kind=lstm", "core.units=2k", "run.steps=4e5"][::order]
    assert parse_settings(settings) == {"core": {"kind": "lstm", "units": 2000}, "run": {"steps": 400_000}}


def test_of_two_settings_of_a_key_the_later_wins():
    assert parse_settings(["a.b=1", "a.b=2"]) == {"a": {"b": 2}}
    assert parse_settings(["a.b=1", "a=2"]) == {"a": 2}
    assert parse_settings(["a.title=x = y"]) == {"a": {"title": "x = y"}}
    assert parse_settings([" a.b = 1 ", "c="]) == {"a": {"b": 1}, "c": None}


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a.=1", "a b .c=1", "", "a=[1", "a=&x 1", "a=!!int 1"])
def test_what_is_no_setting(text):
    with pytest.raises(ConfigError) as caught:
        parse_settings([text])
    assert caught.value.exit_code == 2


# --- layers


def test_order_of_all_layers(folder, tmp_path):
    """Each layer sets the same key; leaving out the top one shows the next."""
    config = tmp_path / "config.yaml"
    config.write_text("run: {envs: 5}")
    mine = tmp_path / "mine.yaml"
    mine.write_text("run: {envs: 6}")

    def envs(**given):
        merged = presets.resolve_tree(**given)
        return merged.tree["run"]["envs"], merged.origins["run.envs"]

    asked = {
        "env": "CartPole-v1", "config_file": config, "presets": ["cpu", str(mine)],
        "options": {"run.envs": (7, "--num-envs")}, "settings": ["run.envs=8"],
    }  # fmt: skip
    assert envs(**asked) == (8, "--set")
    del asked["settings"]
    assert envs(**asked) == (7, "--num-envs")
    del asked["options"]
    assert envs(**asked) == (6, f"preset {mine}")
    asked["presets"] = [str(mine), "cpu"]
    assert envs(**asked) == (2, "preset cpu")
    del asked["presets"]
    assert envs(**asked) == (5, f"config {config}")
    del asked["config_file"]
    assert envs(**asked) == (4, "suite classic")
    del asked["env"]
    assert envs(**asked) == (1, "base")


def test_the_suite_is_chosen_by_the_id_and_said_so(folder):
    merged = presets.resolve_tree(env="CartPole-v1")
    assert (merged.suite, merged.tree["env"]) == ("classic", {"id": "CartPole-v1", "repeat": 4})
    assert "classic" in merged.notes[0]
    assert merged.origins["env.id"] == "--env"
    assert presets.resolve_tree(env="Hopper-v5").suite is None
    assert presets.resolve_tree(settings=["env.id=CartPole-v1"]).suite == "classic"


def test_the_suite_lies_above_the_algorithm(folder):
    merged = presets.resolve_tree(env="CartPole-v1", presets=["planet"])
    assert (merged.algorithm, merged.tree["env"]["repeat"]) == ("planet", 4)


def test_a_config_file_leaves_the_suite_out(folder, tmp_path):
    config = tmp_path / "some.yaml"
    config.write_text("env: {id: CartPole-v1}")
    merged = presets.resolve_tree(config_file=config)
    assert (merged.suite, merged.tree["env"]["repeat"], merged.notes) == (None, 1, [])


def test_size_is_merged_after_presets_wherever_it_stands(folder):
    merged = presets.resolve_tree(presets=["cpu"], size="12m")
    assert merged.tree["core"] == {"kind": "block", "units": 1200}
    assert merged.origins["core.units"] == "--size 12m"


@pytest.mark.parametrize(("has_pixels", "units"), [(None, 16), (False, 100), (True, 1200)])
def test_the_default_size_depends_on_what_is_seen(folder, has_pixels, units):
    assert presets.resolve_tree(has_pixels=has_pixels).tree["core"]["units"] == units
    assert presets.resolve_tree(has_pixels=has_pixels, presets=["cpu"]).tree["core"]["units"] == 50
    assert presets.resolve_tree(has_pixels=has_pixels, presets=["planet"]).tree["core"]["units"] == 8


@pytest.mark.parametrize("given", [{"size": "1m"}, {"presets": ["planet", "size1m"]}])
def test_a_size_for_an_algorithm_without_sizes_is_refused(folder, given):
    with pytest.raises(UsageError, match="does not fit planet"):
        presets.resolve_tree(**{"presets": ["planet"], **given})


def test_the_last_algorithm_is_the_algorithm_and_overlays_fit_every_one(folder):
    merged = presets.resolve_tree(presets=["cpu", "planet"])
    assert merged.algorithm == "planet"
    assert merged.tree["core"] == {"kind": "gru", "units": 50, "norm": True}
    assert presets.resolve_tree(presets=["planet", "dreamerv3"]).tree["core"] == {"kind": "block", "units": 16}


def test_a_file_that_extends_an_algorithm_is_one(folder, tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: planet\nrun: {steps: 9}")
    (tmp_path / "ours.yml").write_text("extends: ./mine.yaml\nrun: {envs: 9}")
    merged = presets.resolve_tree(presets=[str(tmp_path / "ours.yml")], env="CartPole-v1")
    assert merged.tree["core"]["kind"] == "gru"
    assert merged.tree["run"] == {"steps": 9, "envs": 4}, "the suite lies above it"


def test_a_file_that_extends_base_does_not_undo_what_lies_between(folder, tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: base\nrun: {steps: 9}")
    merged = presets.resolve_tree(presets=["cpu", str(tmp_path / "mine.yaml")])
    assert merged.tree["run"] == {"steps": 9, "envs": 2}


def test_a_complete_config_stands_for_the_algorithm_too(folder, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("schema_version: 2\ncore: {kind: gru}\nenv: {id: CartPole-v1}")
    merged = presets.resolve_tree(config_file=config, has_pixels=True)
    assert merged.tree == {"schema_version": 2, "core": {"kind": "gru"}, "env": {"id": "CartPole-v1"}}
    assert merged.algorithm is None


def test_dotted_options_make_nested_arguments(folder):
    merged = presets.resolve_tree(options={"env.kwargs": ({"g": 9.8}, "--env-kwarg")})
    assert merged.tree["env"]["kwargs"] == {"g": 9.8}
    assert merged.origins["env.kwargs.g"] == "--env-kwarg"


def test_every_leaf_has_an_origin(folder):
    merged = presets.resolve_tree(
        env="CartPole-v1", presets=["cpu", "planet"], settings=["core.kind=lstm", "env.kwargs={a: {b: 1}}"]
    )
    assert set(merged.origins) == {key for key, _ in leaves(merged.tree)}


# --- what can be wrong


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cpuu", "Did you mean 'cpu'?"), ("dreamer3", "'dreamerv3'"), ("", "Known"), ("size13m", "'size1m' or 'size12m'")],
)
def test_unknown_presets(name, hint):
    with pytest.raises(UsageError) as caught:
        presets.find(name)
    assert hint in caught.value.hint


def test_a_name_that_is_a_file_here_gets_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("run: {steps: 1}")
    with pytest.raises(UsageError) as caught:
        presets.find("mine")
    assert "./mine.yaml" in caught.value.hint
    assert presets.find("./mine").tree == {"run": {"steps": 1}}


@pytest.mark.parametrize(("size", "hint"), [("1M", "Did you mean '1m'?"), ("13m", "'12m'"), ("", "Known: 1m, 12m")])
def test_unknown_sizes(size, hint):
    with pytest.raises(UsageError) as caught:
        presets.resolve_tree(size=size)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: mine.yaml", "extends itself"),
        ("extends: [a, b]", "extends is"),
        ("about: nice", "about is"),
        ("about: {kind: algorythm}", "about.kind"),
        ("extends: nothing", "no preset 'nothing'"),
        ("- a", "wants `key: value`"),
        ("a: &x 1", "anchor"),
    ],
)
def test_files_that_are_no_presets(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        presets.resolve_tree(presets=[str(path)])


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        presets.resolve_tree(presets=[str(tmp_path / "none.yaml")])


def test_presets_in_a_circle(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: ./b.yaml")
    (tmp_path / "b.yaml").write_text("extends: ./a.yaml")
    with pytest.raises(ConfigError, match="extends itself"):
        presets.resolve_tree(presets=[str(tmp_path / "a.yaml")])


# --- our files, and where they lie


def test_names():
    assert presets.sizes() == ["1m", "12m", "25m", "50m", "100m", "200m", "400m"]
    assert {"dreamerv3", "classic", "cpu", "debug"} <= set(presets.names())
    suites = {"atari", "atari100k", "dmc-proprio", "dmc-vision", "crafter", "minigrid", "minatar", "classic"}
    assert suites <= set(presets.names("suite"))


def test_a_benchmark_brings_its_size_and_ratio_only_where_it_is_named():
    """The id brings the protocol; `-p` what the published curve was made with, and --size wins over it."""
    by_id = presets.resolve_tree(env="dmc/walker-walk", has_pixels=False).tree
    assert by_id["env"]["repeat"] == 2
    assert by_id["run"]["train_ratio"] != 512
    named = presets.resolve_tree(env="dmc/walker-walk", presets=["dmc-proprio"], has_pixels=False)
    assert (named.tree["run"]["train_ratio"], named.tree["run"]["num_envs"], named.tree["run"]["steps"]) == (
        512,
        16,
        600_000,
    )
    assert named.tree["world"]["dynamics"]["core"]["units"] == 2048
    assert named.notes == []
    smaller = presets.resolve_tree(env="dmc/walker-walk", presets=["dmc-proprio"], size="1m").tree
    assert smaller["world"]["dynamics"]["core"]["units"] == 512
    today = presets.resolve_tree(env="dmc/walker-walk", presets=["dmc-proprio-2026"]).tree
    assert (today["env"]["repeat"], today["run"]["train_ratio"]) == (1, 1024)


def test_an_algorithm_of_one_size_takes_a_benchmark_without_it():
    planet = presets.resolve_tree(env="dmc/walker-walk", presets=["planet", "dmc-vision"]).tree
    assert planet["world"]["dynamics"]["core"]["units"] == 200
    assert planet["run"]["train_ratio"] == 512


def test_what_counts_only_where_it_is_named_has_no_place_elsewhere(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("named: {run: {steps: 3}}\n")
    with pytest.raises(ConfigError, match="named"):
        presets.resolve_tree(env="CartPole-v1", config_file=file)
    file.write_text("extends: dreamerv3\nabout: {kind: algorithm}\nnamed: {run: {steps: 3}}\n")
    with pytest.raises(ConfigError, match="named"):
        presets.resolve_tree(env="CartPole-v1", presets=[str(file)])
    file.write_text("named: {run: {steps: 3}}\n")
    assert presets.resolve_tree(env="CartPole-v1", presets=[str(file)]).tree["run"]["steps"] == 3


def test_pixels_choose_the_suite_that_learns_from_them():
    typed = presets.resolve_tree(env="dmc/walker-walk", options={"env.pixels": ("only", "--pixels")})
    assert typed.suite == "dmc-vision"
    assert presets.resolve_tree(env="dmc/walker-walk", settings=["env.pixels=both"]).suite == "dmc-vision"
    assert presets.resolve_tree(env="dmc/walker-walk").suite == "dmc-proprio"


def test_atari_within_100k_decisions_is_atari_with_other_numbers():
    tree = presets.resolve_tree(env="ALE/Pong-v5", presets=["atari100k"]).tree
    assert tree["env"]["kwargs"]["repeat_action_probability"] == 0
    assert tree["env"]["kwargs"]["maxpool"] is True
    assert (tree["env"]["image_size"], tree["run"]["num_envs"], tree["run"]["train_ratio"]) == ([64, 64], 1, 256)


@pytest.mark.parametrize("name", ["base", *presets.names()])
def test_every_preset_says_what_it_is(name):
    assert presets.find(name).title
    assert presets.find(name).chain()[-1].name == name


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"]
)
def test_classic_control_is_known_by_its_ids(env_id):
    assert presets.suite_for(env_id).name == "classic"
    assert presets.suite_for(f"My{env_id}") is None


def test_a_checkout_comes_before_a_copy_inside_the_package():
    assert presets.directory() == ROOT / "presets"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked: what pip would install."""
    place = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(place)], cwd=ROOT, check=True, capture_output=True)
    zipfile.ZipFile(next(place.glob("*.whl"))).extractall(place / "site")
    return place / "site"


def test_the_wheel_carries_all_presets(wheel):
    # -I keeps the checkout out of sys.path; torch and pydantic must not be needed to find presets.
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); from dreamer_cli.commands import presets as c; "
        "from dreamer_cli import presets as p; "
        "heavy = {'torch', 'pydantic', 'numpy', 'gymnasium'} & set(sys.modules); "
        "print(json.dumps([str(p.directory()), p.names(), len(c.list_presets().text), sorted(heavy)]))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(wheel)], check=True, capture_output=True, text=True)
    directory, names, lines, heavy = json.loads(done.stdout)
    assert directory.startswith(str(wheel.resolve()))
    assert names == presets.names()
    assert lines == len(names) + 1
    assert heavy == []


def test_settings_of_the_first_schema_mean_the_same_today():
    """What had one form only has a kind now, and the decoder stands beside the objective."""
    coder = {"depth": 4, "blocks": 4}
    old = {
        "schema_version": 1,
        "world": {
            "encoder": {**coder},
            "objective": {"kind": "reconstruct", "decoder": {**coder}},
            "cont": {"layers": 2, "output": {"kind": "bernoulli"}},
        },
        "behaviour": {"slow_rate": 0.1, "slow_weight": 0.5, "actor": {"units": 8, "min_std": 0.2, "max_std": 0.9}},
    }
    new = migrate.migrate_config(old, "config.yaml")
    assert new == {
        "schema_version": 2,
        "world": {
            "encoder": {"depth": 4},
            "objective": {"kind": "reconstruct"},
            "cont": {"kind": "head", "layers": 2, "output": {"kind": "bernoulli"}},
            "decoder": coder,
        },
        "behaviour": {
            "kind": "actor_critic",
            "actor": {"units": 8, "continuous": {"kind": "bounded_normal", "min_std": 0.2, "max_std": 0.9}},
            "slow_critic": {"kind": "regulariser", "rate": 0.1, "weight": 0.5},
        },
    }
    validate(Config, merged_with_defaults(new))


def merged_with_defaults(tree: dict) -> dict:
    """A complete configuration."""
    whole = presets.resolve_tree().tree
    merge(whole, {}, tree, "")
    return whole


# --- the command


def test_list_gives_measured_parameters():
    result = command.list_presets()
    found = {record["name"]: record for record in result.json["presets"]}
    assert found["size1m"]["parameters"] == {"vector": 640_867, "pixels": 688_004}
    assert found["dreamerv3"]["parameters"] is None
    kinds = [record["kind"] for record in result.json["presets"]]
    assert kinds == sorted(kinds, key=presets.KINDS.index)
    assert any("641k" in line and "688k" in line for line in result.text)


def test_show_is_the_tree_that_the_preset_leads_to():
    result = command.show_preset("size1m")
    tree = yamlio.load("\n".join(result.text))
    assert tree == result.json["config"] == presets.resolve_tree(presets=["size1m"]).tree
    assert tree["world"]["dynamics"]["core"]["units"] == 512
    assert command.show_preset("base").json["config"] == presets.find("base").tree
    with pytest.raises(UsageError):
        command.show_preset("size2m")


def test_an_older_config_file_is_migrated(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text("schema_version: 1\nenvironment: {id: CartPole-v1}\n")
    monkeypatch.setattr(migrate, "CONFIG_VERSION", 2)
    monkeypatch.setattr(migrate, "CONFIG", {1: lambda tree: {"env": tree.pop("environment"), **tree}})
    merged = presets.resolve_tree(config_file=path)
    assert merged.tree == {"schema_version": 2, "env": {"id": "CartPole-v1"}}
    path.write_text("schema_version: 1\nenvirons: 5\n")
    with pytest.raises(StateError, match="what schema 1 has"):
        presets.resolve_tree(config_file=path)
    for newer in ("2", "3", "x"):  # validation has the last word
        path.write_text(f"schema_version: {newer}\n")
        assert str(presets.resolve_tree(config_file=path).tree["schema_version"]) == newer
