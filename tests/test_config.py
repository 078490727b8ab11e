"""The settings' tree: complete, strict, friendly when wrong, and the same after a trip through a file."""

import contextlib
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass

from dreamer_cli import checks, presets, yamlio
from dreamer_cli.agent import Agent
from dreamer_cli.clock import Every
from dreamer_cli.config import SCHEMA_VERSION, Config, RunConfig, load_config, resolve, to_yaml
from dreamer_cli.errors import ConfigError, StateError, UsageError
from dreamer_cli.registry import STRICT, AtLeastOne, Registry, Share, slot, to_tree
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.trees import leaves, merge, nest

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

VECTOR = EnvSpec({"state": ObsSpec("vector", (24,))}, (ActionPart("action", "continuous", size=6),))
PIXELS = EnvSpec({"image": ObsSpec("image", (3, 64, 64))}, (ActionPart("action", "discrete", classes=(18,)),))


def refused(*texts, **given):
    """The error of `resolve` with these settings."""
    with pytest.raises(UsageError) as caught:
        resolve(settings=texts, **given)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.what
    return caught.value


# --- presets and code agree


def test_base_is_every_setting_at_its_default():
    assert presets.find("base").tree == to_tree(Config())


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_resolves(name):
    assert isinstance(resolve(presets=[name]).config, Config)


def parameters(name, spec):
    """What the model of a preset has, without the slow critic."""
    config = resolve(presets=[name]).config
    return Agent(config.world, config.behaviour, spec).parameter_counts()["total"]


COUNTED = [name for name in presets.names() if "parameters" in presets.find(name).about]


@pytest.mark.parametrize("name", [name for name in COUNTED if presets.find(name).about["parameters"]["pixels"] < 2e6])
def test_stated_parameters_are_the_models(name):
    stated = presets.find(name).about["parameters"]
    assert {"vector": parameters(name, VECTOR), "pixels": parameters(name, PIXELS)} == stated


@pytest.mark.extended
@pytest.mark.parametrize("name", COUNTED)
def test_stated_parameters_are_the_models_in_every_size(name):
    stated = presets.find(name).about["parameters"]
    with torch.device("meta"):  # takes no memory, but seconds when first used
        assert {"vector": parameters(name, VECTOR), "pixels": parameters(name, PIXELS)} == stated


