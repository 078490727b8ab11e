"""Suites that need a package of their own: what they show and take, and that an episode is its seed's."""

import io
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest

from dreamer_cli.commands.envs import list_envs
from dreamer_cli.envs import catalog
from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.errors import ConfigError, EnvError
from dreamer_cli.presets import find, names, resolve_tree, suite_for
from dreamer_cli.report import Reporter


def played(env, seed, steps=20):
    """Everything that an episode brings."""
    rng = np.random.default_rng(1)
    seen = [env.reset(seed=seed)[0]]
    numbers = []
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.actions.width).astype(np.float32))
        seen.append(obs)
        numbers.append((reward, terminated, truncated))
        if terminated or truncated:
            break
    return [value.tobytes() for obs in seen for value in obs.values()], numbers


@pytest.mark.parametrize(
    ("module", "env_id", "kwargs"),
    [
        ("dm_control", "dmc/walker-walk", {}),
        ("dm_control", "dmc/cartpole-balance", {"camera": 1}),
        ("minigrid", "MiniGrid-DoorKey-5x5-v0", {}),
        ("minigrid", "MiniGrid-FourRooms-v0", {"view": "rgb"}),
        ("minigrid", "BabyAI-GoToLocal-v0", {"view": "full"}),
        ("crafter", "crafter/reward", {}),
        ("minatar", "MinAtar/Breakout-v1", {}),
        ("procgen", "procgen/coinrun", {"num_levels": 3}),
    ],
)
def test_an_episode_depends_on_its_seed_alone(module, env_id, kwargs):
    pytest.importorskip(module)
    env = make_env(EnvConfig(id=env_id, kwargs=kwargs))
    steps = 300 if module == "crafter" else 20  # what lives there changes after a while
    first, other, again = (played(env, seed, steps) for seed in (3, 4, 3))
    env.close()
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("typed", "env_id"),
    [
        ("dmc:walker-walk", "dmc/walker-walk"),
        ("dmc:walker_walk", "dmc/walker-walk"),
        ("dmc:ball-in-cup-catch", "dmc/ball_in_cup-catch"),
        ("dmc:cup-catch", "dmc/ball_in_cup-catch"),
        ("minigrid:empty-5x5", "MiniGrid-Empty-5x5-v0"),
        ("minigrid:MiniGrid-DoorKey-8x8-v0", "MiniGrid-DoorKey-8x8-v0"),
        ("minigrid:GoToLocal", "BabyAI-GoToLocal-v0"),
        ("crafter", "crafter/reward"),
        ("crafter:noreward", "crafter/noreward"),
        ("procgen:coinrun", "procgen/coinrun"),
    ],
)
def test_what_is_typed_is_an_id(typed, env_id):
    suite = next(suite for suite in catalog.SUITES if typed.startswith(suite.name))
    if suite.name == "minigrid" and not suite.installed:
        pytest.skip("minigrid is not installed")
    if suite.name == "dmc" and not suite.installed and "cup" in env_id:
        pytest.skip("which underscores are the task's own is known to dm_control")
    assert EnvConfig(id=typed).id == env_id


def test_a_suite_whose_package_is_broken_is_named_and_harms_no_other(monkeypatch):
    def fail():
        raise ImportError("no such symbol")

    broken = [replace(suite, register=fail) if suite.name == "minatar" else suite for suite in catalog.SUITES]
    monkeypatch.setattr(catalog, "SUITES", broken)
    make_env(EnvConfig(id="CartPole-v1")).close()
    with pytest.raises(EnvError, match="minatar, which cannot be imported: ImportError: no such symbol"):
        make_env(EnvConfig(id="MinAtar/Breakout-v1"))
    said = io.StringIO()
    list_envs(Reporter(stream=said))
    assert "minatar is installed, but cannot be imported" in said.getvalue()


# ── DeepMind Control ────────────────────────────────────────────────────────────────────────────────────────


def test_the_tasks_are_those_of_the_suite():
    suite = pytest.importorskip("dm_control.suite")
    from dreamer_cli.envs.suites.dmc import TASKS

    assert {(domain, task) for domain, tasks in TASKS.items() for task in tasks} == set(suite.ALL_TASKS)


