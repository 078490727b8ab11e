"""What stands where in a dream's picture: pixels, colours, borders, ends."""

import numpy as np
import pytest

from dreamer_cli import draw
from dreamer_cli.charts import Curves
from dreamer_cli.draw import HEAD, choose_dims, choose_moments, frames, strip
from dreamer_cli.dream import Dreams
from dreamer_cli.panels import CONTEXT, DREAM, GAP, LABEL, LINE, Columns, as_picture, font, shorten
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec

DISCRETE = (ActionPart("action", "discrete", (3,), names=("left", "stay", "right")),)
CONTINUOUS = (ActionPart("action", "continuous", size=2),)


def make_dreams(
    specs: dict[str, ObsSpec],
    mode: str = "openloop",
    samples: int = 2,
    moments: int = 7,
    context: int = 3,
    action: tuple[ActionPart, ...] = DISCRETE,
    ends: int | None = None,
) -> tuple[Dreams, EnvSpec]:
    """Random dreams; the last sample ends after `ends` moments."""
    rng = np.random.default_rng(0)
    lead, truth, model = (samples, moments), {}, {}
    for key, spec in specs.items():
        if spec.kind == "image":
            truth[key] = rng.integers(0, 256, (*lead, *spec.shape), dtype=np.uint8)
            model[key] = rng.random((*lead, *spec.shape), np.float32)
        elif spec.kind == "vector":
            truth[key] = rng.normal(size=(*lead, *spec.shape)).astype(np.float32)
            model[key] = truth[key] + 0.1
        else:
            truth[key] = np.zeros((*lead, *spec.shape), np.int32)
            model[key] = rng.random((*lead, sum(spec.classes)), np.float32)
    spec = EnvSpec(specs, action)
    width = spec.action_width
    actions = np.eye(width, dtype=np.float32)[rng.integers(0, width, lead)]
    length = np.array([moments] * (samples - 1) + [ends or moments])
    known = length if mode == "openloop" else np.full(samples, context)
    ones = np.ones(lead, np.float32)
    return Dreams(mode, context, truth, model, actions, ones, ones, ones, ones, ones, ones, ones, known, length), spec  # type: ignore[arg-type]


IMAGE = {"image": ObsSpec("image", (3, 8, 10))}
VECTOR = {"vector": ObsSpec("vector", (2,))}


def test_images_are_enlarged_without_blur_and_stand_in_their_rows():
    dreams, spec = make_dreams(IMAGE)
    shown = list(frames(dreams, spec, "title", scale=5))
    assert len(shown) == 7
    assert {frame.shape for frame in shown} == {shown[0].shape}
    assert all(side % 2 == 0 for side in shown[0].shape[:2])
    left = LABEL + 50 + GAP  # the second column
    for t in (0, 4):
        truth = shown[t][HEAD : HEAD + 40, left : left + 50]
        expected = dreams.truth["image"][1, t].transpose(1, 2, 0).repeat(5, 0).repeat(5, 1)
        np.testing.assert_array_equal(truth, expected)
        model = shown[t][HEAD + 40 + GAP : HEAD + 80 + GAP, left : left + 50]
        np.testing.assert_array_equal(model[::5, ::5], as_picture(dreams.model["image"][1, t]))
        error = shown[t][HEAD + 2 * (40 + GAP) :][:40:5, left : left + 50 : 5].astype(int)
        np.testing.assert_allclose(error, 128 + (model[::5, ::5].astype(int) - truth[::5, ::5]) / 2, atol=1)


def test_the_model_s_frame_changes_colour_at_the_border():
    dreams, spec = make_dreams(IMAGE)
    shown = list(frames(dreams, spec, "title", scale=5))
    edge = (HEAD + 40 + GAP + 20, LABEL - 2)
    assert [tuple(frame[edge]) for frame in shown] == [CONTEXT] * 3 + [DREAM] * 4
    assert {tuple(frame[HEAD + 20, LABEL - 2]) for frame in shown} == {LINE}


def test_after_the_end_nothing_moves():
    dreams, spec = make_dreams(IMAGE, ends=5)
    shown = list(frames(dreams, spec, "title", scale=5))
    second = [frame[HEAD : HEAD + 3 * (40 + GAP), LABEL + 50 + GAP :] for frame in shown]
    assert np.array_equal(second[5], second[6])
    assert not np.array_equal(second[4], second[5]), "the end has to be seen"
    first = [frame[HEAD : HEAD + 40, LABEL : LABEL + 50] for frame in shown]
    assert not np.array_equal(first[5], first[6])


def test_policy_shows_the_truth_only_as_far_as_it_is_known():
    dreams, spec = make_dreams(IMAGE, mode="policy")
    shown = list(frames(dreams, spec, "title", scale=5))
    truth = [frame[HEAD : HEAD + 40, LABEL : LABEL + 50] for frame in shown]
    assert not np.array_equal(truth[1], truth[2])
    assert not np.array_equal(truth[2], truth[3])
    assert np.array_equal(truth[3], truth[6])
    assert shown[0].shape[0] < next(frames(*make_dreams(IMAGE), "title", scale=5)).shape[0], "there is no error to show"


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(-1).any())


def test_curves_are_uncovered_moment_by_moment():
    dreams, spec = make_dreams(VECTOR, samples=1, moments=20, context=5)
    shown = list(frames(dreams, spec, "title"))
    chart = [frame[HEAD : HEAD + 110, LABEL:-GAP] for frame in shown]
    assert has(chart[3], CONTEXT)
    assert not has(chart[3], DREAM)
    assert has(chart[10], DREAM)
    ahead = [c[:, int(c.shape[1] * (t + 0.6) / 19) :] for t, c in enumerate(chart[:19])]
    assert not any(has(part, DREAM) or has(part, CONTEXT) for part in ahead), "the future is not told"


