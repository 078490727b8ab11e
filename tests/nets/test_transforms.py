"""Squashing and binning."""

import math

import pytest
import torch

from dreamer_cli.nets.transforms import (
    lower_quantile,
    normal_cdf,
    symexp,
    symexp_bins,
    symlog,
    symlog_bins,
    two_hot,
)
from tests.small import near


def test_symlog_and_symexp(reference, precision):
    known = reference["symlog_symexp"]
    near(symlog(torch.tensor(known["x"])), known["symlog"], precision.tolerance)
    near(symexp(torch.tensor(known["y"])), known["symexp_of_y"], precision.tolerance)
    near(symexp(symlog(torch.tensor(known["x"]))), known["x"], precision.tolerance)


def test_symlog_has_gradient_one_at_zero():
    x = torch.tensor([1e-12, -1e-12], requires_grad=True)
    symlog(x).sum().backward()
    near(x.grad, [1.0, 1.0], 1e-6)


def test_bins(reference, precision):
    known = reference["twohot_bins_255"]
    bins = symexp_bins(255).to(precision.dtype)
    near(bins, known["full"], precision.tolerance)
    near(bins[:3], known["first3"], precision.tolerance)
    near(bins[-3:], known["last3"], precision.tolerance)
    near(bins[120:135], known["indices_120_to_134"], precision.tolerance)
    near(symexp_bins(5).to(precision.dtype), known["bins_5"], precision.tolerance)
    near(symexp_bins(4).to(precision.dtype), known["bins_4"], precision.tolerance)


def test_bins_in_symlog_space():
    near(symlog_bins(5), [-20.0, -10.0, 0.0, 10.0, 20.0], 1e-15)
    near(symlog_bins(4), [-20.0, -20 / 3, 20 / 3, 20.0], 1e-15)
    near(symlog_bins(255), symlog(symexp_bins(255)), 1e-12)  # odd counts: the same bins


@pytest.mark.parametrize("make", [symexp_bins, symlog_bins])
@pytest.mark.parametrize("count", [4, 5, 254, 255])
def test_bins_are_antisymmetric_and_ascend(count, make):
    bins = make(count).float()
    assert torch.equal(bins, -bins.flip(0)), "a mirrored half, so that uniform predictions are exactly 0"
    assert bool((bins.diff() >= 0).all())
    assert len(bins) == count


def test_two_hot_indices_and_weights(reference):
    rows = reference["twohot_255"]["rows"]
    below, above, weight = two_hot(torch.tensor([row["value"] for row in rows], dtype=torch.float64), symexp_bins(255))
    for i, row in enumerate(rows):
        assert (below[i], above[i]) == (row["below"], row["above"]), row
        if row["below"] != row["above"]:  # else both weights belong to one bin
            near(weight[i], row["w_above"], 1e-10)


def test_two_hot_decodes_to_the_target(reference, precision):
    rows = reference["twohot_255"]["rows"]
    bins = symexp_bins(255).to(precision.dtype)
    below, above, weight = two_hot(torch.tensor([row["value"] for row in rows]), bins)
    decoded = (1 - weight) * bins[below] + weight * bins[above]
    near(decoded, [row["decode_of_target"] for row in rows], precision.tolerance)


def test_two_hot_in_symlog_space(reference):
    rows = reference["twohot_255_v3_2023_symlog_space"]["rows"]
    values, bins = torch.tensor([row["value"] for row in rows], dtype=torch.float64), symlog_bins(255)
    below, above, weight = two_hot(symlog(values), bins)
    between = [i for i, row in enumerate(rows) if 1e-9 < row["w_above"] < 1 - 1e-9 and row["below"] != row["above"]]
    assert len(between) == 9  # which neighbours a number on a bin has is a matter of rounding
    for i in between:
        assert (below[i], above[i]) == (rows[i]["below"], rows[i]["above"]), rows[i]
        near(weight[i], rows[i]["w_above"], 1e-10)
    decoded = symexp((1 - weight) * bins[below] + weight * bins[above])
    near(decoded, [row["decode_of_target"] for row in rows], 1e-10)


def test_two_hot_keeps_any_shape():
    below, above, weight = two_hot(torch.randn(2, 3, 4).transpose(0, 2), symexp_bins(5).float())
    assert below.shape == above.shape == weight.shape == (4, 3, 2)
    assert bool(((weight >= 0) & (weight <= 1)).all())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_two_hot_takes_nothing_that_is_not_finite_for_a_number(number):
    _, _, weight = two_hot(torch.tensor([1.0, number, 1e30]), symexp_bins(255).float())
    assert weight.isnan().tolist() == [False, True, False]


def test_the_normal_distribution_in_its_lower_tail(precision):
    """Where 1 - Φ(-x) would have no digit left; libraries that form it so say 0 at -6 in float32."""
    x = torch.linspace(-8, 2, 101)
    expected = torch.tensor([0.5 * math.erfc(-one / math.sqrt(2)) for one in x.tolist()])
    torch.testing.assert_close(normal_cdf(x), expected, rtol=precision.tolerance, atol=0)
    near(normal_cdf(torch.tensor([0.0, 1.0])), [0.5, 0.8413447460685429], precision.tolerance)


def test_lower_quantile(precision):
    """Seven digits, whatever the precision; both pieces, and where they meet."""
    chance = torch.cat([torch.logspace(-10.8, math.log10(0.5), 500), torch.tensor([0.0749999, 0.0750001, 0.5])])
    near(lower_quantile(chance), torch.special.ndtri(chance.double()), 3e-6)
    near(lower_quantile(torch.tensor([0.5, 0.158655253931457, 0.0227501319481792])), [0.0, -1.0, -2.0], 1e-6)
    x = torch.linspace(-6, 0, 100)
    near(lower_quantile(normal_cdf(x)), x, 3e-6)


def test_lower_quantile_ends_somewhere():
    chance = torch.tensor([0.0, 1e-40, 1e-12], requires_grad=True)
    low = lower_quantile(chance)
    assert torch.equal(low, low[:1].expand(3)), "one number for all that is less likely"
    near(low[0], -6.66, 1e-3)
    low.sum().backward()
    assert bool(chance.grad.isfinite().all())


def test_the_slope_of_a_quantile_is_one_over_the_density():
    chance = torch.tensor([1e-8, 1e-3, 0.05, 0.1, 0.4], dtype=torch.float64, requires_grad=True)
    x = lower_quantile(chance)
    (slope,) = torch.autograd.grad(x.sum(), chance)
    torch.testing.assert_close(slope, math.sqrt(2 * math.pi) * torch.exp(x.detach() ** 2 / 2), rtol=1e-5, atol=0)
