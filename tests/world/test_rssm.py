"""The RSSM: steps equal loops, nothing passes an episode's beginning, and gradients flow where they must.

Everything holds for every mixture of memory, guess and beginning; what takes long is shown for any two of them.
"""

import pytest
import torch
from torch import Tensor

from dreamer_cli.structs import State
from dreamer_cli.world.cores import CORES
from dreamer_cli.world.latents import LATENTS
from dreamer_cli.world.rssm import DYNAMICS, RSSM, RSSMConfig, stack
from tests.golden import configure
from tests.small import WORLD, near
from tests.world.contract import (
    CORE_SPECS,
    LATENT_SPECS,
    LOOPED_SPECS,
    MIXTURES,
    PAIRS,
    A,
    B,
    E,
    T,
    draw,
    make_inputs,
    make_rssm,
)

SETTINGS = {key: value for key, value in WORLD["dynamics"].items() if key != "kind"}
TINY = {"rssm": SETTINGS}


@pytest.fixture(params=PAIRS, ids="-".join)
def rssm(request) -> RSSM:
    core, latent, initial = request.param
    return make_rssm(CORE_SPECS[core], LATENT_SPECS[latent], initial=initial)


@pytest.fixture
def inputs(rssm) -> dict:
    return make_inputs(rssm)


def step_by_step(rssm: RSSM, inputs: dict) -> tuple[State, Tensor]:
    """`observe`, by single steps."""
    state, states, stats = inputs["start"], [], []
    for t in range(T):
        state, stat = rssm.observe_step(
            state, inputs["prev_action"][:, t], inputs["embed"][:, t], inputs["is_first"][:, t], inputs["noise"][:, t]
        )
        states.append(state)
        stats.append(stat)
    return stack(states), torch.stack(stats, 1)


every_mixture = pytest.mark.parametrize("rssm", MIXTURES, indirect=True, ids="-".join)


def exactly(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", DYNAMICS)
def test_contract(kind):
    dynamics = configure(DYNAMICS[kind], TINY.get(kind, {})).build(embed=E, action=A)
    state = dynamics.initial(2)
    assert not any(bool(x.any()) for x in state)
    assert dynamics.feat(state).shape == (2, dynamics.feat_size)
    noise = dynamics.latent.noise((2,), state.deter)
    seen, stats = dynamics.observe_step(state, torch.zeros(2, A), torch.randn(2, E), torch.ones(2).bool(), noise)
    imagined = dynamics.imagine_step(seen, torch.zeros(2, A), noise)
    for one in (seen, imagined):
        assert [x.shape for x in one] == [x.shape for x in state]
    assert stats.shape == dynamics.prior(seen.deter).shape == (2, dynamics.latent.stats_size)


# ── every mixture ───────────────────────────────────────────────────────────────────────────────────────────


@every_mixture
def test_observing_step_by_step_equals_observing_at_once(rssm, inputs):
    states, stats = rssm.observe(**inputs)
    assert states.deter.shape == (B, T, rssm.core.size)
    assert states.stoch.shape == (B, T, *rssm.latent.shape)
    assert rssm.feat(states).shape == (B, T, rssm.feat_size)
    assert rssm.feat_size == rssm.deter_size + rssm.latent.size
    for other, same in ((step_by_step(rssm, inputs), torch.testing.assert_close), (rssm.observe(**inputs), exactly)):
        for found, expected in zip((*states, stats), (*other[0], other[1]), strict=True):
            same(found, expected)


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


@every_mixture
@torch.no_grad()
def test_nothing_passes_an_episodes_beginning(rssm, inputs):
    """What came before `is_first` does not matter afterwards, and does matter where no episode begins."""
    inputs["noise"] *= 0.1  # what is seen decides, not chance
    before, stats = rssm.observe(**inputs)
    for what in inputs.keys() - {"is_first"}:
        changed = dict(inputs)
        if what == "start":
            changed["start"] = State(-inputs["start"].deter, inputs["start"].stoch.roll(1, -1))
        else:
            changed[what] = inputs[what].clone()
            # Of the step at which an episode begins only the action that led to it is foreign.
            changed[what][:, : 4 if what == "prev_action" else 3] *= -20
            changed[what][2] = inputs[what][2]
            if what == "prev_action":
                changed[what][2, 0] *= -20
        after, changed_stats = rssm.observe(**changed)
        assert torch.equal(before.deter[1, 3:], after.deter[1, 3:]), what
        assert torch.equal(before.stoch[1, 3:], after.stoch[1, 3:]), what
        assert torch.equal(before.deter[2], after.deter[2]), what
        assert not torch.equal(before.deter[0, 3:], after.deter[0, 3:]), what
        assert not torch.equal(stats[1, :3], changed_stats[1, :3]), what


def test_states_can_be_blanked_beforehand(rssm, inputs):
    """For whoever walks on from a stored state, not knowing whether an episode began there."""
    first, (action, embed, noise) = (
        inputs["is_first"][:, 0],
        (inputs[key][:, 0] for key in ("prev_action", "embed", "noise")),
    )
    action = action.masked_fill(first.unsqueeze(-1), 0)
    expected, _ = rssm.observe_step(inputs["start"], action, embed, first, noise)
    begun = rssm.blank(first, inputs["start"])
    found, _ = rssm.observe_step(begun, action, embed, torch.zeros_like(first), noise)
    exactly(found.deter, expected.deter)
    exactly(begun.deter[:2], inputs["start"].deter[:2])


def test_nan_does_not_leak_into_a_new_episode(rssm, inputs):
    """Not even from a carry that was never written, and not through gradients either."""
    inputs["is_first"][:, 0] = True
    inputs["start"] = State(*(torch.full_like(x, float("nan")) for x in inputs["start"]))
    inputs["prev_action"][:, 0] = float("nan")
    states, stats = rssm.observe(**inputs)
    assert all(bool(x.isfinite().all()) for x in (*states, stats))
    rssm.feat(states).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in rssm.parameters() if p.grad is not None)


