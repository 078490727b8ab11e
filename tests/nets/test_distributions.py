"""What networks say: known answers, straight-through gradients, limits."""

import math

import pytest
import torch
from torch import Tensor

from dreamer_cli.nets.distributions import (
    Bernoulli,
    BoundedNormal,
    Certain,
    FixedNormal,
    Grouped,
    Joint,
    OneHot,
    SymlogTwoHot,
    TwoHot,
    categorical_kl,
    gumbel,
)
from dreamer_cli.nets.transforms import symexp_bins, symlog_bins
from tests import golden
from tests.small import near

MIXES = [("unimix_0.01", 0.01), ("unimix_0.0", 0.0)]


def chosen(index: int, classes: int) -> Tensor:
    """Noise that makes a certain class the sample."""
    noise = torch.zeros(classes)
    noise[index] = 1e4
    return noise


@pytest.mark.parametrize(("name", "unimix"), MIXES)
def test_categorical(reference, precision, name, unimix):
    known = reference["categorical_kl"]
    post = OneHot(torch.tensor(known["post_logits"]), unimix)
    prior = OneHot(torch.tensor(known["prior_logits"]), unimix)
    known = known[name]
    near(post.probs, known["post_probs"], precision.tolerance)
    near(prior.probs, known["prior_probs"], precision.tolerance)
    near(categorical_kl(post, prior), known["kl_per_latent"], precision.tolerance)
    near(categorical_kl(post, prior).sum(), known["kl_sum"], precision.tolerance)
    near(post.entropy().sum(), known["post_entropy_sum"], precision.tolerance)
    near(prior.entropy().sum(), known["prior_entropy_sum"], precision.tolerance)


@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_straight_through(reference, precision, unimix):
    known = reference["straight_through"]
    logits = torch.tensor(known["logits"], requires_grad=True)
    dist = OneHot(logits, unimix)
    sample = dist.sample(chosen(known["sampled_index"], 3))
    assert sample.tolist() == known["forward_value"], "exactly one-hot, without rounding"
    sample.backward(torch.tensor(known["upstream_grad"]))
    near(logits.grad, known[f"grad_logits_unimix_{unimix}"], precision.tolerance)
    if unimix:
        near(dist.probs, known["unimix_probs_0.01"], precision.tolerance)
        near(dist.entropy(), known["unimix_entropy_0.01"], precision.tolerance)


def test_the_mode_is_straight_through_too():
    logits = torch.tensor([0.3, -0.7, 1.1], requires_grad=True)
    mode = OneHot(logits).mode
    assert mode.tolist() == [0, 0, 1]
    mode[0].backward()
    assert bool(logits.grad.all())


def test_unimix_bounds_log_probabilities():
    dist = OneHot(torch.tensor([1e4, -1e4, 0.0]), unimix=0.01)
    near(dist.log_probs.min(), math.log(0.01 / 3), 1e-6)
    assert bool(categorical_kl(dist, OneHot(torch.tensor([-1e4, 1e4, 0.0]), 0.01)).isfinite())


@pytest.mark.parametrize(("suffix", "unimix"), [("", 0.0), ("_unimix", 0.01)])
def test_official_discrete_policy(precision, suffix, unimix):
    t = golden.trace()
    logits = t["extra/actor_logits"].to(precision.dtype, copy=True).requires_grad_()
    dist = OneHot(logits, unimix)
    action = torch.nn.functional.one_hot(t["extra/action"].long(), 4).to(precision.dtype)
    log_prob = dist.log_prob(action)
    near(log_prob, t[f"extra/logp{suffix}"], precision.tolerance)
    near(dist.entropy(), t[f"extra/entropy{suffix}"], precision.tolerance)
    log_prob.sum().backward()
    near(logits.grad, t[f"extra/dlogp_dlogits{suffix}"], precision.tolerance)


def test_gumbel_noise_samples_the_categorical():
    logits = torch.tensor([0.5, -1.0, 1.5, 0.0])
    generator = torch.Generator().manual_seed(0)
    dist = OneHot(logits.expand(40_000, 4))
    share = dist.sample(gumbel((40_000, 4), logits, generator)).mean(0)
    near(share, torch.softmax(logits, -1), 0.01)  # four standard errors


