"""Gaussian latents: known answers, and the formulas against torch's own."""

import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Independent, Normal, kl_divergence

from dreamer_cli.world.gaussian import GaussianConfig
from tests.small import near

STDS = ["softplus", "sigmoid2"]


@pytest.fixture
def known(reference) -> dict:
    return reference["gaussian"]


def inverse_softplus(std):
    """Raw numbers of which softplus + 0.1 makes these deviations."""
    return (torch.tensor(std) - 0.1).expm1().log()


def test_deviations(known, precision):
    raw = torch.tensor([[0.0, 0.0, 0.0, *known["std_raw"]]])
    for std, expected in (("softplus", "std_softplus_plus_0.1"), ("sigmoid2", "std_sigmoid2_plus_0.1")):
        latent = GaussianConfig(size=3, std=std).build()
        near(latent.split(raw)[1][0], known[expected], precision.tolerance)


def test_kl(known, precision):
    latent = GaussianConfig(size=2).build()
    post, prior = (
        torch.cat([torch.tensor(known[f"{name}_mean"]), inverse_softplus(known[f"{name}_std"])])
        for name in ("post", "prior")
    )
    near(latent.kl(post, prior), known["kl_sum"], precision.tolerance)
    each = [GaussianConfig(size=1).build().kl(post[i::2], prior[i::2]) for i in range(2)]
    near(torch.stack(each), known["kl_per_dim"], precision.tolerance)


@pytest.mark.parametrize("std", STDS)
def test_kl_and_entropy_are_torchs(std):
    latent = GaussianConfig(size=4, std=std, min_std=0.05).build()
    post, prior = torch.randn(2, 3, 8, dtype=torch.float64)
    p, q = (Independent(Normal(*latent.split(stats)), 1) for stats in (post, prior))
    near(latent.kl(post, prior), kl_divergence(p, q), 1e-12)
    near(latent.entropy(post), p.entropy(), 1e-12)


def test_samples_by_hand():
    """softplus(0) = ln 2; sigmoid2(0) = 1: mean + (deviation + 0.1) · noise."""
    stats, noise = torch.tensor([[3.0, -1.0, 0.0, 0.0]]), torch.tensor([[2.0, -1.0]])
    near(GaussianConfig(size=2).build().sample(stats, noise)[0], [3 + 2 * 0.7931472, -1 - 0.7931472], 1e-6)
    near(GaussianConfig(size=2, std="sigmoid2").build().sample(stats, noise)[0], [3 + 2 * 1.1, -1 - 1.1], 1e-6)


def test_half_precision_statistics_are_read_in_full(precision):
    latent = GaussianConfig(size=2).build()
    stats = torch.randn(3, 4).bfloat16()
    assert latent.sample(stats, torch.randn(3, 2).float()).dtype == torch.float32
    near(latent.kl(stats, -stats), latent.kl(stats.float(), -stats.float()), 1e-6)


@pytest.mark.parametrize("std", STDS)
def test_extreme_statistics_stay_finite(std):
    latent = GaussianConfig(size=1, std=std).build()
    stats = torch.tensor([[0.0, -1e4], [0.0, 1e4], [1e3, 0.0]], requires_grad=True)
    kl = latent.kl(stats, stats.detach().flip(0))
    (gradient,) = torch.autograd.grad(kl.sum(), stats)
    assert bool(kl.isfinite().all())
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("setting", [{"min_std": 0.0}, {"std": "exp"}, {"size": 0}])
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        GaussianConfig(**setting)
