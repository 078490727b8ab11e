"""A dream in the terminal: which pixel stands where, and that it fits."""

import numpy as np
import pytest
from rich.color import Color

from dreamer_cli.commands.watching import small
from dreamer_cli.live_dream import SmallDream, dream_lines, fitted, half_blocks
from dreamer_cli.live_view import Snapshot, frame
from dreamer_cli.spaces import ObsSpec
from tests.test_draw import make_dreams


def test_two_pixels_are_a_character():
    picture = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
    lines = half_blocks(picture)
    assert [line.plain for line in lines] == ["▀▀▀"] * 2
    style = lines[1].spans[2].style
    assert (style.color, style.bgcolor) == (Color.from_rgb(24, 25, 26), Color.from_rgb(33, 34, 35))


def test_truth_and_model_run_side_by_side_and_begin_again():
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    dream = SmallDream(pictures, pictures + 200, context=2)
    lines = dream_lines(dream, 0.3, rows=12, width=60)
    assert [line.cell_len for line in lines[:8]] == [35] * 8  # twice as large: there is room
    assert lines[8].plain.split() == ["truth", "model,", "seeing", "2"]
    assert dream_lines(dream, 0.8, 12, 60)[-1].plain.endswith("dreaming +2")
    assert dream_lines(dream, 1.3, 12, 60)[-1].plain.endswith("seeing 2")
    assert dream_lines(dream, 0.0, rows=3, width=60) == []


@pytest.mark.parametrize(
    ("rows", "columns", "wide", "tall", "shape"),
    [(8, 8, 20, 40, (16, 16)), (5, 8, 8, 9, (4, 8)), (64, 96, 48, 40, (32, 48)), (1, 200, 20, 10, (2, 20))],
)
def test_pictures_fit_and_stay_sharp(rows, columns, wide, tall, shape):
    picture = np.arange(rows * columns * 3, dtype=np.uint32).astype(np.uint8).reshape(rows, columns, 3)
    shown = fitted(picture, wide, tall)
    assert shown.shape == (*shape, 3)
    if shape[1] > columns:
        assert np.array_equal(shown[::2, ::2], picture)


@pytest.mark.parametrize(("rows", "width"), [(4, 20), (17, 70), (9, 200)])
def test_it_fits(rows, width):
    picture = np.zeros((2, 32, 20, 3), np.uint8)
    lines = dream_lines(SmallDream(picture, picture, 1), 0.0, rows, width)
    assert 0 < len(lines) <= rows
    assert max(line.cell_len for line in lines) <= width


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 40), (120, 30), (120, 60)])
def test_the_display_shows_it_where_there_is_room(width, height):
    picture = np.zeros((2, 32, 32, 3), np.uint8)
    now = Snapshot(env="Toy", dream=SmallDream(picture, picture, 1))
    lines = frame(now, width, height)
    assert len(lines) < height
    assert all(line.cell_len < width for line in lines)
    assert any("▀" in line.plain for line in lines)
    assert not any("▀" in line.plain for line in frame(now, width, height, color=False))


def test_the_longest_dream_is_shown_small():
    dreams, _ = make_dreams({"image": ObsSpec("image", (3, 64, 96))}, samples=3, moments=7, ends=4)
    shown = small(dreams)
    assert shown.truth.shape == shown.model.shape == (7, 21, 32, 3)
    assert small(make_dreams({"vector": ObsSpec("vector", (2,))})[0]) is None