def test_a_task_by_hand():
    """What dm_control itself gives, from the same seed and actions."""
    suite = pytest.importorskip("dm_control.suite")
    env = make_env(EnvConfig(id="dmc:reacher-easy"))
    own = suite.load("reacher", "easy", task_kwargs={"random": 7})
    obs, now = env.reset(seed=7)[0], own.reset()
    rng = np.random.default_rng(0)
    for _ in range(999):
        assert all(np.array_equal(obs[key], np.float32(value).reshape(-1)) for key, value in now.observation.items())
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        now = own.step(action)
        assert reward == now.reward
        assert (terminated, truncated, now.last()) == (False, False, False)
    _, _, terminated, truncated, _ = env.step(action)
    assert (terminated, truncated) == (False, True), "time was up, and rewards would go on"
    assert own.step(action).last()


def test_pictures_are_drawn_at_their_size_and_quick_ones_are_others():
    pytest.importorskip("dm_control.suite")
    shown = {}
    for quick in (False, True):
        cfg = EnvConfig(id="dmc:cartpole-balance", kwargs={"fast_render": quick}, pixels="only", image_size=(48, 64))
        env = make_env(cfg, "rgb_array")
        shown[quick] = env.reset(seed=0)[0]["image"]
        assert env.frame().shape == (240, 320, 3), "films have their own size"
        env.close()
    assert shown[True].shape == shown[False].shape == (3, 48, 64)
    assert shown[False].std() > 10
    assert not np.array_equal(shown[True], shown[False])


def test_bodies_that_are_drawn_at_random_are_the_same_everywhere():
    pytest.importorskip("dm_control.suite")
    envs = [make_env(EnvConfig(id="dmc:lqr-lqr_2_1")) for _ in range(2)]
    assert played(envs[0], 1) == played(envs[1], 1)


def test_a_camera_that_is_not_there():
    pytest.importorskip("dm_control.suite")
    with pytest.raises(ConfigError, match="camera=9"):
        make_env(EnvConfig(id="dmc:cartpole-balance", kwargs={"camera": 9}))


# ── MiniGrid ────────────────────────────────────────────────────────────────────────────────────────────────


def test_cells_are_classes_and_the_mission_is_left_out():
    pytest.importorskip("minigrid")
    env = make_env(EnvConfig(id="MiniGrid-DoorKey-8x8-v0"))
    spec = env.spec_dreamer.observation
    assert set(spec) == {"cells", "direction"}
    assert len(spec["cells"].classes) == 7 * 7 * 3
    for seed in range(20):  # doors, keys, walls, goals and what was never seen
        played(env, seed, steps=60)
    env.close()


@pytest.mark.parametrize(("view", "shape"), [("rgb", (3, 56, 56)), ("full", (3, 64, 64))])
def test_pictures_of_a_grid(view, shape):
    pytest.importorskip("minigrid")
    env = make_env(EnvConfig(id="MiniGrid-Empty-8x8-v0", kwargs={"view": view}))
    assert env.reset(seed=0)[0]["image"].shape == shape
    env.close()
    with pytest.raises(ConfigError, match="view is 'round'"):
        make_env(EnvConfig(id="MiniGrid-Empty-8x8-v0", kwargs={"view": "round"}))


# ── presets ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_suite_has_a_preset_and_every_id_at_most_one():
    for env_id, pixels, expected in [
        ("ALE/Pong-v5", False, "atari"),
        ("dmc/walker-walk", False, "dmc-proprio"),
        ("dmc/walker-walk", True, "dmc-vision"),
        ("crafter/reward", False, "crafter"),
        ("MiniGrid-Empty-5x5-v0", False, "minigrid"),
        ("MinAtar/Breakout-v1", False, "minatar"),
        ("CartPole-v1", True, "classic"),
    ]:
        assert suite_for(env_id, pixels).name == expected
        abouts = {name: find(name).about for name in names("suite")}
        choosing = [
            name
            for name, about in abouts.items()
            if any(fnmatchcase(env_id, pattern) for pattern in about.get("envs", []))
            and about.get("pixels", pixels) == pixels
        ]
        assert choosing == [expected]


def test_a_preset_that_extends_a_suites_needs_no_other():
    merged = resolve_tree(env="dmc/walker-walk", presets=["dmc-vision-2026"])
    assert (merged.notes, merged.tree["env"]["pixels"]) == ([], "only")
