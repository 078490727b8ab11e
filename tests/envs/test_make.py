"""Every form of id, and an error that says what to type for every way it can be wrong."""

import builtins
import json
import sys
from dataclasses import replace

import gymnasium
import pytest
from pydantic import TypeAdapter

from dreamer_cli.envs import catalog
from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.errors import EnvError
from dreamer_cli.registry import to_tree
from tests.toys import toy, toy_config

OWN = """
import gymnasium
from neighbour import SHAPE

class Own(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, SHAPE)
    action_space = gymnasium.spaces.Discrete(2)

gymnasium.register("Registered-v3", Own)
"""


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """A user's folder with a module, its neighbour and a package; it is the current directory."""
    (tmp_path / "own_env.py").write_text(OWN)
    (tmp_path / "neighbour.py").write_text("SHAPE = (5,)")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "deep.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import no_such_thing_anywhere")
    (tmp_path / "syntax.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
    gymnasium.registry.pop("Registered-v3", None)


def fails(env_id, **settings):
    with pytest.raises(EnvError) as caught:
        make_env(EnvConfig(id=env_id, **settings))
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize(
    "env_id",
    [
        "./own_env.py:Own",
        "own_env.py:Own",
        "own_env:Own",
        "own_env:Registered-v3",
        "pack.deep:Own",
        "./own_env.py:Registered-v3",
    ],
)
def test_ids_of_ones_own(own_files, env_id):
    assert make_env(EnvConfig(id=env_id)).spec_dreamer.observation["vector"].shape == (5,)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Taxi-v4", "MinAtar/Freeway-v1", "ALE/Pong-v5"])
def test_ids_of_gymnasium_and_suites(env_id, capfd):
    env = make_env(EnvConfig(id=env_id))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    env.close()
    assert "A.L.E" not in capfd.readouterr().err


def test_functions_and_arguments():
    assert make_env(toy_config("made_by_a_function", length=7)).unwrapped.length == 7
    assert make_env(EnvConfig(id="CartPole-v1", kwargs={"sutton_barto_reward": True})) is not None


@pytest.mark.parametrize(
    ("env_id", "meant"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("CartPole-v9", "CartPole-v1"),
        ("CartPole", "CartPole-v1"),
        ("Pong-v5", "ALE/Pong-v5"),
        ("ALE/Pong-v9", "ALE/Pong-v5"),
        ("minatar/breakout-v1", "MinAtar/Breakout-v1"),
    ],
)
def test_did_you_mean(env_id, meant):
    error = fails(env_id)
    assert env_id in error.what
    assert error.hint.startswith((f"Did you mean '{meant}'?", f"Did you mean {meant} or ", f"Did you mean {meant}?"))


def test_nothing_is_close():
    error = fails("xqzw")
    assert "Did you mean" not in error.hint
    assert "dreamer envs list" in error.hint


@pytest.mark.parametrize(
    ("typed", "env_id"),
    [
        ("minatar:breakout", "MinAtar/Breakout-v1"),
        ("minatar:space_invaders", "MinAtar/SpaceInvaders-v1"),
        ("minatar:Breakout-v0", "MinAtar/Breakout-v0"),
        ("atari:pong", "ALE/Pong-v5"),
        ("atari:ALE/Pong-v5", "ALE/Pong-v5"),
        ("classic:CartPole-v1", "CartPole-v1"),
        ("toy-text:Taxi-v3", "Taxi-v3"),
        ("tests.toys:Toy", "tests.toys:Toy"),
        ("./atari.py:Pong", "./atari.py:Pong"),
        ("CartPole-v1", "CartPole-v1"),
    ],
)
def test_a_suite_and_its_task(typed, env_id):
    assert EnvConfig(id=typed).id == env_id
    assert replace(EnvConfig(), id=typed) == EnvConfig(id=env_id)


def test_a_suite_and_its_task_can_be_played():
    assert make_env(EnvConfig(id="minatar:breakout")).spec_dreamer.repeat == 1
    assert make_env(EnvConfig(id="atari:pong")).spec_dreamer.repeat == 4
    with pytest.raises(EnvError, match="ALE/Pnog") as caught:
        make_env(EnvConfig(id="atari:pnog"))
    assert "ALE/Pong-v5" in caught.value.hint


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("dmc:walker-walk", "dreamer-cli[dmc]"),
        ("minigrid:Empty-5x5", "dreamer-cli[minigrid]"),
        ("crafter", "dreamer-cli[crafter]"),
        ("procgen:coinrun", "procgen-mirror"),
    ],
)
def test_a_suite_that_is_not_installed_says_how(typed, line, monkeypatch):
    monkeypatch.setattr(catalog.Suite, "installed", property(lambda suite: suite.name == "classic"))
    env_id = EnvConfig(id=typed).id
    for known in [known for known in gymnasium.registry if known == env_id]:
        monkeypatch.delitem(gymnasium.registry, known)
    with pytest.raises(EnvError, match="not installed") as caught:
        make_env(EnvConfig(id=typed))
    assert caught.value.exit_code == 3
    assert line in caught.value.hint


