"""Adam against torch's, by hand, and group by group."""

import math

import pytest
import torch

from dreamer_cli.optim.adam import Adam, AdamConfig
from tests.small import near


def made(*shapes: int, seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in shapes]


def push(params: list[torch.nn.Parameter], step: int, size: float = 1.0) -> None:
    """Gradients that differ from step to step."""
    for i, p in enumerate(params):
        p.grad = size * torch.sin(torch.arange(p.numel()) + 7.0 * step + i)


def test_against_torch(precision):
    """Whose ε counts √(1 - β₂ᵗ) as much: set anew at every step, it is the same optimiser."""
    ours, theirs = made(3, 5), made(3, 5)
    adam = AdamConfig(lr=0.01, eps=1e-3, clip=1e9).build({"world": ours})
    other = torch.optim.Adam(theirs, lr=0.01, eps=1e-3)
    for step in range(1, 8):
        push(ours, step, 0.01)
        push(theirs, step, 0.01)
        adam.step()
        other.param_groups[0]["eps"] = 1e-3 / math.sqrt(1 - 0.999**step)
        other.step()
        for a, b in zip(ours, theirs, strict=True):
            near(a, b.detach(), precision.tolerance)


def test_the_reference_s_adam(reference):
    """With an ε that is too small to matter, whichever it is."""
    known = reference["laprop"]
    param = torch.nn.Parameter(torch.tensor(known["param0"], dtype=torch.float64))
    adam = AdamConfig(lr=0.01, eps=1e-12, clip=1e9).build({"world": [param]})
    for step, expected in zip(
        known["const_lr_0.01_no_agc"], known["adam_contrast_lr_0.01_eps1e-8_params"], strict=True
    ):
        param.grad = torch.tensor(step["grad"], dtype=torch.float64)
        adam.step()
        near(param, expected, 1e-6)


def test_two_steps_by_hand(precision):
    param = torch.nn.Parameter(torch.tensor([1.0]))
    adam = AdamConfig(lr=0.1, beta1=0.5, beta2=0.75, eps=0.2, clip=1e9, decay=0.01).build({"world": [param]})
    param.grad = torch.tensor([2.0])
    adam.step()
    # m = 1, v = 1, lr √(1 - .75) / (1 - .5) = 0.1; the parameter shrinks first.
    first = 0.99 * 1.0 - 0.1 * 1 / (1 + 0.2)
    near(param, [first], precision.tolerance)
    param.grad = torch.tensor([-4.0])
    adam.step()
    # m = .5 - 2 = -1.5, v = .75 + .25 · 16 = 4.75, lr √(1 - .5625) / (1 - .25)
    second = 0.99 * first + 0.1 * math.sqrt(0.4375) / 0.75 * 1.5 / (math.sqrt(4.75) + 0.2)
    near(param, [second], precision.tolerance)


def test_decay_does_not_heed_the_step_size():
    param = torch.nn.Parameter(torch.tensor([2.0, -4.0]))
    adam = AdamConfig(lr=0.0, decay=0.125).build({"world": [param]})
    param.grad = torch.ones(2)
    adam.step()
    assert param.tolist() == [1.75, -3.5]


@pytest.mark.parametrize("clip", [0.5, 1e4])
def test_clipping_is_torch_s(precision, clip):
    params, others = made(4, 6, 5), made(4, 6, 5)
    adam = AdamConfig(clip=clip).build({"world": params[:2], "critic": params[2:]})
    push(params, 1, 3.0)
    push(others, 1, 3.0)
    norms = [torch.nn.utils.clip_grad_norm_(group, clip) for group in (others[:2], others[2:])]
    metrics = adam.step()
    for a, b in zip(params, others, strict=True):
        near(a.grad, b.grad, max(1e-5, precision.tolerance))  # torch adds 1e-6 to the norm
    near(metrics["optim/grad_norm"], torch.stack(norms).norm(), precision.tolerance)
    assert metrics["optim/clipped"] == (1.0 if clip < 1 else 0.0)


