"""Latent overshooting: walks of several steps, where they begin, end, and what they teach."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from dreamer_cli.structs import State
from dreamer_cli.world.objectives import Seen
from dreamer_cli.world.overshooting import Overshooting
from tests.small import near
from tests.test_learner import WAITING, Watch
from tests.world.parts import Parts, draw, make_batch, make_parts

B, T = 2, 5
FREE = {
    "step": lambda kl, nats: kl.clamp(min=nats),
    "batch": lambda kl, nats: kl.mean().clamp(min=nats).expand_as(kl),
}


def overshoot(latent, distance: int, per: str = "step", nats: float = 0.0) -> Overshooting:
    return Overshooting(distance, partial(FREE[per], nats=nats), latent)


@pytest.fixture
def parts() -> Parts:
    return make_parts()


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────────


class Counting:
    """Dynamics whose memory adds up actions, whose guess is its memory, and whose KL is the difference of the two."""

    shape = (1,)

    def noise(self, lead, like, generator=None):
        return torch.zeros(*lead, 1)

    def sample(self, stats, noise):
        return stats + noise

    def kl(self, post, prior):
        return (post - prior).abs().squeeze(-1)

    def prior(self, deter):
        return deter

    def imagine_step(self, state, action, noise):
        return State(state.deter + action, self.sample(state.deter + action, noise))


def seen_by_hand(is_first: list[bool]) -> tuple[Counting, Seen]:
    """Memories 0, 10, 20, 30, actions of 1, posteriors 1, 2, 3, 4."""
    dynamics = Counting()
    batch = SimpleNamespace(prev_action=torch.ones(1, 4, 1), is_first=torch.tensor([is_first]))
    deter = torch.tensor([0.0, 10.0, 20.0, 30.0]).view(1, 4, 1)
    post = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1)
    return dynamics, Seen(batch, post, State(deter, deter), deter, post)


# What is foreseen for record t + d: the memory of t + 1, where the posterior went, and one more for each further step.
# d = 2: 11 for record 2 and 21 for record 3, which were 3 and 4: 8 and 17. d = 3: 12 for record 3, which was 4: 8.
@pytest.mark.parametrize(
    ("distance", "is_first", "expected"),
    [
        (2, [False, False, False, False], 12.5),
        (3, [False, False, False, False], (12.5 + 8) / 2),
        (9, [False, False, False, False], (12.5 + 8) / 2),  # farther ones leave the sequence
        (3, [True, False, False, False], (12.5 + 8) / 2),  # no walk goes into record 0
        (3, [False, True, False, False], (17 + 0) / 2),  # a walk from record 1 passes none
        (3, [False, False, True, False], 0.0),  # all of them would pass record 2
        (3, [False, False, False, True], (8 + 0) / 2),
    ],
)
def test_by_hand(distance, is_first, expected):
    dynamics, seen = seen_by_hand(is_first)
    part = overshoot(dynamics, distance)
    near(part.losses(seen, dynamics, part.noise(1, 4, torch.zeros(())))["overshoot"], expected, 1e-6)


@pytest.mark.parametrize(
    ("per", "nats", "expected"),
    [
        ("step", 10.0, ((10 + 17) / 2 + 10) / 2),
        ("batch", 10.0, (12.5 + 10) / 2),
        ("step", 1.0, (12.5 + 8) / 2),
        ("batch", 1.0, (12.5 + 8) / 2),
    ],
)
def test_free_nats(per, nats, expected):
    dynamics, seen = seen_by_hand([False] * 4)
    part = overshoot(dynamics, 3, per, nats)
    near(part.losses(seen, dynamics, part.noise(1, 4, torch.zeros(())))["overshoot"], expected, 1e-6)


@pytest.mark.parametrize("per", FREE)
def test_free_nats_are_of_what_counts(per):
    """One walk of distance 2 is left (17 nats): free nats of 20 hold it, those of 12.5 would not if both counted."""
    dynamics, seen = seen_by_hand([False, True, False, False])
    for nats, expected in ((20.0, 20.0), (15.0, 17.0)):
        part = overshoot(dynamics, 2, per, nats)
        near(part.losses(seen, dynamics, part.noise(1, 4, torch.zeros(())))["overshoot"], expected, 1e-6)


@pytest.mark.parametrize(("distance", "length"), [(0, 5), (1, 5), (9, 2), (9, 1)])
def test_without_distances_there_is_nothing(distance, length):
    dynamics, seen = seen_by_hand([False] * 4)
    part = overshoot(dynamics, distance)
    noise = part.noise(1, length, torch.zeros(()))
    assert noise == ()
    assert part.losses(seen, dynamics, noise) == {}


# ── with a real RSSM ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("distance", [2, 3, 4])
def test_walks_one_by_one_say_the_same(parts, distance):
    """From every posterior by itself, step by step, as one would write it down."""
    batch = make_batch(parts, first_at=((0, 0), (1, 3)))
    seen = parts.see(batch)
    dynamics = parts.dynamics
    part = overshoot(dynamics.latent, distance, nats=0.1)
    noise = draw(part, batch)
    found: dict[int, list[torch.Tensor]] = {d: [] for d in range(2, distance + 1)}
    for b in range(B):
        for t in range(T):
            state = State(*(x[b : b + 1, t] for x in seen.states))
            for d in range(1, distance + 1):
                if t + d >= T or batch.is_first[b, t + d]:
                    break
                state = dynamics.imagine_step(state, batch.prev_action[b : b + 1, t + d], noise[d - 1][b : b + 1, t])
                if d > 1:
                    kl = dynamics.latent.kl(seen.post[b : b + 1, t + d], dynamics.prior(state.deter))
                    found[d].append(kl.clamp(min=0.1))
    assert [len(kls) for kls in found.values()] == [4, 2, 1][: distance - 1]
    expected = torch.stack([torch.stack(kls).mean() for kls in found.values()]).mean()
    near(part.losses(seen, dynamics, noise)["overshoot"], expected.detach(), 1e-5)


def test_randomness_is_an_input(parts):
    batch = make_batch(parts)
    seen = parts.see(batch)
    part = overshoot(parts.dynamics.latent, 3)
    one, same, other = (part.losses(seen, parts.dynamics, draw(part, batch, seed)) for seed in (0, 0, 1))
    assert torch.equal(one["overshoot"], same["overshoot"])
    assert not torch.equal(one["overshoot"], other["overshoot"])


def test_nothing_waits_for_the_device(parts):
    batch = make_batch(parts)
    part = overshoot(parts.dynamics.latent, 3)
    seen, noise = parts.see(batch), draw(part, batch)
    with Watch() as watch:
        part.losses(seen, parts.dynamics, noise)["overshoot"].backward()
    assert not watch.seen & WAITING
    assert "addmm" in watch.seen, "it did watch"


def test_what_it_teaches(parts):
    """Prior and memory, and what walks begin in; not the posterior that they are measured by."""
    batch = make_batch(parts)
    seen = parts.see(batch)
    states, post = State(*(x.detach().requires_grad_() for x in seen.states)), seen.post.detach().requires_grad_()
    part = overshoot(parts.dynamics.latent, 3)
    part.losses(seen._replace(states=states, post=post), parts.dynamics, draw(part, batch))["overshoot"].backward()
    assert post.grad is None
    learnt = {name for name, param in parts.dynamics.named_parameters() if param.grad is not None and param.grad.any()}
    assert learnt == {name for name, _ in parts.dynamics.named_parameters() if not name.startswith("post")}
    begun = states.deter.grad.any(-1)
    # One step ahead the memory is the posterior's own, so its columns begin at 1; walks of two steps end at 4 at last.
    assert begun[0].tolist() == [False, True, True, True, False]
    # In the second sequence an episode begins at step 2: from 0 and 1 no walk of two steps is whole.
    assert begun[1].tolist() == [False, False, False, True, False]


def test_nothing_leaks_out_of_other_episodes(parts):
    """In a sequence whose second episode begins at step 2, only the walk from there counts."""
    batch = make_batch(parts, batch=1, first_at=((0, 2),))
    seen = parts.see(batch)
    part = overshoot(parts.dynamics.latent, 3)
    noise = draw(part, batch)
    known = part.losses(seen, parts.dynamics, noise)["overshoot"]
    broken = seen.states.deter.detach().clone()
    broken[:, :2] = 7.0
    moved = seen._replace(states=seen.states._replace(deter=broken))
    assert torch.equal(known, part.losses(moved, parts.dynamics, noise)["overshoot"])
    assert known > 0