def test_no_id_at_all():
    assert "--env" in fails(None).hint


@pytest.mark.parametrize(
    ("env_id", "what", "hint"),
    [
        ("no_such_module:Own", "no module 'no_such_module'", "./no_such_module.py"),
        ("no_such.module:Own", "no module 'no_such.module'", "installed"),
        ("broken:Own", "ModuleNotFoundError: No module named 'no_such_thing_anywhere'", "install"),
        ("./broken.py:Own", "ModuleNotFoundError", "install"),
        ("./syntax.py:Own", "SyntaxError", "--verbose"),
        ("./absent.py:Own", "no file ./absent.py", "started"),
        ("./own_env.py:Owm", "no class 'Owm'", "Did you mean 'Own'"),
        ("own_env:Nope-v0", "no class 'Nope-v0'", "It has: Own"),
    ],
)
def test_imports_that_fail(own_files, env_id, what, hint):
    error = fails(env_id)
    assert what in error.what
    assert hint in error.hint


def test_a_constructor_that_raises():
    error = fails(toy("Faulty"), kwargs={"fault": "constructor"})
    assert "ZeroDivisionError: no engine" in error.what
    error = fails("CartPole-v1", kwargs={"gravitty": 1})
    assert "TypeError" in error.what
    assert "gravitty" in error.what
    assert "--env-kwarg" in error.hint
    assert "no gymnasium.Env" in fails(toy("NOT_AN_ENV")).what


def test_a_missing_extra_says_the_pip_line(monkeypatch):
    real = builtins.__import__

    def without_box2d(name, *args, **kwargs):
        if name.split(".")[0] == "Box2D":
            raise ModuleNotFoundError("No module named 'Box2D'", name="Box2D")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_box2d)
    for module in [name for name in sys.modules if name.startswith(("Box2D", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, module)
    error = fails("LunarLander-v3")
    assert error.hint == "pip install 'dreamer-cli[box2d]'"


def test_a_suite_that_is_not_installed_says_the_pip_line(monkeypatch):
    absent = replace(
        next(s for s in catalog.SUITES if s.name == "minatar"), needs="no_such_package", namespace="Absent"
    )
    monkeypatch.setattr("dreamer_cli.envs.make.SUITES", (absent,))
    assert fails("Absent/Breakout-v1").hint == "pip install 'dreamer-cli[minatar]'"


@pytest.mark.parametrize(
    ("settings", "repeat"),
    [
        ({"id": "ALE/Pong-v5"}, 4),
        ({"id": "ALE/Pong-v5", "repeat": 2}, 8),
        ({"id": "ALE/Pong-v5", "kwargs": {"frameskip": 1}}, 1),
        ({"id": "ALE/Pong-v5", "kwargs": {"frameskip": (2, 5)}}, 3),
        ({"id": "CartPole-v1", "repeat": 3}, 3),
        ({"id": "MinAtar/Breakout-v1"}, 1),
    ],
)
def test_steps_that_a_decision_costs(settings, repeat):
    env = make_env(EnvConfig(**settings))
    assert env.spec_dreamer.repeat == repeat
    env.close()


def test_names_of_actions():
    assert make_env(EnvConfig(id="MinAtar/Breakout-v1")).spec_dreamer.action[0].names == ("noop", "left", "right")


def test_cartpole_from_pixels():
    env = make_env(EnvConfig(id="CartPole-v1", pixels="only"))
    obs, _ = env.reset(seed=0)
    assert obs["image"].shape == (3, 64, 64)
    assert obs["image"].std() > 1
    env.close()


def test_minatar_is_light_and_depends_on_the_seed_alone():
    env = make_env(EnvConfig(id="MinAtar/Seaquest-v1"), "rgb_array")
    assert env.spec_dreamer.observation["image"].shape == (10, 10, 10)
    first, _ = env.reset(seed=1)
    assert set(first["image"].flat) <= {0, 255}
    assert env.frame().shape == (80, 80, 3)
    env.unwrapped.env.game.last_action = 5
    env.reset(seed=1)
    assert env.unwrapped.env.game.last_action == 0


def test_the_configuration_survives_json():
    cfg = EnvConfig(id="x", kwargs={"a": [1, {"b": None}]}, image_size=(32, 48), repeat=2)
    assert TypeAdapter(EnvConfig).validate_json(json.dumps(to_tree(cfg))) == cfg


@pytest.mark.parametrize(
    "bad", [{"repeat": 0}, {"image_size": [4, 64]}, {"max_episode_steps": 0}, {"timeout_s": -1.0}, {"pixel": "only"}]
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TypeAdapter(EnvConfig).validate_json(json.dumps(bad))