def test_gradients_within_the_norm_keep_their_bits():
    params = made(4, 6)
    push(params, 1, 0.1)
    before = [p.grad.clone() for p in params]
    AdamConfig(clip=1.0).build({"world": params}).step()
    assert all(torch.equal(p.grad, old) for p, old in zip(params, before, strict=True))


def test_each_group_is_clipped_by_itself():
    """A wild actor does not slow the world model down."""
    params = made(3, 3, 3)
    groups = {name: [param] for name, param in zip(("world", "actor", "preview"), params, strict=True)}
    adam = AdamConfig(clip=1.0, behaviour_clip=0.5).build(groups)
    params[0].grad, params[1].grad, params[2].grad = torch.full((3,), 0.1), torch.full((3,), 1e6), torch.full((3,), 9.0)
    metrics = adam.step()
    near(params[0].grad, [0.1] * 3, 0)
    near(params[1].grad.norm(), 0.5, 1e-6)
    near(params[2].grad.norm(), 1.0, 1e-6)
    near(metrics["optim/clipped"], 2 / 3, 1e-6)


def groups(**settings: float) -> tuple[dict[str, torch.nn.Parameter], Adam]:
    params = {name: torch.nn.Parameter(torch.zeros(2)) for name in ("world", "actor", "critic", "preview")}
    return params, AdamConfig(lr=0.1, **settings).build({name: [p] for name, p in params.items()})


def test_groups_have_their_own_step_sizes():
    for settings, expected in (
        ({}, {"world": 0.1, "actor": 0.1, "critic": 0.1, "preview": 0.1}),
        ({"actor_lr": 0.2, "critic_lr": 0.0}, {"world": 0.1, "actor": 0.2, "critic": 0.0, "preview": 0.1}),
    ):
        params, adam = groups(eps=1e-12, **settings)
        for p in params.values():
            p.grad = torch.tensor([3.0, -3.0])
        assert adam.step()["optim/lr"] == torch.tensor(0.1)
        for name, lr in expected.items():
            near(params[name], [-lr, lr], 1e-6)  # Adam's first step has length lr


def test_behaviour_may_have_its_own_epsilon():
    params, adam = groups(eps=1e-12, behaviour_eps=1.0)
    for p in params.values():
        p.grad = torch.tensor([3.0, -3.0])
    adam.step()
    near(params["world"], params["preview"].detach(), 0)
    # First step: lr √.001 / .1 · (.1 · 3) / (√.001 · 3 + 1)
    length = 0.1 * math.sqrt(0.001) * 3 / (math.sqrt(0.001) * 3 + 1)
    for name in ("actor", "critic"):
        near(params[name], [-length, length], 1e-6)


def test_empty_groups_are_none():
    (param,) = made(3)
    adam = AdamConfig(clip=1.0).build({"world": [param], "actor": [], "preview": []})
    param.grad = torch.full((3,), 10.0)
    assert adam.step()["optim/clipped"] == 1, "of the groups that there are"
    assert len(adam.groups) == 1


def test_a_warm_up_warms_every_group():
    params, adam = groups(warmup=4, actor_lr=0.4, clip=1e9, eps=1e-12)
    moved = []
    for _ in range(3):
        before = params["actor"].detach().clone()
        for p in params.values():
            p.grad = torch.ones(2)
        adam.step()
        moved.append((before - params["actor"])[0].detach())
    near(torch.stack(moved), [0.0, 0.1, 0.2], 1e-6)


def test_a_skipped_update_does_not_decay():
    params, adam = groups(decay=0.5)
    for p in params.values():
        p.data.fill_(2.0)
        p.grad = torch.ones(2)
    params["preview"].grad[0] = math.nan
    assert adam.step()["update/skipped"] == 1
    assert all(p.tolist() == [2, 2] for p in params.values())


def test_a_norm_may_overflow_although_no_gradient_does():
    """Each tensor's norm is finite in float32, that of the group is not."""
    params = made(1, 1)
    adam = AdamConfig().build({"world": params})
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.full((1,), 3e38)
    assert adam.step()["update/skipped"] == 1
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
