"""Errors of a dream, worked out by hand."""

import numpy as np
import pytest

from dreamer_cli.dream import Dreams
from dreamer_cli.dream_error import measure, ssim, summarize
from dreamer_cli.spaces import ObsSpec


def test_metrics_by_hand():
    """Two samples, context 1, horizon 2; the second sample's episode ends after one dreamed record."""
    zeros = np.zeros((2, 3), np.float32)
    image, vector = np.full((2, 3, 1, 2, 2), 51, np.uint8), np.zeros((2, 3, 2), np.float32)
    model = {
        "image": image.astype(np.float32) / 255,
        "vector": vector.copy(),
        "cards": np.tile(np.array([0.1, 0.9, 0.7, 0.2, 0.1], np.float32), (2, 3, 1)),
    }
    model["image"][:, 1] += 0.1
    model["vector"][0, 1], model["vector"][1, 1], model["vector"][0, 2] = [1, 3], [0, 0], [2, 0]
    model["vector"][1, 2] = 1e9  # after the end: counts nowhere
    cards = np.tile(np.array([1, 2], np.int32), (2, 3, 1))
    reward, cont, true_cont = zeros.copy(), np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    reward[0, 1], reward[1, 1], true_cont[1, 1] = 3, -1, 0
    specs = {
        "image": ObsSpec("image", (1, 2, 2)),
        "vector": ObsSpec("vector", (2,)),
        "cards": ObsSpec("discrete", (2,), (2, 3)),
    }
    length = np.array([3, 2])
    dreams = Dreams(
        "openloop", 1, {"image": image, "vector": vector, "cards": cards}, model, np.zeros((2, 3, 2), np.float32),
        reward, cont, zeros, true_cont, zeros, zeros, zeros, length, length,
    )  # fmt: skip
    rows = measure(dreams, specs)
    assert [(row["step"], row["samples"]) for row in rows] == [(1, 2), (2, 1)]
    assert rows[0]["image/mse"] == pytest.approx(0.01, rel=1e-5)
    assert rows[0]["image/psnr"] == pytest.approx(20, abs=1e-3)
    assert 0.7 < rows[0]["image/ssim"] < 1
    assert rows[0]["vector/mse"] == pytest.approx((1 + 9) / 4)
    assert rows[0]["cards/accuracy"] == 0.5  # the first entry is right, the second is not
    assert rows[0]["reward/error"] == 2
    assert rows[0]["cont/accuracy"] == 0.5  # an end that was not foreseen
    assert rows[1]["vector/mse"] == 2
    assert summarize(dreams, rows)["vector/mse"] == pytest.approx(2.25)
    policy = dreams._replace(mode="policy")
    rows = measure(policy, specs)
    assert rows[0] == {"step": 1, "samples": 2, "reward": 1.0, "cont": 1.0}
    # Rewards 3 and 0 in the first dream, -1 in the second, which is one step long.
    assert summarize(policy, rows) == {"reward": 0.5, "cont": 1.0, "return": 1.0, "length": 1.5}


def test_a_perfect_picture_has_no_finite_psnr():
    picture = np.full((1, 3, 1, 2, 2), 255, np.uint8)
    ones, three = np.ones((1, 3), np.float32), np.array([3])
    model = picture / 255.0
    model[0, 2] = 0.9
    dreams = Dreams(
        "openloop",
        1,
        {"image": picture},
        {"image": model},
        np.zeros((1, 3, 2)),
        ones,
        ones,
        ones,
        ones,
        ones,
        ones,
        ones,
        three,
        three,
    )
    rows = measure(dreams, {"image": ObsSpec("image", (1, 2, 2))})
    assert rows[0]["image/psnr"] is None
    assert summarize(dreams, rows)["image/psnr"] == pytest.approx(20)
    assert summarize(dreams, []) == {}


def test_ssim_known_answers():
    random = np.random.default_rng(0)
    picture = random.random((2, 3, 16, 20))
    assert ssim(picture, picture) == pytest.approx(1)
    assert abs(ssim(picture, random.random(picture.shape))) < 0.05
    assert ssim(picture, 1 - picture) < -0.8
    # Flat pictures differ in luminance alone: (2ab + c1) / (a^2 + b^2 + c1), Wang et al. 2004, Eq. 6.
    flat = np.full((1, 8, 8), 0.25)
    assert ssim(flat, flat + 0.5) == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4))
    # One window: the formula on all pixels at once.
    one, other = picture[0, 0, :7, :7], picture[1, 0, :7, :7]
    covariance = (one * other).mean() - one.mean() * other.mean()
    by_hand = (2 * one.mean() * other.mean() + 1e-4) * (2 * covariance + 9e-4)
    by_hand /= (one.mean() ** 2 + other.mean() ** 2 + 1e-4) * (one.var() + other.var() + 9e-4)
    assert ssim(one, other) == pytest.approx(by_hand)
    assert ssim(picture, picture + 0.1 * random.standard_normal(picture.shape)) < 0.98
