"""DreamerPro's objective: augmentation, targets, losses, what learns and what only follows."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreamer_cli.errors import ConfigError
from dreamer_cli.structs import State
from dreamer_cli.world.augment import shift, shift_choices
from dreamer_cli.world.prototypes import Prototypes, PrototypesConfig, sinkhorn
from tests.small import VECTOR, near
from tests.world.parts import Parts, draw, make_batch, make_parts

B, T = 2, 5


@pytest.fixture
def parts() -> Parts:
    return make_parts()


# ── augmentation ────────────────────────────────────────────────────────────────────────────────────────────


def test_shift_by_hand():
    """A picture of 2x3 pixels, continued by one at each border: shifts of 0 look up and left, of 2 down and right."""
    picture = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8).view(1, 1, 1, 2, 3)
    seen = {by: shift(picture, torch.tensor([by]), 1)[0, 0, 0].tolist() for by in [(0, 0), (0, 2), (1, 1), (2, 1)]}
    assert seen == {
        (0, 0): [[1, 1, 2], [1, 1, 2]],
        (0, 2): [[2, 3, 3], [2, 3, 3]],
        (1, 1): [[1, 2, 3], [4, 5, 6]],
        (2, 1): [[4, 5, 6], [4, 5, 6]],
    }


def test_shift_is_a_window_on_the_continued_picture():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (7, 2, 3, 8, 6), dtype=torch.uint8, generator=generator)
    shifts = shift_choices(7, 3, torch.zeros(()), generator)
    padded = F.pad(pictures.float().flatten(0, 1), (3, 3, 3, 3), mode="replicate").unflatten(0, (7, 2)).byte()
    shifted = shift(pictures, shifts, 3)
    for b, (down, right) in enumerate(shifts.tolist()):
        assert torch.equal(shifted[b], padded[b, :, :, down : down + 8, right : right + 6])


def test_shifts_are_drawn_evenly():
    shifts = shift_choices(70_000, 3, torch.zeros(()), torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(column, minlength=7) for column in shifts.unbind(-1)])
    assert counts.shape == (2, 7)
    assert bool(((counts - 10_000).abs() < 500).all()), "five deviations of sqrt(70000 · 1/7 · 6/7) = 93"
    assert bool((shifts[:, 0] != shifts[:, 1]).any())


# ── targets ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_sinkhorn(reference, precision):
    known = reference["sinkhorn"]
    scores = torch.tensor(known["scores_KBT"]).movedim(0, -1)
    targets = sinkhorn(scores, known["eps"], known["iters"])
    near(targets.movedim(-1, 0), known["Q"], 10 * precision.tolerance)
    near(targets.sum(-1), torch.ones(2, 3), precision.tolerance)


def test_many_iterations_use_all_prototypes_alike():
    """Twelve samples that all like the first of four prototypes best: each prototype gets three of them."""
    torch.manual_seed(0)
    scores = torch.randn(3, 4, 4).double() + torch.tensor([9.0, 0.0, 0.0, 0.0])
    near(sinkhorn(scores, 1.0, 100).sum((0, 1)), torch.full((4,), 3.0), 1e-6)
    near(sinkhorn(scores, 1.0, 1).sum(-1), torch.ones(3, 4), 1e-9)


# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────


def tiny(width: int, seed: int = 0, **settings) -> Prototypes:
    """The objective alone, without parts: for `compare`."""
    torch.manual_seed(seed)
    encoder = torch.nn.Linear(1, 1)
    encoder.size = 1
    dynamics = SimpleNamespace(feat_size=1, latent=SimpleNamespace(noise=None))
    return PrototypesConfig(width=width, **settings).build(encoder, dynamics, torch.nn.Identity)


def test_losses_by_hand():
    """One sample in each view, prototypes (1, 0) and (0, 1), temperature 1. A single sample is shared out evenly:
    targets (1/2, 1/2). Of the encoder (2, 0): similarities (1, 0). Of the state (0, 1/2): similarities (0, 1)."""
    objective = tiny(2, prototypes=2, temperature=1.0, warm_up=0)
    objective.prototypes.data = torch.eye(2)
    by_obs, by_feat = torch.tensor([2.0, 0.0]).expand(2, 1, 2), torch.tensor([0.0, 0.5]).expand(2, 1, 2)
    losses = objective.compare(by_obs, by_feat, torch.randn(2, 1, 2))
    surprise = math.log(math.e + 1) - 0.5  # the mean of -log(e / (e + 1)) and -log(1 / (e + 1))
    near(losses["swav"], torch.full((2, 1), surprise), 1e-6)
    near(losses["temp"], torch.full((2, 1), surprise), 1e-6)
    near(losses["norm"], torch.full((2, 1), (2 - 1) ** 2 + (0.5 - 1) ** 2), 1e-6)


def test_views_swap_targets_and_states_keep_theirs():
    """Two samples a view, certain targets: the first view's are prototypes (0, 1), the second's (1, 0)."""
    objective = tiny(2, prototypes=2, temperature=1.0, epsilon=1e-3, warm_up=0)
    objective.prototypes.data = torch.eye(2)
    first = torch.eye(2)
    slow = torch.stack([first, first.flip(0)])
    losses = objective.compare(slow, slow, slow)  # encoder and states say what the slow encoder says of the same view
    right, wrong = math.log(math.e + 1) - 1, math.log(math.e + 1)
    near(losses["swav"], torch.full((2, 2), wrong), 1e-6)
    near(losses["temp"], torch.full((2, 2), right), 1e-6)


def test_losses_as_the_definition_says_them():
    """Section by section in float64 numpy: probabilities and targets with plain exponentials."""
    cfg = {"prototypes": 6, "temperature": 0.3, "epsilon": 0.2, "iterations": 2, "warm_up": 2}
    objective = tiny(3, **cfg).double()
    torch.manual_seed(1)
    raw = [torch.randn(4, 5, 3, dtype=torch.float64) for _ in range(3)]
    losses = objective.compare(*raw)

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    prototypes = unit(objective.prototypes.detach().numpy())
    obs, feat, slow = (unit(x.numpy())[:, 2:] @ prototypes.T for x in raw)

    def chances(scores):
        return np.exp(scores / 0.3) / np.exp(scores / 0.3).sum(-1, keepdims=True)

    def target(scores):  # samples of one view, prototypes
        q = np.exp(scores.reshape(-1, 6) / 0.2)
        q /= q.sum()
        for _ in range(2):
            q /= q.sum(0, keepdims=True) * 6
            q /= q.sum(1, keepdims=True) * len(q)
        return (q * len(q)).reshape(scores.shape)

    first, second = target(slow[:2]), target(slow[2:])
    swav = -0.5 * (second * np.log(chances(obs[:2]))).sum(-1).mean()
    swav -= 0.5 * (first * np.log(chances(obs[2:]))).sum(-1).mean()
    temp = -(np.concatenate([first, second]) * np.log(chances(feat))).sum(-1).mean()
    norm = sum(((np.linalg.norm(x.numpy(), axis=-1) - 1) ** 2).mean() for x in raw[:2])
    for name, known in {"swav": swav, "temp": temp, "norm": norm}.items():
        near(losses[name].mean(), known, 1e-10)
    assert [losses[name].shape for name in ("swav", "temp", "norm")] == [(4, 3), (4, 3), (4, 5)]


# ── two views through the model ─────────────────────────────────────────────────────────────────────────────


def test_only_pictures_are_augmented(parts):
    objective, batch = parts.objective("prototypes"), make_batch(parts)
    shifts, _ = draw(objective, batch)
    views = objective.views(batch.obs, parts.encoder, shifts)
    assert shifts.shape == (2 * B, 2)
    for key in ("speed", "cards"):
        assert torch.equal(views[key], torch.cat([batch.obs[key]] * 2))
    for view, by in zip(views["camera"].chunk(2), shifts.chunk(2), strict=True):
        assert torch.equal(view, shift(batch.obs["camera"], by, 3))
    assert not torch.equal(*views["camera"].chunk(2))


def test_both_views_are_watched_like_the_batch(parts):
    """Unshifted, and with the batch's own randomness, both are what the model saw: starts, actions, beginnings."""
    objective = parts.objective("prototypes")
    batch = make_batch(parts)
    noise = parts.dynamics.latent.noise((B, T), batch.start.deter, torch.Generator().manual_seed(0))
    seen = parts.see(batch)  # with the same
    asked = []
    objective.feat_proj.register_forward_hook(lambda _, args, out: asked.append(args[0]))
    objective.obs_proj.register_forward_hook(lambda _, args, out: asked.append(args[0]))
    still = torch.full((2 * B, 2), 3)
    objective.losses(seen, parts.encoder, parts.dynamics, (still, torch.cat([noise] * 2)))
    embed, feat = asked
    for view in embed.chunk(2):
        torch.testing.assert_close(view, seen.embed)
    for view in feat.chunk(2):
        torch.testing.assert_close(view, seen.feat)


