"""Every objective through the same contract, and reconstruction."""

import pytest
import torch

from dreamer_cli.world.objectives import OBJECTIVES
from tests.small import EVERYTHING
from tests.test_learner import WAITING, Watch
from tests.world.parts import Parts, draw, make_batch, make_parts

B, T = 2, 5
DRAWS = {"reconstruct"}
RANDOM = {"prototypes"}


@pytest.fixture
def parts() -> Parts:
    return make_parts()


def moved(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All that is saved of a module, copied."""
    return {name: x.clone() for name, x in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_losses_have_the_names_that_are_announced_and_are_numbers(kind, parts):
    objective = parts.objective(kind)
    losses = parts.losses(objective, parts.see(make_batch(parts)))
    assert tuple(losses) == objective.keys
    assert all(bool(loss.isfinite().all()) for loss in losses.values())
    assert all(loss.mean().shape == () and loss.dtype == torch.float32 for loss in losses.values())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_randomness_is_an_input(kind, parts):
    objective = parts.objective(kind)
    seen = parts.see(make_batch(parts))
    assert bool(draw(objective, seen.batch)) == (kind in RANDOM)
    for one, again in zip(draw(objective, seen.batch, 3), draw(objective, seen.batch, 3), strict=True):
        assert torch.equal(one, again)
    before = torch.get_rng_state()
    first, second, other = (parts.losses(objective, seen, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state()), "nothing is drawn inside"
    assert same(first, second)
    assert same(first, other) == (kind not in RANDOM)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_update_that_is_not_sound_moves_nothing(kind, parts):
    objective = parts.objective(kind)
    with torch.no_grad():
        for param in [*objective.parameters(), *parts.encoder.parameters()]:
            param.add_(torch.randn_like(param))  # so that whatever could move would
    before = moved(objective)
    objective.after_update(torch.tensor(False))
    assert same(before, moved(objective))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_what_is_saved_is_all_there_is(kind, parts):
    """Another one with the same state says the same; and what belongs to others is not in it."""
    objective, other = parts.objective(kind), parts.objective(kind)
    objective.after_update(torch.tensor(True))
    seen = parts.see(make_batch(parts))
    other.load_state_dict(objective.state_dict())
    assert same(parts.losses(objective, seen), parts.losses(other, seen))
    own = {id(p) for p in objective.parameters()}
    assert not own & {id(p) for part in (parts.encoder, parts.dynamics) for p in part.parameters()}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_it_draws_or_says_that_it_cannot(kind, parts):
    drawn = parts.objective(kind).decode(torch.randn(2, 3, parts.dynamics.feat_size))
    if kind in DRAWS:
        assert {key: x.shape[2:] for key, x in drawn.items()} == {"camera": (3, 8, 8), "speed": (2,), "cards": (7,)}
    else:
        assert drawn is None


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_all_that_can_learn_does(kind, parts):
    """The objective's own parameters, the encoder's, and those of memory and posterior; the prior is not asked."""
    objective = parts.objective(kind)
    losses = parts.losses(objective, parts.see(make_batch(parts)))
    sum(loss.mean() for loss in losses.values()).backward()
    for name, param in objective.named_parameters():
        assert (param.grad is not None and bool(param.grad.any())) == param.requires_grad, name
    for name, param in [*parts.encoder.named_parameters(), *parts.dynamics.named_parameters()]:
        asked = not name.startswith("prior")
        assert (param.grad is not None and bool(param.grad.any())) == asked, name


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_losses_stay_in_full_precision(kind, parts):
    objective = parts.objective(kind)
    with torch.autocast("cpu", torch.bfloat16):
        seen = parts.see(make_batch(parts))
        losses = parts.losses(objective, seen)
    assert seen.embed.dtype == torch.bfloat16
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(loss.mean() for loss in losses.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_nothing_waits_for_the_device(kind, parts):
    objective = parts.objective(kind)
    batch, sound = make_batch(parts), torch.tensor(True)
    seen, noise = parts.see(batch), draw(objective, batch)
    with Watch() as watch:
        losses = objective.losses(seen, parts.encoder, parts.dynamics, noise)
        sum(loss.mean() for loss in losses.values()).backward()
        objective.after_update(sound)
    assert not watch.seen & WAITING
    assert "mm" in watch.seen or "addmm" in watch.seen, "it did watch"


# ── reconstruction ──────────────────────────────────────────────────────────────────────────────────────────


def test_reconstruction_asks_its_decoder(parts):
    objective = parts.objective("reconstruct")
    assert objective.keys == tuple(EVERYTHING.observation)
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"decoder"}
    seen = parts.see(make_batch(parts))
    losses = parts.losses(objective, seen)
    expected = objective.decoder.losses(objective.decoder(seen.feat), seen.batch.obs)
    for key, loss in losses.items():
        assert loss.shape == (B, T)
        torch.testing.assert_close(loss, expected[key])


@pytest.mark.parametrize("frames", [1, 4, 100])
def test_reconstruction_in_parts_learns_the_same(parts, frames):
    whole = parts.objective("reconstruct")
    parted = type(whole)(parts.make_decoder(recompute=frames))
    parted.load_state_dict(whole.state_dict())
    calls = []
    parted.decoder.register_forward_hook(lambda *_: calls.append(1))
    found = []
    for objective in (whole, parted):
        losses = parts.losses(objective, parts.see(make_batch(parts)))
        total = sum(loss.mean() for loss in losses.values())
        learnt = [*objective.parameters(), *parts.encoder.parameters()]
        found.append([*losses.values(), *torch.autograd.grad(total, learnt)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert len(calls) == 2 * -(-B * T // frames), "forward, and once more on the way back"