@pytest.mark.parametrize("size", presets.sizes())
def test_sizes_set_all_widths_by_the_papers_rule(size):
    config = resolve(size=size).config
    world, behaviour = config.world, config.behaviour
    d = world.dynamics.core.units
    widths = [world.dynamics.core.hidden, world.dynamics.hidden, world.encoder.units, world.decoder.units]
    widths += [part.units for part in (world.reward, world.cont, behaviour.actor, behaviour.critic)]
    assert set(widths) == {d // 8}
    assert {world.dynamics.latent.classes, world.encoder.depth, world.decoder.depth} == {d // 128}


def test_debug_and_cpu_start_as_early_as_documented():
    for name, records in (("cpu", 256), ("debug", 16), ("dreamerv3", 1024)):
        config = resolve(presets=[name]).config
        assert min(config.run.min_records, config.replay.batch_size * config.replay.batch_length) == records


# --- resolving


def test_layers_and_origins():
    resolved = resolve(
        env="CartPole-v1",
        presets=["cpu"],
        size="12m",
        options={"run.steps": (400_000, "--steps"), "env.kwargs": ({"g": 9.8}, "--env-kwarg")},
        settings=["optim.lr=1e-4", "world.dynamics.latent.classes=24"],
        has_pixels=False,
    )
    config, origins = resolved.config, resolved.origins
    assert (config.env.id, origins["env.id"]) == ("CartPole-v1", "--env")
    assert (config.run.steps, origins["run.steps"]) == (400_000, "--steps")
    assert (config.env.kwargs, origins["env.kwargs.g"]) == ({"g": 9.8}, "--env-kwarg")
    assert (config.optim.lr, origins["optim.lr"]) == (1e-4, "--set")
    assert (config.world.dynamics.latent.classes, origins["world.dynamics.latent.classes"]) == (24, "--set")
    assert (config.world.dynamics.core.units, origins["world.dynamics.core.units"]) == (2048, "--size 12m")
    assert origins["replay.batch_length"] == "preset cpu"
    assert origins["env.repeat"] == "suite classic"
    assert origins["loss_scales.dyn"] == "preset dreamerv3"
    assert origins["run.keep"] == "base"
    assert (resolved.algorithm, resolved.suite, resolved.presets) == ("dreamerv3", "classic", ("cpu",))
    assert len(resolved.notes) == 1


def test_every_leaf_has_an_origin():
    resolved = resolve(settings=["world.dynamics.core={kind: block_gru, units: 64}", "env.kwargs.a.b=1"])
    assert set(resolved.origins) == {key for key, _ in leaves(to_tree(resolved.config))}


@pytest.mark.parametrize(("has_pixels", "units"), [(False, 512), (True, 2048), (None, 2048)])
def test_default_size(has_pixels, units):
    resolved = resolve(has_pixels=has_pixels)
    assert resolved.config.world.dynamics.core.units == units
    assert ("size" in resolved.origins["world.reward.units"]) == (has_pixels is not None)


def test_numbers_mean_what_they_look_like():
    config = resolve(settings=["run.steps=4e5", "run.train_ratio=64", "optim.lr=1e-4", "run.prefill=010"]).config
    assert (config.run.steps, config.run.train_ratio, config.optim.lr, config.run.prefill) == (400_000, 64.0, 1e-4, 10)
    assert type(config.run.train_ratio) is float


def test_switches_stay_words():
    assert resolve(settings=["env.pixels=off"]).config.env.pixels == "off"
    assert "'only'" in refused("env.pixels=on").hint


# --- round trip


@pytest.mark.parametrize("texts", [[], ["env.kwargs={a: [1, {b: 'on'}], c: 010}", "run.log=[tensorboard]"]])
def test_config_yaml_repeats_the_run(tmp_path, texts):
    config = resolve(env="CartPole-v1", presets=["cpu"], size="25m", settings=texts, has_pixels=False).config
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    again = resolve(config_file=path, has_pixels=False)
    assert again.config == config
    assert load_config(path) == config
    assert set(again.origins.values()) == {f"config {path}"}
    assert path.read_text().startswith(f"schema_version: {SCHEMA_VERSION}\n")


def test_a_file_overrides_a_complete_config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(resolve(env="CartPole-v1", presets=["debug"]).config))
    config = resolve(config_file=path, presets=["cpu"], settings=["run.seed=3"], env="Acrobot-v1").config
    assert (config.env.id, config.run.seed, config.replay.batch_length, config.run.steps) == ("Acrobot-v1", 3, 16, 500)


def test_a_runs_damaged_config_is_a_matter_of_state(tmp_path):
    path = tmp_path / "config.yaml"
    for text in ("run: {stepz: 1}", "a: [", "- 1", "schema_version: 99", "schema_version: 1\nworld: 3"):
        path.write_text(text)
        with pytest.raises(StateError):
            load_config(path)
    with pytest.raises(StateError):
        load_config(tmp_path / "none.yaml")


def test_a_newer_config_is_refused():
    newer = SCHEMA_VERSION + 1
    assert f"schema_version is {newer}" in refused(f"schema_version={newer}").what


NAMES = st.text("abcdef_", min_size=1, max_size=6)
ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        RunConfig,
        steps=st.integers(1, 10**15),
        seed=st.integers(0, 2**32 - 1),
        train_ratio=st.floats(0, 1e6),
        save_every=st.integers(0, 10**9) | st.sampled_from(["10m", "1h30m", "400k"]),
        compile=st.none() | st.booleans(),
        log=st.lists(st.sampled_from(["tensorboard", "wandb"]), max_size=2).map(tuple),
    ),
    st.dictionaries(NAMES, ARGUMENTS, max_size=3),
    st.text(max_size=12),
)
def test_any_config_survives_its_file(run, kwargs, env_id):
    config = Config()
    config = dataclasses.replace(config, run=run, env=dataclasses.replace(config.env, kwargs=kwargs, id=env_id))
    assert checks.validate(Config, yamlio.load(to_yaml(config))) == config


# --- what can be wrong

KEYS = checks.leaves_of(Config)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_typo_in_any_key_is_refused_with_the_key_as_suggestion(data):
    parts = data.draw(st.sampled_from([key for key in KEYS if not key.startswith("env.kwargs")])).split(".")
    place = data.draw(st.integers(0, len(parts) - 1))
    word = parts[place]
    at = data.draw(st.integers(0, len(word) - 1))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_0"))
    edit = data.draw(st.sampled_from(["drop", "insert", "replace"]))
    typo = word[:at] + {"drop": "", "insert": letter + word[at], "replace": letter}[edit] + word[at + 1 :]
    siblings = {key.split(".")[place] for key in KEYS if key.split(".")[:place] == parts[:place]}
    if typo in siblings:
        return
    wrong = ".".join([*parts[:place], typo, *parts[place + 1 :]])
    tree = to_tree(Config())
    below = tree
    for part in parts[:place]:
        below = below[part]
    below[typo] = below.pop(word)
    with pytest.raises(ConfigError) as caught:
        checks.validate(Config, tree)
    if word == "kind":  # reported as missing before its typo is read
        assert f"{'.'.join(parts[:place])}.kind" in caught.value.what
        return
    assert caught.value.what == f"Unknown key {'.'.join([*parts[:place], typo])}."
    assert repr(word) in caught.value.hint
    assert wrong.startswith(".".join([*parts[:place], typo]))


