"""Squashing and binning."""

import math

import pytest
import torch

from dreamer_cli.nets.transforms import symexp, symexp_bins, symlog, two_hot
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


@pytest.mark.parametrize("count", [4, 5, 254, 255])
def test_bins_are_antisymmetric_and_ascend(count):
    bins = symexp_bins(count).float()
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


def test_two_hot_keeps_any_shape():
    below, above, weight = two_hot(torch.randn(2, 3, 4).transpose(0, 2), symexp_bins(5).float())
    assert below.shape == above.shape == weight.shape == (4, 3, 2)
    assert bool(((weight >= 0) & (weight <= 1)).all())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_two_hot_takes_nothing_that_is_not_finite_for_a_number(number):
    _, _, weight = two_hot(torch.tensor([1.0, number, 1e30]), symexp_bins(255).float())
    assert weight.isnan().tolist() == [False, True, False]