def test_gumbel_noise_is_finite_at_the_ends(monkeypatch):
    for end in (0.0, 1 - 2.0**-24):  # all that torch.rand can give in float32
        monkeypatch.setattr(torch, "rand", lambda *shape, end=end, **_: torch.full(shape, end))
        assert bool(gumbel((3,), torch.zeros(())).isfinite().all())


def test_bounded_normal(reference, precision):
    known = reference["bounded_normal"]
    dist = BoundedNormal(torch.tensor(known["raw_mean"]), torch.tensor(known["raw_std"]))
    near(dist.mean, known["mean"], precision.tolerance)
    near(dist.mode, known["mean"], precision.tolerance)
    near(dist.std, known["std"], precision.tolerance)
    near(dist.log_prob(torch.tensor(known["action"])), known["logp_sum"], precision.tolerance)
    near(dist.entropy(), known["entropy_sum"], precision.tolerance)


def test_bounded_normal_samples_are_reparameterised():
    mean = torch.zeros(3, requires_grad=True)
    dist = BoundedNormal(mean, torch.zeros(3))
    sample = dist.sample(torch.tensor([0.0, 5.0, -5.0]))
    near(sample, [0.0, 5 * dist.std[1], -5 * dist.std[2]], 1e-6)  # not clipped
    sample.sum().backward()
    near(mean.grad, torch.ones(3), 1e-6)


def test_parts_of_an_action_add_up():
    categorical = Grouped(OneHot(torch.randn(7, 2, 3)))
    normal = BoundedNormal(torch.randn(7, 2), torch.randn(7, 2))
    joint = Joint([(slice(0, 6), categorical), (slice(6, 8), normal)])
    noise = torch.randn(7, 8)
    action = joint.sample(noise)
    assert torch.equal(action, torch.cat([categorical.sample(noise[:, :6]), normal.sample(noise[:, 6:])], -1))
    near(action[:, :6].unflatten(-1, (2, 3)).sum(-1), torch.ones(7, 2), 0)
    near(joint.log_prob(action), categorical.log_prob(action[:, :6]) + normal.log_prob(action[:, 6:]), 1e-6)
    near(joint.entropy(), categorical.entropy() + normal.entropy(), 1e-6)
    assert torch.equal(joint.mode, torch.cat([categorical.mode, normal.mode], -1))


def test_two_hot(reference, precision):
    known = reference["twohot_255"]
    index = torch.arange(255.0)
    logits = torch.sin(0.1 * index) + 0.01 * (index - 127) * (index % 3)
    bins = symexp_bins(255).to(precision.dtype)
    near(TwoHot(logits, bins).mean, known["pred_test_logits"], precision.tolerance)
    target = torch.tensor([row["value"] for row in known["rows"]])
    expected = [row["loss_with_test_logits"] for row in known["rows"]]
    near(TwoHot(logits.expand(len(target), -1), bins).loss(target), expected, precision.tolerance)
    flat = TwoHot(torch.zeros(len(target), 255), bins)
    near(flat.loss(target), [row["loss_with_zero_logits"] for row in known["rows"]], precision.tolerance)


def test_uniform_two_hot_says_exactly_zero(reference, precision):
    bins = symexp_bins(255).to(precision.dtype)
    assert TwoHot(torch.zeros(2, 255), bins).mean.tolist() == [reference["twohot_255"]["pred_zero_logits"]] * 2
    assert reference["twohot_255"]["naive_left_to_right_float32_pred_zero_logits"] != 0


@pytest.mark.parametrize("bins", [4, 5, 255])
def test_two_hot_learns_numbers_of_any_size(bins):
    """The minimum of the loss lies where the mean is the target."""
    grid = symexp_bins(bins)
    target = torch.tensor([-1e5, -3.0, 0.0, 0.25, 1e4], dtype=torch.float64)
    below, above = torch.searchsorted(grid, target, right=True) - 1, torch.searchsorted(grid, target, right=True)
    weight = (target - grid[below]) / (grid[above] - grid[below])
    probs = torch.zeros(5, bins, dtype=torch.float64)
    probs[range(5), below] = 1 - weight
    probs[range(5), above] += weight
    logits = torch.log(probs + 1e-300).requires_grad_()
    dist = TwoHot(logits, grid)
    near(dist.mean, target, 1e-7)
    dist.loss(target).sum().backward()
    near(logits.grad, torch.zeros(5, bins), 1e-9)


