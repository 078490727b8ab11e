"""The RSSM: steps equal loops, and nothing passes an episode's beginning."""

import json

import pytest
import torch
from pydantic import TypeAdapter

from dreamer_cli.structs import State
from dreamer_cli.world.rssm import DYNAMICS, RSSM, RSSMConfig, stack, zero_where
from tests.golden import configure
from tests.small import WORLD, near

B, T, E, A = 3, 6, 5, 4
SETTINGS = {key: value for key, value in WORLD["dynamics"].items() if key != "kind"}
TINY = {"rssm": SETTINGS}


@pytest.fixture
def rssm() -> RSSM:
    torch.manual_seed(0)
    return configure(RSSMConfig, SETTINGS).build(embed=E, action=A)


@pytest.fixture
def inputs(rssm) -> dict:
    """Three sequences; in the second an episode begins at step 3, in the third at step 0."""
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[1, 3] = is_first[2, 0] = True
    stoch = rssm.latent.sample(torch.randn(B, rssm.latent.stats_size), rssm.latent.noise((B,), torch.zeros(())))
    return {
        "embed": torch.randn(B, T, E),
        "prev_action": torch.randn(B, T, A),
        "is_first": is_first,
        "start": State(torch.randn(B, rssm.core.size).tanh(), stoch),
        "noise": rssm.latent.noise((B, T), torch.zeros(())),
    }


def test_zero_where_blanks_even_nan():
    x = torch.full((2, 3, 4), float("nan"))
    x[1] = 2.0
    assert torch.equal(zero_where(torch.tensor([True, False]), x), torch.stack([torch.zeros(3, 4), x[1]]))


@pytest.mark.parametrize("kind", DYNAMICS)
def test_contract(kind):
    dynamics = TypeAdapter(DYNAMICS[kind]).validate_json(json.dumps(TINY.get(kind, {}))).build(embed=E, action=A)
    state = dynamics.initial(2)
    assert not any(bool(x.any()) for x in state)
    assert dynamics.feat(state).shape == (2, dynamics.feat_size)
    noise = dynamics.latent.noise((2,), state.deter)
    seen, stats = dynamics.observe_step(state, torch.zeros(2, A), torch.randn(2, E), torch.ones(2).bool(), noise)
    imagined = dynamics.imagine_step(seen, torch.zeros(2, A), noise)
    for one in (seen, imagined):
        assert [x.shape for x in one] == [x.shape for x in state]
    assert stats.shape == dynamics.prior(seen.deter).shape == (2, dynamics.latent.stats_size)


def test_observing_step_by_step_equals_observing_at_once(rssm, inputs):
    states, stats = rssm.observe(**inputs)
    state = inputs["start"]
    for t in range(T):
        state, stat = rssm.observe_step(
            state, inputs["prev_action"][:, t], inputs["embed"][:, t], inputs["is_first"][:, t], inputs["noise"][:, t]
        )
        torch.testing.assert_close(stat, stats[:, t])
        torch.testing.assert_close(state.deter, states.deter[:, t])
        assert torch.equal(state.stoch, states.stoch[:, t])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("unimix", [0.0, 0.01])
def test_the_scan_learns_what_single_steps_learn(inputs, dtype, tolerance, unimix):
    """Outputs, and the gradients of every parameter and every input, episodes' beginnings included."""
    core = {"kind": "block_gru", "units": 16, "hidden": 8, "blocks": 4, "layers": 2}
    settings = {**TINY["rssm"], "core": core, "post_layers": 2}
    settings["latent"] = {**settings["latent"], "unimix": unimix}
    rssm = TypeAdapter(DYNAMICS["rssm"]).validate_json(json.dumps(settings)).build(embed=E, action=A).to(dtype)
    torch.nn.init.normal_(rssm.core.gates.bias)
    torch.nn.init.normal_(rssm.core.norms[0].scale)
    start = rssm.initial(B)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    feed = {name: draw(B, T, n).requires_grad_() for name, n in (("embed", E), ("prev_action", A))}
    begin = State(draw(*start.deter.shape).requires_grad_(), draw(*start.stoch.shape).requires_grad_())
    noise = rssm.latent.noise((B, T), start.deter, generator)
    first = inputs["is_first"]

    def plain():
        state, states, stats = begin, [], []
        for t in range(T):
            given = (feed["prev_action"][:, t], feed["embed"][:, t], first[:, t], noise[:, t])
            state, stat = rssm.observe_step(state, *given)
            states.append(state)
            stats.append(stat)
        return *stack(states), torch.stack(stats, 1)

    def scanned():
        states, stats = rssm.observe(feed["embed"], feed["prev_action"], first, begin, noise)
        return *states, stats

    found = []
    learnt = [p for name, p in rssm.named_parameters() if not name.startswith("prior")]
    for run in (plain, scanned):
        out = run()
        pull = torch.Generator().manual_seed(1)
        total = sum((x * torch.randn(x.shape, generator=pull, dtype=dtype)).sum() for x in out)
        found.append([*out, *torch.autograd.grad(total, [*feed.values(), *begin, *learnt])])
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= tolerance * max(1.0, float(one.detach().abs().max()))


