"""The environment contract: what is wrapped, what is checked."""

from dataclasses import replace

import numpy as np
import pytest

from dreamer_cli.envs.make import make_env
from dreamer_cli.envs.wrappers import Repeat, as_frame
from dreamer_cli.errors import EnvError
from tests.toys import Timeline, toy, toy_config

NOOP = np.array([1, 0, 0], np.float32)


def play(env, steps):
    env.reset(seed=0)
    return [env.step(NOOP) for _ in range(steps)]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("nan", "'vector' is not finite: [0, nan, 1]"),
        ("inf", "'vector' is not finite: [0, inf, 1]"),
        ("shape", "'vector' has shape (4,), but (3,) was declared"),
        ("object", "'thing' has dtype object"),
        ("nan_reward", "the reward is nan"),
        ("no_reward", "the reward is None"),
        ("raises", "step() raised ZeroDivisionError: the engine fell off"),
        ("exits", "step() raised SystemExit: 3"),
        ("old_api", "step() did not return five values"),
    ],
)
def test_a_broken_value_is_named_with_its_step(fault, says):
    env = make_env(toy_config("Faulty", fault=fault))
    with pytest.raises(EnvError) as caught:
        play(env, 3)
    assert says in caught.value.what
    assert toy("Faulty") in caught.value.what
    assert "step 2 of episode 1" in caught.value.what
    assert caught.value.exit_code == 3


def test_a_missing_key_is_named():
    env = make_env(toy_config("Everything"))
    env.unwrapped.show = lambda: {"gear": 0}
    with pytest.raises(EnvError, match="no key 'camera'"):
        env.reset()


def test_a_huge_reward_fits_float32():
    env = make_env(toy_config("Faulty", fault="huge_reward"))
    reward = play(env, 2)[1][1]
    assert np.isfinite(np.float32(reward))
    assert reward > 1e38


def test_a_wrong_image_dtype_is_no_silent_black_picture():
    env = make_env(toy_config("Channels", shape=[9, 9, 3]))
    env.unwrapped.show = lambda: np.full((9, 9, 3), 0.5)
    with pytest.raises(EnvError, match="'image' has dtype float64, but uint8 was declared"):
        env.reset()


def test_what_an_environment_prints_is_no_result(capsys):
    play(make_env(toy_config("Chatty")), 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "step!\nstep!\n"


def test_repeat_sums_rewards_and_stops_at_the_end():
    env = Repeat(Timeline(length=5), 2)
    env.reset(seed=0)
    rewards = [env.step(5)[1:4] for _ in range(3)]
    # 10 t + action: steps 1 and 2, 3 and 4, then 5 alone.
    assert rewards == [(40.0, False, False), (80.0, False, False), (55.0, True, False)]
    env = make_env(replace(toy_config("Timeline"), repeat=4))
    assert env.spec_dreamer.repeat == 4


def test_a_time_limit_truncates():
    env = make_env(replace(toy_config("Timeline", length=9), max_episode_steps=2))
    assert [step[2:4] for step in play(env, 2)] == [(False, False), (False, True)]


def test_pixels_only():
    env = make_env(replace(toy_config("Drawn"), pixels="only"))
    assert {key: spec.shape for key, spec in env.spec_dreamer.observation.items()} == {"image": (3, 64, 64)}
    env.reset()
    obs = env.step(NOOP)[0]["image"]
    assert (obs[0] == 255).all()
    assert (obs[1] == 10).all()
    assert env.frame().shape == (30, 200, 3)  # films show what is rendered, not what the agent sees


def test_pixels_beside_the_vector():
    env = make_env(replace(toy_config("Drawn"), pixels="both", image_size=(16, 24)))
    shapes = {key: (spec.kind, spec.shape) for key, spec in env.spec_dreamer.observation.items()}
    assert shapes == {"image": ("image", (3, 16, 24)), "vector": ("vector", (3,))}
    assert env.observation_space.contains(env.reset()[0])


def test_pixels_beside_a_picture_of_its_own():
    env = make_env(replace(toy_config("Channels", shape=[9, 9, 3]), pixels="both"))
    env.unwrapped.render = lambda: np.zeros((20, 20, 3), np.uint8)
    obs, _ = env.reset()
    assert {key: value.shape for key, value in obs.items()} == {"image": (3, 64, 64), "own_image": (3, 9, 9)}


@pytest.mark.parametrize("name", ["Toy", "Timeline"])
def test_pixels_of_what_cannot_be_drawn(name):
    env = make_env(replace(toy_config(name), pixels="only"))
    with pytest.raises(EnvError, match="renders no picture") as caught:
        env.reset()
    assert "--pixels" in caught.value.hint


def test_frames():
    env = make_env(toy_config("Channels", shape=[9, 9, 2]), "rgb_array")
    assert env.frame() is None  # nothing was seen yet
    env.reset()
    assert env.frame().shape == (9, 9, 3)  # not rendered, but observed
    assert make_env(toy_config("Toy"), "rgb_array").frame() is None


@pytest.mark.parametrize(
    ("rendered", "shape"),
    [
        (np.zeros((4, 5, 3), np.uint8), (4, 5, 3)),
        ([np.zeros((4, 5, 3), np.uint8)], (4, 5, 3)),
        (np.zeros((4, 5, 4), np.uint8), (4, 5, 3)),
        (np.zeros((4, 5, 1), np.uint8), (4, 5, 3)),
        (np.zeros((4, 5)), (4, 5, 3)),
        (None, None),
        ("ansi text", None),
        (np.zeros((4, 5, 7)), None),
    ],
)
def test_what_counts_as_a_frame(rendered, shape):
    frame = as_frame(rendered)
    assert (frame.shape if frame is not None else None) == shape
    assert frame is None or frame.dtype == np.uint8
    assert (as_frame(np.full((2, 2, 3), 1.0)) == 255).all()
