"""The plot of a dream's errors: which curves are drawn, and that nothing to draw is no crash."""

import numpy as np

from dreamer_cli.draw_errors import plot
from dreamer_cli.panels import CONTEXT, DREAM


def count(picture, color):
    return int((picture == color).all(-1).sum())


def test_a_guess_without_a_number_is_left_out():
    """A picture that does not change has an endless signal-to-noise ratio for the guess that repeats it: None."""
    rows = [{"step": t, "samples": 2, "image/psnr": 20.0 - t, "image/psnr/repeat": None} for t in (1, 2, 3)]
    without = plot(rows, "a title")
    with_it = plot([{**row, "image/psnr/repeat": 15.0} for row in rows], "a title")
    assert count(without, DREAM) > 50
    assert count(with_it, CONTEXT) > 2 * count(without, CONTEXT) > 0  # what is left is the legend's
    assert plot([{**row, "image/psnr": None} for row in rows], "a title").shape == without.shape


def test_one_step_is_a_short_line():
    assert count(plot([{"step": 1, "samples": 1, "vector/mse": 0.5}], "a title"), DREAM) > 3


def test_of_nothing_there_is_a_title():
    assert np.asarray(plot([], "a title")).std() > 0