@pytest.mark.parametrize("differentiable", [True, False])
def test_imagining_step_by_step_equals_imagining_at_once(rssm, inputs, differentiable):
    net = torch.nn.Linear(rssm.feat_size, A)

    def policy(feat, noise):
        return net(feat) + noise

    latent_noise, action_noise = inputs["noise"], torch.randn(B, T + 1, A)
    with torch.set_grad_enabled(differentiable):  # with gradients step by step, without in the form for loops
        feats, actions = rssm.imagine(inputs["start"], policy, latent_noise, action_noise)
    assert feats.shape[:2] == actions.shape[:2] == (B, T + 1)
    state = inputs["start"]
    for t in range(T + 1):
        torch.testing.assert_close(feats[:, t], rssm.feat(state))
        torch.testing.assert_close(actions[:, t], policy(feats[:, t], action_noise[:, t]), msg="of the same column")
        if t < T:
            state = rssm.imagine_step(state, actions[:, t], latent_noise[:, t])


def test_a_step_without_seeing_is_the_prior_of_the_same_memory(rssm, inputs):
    """Observing and imagining share memory; they differ only in which guess is sampled."""
    action, never = torch.randn(B, A), torch.zeros(B, dtype=torch.bool)
    noise = inputs["noise"][:, 0]
    seen, _ = rssm.observe_step(inputs["start"], action, inputs["embed"][:, 0], never, noise)
    dreamt = rssm.imagine_step(inputs["start"], action, noise)
    assert torch.equal(seen.deter, dreamt.deter)
    assert torch.equal(dreamt.stoch, rssm.latent.sample(rssm.prior(dreamt.deter), noise))


@pytest.mark.parametrize("what", ["embed", "prev_action", "noise", "start"])
def test_nothing_passes_an_episodes_beginning(rssm, inputs, what):
    """What came before `is_first` does not matter afterwards, and does matter where no episode begins."""
    before, _ = rssm.observe(**inputs)
    changed = dict(inputs)
    if what == "start":
        changed["start"] = State(-inputs["start"].deter, inputs["start"].stoch.roll(1, -1))
    else:
        changed[what] = inputs[what].clone()
        # Of the step at which an episode begins only the action that led to it is foreign.
        changed[what][:, : 4 if what == "prev_action" else 3] *= -1
        changed[what][2] = inputs[what][2]
        if what == "prev_action":
            changed[what][2, 0] *= -1
    after, _ = rssm.observe(**changed)
    assert torch.equal(before.deter[1, 3:], after.deter[1, 3:])
    assert torch.equal(before.stoch[1, 3:], after.stoch[1, 3:])
    assert torch.equal(before.deter[2], after.deter[2])
    assert not torch.equal(before.deter[0, 3:], after.deter[0, 3:])
    assert not torch.equal(before.deter[1, :3], after.deter[1, :3])


def test_nan_does_not_leak_into_a_new_episode(rssm, inputs):
    """Not even from a carry that was never written, and not through gradients either."""
    inputs["is_first"][:, 0] = True
    inputs["start"] = State(*(torch.full_like(x, float("nan")) for x in inputs["start"]))
    inputs["prev_action"][:, 0] = float("nan")
    states, stats = rssm.observe(**inputs)
    assert all(bool(x.isfinite().all()) for x in (*states, stats))
    rssm.feat(states).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in rssm.parameters() if p.grad is not None)


def test_actions_are_clipped_on_their_way_in(reference, precision):
    known = reference["bounded_normal"]
    rssm = configure(RSSMConfig, SETTINGS).build(embed=E, action=2)
    seen = []
    rssm.core.in_action.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    action = torch.tensor([known["action"]], requires_grad=True)
    rssm.imagine_step(rssm.initial(1), action, rssm.latent.noise((1,), action))
    near(seen[0][0], known["rssm_action_input"], precision.tolerance)
    seen[0].sum().backward()
    near(action.grad[0], [1.0, 1 / 1.4], precision.tolerance)  # the divisor is a constant


def test_gradients_run_back_through_time(rssm, inputs):
    embed = inputs["embed"].requires_grad_()
    states, _ = rssm.observe(**inputs)
    rssm.feat(states)[:, -1].square().sum().backward()
    moved = embed.grad.flatten(2).any(-1)
    assert bool(moved[0].all()), "through the memory and through straight-through samples"
    assert moved[1].tolist() == [False, False, False, True, True, True], "but not into another episode"