def test_gradients_run_back_through_time(rssm, inputs):
    embed = inputs["embed"].requires_grad_()
    states, _ = rssm.observe(**inputs)
    (rssm.feat(states)[:, -1] * draw(B, rssm.feat_size, seed=5)).sum().backward()
    moved = embed.grad.flatten(2).any(-1)
    assert bool(moved[0].all()), "through the memory and through samples"
    assert moved[1].tolist() == [False, False, False, True, True, True], "but not into another episode"


def kl_gradients(rssm, inputs, length: int) -> dict[str, set[str]]:
    """The parameters that dyn and rep move, over the first `length` records."""
    cut = {key: x if key == "start" else x[:, :length] for key, x in inputs.items()}
    names, parameters = zip(*rssm.named_parameters(), strict=True)
    states, post = rssm.observe(**cut)
    prior = rssm.prior(states.deter)
    moved = {}
    for loss, stats in (("dyn", (post.detach(), prior)), ("rep", (post, prior.detach()))):
        total = rssm.latent.kl(*stats).sum()
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        moved[loss] = {name for name, g in zip(names, gradients, strict=True) if g is not None and bool(g.any())}
    return moved


def test_kl_teaches_whom_it_must(rssm, inputs):
    """dyn: prior and memory, and earlier posteriors through it, never the one it is compared with. rep: no prior."""
    parts = {part: {n for n, _ in rssm.named_parameters() if n.startswith(part)} for part in ("core", "prior", "post")}
    beginning = {n for n, _ in rssm.named_parameters() if n.startswith("beginning")}
    now = kl_gradients(rssm, inputs, length=1)
    assert now["dyn"] == parts["core"] | parts["prior"] | beginning
    assert now["rep"] == parts["core"] | parts["post"] | beginning
    later = kl_gradients(rssm, inputs, length=T)
    assert later["dyn"] == {n for n, _ in rssm.named_parameters()}
    assert later["rep"] == parts["core"] | parts["post"] | beginning


def test_half_precision(rssm, inputs):
    """Networks in bfloat16: memory, guess and gradients stay float32, and every parameter is still learnt."""
    with torch.autocast("cpu", torch.bfloat16):
        states, post = rssm.observe(**inputs)
        prior = rssm.prior(states.deter)
        kl = rssm.latent.kl(post, prior)
        dreamt = rssm.imagine_step(State(states.deter[:, 0], states.stoch[:, 0]), draw(B, A), inputs["noise"][:, 0])
    assert post.dtype == prior.dtype == torch.bfloat16, "autocast was on"
    assert all(x.dtype == torch.float32 for x in (*states, *dreamt, kl))
    kl.sum().backward()
    for name, parameter in rssm.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert bool(parameter.grad.isfinite().all())
        assert bool(parameter.grad.any()), name
    exact, _ = rssm.observe(**inputs)
    near(states.deter[:2, 0], exact.deter[:2, 0], 0.05)


