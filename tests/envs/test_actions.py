"""Flat vectors become native actions."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_cli.envs.actions import ActionCodec, action_names
from dreamer_cli.envs.make import EnvConfig, bare_env
from dreamer_cli.errors import EnvError
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from tests.toys import Continuous, Everything, MultiBinaryToy, MultiDiscreteToy, Unbounded

SPACES = {
    "discrete": spaces.Discrete(4, start=-2),
    "box": Continuous.action_space,
    "scalar": spaces.Box(0.0, 2.0, (), np.float32),
    "matrix": spaces.Box(-1, 3, (2, 2), np.float64),
    "integers": spaces.Box(0, 7, (3,), np.int64),
    "multi_discrete": MultiDiscreteToy.action_space,
    "multi_binary": MultiBinaryToy.action_space,
    "dict": Everything.action_space,
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Dict({"x": spaces.Box(-1, 1, (1,))}))),
    "in_a_dict": spaces.Dict({"action": spaces.Discrete(3)}),
}


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_flat_vector_decodes_into_the_space(name, seed):
    space = SPACES[name]
    codec = ActionCodec.from_space(space)
    flat = np.random.default_rng(seed).normal(0, 2, codec.width).astype(np.float32)
    native = codec.decode(flat)
    assert space.contains(native), native


def test_known_answers():
    codec = ActionCodec.from_space(spaces.Discrete(3, start=5))
    assert codec.decode(np.array([0.1, 0.7, 0.2], np.float32)) == 6

    codec = ActionCodec.from_space(Continuous.action_space)  # [-3, 1] and [0.5, 0.7]
    np.testing.assert_allclose(codec.decode(np.array([0.0, 0.5], np.float32)), [-1.0, 0.65], rtol=1e-6)
    # Beyond [-1, 1] is clipped, and the bounds are met exactly.
    assert codec.decode(np.array([-7.0, 9.0], np.float32)).tolist() == [-3.0, np.float32(0.7)]

    codec = ActionCodec.from_space(MultiDiscreteToy.action_space)  # 3 from 1, 2 from 0
    assert codec.decode(np.array([0, 0, 1, 0, 1], np.float32)).tolist() == [3, 1]


def test_dict_parts_are_sorted_by_key_and_nested_again():
    codec = ActionCodec.from_space(Everything.action_space)
    assert [part.key for part in codec.parts] == ["arm/grip", "arm/keys", "dial", "walk"]
    assert [part.width for part in codec.parts] == [2, 4, 7, 2]
    native = codec.decode(np.zeros(codec.width, np.float32))
    assert set(native) == {"arm", "dial", "walk"}
    assert set(native["arm"]) == {"grip", "keys"}
    assert native["walk"].tolist() == [0.0, 5.0]


def test_the_tables_alone_are_enough_to_decode():
    codec = ActionCodec.from_space(Everything.action_space)
    spec = EnvSpec({"vector": ObsSpec("vector", (2,))}, codec.parts)
    again = EnvSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    flat = np.random.default_rng(0).normal(size=codec.width).astype(np.float32)
    np.testing.assert_equal(ActionCodec(again.action).decode(flat), codec.decode(flat))
    # The docstring of ActionPart, followed by hand for the continuous part.
    walk = ActionPart(**{key: tuple(v) if isinstance(v, list) else v for key, v in asdict(codec.parts[3]).items()})
    x, low, high = flat[-2:], np.array(walk.low), np.array(walk.high)
    by_hand = low + (np.clip(x, -1, 1) + 1) / 2 * (high - low)
    np.testing.assert_allclose(codec.decode(flat)["walk"], by_hand, rtol=1e-6)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (Unbounded.action_space, "no finite bounds"),
        (spaces.Dict({"go": spaces.Box(0, np.inf, (1,))}), "'go' has no finite bounds"),
        (spaces.Text(5), "Text"),
        (spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), "'a' is a Sequence"),
        (spaces.Dict({}), "takes no action"),
    ],
)
def test_unsupported_spaces_are_named(space, says):
    with pytest.raises(EnvError, match=says) as caught:
        ActionCodec.from_space(space, "my-env")
    assert "my-env" in caught.value.what
    assert caught.value.exit_code == 3


def test_names():
    pong = bare_env(EnvConfig(id="ALE/Pong-v5"))
    assert action_names(pong)[:3] == ("noop", "fire", "right")
    pong.close()
    assert action_names(bare_env(EnvConfig(id="CartPole-v1"))) == ()
    assert ActionCodec.from_space(spaces.Discrete(2), names=("a", "b")).parts[0].names == ("a", "b")
    assert ActionCodec.from_space(spaces.Discrete(3), names=("a", "b")).parts[0].names == ()
