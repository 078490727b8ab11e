"""Continuous actions: every kind through one contract, densities by integration, and each generation's formulas."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamer_cli.nets.actions import (
    DeterministicConfig,
    TanhNormalConfig,
    TruncatedNormal,
    TruncatedNormalConfig,
    ln_slope,
    quantiles,
)
from dreamer_cli.nets.actors import CONTINUOUS
from dreamer_cli.nets.transforms import normal_cdf
from tests.small import near

WITH_DENSITY = [kind for kind in CONTINUOUS if CONTINUOUS[kind].has_density]
# Raw outputs (mean, deviation): as a fresh network's, and decided ones. Low deviations differ from kind to kind.
RAW = [(0.0, 0.0), (0.7, -4.5), (-1.5, -5.0), (2.5, 1.0)]


def said(kind: str, mean: float, std: float, *shape: int) -> Any:
    """One kind's distribution of outputs that are the same everywhere, in float64."""
    raw = (torch.full(shape, x, dtype=torch.float64) for x in (mean, std))
    layers = CONTINUOUS[kind].layers
    return CONTINUOUS[kind]().distribution(*(x for x, _ in zip(raw, layers, strict=False)))


def along_tanh(points: int = 40_001) -> tuple[Tensor, Tensor]:
    """Places y over (-1, 1) and dy of each, densest at the ends; in float64."""
    x = torch.linspace(-8, 8, points, dtype=torch.float64)
    return torch.tanh(x), torch.exp(ln_slope(x)) * (16 / (points - 1))


def grid(kind: str) -> tuple[Tensor, Tensor]:
    """Places and how much of the line each stands for, over all that this kind can give."""
    if kind != "bounded_normal":
        return along_tanh()
    y = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    return y, torch.full_like(y, 24 / 40_000)


def beyond(kind: str, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """The chances of what lies below and above the grid: much of a wide tanh normal, which ends at ±1, nearly."""
    if kind != "tanh_normal":
        return torch.zeros(()), torch.zeros(())
    dist = said(kind, mean, std, 1)
    return normal_cdf((-8 - dist.mean[0]) / dist.std[0]), normal_cdf((dist.mean[0] - 8) / dist.std[0])


# ── the contract ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_contract(kind):
    """Shapes, numbers that are finite, gradients to every output, no randomness of its own, nothing half precise."""
    generator = torch.Generator().manual_seed(0)
    layers = CONTINUOUS[kind].layers
    raw = [torch.randn(4, 3, 2, generator=generator).requires_grad_() for _ in layers]
    noise = torch.randn(4, 3, 2, generator=generator)
    dist, again = (CONTINUOUS[kind]().distribution(*raw) for _ in range(2))
    action = dist.sample(noise)
    assert action.shape == dist.mode.shape == (4, 3, 2)
    assert dist.entropy().shape == (4, 3)
    assert torch.equal(action, again.sample(noise))
    assert torch.equal(dist.mode, again.mode)
    grads = torch.autograd.grad(action.square().sum(), raw, retain_graph=True)
    assert all(bool(grad.isfinite().all()) and bool(grad.any()) for grad in grads)
    if CONTINUOUS[kind].has_density:
        log_prob = dist.log_prob(action.detach())
        assert log_prob.shape == (4, 3)
        both = torch.stack([log_prob, dist.entropy()])
        grads = torch.autograd.grad(both.sum(), raw)
        assert all(bool(x.isfinite().all()) for x in (both, *grads))
        assert all(bool(grad.any()) for grad in grads)
    half = CONTINUOUS[kind]().distribution(*(x.detach().bfloat16() for x in raw))
    assert {x.dtype for x in (half.mode, half.sample(noise), half.entropy())} == {torch.float32}


@pytest.mark.parametrize("kind", CONTINUOUS)
@pytest.mark.parametrize("size", [0.0, 30.0])
def test_nothing_overflows(kind, size):
    """Whatever a network says, and however unlikely the noise."""
    ends = torch.tensor([-1.0, 0.0, 1.0])
    raw = [x.flatten().requires_grad_() for x in torch.meshgrid(size * ends, size * ends, indexing="ij")]
    raw = raw[: len(CONTINUOUS[kind].layers)]
    for far in (-40.0, -7.0, 0.0, 7.0, 40.0):
        dist = CONTINUOUS[kind]().distribution(*(x.unsqueeze(-1) for x in raw))
        action = dist.sample(torch.full((9, 1), far))
        total = action.sum() + dist.entropy().sum()
        if CONTINUOUS[kind].has_density:
            total = total + dist.log_prob(action).sum() + dist.log_prob(dist.mode).sum()
        assert bool(total.isfinite())
        assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(total, raw))
        if kind != "bounded_normal":
            assert bool((action.abs() <= 1).all())