def validated(key, value):
    """What comes of the defaults with one changed key: the error, or None."""
    tree = to_tree(Config())
    merge(tree, {}, nest(key, value), "")
    try:
        checks.validate(Config, tree)
    except ConfigError as error:
        return error
    return None


def test_values_of_another_type_are_refused_by_name():
    """Whatever a key takes, it does not take everything; and whatever it refuses, it says so with its full name."""
    for key in KEYS:
        if key.startswith(("env.kwargs", "loss_scales")):
            continue
        errors = [validated(key, value) for value in ("text", {"a": 1})]
        messages = [error.what for error in errors if error is not None]
        assert len(messages) == (1 if key == "env.id" else 2), key
        # What a whole part checks names the part, and then the setting.
        parts = (key, f"{key.rpartition('.')[0]}: {key.rpartition('.')[2]}")
        assert all(message.startswith(parts) for message in messages), messages


@pytest.mark.parametrize(
    ("setting", "what", "hint"),
    [
        ("world.dynamics.core.unit=1", "Unknown key world.dynamics.core.unit.", "Did you mean 'units'?"),
        ("lr=1e-4", "Unknown key lr.", "Did you mean 'optim.lr'?"),
        ("core.units=3", "Unknown key core.", "Did you mean 'world.dynamics.core.units'?"),
        ("loss_scales.dny=1", "Unknown key loss_scales.dny.", "Did you mean 'dyn'?"),
        ("world.dynamics.core.kind=block_gr", "world.dynamics.core.kind is 'block_gr'", "Did you mean 'block_gru'?"),
        ("world.dynamics.core=block_gru", "must be a mapping with a kind", "world.dynamics.core.kind=block_gru"),
        ("world=3", "world is 3, but must be a mapping.", "dynamics.kind"),
        ("env=CartPole-v1", "env is 'CartPole-v1', but must be a mapping.", "id, kwargs"),
        ("run.steps=1m", "run.steps is '1m', but must be a whole number.", "Did you mean 1M?"),
        ("run.steps=1.5", "run.steps is 1.5, but must be a whole number.", ""),
        ("run.seed=true", "run.seed is true, but must be a whole number.", ""),
        ("run.compile=yes", "run.compile is 'yes', but must be true or false.", "true or false"),
        ("run.log=tensorboard", "run.log is 'tensorboard', but must be a list.", "[tensorboard]"),
        ("run.precision=fp16", "must be 'auto', 'fp32' or 'bf16'", "'bf16'"),
        ("run.save_every=often", "run.save_every is 'often'", "10m for minutes"),
        ("run.save_every=1.5", "run.save_every is 1.5, but must be a whole number or text.", ""),
        ("run.save_every=-1", "run.save_every is -1", ""),
        ("run.device=cpuu", "run.device is 'cpuu'", "'cpu'"),
        ("run.save_every=30m1h", "run.save_every is '30m1h'", "10m for minutes"),
        ("behaviour.discount_horizon=1", "behaviour.discount_horizon is 1", ""),
        ("optim.lr=fast", "optim.lr is 'fast', but must be a number.", "Numbers look like"),
        ("optim.lr.x=1", "optim.lr is a mapping, but must be a number.", ""),
        ("env.id=3", "env.id is 3, but must be text.", ""),
        ("env.image_size=[64]", "env.image_size is [64], but must be a longer list.", ""),
        ("env.image_size=[1, 2, 3]", "a list with at most 2 entries", ""),
        ("env.image_size=[4, 4]", "env.image_size", "64x64"),
        ("world.encoder.mults=[1, x]", "world.encoder.mults.1 is 'x', but must be a whole number.", ""),
        ("world.encoder.kernel=4", "world.encoder: kernel=4 is even.", "odd"),
        ("world.dynamics.core.blocks=7", "world.dynamics.core: units=2048 does not split", "2044"),
        ("run=1", "run is 1, but must be a mapping.", "steps"),
        ("world.free_nats=null", "world.free_nats is null, but must be a number.", ""),
    ],
)
def test_errors_name_the_key_and_say_what_is_wrong(setting, what, hint):
    error = refused(setting)
    assert what in error.what
    assert hint in error.hint


@pytest.mark.parametrize(
    ("typed", "saved"), [('"1000"', 1000), ('" 10k"', 10_000), ('" 10m"', "10m"), ("5", 5), ("1h30m", "1h30m")]
)
def test_a_cadence_has_one_form_whoever_wrote_it(typed, saved):
    config = resolve(env="CartPole-v1", settings=[f"run.save_every={typed}"]).config
    assert config.run.save_every == saved
    every = Every(config.run.save_every)
    assert every.steps or every.seconds


