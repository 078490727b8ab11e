"""Heads; every output through the same contract."""

import copy
import math

import pytest
import torch

from dreamer_cli.nets.bricks import BRICKS
from dreamer_cli.nets.copies import frozen
from dreamer_cli.nets.heads import CONTS, OUTPUTS, AlwaysConfig, BernoulliConfig, HeadConfig, NormalConfig, read
from tests.small import near


@pytest.mark.parametrize("bricks", BRICKS)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_output_contract(kind, bricks):
    torch.manual_seed(0)
    head = HeadConfig(layers=1, units=8, bricks=bricks, output=OUTPUTS[kind]()).build(6)
    feat = torch.randn(2, 5, 6)
    dist = head(feat)
    loss = dist.loss(torch.rand(2, 5))
    assert dist.mean.shape == loss.shape == (2, 5)
    assert torch.equal(dist.mean, head(feat).mean)
    assert bool((loss >= 0).all())
    loss.mean().backward()
    assert all(p.grad is not None for p in head.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters())
    assert set(head.state_dict()) == {name for name, _ in head.named_parameters()}, "constants are not saved"


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_learn_a_number(kind):
    torch.manual_seed(0)
    head = HeadConfig(layers=1, units=16, output=OUTPUTS[kind]()).build(1)
    optim = torch.optim.Adam(head.parameters(), lr=0.1)
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.2, 0.9])
    for _ in range(50):
        optim.zero_grad()
        head(x).loss(y).mean().backward()
        optim.step()
    near(head(x).mean, y, 0.05)


@pytest.mark.parametrize("bricks", BRICKS)
@pytest.mark.parametrize("kind", ["two_hot", "two_hot_symlog"])
def test_two_hot_head_starts_at_exactly_zero(kind, bricks):
    dist = HeadConfig(units=8, bricks=bricks, output=OUTPUTS[kind]()).build(6)(torch.randn(20, 6))
    assert not dist.mean.any()
    near(dist.loss(torch.randn(20)), torch.full((20,), math.log(255)), 1e-6)


@pytest.mark.parametrize("kind", ["normal", "bernoulli"])
def test_other_heads_start_with_an_opinion(kind):
    head = HeadConfig(units=64, output=OUTPUTS[kind]()).build(6)
    near(head.output.linear.weight.std(), 1 / 8, 0.1)  # 1 / sqrt(64)
    assert head(torch.randn(20, 6)).mean.std() > 0.01


@pytest.mark.parametrize("kind", OUTPUTS)
def test_means_carry_gradients_to_the_states(kind):
    """Actors of earlier generations learn through them, even from heads that are held fixed."""
    torch.manual_seed(0)
    head = HeadConfig(units=8, output=OUTPUTS[kind]()).build(6)
    for p in head.parameters():
        p.data += 0.1 * torch.randn_like(p)
    feat = torch.randn(4, 6, requires_grad=True)
    with frozen(head):
        mean = head(feat).mean
    mean.sum().backward()
    assert bool(feat.grad.isfinite().all())
    assert bool(feat.grad.any(-1).all())
    assert all(p.grad is None for p in head.parameters())


def test_a_head_may_always_say_yes():
    head = AlwaysConfig().build(6)
    assert not list(head.parameters())
    assert not head.state_dict()
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        feat = torch.randn(2, 5, 6, dtype=dtype, requires_grad=True)
        dist = head(feat)
        wanted = torch.float64 if dtype == torch.float64 else torch.float32
        for x, value in ((dist.mean, 1.0), (dist.loss(torch.rand(2, 5)), 0.0)):
            assert torch.equal(x, torch.full((2, 5), value, dtype=wanted))
        # Beside others, nothing of it disturbs a backward pass.
        (dist.loss(torch.rand(2, 5)).mean() + (dist.mean * feat.sum(-1)).sum()).backward()
        assert torch.equal(feat.grad, torch.ones_like(feat))


@pytest.mark.parametrize("kind", CONTS)
def test_continue_heads(kind):
    settings = CONTS[kind](output=BernoulliConfig()) if kind == "head" else CONTS[kind]()
    dist = settings.build(6)(torch.randn(3, 6))
    assert dist.mean.shape == dist.loss(torch.ones(3)).shape == (3,)
    assert bool(((dist.mean > 0) & (dist.mean <= 1)).all())


# What a first layer has, or has not, decides whether it joins the others'.
def heads(*bricks: str | None) -> list[torch.nn.Module]:
    torch.manual_seed(0)
    made = [HeadConfig(units=8, layers=2, bricks=b, output=NormalConfig()) if b else AlwaysConfig() for b in bricks]
    return [settings.build(6) for settings in made]


@pytest.mark.parametrize(
    "bricks",
    [
        ("rms_silu", "rms_silu"),
        ("elu", "relu", "rms_silu"),
        ("ln_silu", "ln_silu"),
        ("rms_silu", None),
        (None, "elu", "ln_silu", None, "elu"),
        ("rms_silu",),
        (None,),
    ],
    ids=str,
)
@pytest.mark.parametrize("fixed", [False, True])
def test_reading_together_is_reading_one_after_the_other(bricks, fixed):
    """In value, and in gradients of states and weights."""
    together, apart = heads(*bricks), heads(*bricks)
    found = []
    for group, say in ((together, read), (apart, lambda feat, *heads: [head(feat) for head in heads])):
        feat = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with frozen(*group[: int(fixed)]):
            said = say(feat, *group)
        total = sum((i + 2) * (one.mean + one.loss(feat[..., 0].detach())).sum() for i, one in enumerate(said))
        if total.requires_grad:
            total.backward()
        weights = [p.grad for head in group for p in head.parameters()]
        found.append([*(one.mean for one in said), feat.grad, *weights])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            near(one, other.detach(), 1e-5)


@pytest.mark.parametrize(
    ("bricks", "joins"), [("rms_silu", True), ("ln_silu", False), ("elu", True), ("relu", True), (None, False)]
)
def test_who_joins(bricks, joins):
    (head,) = heads(bricks)
    assert head.joins == copy.deepcopy(head).joins == joins


@pytest.mark.parametrize(
    ("bricks", "layers", "units", "feat", "count"),
    [
        ("relu", 3, 300, 230, 250_201),
        ("elu", 2, 400, 230, 253_201),
        ("elu", 3, 400, 230, 413_601),
        ("elu", 4, 400, 1624, 1_131_601),
        ("elu", 4, 400, 1224, 971_601),
    ],
    ids=["planet-reward", "v1-reward", "v1-value", "v2-atari", "v2-dmc"],
)
def test_parameter_counts_of_earlier_generations(bricks, layers, units, feat, count):
    with torch.device("meta"):
        head = HeadConfig(layers=layers, units=units, bricks=bricks, output=NormalConfig()).build(feat)
    assert sum(p.numel() for p in head.parameters()) == count