def test_nothing_passes_an_episodes_beginning(parts):
    """In the second sequence one begins at step 2: the action before it moves what states say before, not after."""
    objective, batch = parts.objective("prototypes", warm_up=0), make_batch(parts, first_at=((0, 0), (1, 2)))
    before = parts.losses(objective, parts.see(batch))
    action, start = batch.action.clone(), State(-batch.start.deter, batch.start.stoch.roll(1, -1))
    action[0, 0] *= -1
    action[1, :3] *= -1  # the actions that led to steps 0, 1 and 2
    after = parts.losses(objective, parts.see(batch._replace(action=action, start=start)))
    assert torch.equal(before["swav"], after["swav"]), "of observations alone"
    assert torch.equal(before["temp"][::2], after["temp"][::2])
    assert torch.equal(before["temp"][1::2, 2:], after["temp"][1::2, 2:])
    assert not torch.equal(before["temp"][1::2, :2], after["temp"][1::2, :2])


def test_it_needs_records_after_the_warm_up(parts):
    objective = parts.objective("prototypes", warm_up=4)
    assert parts.losses(objective, parts.see(make_batch(parts)))["swav"].shape == (2 * B, 1)
    with pytest.raises(ConfigError, match="warm_up=4"):
        objective.noise(2, 4, torch.zeros(()))