def test_two_hot_of_2023(reference, precision):
    known = reference["twohot_255_v3_2023_symlog_space"]
    index = torch.arange(255.0)
    logits = torch.sin(0.1 * index) + 0.01 * (index - 127) * (index % 3)
    bins = symlog_bins(255).to(precision.dtype)
    near(SymlogTwoHot(logits, bins).mean, known["pred_test_logits"], precision.tolerance)
    target = torch.tensor([row["value"] for row in known["rows"]])
    expected = [row["loss_with_test_logits"] for row in known["rows"]]
    near(SymlogTwoHot(logits.expand(len(target), -1), bins).loss(target), expected, precision.tolerance)
    assert SymlogTwoHot(torch.zeros(2, 255), bins).mean.tolist() == [0, 0]


def test_two_hots_of_both_years_differ_between_bins():
    """Half of either neighbour: the mean of the numbers now, what the mean symlog stands for then."""
    logits = torch.full((255,), -1e9).index_fill(0, torch.tensor([140, 141]), 0.0)
    now, then = TwoHot(logits, symexp_bins(255).float()).mean, SymlogTwoHot(logits, symlog_bins(255).float()).mean
    low, high = (math.expm1(20 * i / 127) for i in (13, 14))
    near(now, (low + high) / 2, 1e-5)
    near(then, math.expm1(20 * 13.5 / 127), 1e-5)


def test_normal_of_deviation_one(precision):
    dist = FixedNormal(torch.tensor([1.0, -2.0, 0.5], requires_grad=True))
    target = torch.tensor([1.0, 1.0, 0.0])
    loss = dist.loss(target)
    near(loss, [0.0, 4.5, 0.125], 0)  # half of 0², 3², ½²
    constant = 0.5 * math.log(2 * math.pi)
    near(loss + constant, -torch.distributions.Normal(dist.mean, 1.0).log_prob(target), precision.tolerance)
    closer = FixedNormal(dist.mean, 0.2).loss(target) + constant + math.log(0.2)
    near(closer, -torch.distributions.Normal(dist.mean, 0.2).log_prob(target), precision.tolerance)
    (grad,) = torch.autograd.grad(loss.sum(), dist.mean)
    near(grad, [0.0, -3.0, 0.5], 0)


def test_what_is_certain_cannot_be_wrong():
    dist = Certain(torch.randn(2, 3, dtype=torch.bfloat16))
    assert torch.equal(dist.mean, torch.ones(2, 3))
    assert torch.equal(dist.loss(torch.rand(2, 3)), torch.zeros(2, 3))


def test_continue_loss(reference, precision):
    known = reference["cont_loss"]
    dist = Bernoulli(torch.tensor(known["logit"]))
    near(dist.loss(torch.tensor(known["target_contdisc"])), known["loss"], precision.tolerance)
    hard = 1.0 - torch.tensor(known["is_terminal"], dtype=precision.dtype)
    near(dist.loss(hard), known["loss_without_contdisc"], precision.tolerance)
    near(dist.mean, torch.sigmoid(torch.tensor(known["logit"])), precision.tolerance)


def test_half_precision_outputs_become_float32():
    x = torch.randn(2, 5).bfloat16()
    assert OneHot(x, 0.01).log_probs.dtype == torch.float32
    assert BoundedNormal(x, x).std.dtype == torch.float32
    assert TwoHot(x, symexp_bins(5).float()).loss(torch.zeros(2)).dtype == torch.float32
    assert SymlogTwoHot(x, symlog_bins(5).float()).loss(torch.zeros(2).bfloat16()).dtype == torch.float32
    assert FixedNormal(x).loss(x).dtype == torch.float32
    assert Bernoulli(x).loss(x).dtype == torch.float32