def test_a_suite_and_its_task_are_the_id_that_is_saved():
    found = resolve(env="classic:CartPole-v1")
    assert found.config.env.id == "CartPole-v1"
    assert (found.suite, found.notes) == ("classic", ["preset classic added for CartPole-v1"])
    assert resolve(env="CartPole-v1", settings=["env.id=atari:pong"]).config.env.id == "ALE/Pong-v5"


@pytest.mark.parametrize(
    "setting",
    [
        "run.steps=0", "run.seed=-1", "run.seed=4294967296", "run.num_envs=0", "run.num_envs=5k", "run.prefill=-1",
        "run.train_ratio=-1", "run.keep=0", "run.eval_every=-1", "run.eval_episodes=0", "run.dream_every=-1",
        "run.threads=0", "run.min_records=0", "replay.batch_size=0", "replay.batch_length=0", "replay.capacity=0",
        "replay.max_bytes=0", "env.repeat=0", "env.max_episode_steps=0", "env.timeout_s=-1", "behaviour.horizon=0",
        "behaviour.lam=1.1", "behaviour.discount_horizon=0.5", "behaviour.slow_critic.rate=2", "behaviour.entropy=-1",
        "world.free_nats=-1", "world.dynamics.core.units=0", "world.dynamics.latent.classes=1", "optim.beta1=1",
        "world.dynamics.latent.unimix=2", "world.encoder.depth=0", "world.reward.output.bins=1", "optim.lr=-1",
        "loss_scales.dyn=-1", "world.encoder.mults=[0]",
    ],
)  # fmt: skip
def test_ranges(setting):
    assert setting.partition("=")[0] in refused(setting).what


@pytest.mark.parametrize("setting", ["optim.lr=.nan", "run.train_ratio=.inf", "behaviour.discount_horizon=1e999"])
def test_numbers_are_finite(setting):
    assert "must be finite" in refused(setting).what


def test_environments_may_be_given_infinity():
    assert resolve(settings=["env.kwargs.limit=.inf"]).config.env.kwargs == {"limit": math.inf}


@pytest.mark.parametrize("options", [{"env.id": "Cart\udc80"}, {"env.kwargs": {"\udc80": 1}}])
def test_bytes_that_are_no_text(options):
    assert "no UTF-8" in refused(options={key: (value, "--env") for key, value in options.items()}).what


def test_the_first_error_is_the_message():
    assert "run.stepz" in refused("run.stepz=1", "optim.lr=fast").what


# --- on stand-ins: slots within slots, parts that may be missing


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Leaf:
    rate: Share = 0.5
    name: str = "x"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Other:
    count: AtLeastOne = 1


_LEAVES = Registry({"leaf": _Leaf, "other": _Other})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Branch:
    inner: slot("inner", _LEAVES) = _Leaf()
    maybe: _Other | None = None


_BRANCHES = Registry({"branch": _Branch})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Root:
    outer: slot("outer", _BRANCHES) = _Branch()
    needed: int | None = None


def outer(**inner):
    return {"outer": {"kind": "branch", **inner}}


def test_slots_within_slots():
    tree = outer(inner={"kind": "other", "count": 3}, maybe={"count": 2})
    root = checks.validate(_Root, tree)
    assert root == _Root(outer=_Branch(inner=_Other(count=3), maybe=_Other(count=2)))
    assert to_tree(root)["outer"]["inner"] == {"kind": "other", "count": 3}


@pytest.mark.parametrize(
    ("tree", "what", "hint"),
    [
        (outer(inner={"kind": "other", "count": 0}), "outer.inner.count is 0, but must be at least 1.", ""),
        (outer(inner={"kind": "leaf", "rate": "x"}), "outer.inner.rate is 'x', but must be a number.", ""),
        (outer(inner={"kind": "other", "rate": 1}), "Unknown key outer.inner.rate.", "belongs to the kind 'leaf'"),
        (outer(inner={"rate": 1}), "outer.inner.kind", "Known: leaf, other"),
        (outer(inner={"kind": ["leaf"]}), "outer.inner.kind is [leaf]", "Known: leaf, other"),
        (outer(maybe={"counts": 1}), "Unknown key outer.maybe.counts.", "'count'"),
        (outer(maybe=5), "outer.maybe is 5, but must be a mapping.", ""),
        ({"needed": "x"}, "needed is 'x', but must be a whole number.", ""),
    ],
)
def test_errors_inside_slots_have_full_names(tree, what, hint):
    with pytest.raises(ConfigError) as caught:
        checks.validate(_Root, tree)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_a_part_may_be_null():
    assert checks.validate(_Root, outer(maybe=None)).outer.maybe is None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*KEYS, "run", "world.dynamics", "nothing", "optim.kind", "env.kwargs.x"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_whatever_is_set_there_is_a_config_or_a_config_error(key, value):
    with contextlib.suppress(UsageError):
        resolve(options={key: (value, "--x")})