def test_it_works_without_pictures():
    parts = make_parts({"speed": VECTOR})
    losses = parts.losses(parts.objective("prototypes"), parts.see(make_batch(parts)))
    assert all(bool(loss.isfinite().all()) for loss in losses.values())


# ── what learns, and what follows ───────────────────────────────────────────────────────────────────────────


def gradients(parts: Parts, objective: Prototypes, *names: str) -> dict[str, bool]:
    """Parameter of objective, encoder or dynamics → whether these losses move it."""
    losses = parts.losses(objective, parts.see(make_batch(parts)))
    named = {
        f"{owner}.{name}": param
        for owner, part in (("objective", objective), ("encoder", parts.encoder), ("dynamics", parts.dynamics))
        for name, param in part.named_parameters()
        if param.requires_grad
    }
    found = torch.autograd.grad(sum(losses[name].mean() for name in names), list(named.values()), allow_unused=True)
    return {name: grad is not None and bool(grad.any()) for name, grad in zip(named, found, strict=True)}


def moves(found: dict[str, bool], start: str) -> bool:
    """Whether those that begin so are moved, all or none."""
    (answer,) = {value for name, value in found.items() if name.startswith(start)}
    return answer


def test_what_each_loss_moves(parts):
    objective = parts.objective("prototypes")
    memory = ("dynamics.core", "dynamics.post")
    swav, temp = gradients(parts, objective, "swav"), gradients(parts, objective, "temp")
    for name in ("objective.prototypes", "objective.obs_proj", "encoder"):
        assert moves(swav, name)
    for name in ("objective.feat_proj", "dynamics"):
        assert not moves(swav, name)
    for name in ("objective.prototypes", "objective.feat_proj", "encoder", *memory):
        assert moves(temp, name)
    assert not moves(temp, "objective.obs_proj")