@pytest.mark.parametrize("kind", WITH_DENSITY)
@pytest.mark.parametrize(("mean", "std"), RAW)
def test_densities_hold_all_chance(kind, mean, std):
    y, dy = grid(kind)
    # An action of one number, at every place of the grid.
    density = said(kind, mean, std, len(y), 1).log_prob(y.unsqueeze(-1)).exp()
    below, above = beyond(kind, mean, std)
    near((density * dy).sum(), 1 - below - above, 1e-3)


@pytest.mark.parametrize("kind", WITH_DENSITY)
@pytest.mark.parametrize(("mean", "std"), RAW)
def test_samples_follow_the_density(kind, mean, std):
    """The share of samples below a place is the chance below it (within four standard errors)."""
    noise = torch.randn(40_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    samples = said(kind, mean, std, 40_000, 1).sample(noise)
    y, dy = grid(kind)
    chance = (said(kind, mean, std, len(y), 1).log_prob(y.unsqueeze(-1)).exp() * dy).cumsum(0)
    below, _ = beyond(kind, mean, std)
    for place in range(0, len(y), len(y) // 20):
        near((samples < y[place]).double().mean(), below + chance[place], 0.01)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_noise_of_zeros_takes_the_median(kind):
    raw = [torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(-1) for _ in CONTINUOUS[kind].layers]
    dist = CONTINUOUS[kind]().distribution(*raw)
    middle = dist.sample(torch.zeros(9, 1))
    below, above = dist.sample(torch.full((9, 1), -0.01)), dist.sample(torch.full((9, 1), 0.01))
    if CONTINUOUS[kind].has_density:
        assert bool(((below < middle) & (middle < above)).all()), "more noise, larger action"
    expected = {
        "bounded_normal": lambda: dist.mean,
        "tanh_normal": lambda: torch.tanh(dist.mean),
        "deterministic": lambda: dist.mode,
        # Half of what lies between the bounds.
        "trunc_normal": lambda: dist.mean + dist.std * torch.special.ndtri(dist.below + dist.inside / 2),
    }
    near(middle, expected[kind](), 1e-6)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_gradients_of_samples(kind):
    """By finite differences: the noise fixed, the outputs moved."""
    generator = torch.Generator().manual_seed(2)
    raw = [
        torch.randn(5, 2, dtype=torch.float64, generator=generator).requires_grad_() for _ in CONTINUOUS[kind].layers
    ]
    noise = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda *x: CONTINUOUS[kind]().distribution(*x).sample(noise), raw)


@pytest.mark.parametrize("kind", WITH_DENSITY)
def test_gradients_of_densities_and_entropies(kind):
    generator = torch.Generator().manual_seed(3)
    raw = [torch.randn(5, 2, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]
    action = (torch.rand(5, 2, dtype=torch.float64, generator=generator) * 1.6 - 0.8).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s, a: CONTINUOUS[kind]().distribution(m, s).log_prob(a), (*raw, action))
    assert torch.autograd.gradcheck(lambda m, s: CONTINUOUS[kind]().distribution(m, s).entropy(), raw)


@pytest.mark.parametrize("kind", WITH_DENSITY)
@pytest.mark.parametrize(("mean", "std"), RAW[1:3])
def test_entropies(kind, mean, std):
    """-∫ p ln p, but for what a grid of a hundred points leaves out."""
    y, dy = grid(kind)
    log_prob = said(kind, mean, std, len(y), 1).log_prob(y.unsqueeze(-1))
    near(said(kind, mean, std, 1).entropy(), -(log_prob.exp() * log_prob * dy).sum(), 5e-3)


# ── Dreamer V1 ──────────────────────────────────────────────────────────────────────────────────────────────


def test_tanh_normal_of_a_fresh_network(precision):
    dist = TanhNormalConfig().distribution(torch.zeros(1, 2), torch.zeros(1, 2))
    near(dist.mean, torch.zeros(1, 2), 0)
    near(dist.std, torch.full((1, 2), 5.0001), precision.tolerance)  # softplus(ln(e⁵ - 1)) = 5
    # At 0 the slope of tanh is 1: two standard normal densities, stretched.
    near(dist.log_prob(torch.zeros(1, 2)), [-2 * math.log(5.0001) - math.log(2 * math.pi)], precision.tolerance)


def test_tanh_normal_by_formula(precision):
    mean, std = torch.tensor([[-30.0, 1.0, 4.0]]), torch.tensor([[-3.0, 0.5, 2.0]])
    dist = TanhNormalConfig(mean_scale=2.0, init_std=0.3, min_std=0.2).distribution(mean, std)
    near(dist.mean, [[2 * math.tanh(m / 2) for m in (-30, 1, 4)]], precision.tolerance)
    begin = math.log(math.exp(0.3) - 1)
    near(dist.std, [[math.log1p(math.exp(s + begin)) + 0.2 for s in (-3, 0.5, 2)]], precision.tolerance)
    # Against a library: the same change of variables, written differently.
    normal = torch.distributions.Normal(dist.mean, dist.std)
    library = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    action = torch.tensor([[-0.9, 0.2, 0.99]])
    near(dist.log_prob(action), library.log_prob(action).sum(-1), 10 * precision.tolerance)


def test_the_slope_of_tanh_never_rounds_to_zero(precision):
    x = torch.tensor([0.0, 0.5, -2.0, 50.0, -50.0])
    expected = [0.0, *(math.log(1 - math.tanh(v) ** 2) for v in (0.5, 2.0)), *(2 * math.log(2) - 100,) * 2]
    near(ln_slope(x), expected, precision.tolerance)


def test_actions_that_tanh_has_rounded_to_one_have_a_density(precision):
    raw = torch.zeros(3, 1, requires_grad=True)
    dist = TanhNormalConfig().distribution(raw, torch.zeros(3, 1))
    action = torch.tensor([[1.0], [-1.0], [1 - 1e-9]], requires_grad=True)
    log_prob = dist.log_prob(action)
    most = torch.tensor(0.99999997)  # as this precision knows it
    assert most < 1
    near(log_prob, dist.log_prob(torch.stack([most, -most, most]).unsqueeze(-1)), 1e-6)
    log_prob.sum().backward()
    assert bool(raw.grad.isfinite().all())
    assert bool(action.grad.isfinite().all())


@pytest.mark.parametrize("count", [2, 7, 100])
def test_quantiles(precision, count):
    """Equally many slices of equal chance, each represented by its middle."""
    q = quantiles(count, torch.zeros(()))
    near(torch.special.ndtr(q.double()), (torch.arange(count, dtype=torch.float64) + 0.5) / count, 1e-6)
    assert torch.equal(q, -q.flip(0))
    assert q.dtype == precision.dtype


def test_the_mode_of_tanh_normal_is_the_best_point_of_the_grid_in_each_row():
    """For every row and dimension by itself: the official code takes the place of row 0's best for all rows."""
    generator = torch.Generator().manual_seed(4)
    mean, std = (torch.randn(6, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    dist = TanhNormalConfig(quantiles=20).distribution(2 * mean, std - 5)
    points = dist.mean + dist.std * quantiles(20, mean).view(-1, 1, 1)
    log_probs = torch.distributions.Normal(dist.mean, dist.std).log_prob(points) - torch.log1p(
        -(torch.tanh(points) ** 2)
    )
    best = log_probs.argmax(0)
    assert len(best.unique()) > 3, "no matter of one index for all"
    near(dist.mode, torch.tanh(points.gather(0, best.unsqueeze(0))[0]), 1e-12)
    rows = zip(2 * mean, std - 5, strict=True)
    alone = [TanhNormalConfig(quantiles=20).distribution(m, s).mode for m, s in rows]
    assert torch.equal(dist.mode, torch.stack(alone))


def test_a_narrow_tanh_normal_is_most_likely_at_its_mean():
    mean = torch.tensor([-2.0, 0.0, 0.5], dtype=torch.float64)
    near(
        TanhNormalConfig().distribution(mean, torch.full((3,), -12.0)).mode, torch.tanh(5 * torch.tanh(mean / 5)), 1e-2
    )


def test_entropy_of_a_tanh_normal_is_formed_over_all_points():
    """Which is done a few at a time, and with its own way back."""
    dist = TanhNormalConfig(quantiles=23).distribution(torch.tensor([0.3, -1.0]), torch.tensor([0.1, -4.0]))
    points = dist.mean + dist.std * quantiles(23, dist.mean).unsqueeze(-1)
    near(dist.entropy(), (dist.std.log() + 0.5 * math.log(2 * math.pi * math.e) + ln_slope(points).mean(0)).sum(), 1e-5)


# ── Dreamer V2 ──────────────────────────────────────────────────────────────────────────────────────────────


def test_truncated_normal_by_formula(reference, precision):
    known = reference["gaussian"]
    raw = torch.tensor(known["std_raw"])
    dist = TruncatedNormalConfig().distribution(torch.tensor([0.0, 1.0, -2.0]), raw)
    near(dist.std, known["std_sigmoid2_plus_0.1"], precision.tolerance)
    near(dist.mode, [0.0, math.tanh(1), math.tanh(-2)], precision.tolerance)
    expected, action = 0.0, [0.3, -0.2, -1.0]
    for mean, std, x in zip(dist.mean.tolist(), dist.std.tolist(), action, strict=True):
        low, high = (0.5 * math.erfc((mean - end) / std / math.sqrt(2)) for end in (-1, 1))
        expected += -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi) * (high - low))
    near(dist.log_prob(torch.tensor(action)), expected, precision.tolerance)


def test_a_truncated_normal_far_from_its_bounds_is_normal():
    dist = TruncatedNormalConfig(min_std=0.05).distribution(torch.full((4,), 0.2), torch.full((4,), -40.0))
    noise = torch.tensor([-3.0, -0.5, 0.0, 2.0])
    near(dist.sample(noise), dist.mean + dist.std * noise, 1e-5)
    near(dist.entropy(), 4 * (math.log(0.05) + 0.5 * math.log(2 * math.pi * math.e)), 1e-4)


def test_samples_in_both_precisions_agree():
    """The upper tail as exact as the lower: noise of 6 is no more 1 - Φ(6) than noise of -6 is."""
    mean, std, noise = (
        x.flatten()
        for x in torch.meshgrid(
            torch.linspace(-3, 3, 7), torch.linspace(-4, 4, 5), torch.linspace(-6, 6, 25), indexing="ij"
        )
    )
    single, double = (
        TruncatedNormalConfig().distribution(mean.to(dtype), std.to(dtype)).sample(noise.to(dtype))
        for dtype in (torch.float32, torch.float64)
    )
    near(single, double, 1e-5)
    mirrored = TruncatedNormalConfig().distribution(-mean, std).sample(-noise)
    near(mirrored, -single, 1e-6)


def test_clipping_lets_the_gradient_through(monkeypatch):
    mean = torch.tensor([1.0, 0.2], dtype=torch.float64, requires_grad=True)
    grads = []
    for most, expected in ((TruncatedNormal.most, None), (0.5, [0.5, -0.5])):
        monkeypatch.setattr(TruncatedNormal, "most", most)
        sample = TruncatedNormalConfig().distribution(mean, mean.detach()).sample(torch.tensor([1.0, -2.0]))
        assert expected is None or sample.tolist() == expected
        grads += torch.autograd.grad(sample.sum(), mean)
    assert bool((grads[0] > 0.01).all())
    assert torch.equal(*grads)


def test_samples_stay_inside_the_bounds():
    """Where a logarithm or an inverse tanh of somebody else's still finds a number."""
    dist = TruncatedNormalConfig().distribution(torch.tensor([5.0, -5.0]), torch.tensor([0.0, 0.0]))
    near(dist.sample(torch.tensor([6.0, -6.0])), [1 - 1e-6, 1e-6 - 1], 1e-8)


# ── without noise ───────────────────────────────────────────────────────────────────────────────────────────


def test_deterministic_actions():
    raw = torch.tensor([[-1.0, 0.5]])
    dist = DeterministicConfig().distribution(raw)
    assert torch.equal(dist.sample(torch.randn(1, 2)), torch.tanh(raw))
    assert torch.equal(dist.mode, torch.tanh(raw))
    assert dist.entropy().tolist() == [0]
    with pytest.raises(TypeError, match="no density"):
        dist.log_prob(raw)
