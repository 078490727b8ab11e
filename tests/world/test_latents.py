"""Latents: known answers for the KL, and every latent through the same contract."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamer_cli.world.latents import CategoricalConfig
from tests.small import near
from tests.world.contract import LATENT_SPECS, make_latent


@pytest.fixture(params=LATENT_SPECS)
def latent(request):
    return make_latent(request.param)


def logits(known: dict, name: str) -> Tensor:
    return torch.tensor(known[name]).flatten().requires_grad_()


@pytest.mark.parametrize(("name", "unimix"), [("unimix_0.01", 0.01), ("unimix_0.0", 0.0)])
def test_categorical_kl_sums_over_groups(reference, precision, name, unimix):
    known = reference["categorical_kl"]
    latent = CategoricalConfig(groups=2, classes=3, unimix=unimix).build()
    post, prior = logits(known, "post_logits"), logits(known, "prior_logits")
    near(latent.kl(post, prior), known[name]["kl_sum"], precision.tolerance)
    near(latent.kl(post, prior).clamp(min=1), known[name]["dyn_after_free_nats_1"], precision.tolerance)
    near(latent.entropy(post), known[name]["post_entropy_sum"], precision.tolerance)
    near(latent.entropy(prior), known[name]["prior_entropy_sum"], precision.tolerance)


def test_categorical_kl_gradients(reference, precision):
    known = reference["categorical_kl"]
    latent = CategoricalConfig(groups=2, classes=3, unimix=0.01).build()
    post, prior = logits(known, "post_logits"), logits(known, "prior_logits")
    latent.kl(post.detach(), prior).backward()
    near(prior.grad.unflatten(-1, (2, 3)), known["grad_unimix_0.01"]["d_dyn_d_prior_logits"], precision.tolerance)
    latent.kl(post, prior.detach()).backward()
    near(post.grad.unflatten(-1, (2, 3)), known["grad_unimix_0.01"]["d_rep_d_post_logits"], precision.tolerance)


def test_contract(latent):
    torch.manual_seed(0)
    like, lead = torch.zeros(()), (2, 5)
    post, prior = torch.randn(2, *lead, latent.stats_size).requires_grad_()
    noise = latent.noise(lead, like, torch.Generator().manual_seed(1))
    assert torch.equal(noise, latent.noise(lead, like, torch.Generator().manual_seed(1)))
    sample = latent.sample(post, noise)
    assert sample.shape == latent.mode(post).shape == noise.shape == (*lead, *latent.shape)
    assert latent.size == np.prod(latent.shape)
    assert torch.equal(sample, latent.sample(post, noise)), "all randomness is in the noise"
    assert not torch.equal(sample, latent.sample(post, latent.noise(lead, like)))
    assert latent.entropy(post).shape == latent.kl(post, prior).shape == lead
    assert bool((latent.kl(post, prior) > 0).all())
    near(latent.kl(post, post), torch.zeros(lead), 1e-6)
    for stats in (post, prior):
        (gradient,) = torch.autograd.grad(latent.kl(post, prior).sum(), stats)
        assert bool(gradient.any())
    weights = torch.randn(sample.shape)
    (gradient,) = torch.autograd.grad((latent.sample(post, noise) * weights).sum(), post)
    assert bool(gradient.any()), "gradients pass through samples"


def test_noise_is_of_its_kind(latent):
    """Programs that run an exported agent draw it themselves, by this name."""
    noise = latent.noise((4000,), torch.zeros(()), torch.Generator().manual_seed(0))
    mean, deviation = {"gumbel": (0.5772, np.pi / np.sqrt(6)), "normal": (0.0, 1.0)}[latent.noise_kind]
    assert abs(float(noise.mean()) - mean) < 0.05
    assert abs(float(noise.std()) - deviation) < 0.05


def test_noise_of_zeros_gives_the_mode(latent):
    stats = torch.randn(7, latent.stats_size)
    assert torch.equal(latent.sample(stats, torch.zeros(7, *latent.shape)), latent.mode(stats))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_way_back_by_hand(latent, dtype):
    """Sample and gradient equal autograd's; far out too, where softplus is a straight line."""
    torch.manual_seed(0)
    stats = (10 * torch.randn(50, latent.stats_size, dtype=dtype)).requires_grad_()
    noise = latent.noise((50,), stats)
    sample = latent.sample(stats, noise)
    pull = torch.randn_like(sample)
    (expected,) = torch.autograd.grad((sample * pull).sum(), stats)
    with torch.no_grad():
        by_hand, saved = latent.sample_forward(stats.detach(), noise)
        gradient = latent.sample_backward(saved, pull)
    assert torch.equal(by_hand, sample)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14 if dtype == torch.float64 else 1e-6)


def test_storage_is_small_and_exact(latent):
    stats = torch.randn(2, 5, latent.stats_size)
    sample = latent.sample(stats, latent.noise((2, 5), torch.zeros(())))
    shape, dtype = latent.packed
    packed = latent.pack(sample).numpy().astype(dtype)
    assert packed.shape == (2, 5, *shape)
    restored = latent.unpack(torch.from_numpy(packed))
    assert torch.equal(restored, sample)
    assert restored.dtype == torch.float32


@pytest.mark.parametrize(("classes", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_stored_classes_fit_their_type(classes, dtype):
    latent = CategoricalConfig(groups=1, classes=classes).build()
    assert latent.packed == ((1,), np.dtype(dtype))
    last = torch.nn.functional.one_hot(torch.tensor([[classes - 1]]), classes).float()
    packed = latent.pack(last).numpy().astype(dtype)
    assert torch.equal(latent.unpack(torch.from_numpy(packed)), last)