def test_slow_copies_are_saved_and_not_trained(parts):
    objective = parts.objective("prototypes")
    slow = {name for name, _ in objective.named_parameters() if name.startswith("slow_")}
    assert slow == {name for name, param in objective.named_parameters() if not param.requires_grad}
    assert {f"slow_encoder.{name}" for name, _ in parts.encoder.named_parameters()} < slow
    assert slow < set(objective.state_dict())


def test_slow_copies_make_the_targets(parts):
    """Another slow encoder, another swav; and the first update already has one."""
    objective = parts.objective("prototypes")
    seen = parts.see(make_batch(parts))
    for one, other in zip(objective.slow_encoder.parameters(), parts.encoder.parameters(), strict=True):
        assert torch.equal(one, other)
    before = parts.losses(objective, seen)["swav"]
    with torch.no_grad():
        for param in objective.slow_encoder.parameters():
            param.add_(torch.randn_like(param))
    assert not torch.equal(before, parts.losses(objective, seen)["swav"])


def test_slow_copies_follow(parts):
    """slow ← 0.95 slow + 0.05 fast, of encoder and projection."""
    objective = parts.objective("prototypes")
    pairs = [(objective.slow_encoder, parts.encoder), (objective.slow_proj, objective.obs_proj)]
    expected = []
    with torch.no_grad():
        for slow, fast in pairs:
            for own, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
                theirs.add_(torch.randn_like(theirs))
                expected.append(0.95 * own + 0.05 * theirs)
    objective.after_update(torch.tensor(True))
    for own, known in zip([p for slow, _ in pairs for p in slow.parameters()], expected, strict=True):
        torch.testing.assert_close(own.detach(), known)


def test_prototypes_keep_unit_length(parts):
    objective = parts.objective("prototypes")
    near(objective.prototypes.norm(dim=-1), torch.ones(7), 1e-6)
    with torch.no_grad():
        objective.prototypes.mul_(torch.arange(1.0, 8.0).unsqueeze(-1))
    directions = F.normalize(objective.prototypes.detach(), dim=-1)
    objective.after_update(torch.tensor(True))
    near(objective.prototypes, directions, 1e-6)


def test_prototypes_are_frozen_at_first(parts):
    """For as many sound updates as asked for; their gradient is exactly zero meanwhile, not missing."""
    objective = parts.objective("prototypes", freeze=2)
    seen = parts.see(make_batch(parts))

    def moved() -> bool:
        total = sum(loss.mean() for loss in parts.losses(objective, seen).values())
        (gradient,) = torch.autograd.grad(total, objective.prototypes, retain_graph=True)
        return bool(gradient.any())

    found = []
    for sound in (True, False, True, True):
        found.append(moved())
        objective.after_update(torch.tensor(sound))
    assert found == [False, False, False, True]
    assert int(objective.updates) == 3


def test_frozen_prototypes_do_not_change_the_others(parts):
    losses = {}
    for freeze in (0, 1):
        parts = make_parts()
        objective = parts.objective("prototypes", freeze=freeze)
        losses[freeze] = parts.losses(objective, parts.see(make_batch(parts)))
        sum(loss.mean() for loss in losses[freeze].values()).backward()
        losses[freeze] |= {name: p.grad for name, p in parts.encoder.named_parameters()}
    for name, one in losses[0].items():
        assert torch.equal(one, losses[1][name])


def test_parameter_counts(reference):
    """Of R2-Dreamer's table: 194,752, slow copies aside."""
    known = reference["param_counts_r2dreamer"]["counts"]["size12M:img:dreamerpro"]
    with torch.device("meta"):
        encoder = torch.nn.Linear(1, 1)
        encoder.size = 1024
        dynamics = SimpleNamespace(feat_size=2560, latent=SimpleNamespace(noise=None))
        objective = PrototypesConfig().build(encoder, dynamics, torch.nn.Identity)
    for theirs in ("obs_proj", "feat_proj", "_prototypes"):
        own = [p for name, p in objective.named_parameters() if name.startswith(theirs.removeprefix("_"))]
        assert sum(p.numel() for p in own) == known[theirs]
    assert sum(p.numel() for p in objective.parameters() if p.requires_grad) == 194_752
