"""From any Gymnasium space to settled arrays."""

import numpy as np
import pytest
from gymnasium import spaces

from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.observations import ObservationCodec, resize
from dreamer_cli.errors import EnvError
from dreamer_cli.spaces import ObsSpec, as_rgb
from tests.toys import Everything, Wordless, toy_config


def settle(space, value, size=None):
    """The only key of a plain space: its name, spec and the settled value."""
    codec = ObservationCodec(space, size)
    ((name, spec),) = codec.specs.items()
    array = codec.read(value)[name]
    assert array.dtype == spec.dtype
    assert array.shape == spec.shape
    assert array.flags["C_CONTIGUOUS"]
    return name, spec, array


def picture(*shape, dtype=np.uint8, high=255):
    return spaces.Box(0, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (picture(20, 30, 3), (3, 20, 30)),  # rows, columns, channels
        (picture(3, 20, 30), (3, 20, 30)),  # channels first
        (picture(20, 30), (1, 20, 30)),  # grey
        (picture(10, 10, 7), (7, 10, 10)),  # MinAtar: any number of channels
        (picture(10, 10, 10), (10, 10, 10)),  # a tie: the last axis is channels
        (picture(96, 96, 3), (3, 96, 96)),  # the largest that stays
        (picture(97, 40, 3), (3, 64, 64)),
        (picture(210, 160, 3), (3, 64, 64)),
        (picture(10, 12, 4, dtype=bool, high=1), (4, 10, 12)),
        (picture(10, 12, 4, dtype=np.float32, high=1.0), (4, 10, 12)),
        (picture(10, 12, 4, dtype=np.float64, high=255.0), (4, 10, 12)),
    ],
)
def test_images(space, shape):
    space.seed(0)
    name, spec, array = settle(space, space.sample())
    assert (name, spec) == ("image", ObsSpec("image", shape))
    assert array.max() > 100  # whatever the range was, it is 0..255 now


def test_image_values_and_layout():
    chw = np.random.default_rng(0).integers(0, 256, (3, 9, 11)).astype(np.uint8)
    np.testing.assert_array_equal(settle(picture(9, 11, 3), np.moveaxis(chw, 0, -1))[2], chw)
    np.testing.assert_array_equal(settle(picture(3, 9, 11), chw)[2], chw)
    np.testing.assert_array_equal(settle(picture(9, 11), chw[0])[2], chw[:1])
    lit = chw[0] > 128
    np.testing.assert_array_equal(
        settle(picture(9, 11, 2, dtype=bool, high=1), np.stack([lit, ~lit], -1))[2][0], lit * 255
    )
    half = np.full((9, 11, 3), 0.5, np.float32)
    assert (settle(picture(9, 11, 3, dtype=np.float32, high=1.0), half)[2] == 128).all()


@pytest.mark.parametrize("size", [(8, 16), (64, 64), (10, 20)])
def test_image_size_overrides(size):
    assert settle(picture(20, 40, 3), np.zeros((20, 40, 3), np.uint8), size)[1].shape == (3, *size)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_resizing_averages_areas(channels):
    image = np.random.default_rng(0).integers(0, 256, (channels, 16, 24)).astype(np.uint8)
    means = image.reshape(channels, 8, 2, 8, 3).mean((2, 4))
    assert np.abs(resize(image, (8, 8)) - means).max() <= 1


@pytest.mark.parametrize(
    ("space", "width"),
    [
        (spaces.Box(-1, 1, (4,)), 4),
        (spaces.Box(-1, 1, ()), 1),
        (spaces.Box(-1, 1, (2, 3)), 6),
        (picture(7, 7, 3), 147),  # MiniGrid: too small for the image encoder
        (spaces.Box(0, 5, (10, 10, 3), np.float32), 300),  # no picture by its bounds
        (spaces.Box(-5, 5, (3,), np.int64), 3),
        (picture(4, dtype=bool, high=1), 4),
    ],
)
def test_vectors(space, width):
    space.seed(0)
    value = space.sample()
    name, spec, array = settle(space, value)
    assert (name, spec) == ("vector", ObsSpec("vector", (width,)))
    np.testing.assert_allclose(array, np.asarray(value, np.float32).reshape(-1))


def test_doubles_are_clipped_to_what_float32_holds():
    array = settle(spaces.Box(-np.inf, np.inf, (3,), np.float64), np.array([1e300, -1e300, 0.1]))[2]
    assert np.isfinite(array).all()
    assert array[2] == np.float32(0.1)


@pytest.mark.parametrize(
    ("space", "value", "classes", "settled"),
    [
        (spaces.Discrete(4, start=-1), 2, (4,), [3]),
        (spaces.Discrete(4), np.int64(0), (4,), [0]),
        (spaces.MultiDiscrete([2, 5]), np.array([1, 4]), (2, 5), [1, 4]),
        (spaces.MultiDiscrete([[2], [5]], start=[[3], [0]]), np.array([[4], [2]]), (2, 5), [1, 2]),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), (2, 2, 2), [1, 0, 1]),
    ],
)
def test_discrete(space, value, classes, settled):
    name, spec, array = settle(space, value)
    assert (name, spec) == ("discrete", ObsSpec("discrete", (len(classes),), classes))
    assert array.tolist() == settled


def test_a_dict_is_flattened_named_and_thinned():
    codec = ObservationCodec(Everything.observation_space)
    assert {key: spec.kind for key, spec in codec.specs.items()} == {
        "camera": "image",
        "gear": "discrete",
        "hand/fingers": "discrete",
        "hand/open": "discrete",
        "height": "vector",
        "joints": "vector",
        "obs_reward": "vector",  # `reward` is a column of every record
        "pair/0": "discrete",
        "pair/1": "vector",
    }
    assert set(codec.left_out) == {"mission", "path"}
    assert "Text" in codec.left_out["mission"]


def test_names_never_collide_and_carry_no_dots():
    inner = spaces.Box(-1, 1, (1,))
    space = spaces.Dict([("a", spaces.Dict({"b": inner})), ("a/b", inner), ("x.y", inner), ("x_y", inner)])
    names = list(ObservationCodec(space).specs)
    assert len(set(names)) == 4
    assert not any("." in name for name in names)


def test_nothing_left_is_an_error():
    with pytest.raises(EnvError, match="nothing that can be learnt from") as caught:
        ObservationCodec(Wordless.observation_space, env_id="wordless")
    assert "Text" in caught.value.what
    assert "--pixels" in caught.value.hint


@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 6, 5), (4, 6, 5), (2, 9, 10, 6, 5)])
def test_any_image_can_be_looked_at(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    picture = as_rgb(image)
    assert picture.dtype == np.uint8
    assert picture.shape == (*shape[:-3], *shape[-2:], 3)
    assert not as_rgb(np.zeros(shape, np.uint8)).any()


def test_each_kind_of_object_has_its_colour():
    grids = np.eye(10, dtype=np.uint8)[:, :, None, None] * 255  # one channel lit at a time
    assert len({tuple(as_rgb(grid)[0, 0]) for grid in grids}) == 10


def test_a_wrapped_environment_shows_what_its_spec_says():
    env = make_env(EnvConfig(**vars(toy_config("Everything")) | {"image_size": (8, 8)}))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert env.spec_dreamer.observation["camera"].shape == (3, 8, 8)
    assert set(env.spec_dreamer.left_out) == {"mission", "path"}