def test_stored_states_are_taken_up_again(rssm, inputs):
    """A walk from a stored latent goes on as if it had not been interrupted."""
    whole, _ = rssm.observe(**inputs)
    rest = {key: x[:, 2:] for key, x in inputs.items() if key != "start"}
    _, dtype = rssm.latent.packed
    stored = rssm.latent.pack(whole.stoch[:, 1]).detach().numpy().astype(dtype)
    start = State(whole.deter[:, 1], rssm.latent.unpack(torch.from_numpy(stored)))
    resumed, _ = rssm.observe(**rest, start=start)
    torch.testing.assert_close(resumed.deter, whole.deter[:, 2:])
    torch.testing.assert_close(resumed.stoch, whole.stoch[:, 2:])


# ── the way back by hand ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize("latent", ["categorical", "categorical, no unimix", "gaussian", "gaussian, sigmoid"])
@pytest.mark.parametrize("core", LOOPED_SPECS)
def test_the_scan_learns_what_single_steps_learn(core, latent, dtype, tolerance):
    """Outputs, and the gradients of every parameter and every input, episodes' beginnings included."""
    specs = {**LATENT_SPECS, "categorical, no unimix": {**LATENT_SPECS["categorical"], "unimix": 0.0}}
    rssm = make_rssm(LOOPED_SPECS[core], specs[latent], dtype)
    assert rssm.walk == rssm.walk_by_hand
    inputs = make_inputs(rssm)
    start = State(*(x.clone().requires_grad_() for x in inputs["start"]))
    inputs |= {"start": start, **{name: inputs[name].requires_grad_() for name in ("embed", "prev_action")}}
    learnt = {name: p for name, p in rssm.named_parameters() if not name.startswith("prior")}
    asked = [inputs["embed"], inputs["prev_action"], *start, *learnt.values()]
    found = []
    for run in (rssm.walk_step_by_step, rssm.walk_by_hand):
        states, stats = run(**inputs)
        out = (*states, stats)
        total = sum((x * draw(*x.shape, dtype=dtype, seed=i)).sum() for i, x in enumerate(out))
        found.append([*out, *torch.autograd.grad(total, asked)])
    names = ["deter", "stoch", "stats", "embed", "prev_action", "start deter", "start stoch", *learnt]
    for name, one, other in zip(names, *found, strict=True):
        assert bool(one.any()), name
        assert (one - other).abs().max() <= tolerance * max(1.0, float(one.detach().abs().max())), name


@pytest.mark.parametrize("core", LOOPED_SPECS)
@pytest.mark.parametrize("latent", LATENTS)
def test_the_scan_in_half_precision(core, latent):
    """Gradients of both walks point the same way, as far as bfloat16 can tell."""
    rssm = make_rssm(LOOPED_SPECS[core], LATENT_SPECS[latent])
    inputs, found = make_inputs(rssm), []
    inputs["noise"] *= 1e3 if latent == "categorical" else 1.0  # lest rounding chose other classes
    learnt = [p for name, p in rssm.named_parameters() if not name.startswith("prior")]
    for run in (rssm.walk_step_by_step, rssm.walk_by_hand):
        with torch.autocast("cpu", torch.bfloat16):
            states, stats = run(**inputs)
        assert all(x.dtype == torch.float32 for x in states)
        total = (rssm.feat(states) * draw(B, T, rssm.feat_size)).sum() + stats.float().square().sum()
        found.append(torch.cat([x.flatten() for x in torch.autograd.grad(total, learnt)]))
    assert torch.nn.functional.cosine_similarity(*found, 0) > 0.98


@pytest.mark.parametrize(
    "settings",
    [{"initial": "learned"}, {"bricks": "elu"}, {"core": CORE_SPECS["gru_ln"]}, {"core": CORE_SPECS["gru"]}],
    ids=str,
)
def test_what_loops_do_not_know_is_walked_step_by_step(settings):
    parts = {"core": LOOPED_SPECS["block_gru"], "latent": LATENT_SPECS["gaussian"], **settings}
    rssm = make_rssm(**parts)
    assert rssm.walk == rssm.walk_step_by_step


def test_v3_is_walked_by_hand():
    with torch.device("meta"):
        assert RSSMConfig().build(embed=E, action=A).by_hand


# ── V3's own ────────────────────────────────────────────────────────────────────────────────────────────────


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


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("latent", LATENTS)
def test_any_sizes_of_presets_fit_together(core, latent):
    """What `--size` sets, and nothing else."""
    sizes = {"core": {"kind": core, "units": 64, "hidden": 32}, "latent": {"kind": latent}, "hidden": 32}
    with torch.device("meta"):
        rssm = configure(RSSMConfig, sizes).build(embed=E, action=A)
    assert rssm.deter_size == 64
    assert rssm.feat_size == 64 + rssm.latent.size