def test_a_curve_runs_through_its_values():
    """A straight line: in the middle of the chart at the middle of the time."""
    dreams, _ = make_dreams(VECTOR, samples=1, moments=21, context=2)
    ramp = np.linspace(-1, 1, 21, dtype=np.float32)[None, :, None].repeat(2, -1)
    dreams = dreams._replace(truth={"vector": ramp}, model={"vector": np.full_like(ramp, 0.0)})
    curves = Curves("vector", [0], dreams, Columns(1, 200), 100)
    picture = np.asarray(curves.done[0, 0]).astype(int)
    dark = np.argwhere(picture.sum(-1) < 250)  # ink, not vermilion
    low, high = curves.bounds[0]
    assert low < -1
    assert high > 1
    for column in (20, 60, 180):
        row = dark[dark[:, 1] == column][:, 0].mean()
        value = -1 + 2 * column / 199
        assert row == pytest.approx((1 - (value - low) / (high - low)) * 99, abs=1.5)


def test_a_model_gone_wild_does_not_flatten_the_truth():
    dreams, _ = make_dreams(VECTOR, samples=1)
    wild = dreams.model["vector"].copy()
    wild[0, 5], wild[0, 6] = 1e12, np.nan
    curves = Curves("vector", [0], dreams._replace(model={"vector": wild}), Columns(1, 200), 100)
    low, high = curves.bounds[0]
    span = np.ptp(dreams.truth["vector"][..., 0])
    assert high - low < 4 * span
    assert low < dreams.truth["vector"][..., 0].min()


@pytest.mark.parametrize("mode", ["openloop", "policy"])
@pytest.mark.parametrize(
    "specs",
    [
        {"grid": ObsSpec("image", (6, 10, 10))},
        {"grey": ObsSpec("image", (1, 64, 64)), "vector": ObsSpec("vector", (3,))},
        {"vector": ObsSpec("vector", (400,)), "more": ObsSpec("vector", (1,))},
        {"cards": ObsSpec("discrete", (6,), (2, 11, 300, 2, 2, 2))},
        {"position/with a very long name": ObsSpec("vector", (1,)), "n": ObsSpec("discrete", (1,), (500,))},
    ],
    ids=["channels", "grey-and-vector", "wide", "entries", "names"],
)
def test_every_kind_fits_the_width(specs, mode):
    for samples, action in ((1, DISCRETE), (5, (*DISCRETE, *CONTINUOUS))):
        dreams, spec = make_dreams(specs, mode, samples, 3, 1, action, ends=2)
        *_, last = frames(dreams, spec, "a title that is far too long for a narrow picture " * 4)
        assert 560 <= last.shape[1] <= draw.WIDEST
        assert last.shape[0] <= 1200
        assert last.dtype == np.uint8


def test_what_is_not_finite_is_drawn_too():
    dreams, spec = make_dreams({**IMAGE, **VECTOR, "cards": ObsSpec("discrete", (1,), (3,))}, action=CONTINUOUS)
    nan = {key: np.full_like(value, np.nan) for key, value in dreams.model.items()}
    assert len(list(frames(dreams._replace(model=nan), spec, "title"))) == 7


def test_the_same_dream_gives_the_same_pixels():
    dreams, spec = make_dreams({**IMAGE, **VECTOR})
    for one, other in zip(frames(dreams, spec, "title"), frames(dreams, spec, "title"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_strip_puts_time_to_the_right():
    dreams, spec = make_dreams(IMAGE, moments=30, ends=10)
    picture = strip(dreams, spec, "title", scale=2)
    moments = choose_moments(3, 30)
    assert moments[:3] == [0, 2, 3]
    assert moments[-1] == 29
    assert len(moments) == 10
    top = HEAD + 8
    for k, t in enumerate(moments):
        left = LABEL + k * (20 + GAP)
        np.testing.assert_array_equal(
            picture[top : top + 16 : 2, left : left + 20 : 2], as_picture(dreams.truth["image"][0, t])
        )
    vectors, spec = make_dreams(VECTOR)
    *_, last = frames(vectors, spec, "title")
    np.testing.assert_array_equal(strip(vectors, spec, "title"), last)


@pytest.mark.parametrize(("context", "moments"), [(1, 2), (2, 3), (1, 50), (30, 33)])
def test_moments_of_a_strip_are_in_order(context, moments):
    chosen = choose_moments(context, moments)
    assert chosen == sorted(set(chosen))
    assert chosen[-1] == moments - 1
    assert context in chosen


def test_dimensions_that_move_are_drawn_first():
    still = np.zeros((1, 5, 6), np.float32)
    still[..., 3] = np.arange(5)
    moving = np.random.default_rng(0).normal(size=(1, 5, 9)).astype(np.float32)
    assert choose_dims({"a": still}, 8) == {"a": [0, 1, 2, 3, 4, 5]}
    assert choose_dims({"a": still, "b": moving}, 4) == {"a": [3], "b": [0, 1, 2]}


def test_shorten():
    assert shorten("short", 200, 13) == "short"
    assert shorten("a rather long sentence", 60, 13).endswith("…")
    assert font(13).getlength(shorten("a rather long sentence", 60, 13)) <= 60
