"""Memories: known answers for the block GRU, and every core through the same contract."""

import pytest
import torch
from torch import Tensor

from dreamer_cli.world.cores import CORES, BlockGRU, BlockGRUConfig
from tests.small import near, refused
from tests.world.contract import CORE_SPECS, SMALL, A, make_core


@pytest.fixture
def known(reference) -> dict:
    return reference["block_gru"]


@pytest.fixture
def gru(known, precision) -> BlockGRU:
    """The block GRU of the reference: D 4 in 2 blocks, hidden 3, 2x2 latent, 2 actions."""
    core = BlockGRUConfig(units=4, hidden=3, blocks=2).build(stoch=4, action=2)
    theirs = {name: torch.tensor(weight) for name, weight in known["weights"].items()}
    ours = {}
    for i, name in enumerate(("in_deter", "in_stoch", "in_action")):
        ours[f"{name}.linear.weight"] = theirs[f"in{i}_kernel"].T
        ours[f"{name}.linear.bias"] = theirs[f"in{i}_bias"]
        ours[f"{name}.norm.scale"] = theirs[f"in{i}_scale"]
    ours["layers.0.weight"], ours["layers.0.bias"] = theirs["hid_kernel"], theirs["hid_bias"]
    ours["norms.0.scale"] = theirs["hid_scale"]
    ours["gates.weight"], ours["gates.bias"] = theirs["gru_kernel"], theirs["gru_bias"]
    core.load_state_dict(ours)
    return core


def test_block_gru(known, gru, precision):
    seen = {}
    for name in ("in_deter", "in_stoch", "in_action", "gates"):
        gru.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: seen.update({name: out, f"{name}/in": args[0]})
        )
    deter = torch.tensor([known["deter"]])
    stoch = torch.tensor([known["stoch_onehot"]]).flatten(1)
    new = gru(deter, stoch, torch.tensor([known["action"]]).clamp(-1, 1))
    near(seen["in_deter"][0], known["x0"], precision.tolerance)
    near(seen["in_stoch"][0], known["x1"], precision.tolerance)
    near(seen["in_action"][0], known["x2"], precision.tolerance)
    near(seen["gates/in"].flatten(), known["hid"], precision.tolerance)
    near(seen["gates"][0], known["gru_out"], precision.tolerance)
    near(new[0], known["new_deter"], precision.tolerance)


def test_the_reference_mixes_by_its_gates(known):
    """The known answers agree with themselves: new = u·c + (1 - u)·h."""
    old, cand, update = (torch.tensor(known[name]) for name in ("deter", "cand", "update"))
    near(update * cand + (1 - update) * old, known["new_deter"], 1e-6)


def inputs(core, rows: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, core.size).tanh(), torch.randn(rows, 6), torch.randn(rows, A)


@pytest.fixture(params=CORE_SPECS)
def core(request):
    torch.manual_seed(0)
    return make_core(request.param)


def test_contract(core):
    deter, stoch, action = (x.requires_grad_() for x in inputs(core))
    new = core(deter, stoch, action)
    assert new.shape == deter.shape
    assert torch.equal(new, core(deter, stoch, action))
    near(core(deter[:2], stoch[:2], action[:2]), new[:2], 1e-6)  # rows know nothing of each other
    core.read(core(new, stoch, action)).square().sum().backward()
    assert all(bool(x.grad.any()) for x in (*core.parameters(), deter, stoch, action))


def test_heads_see_the_first_numbers_of_a_memory(core):
    deter = inputs(core)[0]
    assert core.read_size == SMALL["units"] <= core.size
    assert torch.equal(core.read(deter), deter[:, : core.read_size])
    assert torch.equal(core.read(deter.expand(2, *deter.shape))[1], core.read(deter)), "any axes in front"


@torch.no_grad()
def test_a_memory_stays_bounded(core):
    deter, stoch, action = inputs(core)
    for _ in range(100):
        deter = core(deter, stoch, action)
    assert bool(deter.isfinite().all())
    assert core.read(deter).abs().max() <= 1, "from within ±1 what heads see stays there"


def test_the_memory_keeps_its_own_precision(core):
    """Whatever the network runs in: it is carried from step to step, and stored."""
    args = inputs(core)
    exact = core(*args)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = core(*args)
        assert core(rounded, *args[1:]).dtype == rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded), "autocast was on"
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)
    assert core.double()(*(x.double() for x in args)).dtype == torch.float64


@pytest.mark.parametrize("kind", CORES)
def test_sizes_can_be_set_for_any_core(kind):
    """Presets of sizes know `units` and `hidden`; without memory, as a checkpoint's limits are found out."""
    with torch.device("meta"):
        core = CORES[kind](units=64, hidden=32).build(stoch=6, action=A)
    assert core.read_size == 64
    assert any(32 in parameter.shape for parameter in core.parameters())


def test_units_must_split_into_blocks():
    error = refused(BlockGRUConfig, units=20, blocks=8)
    assert error.what == "units=20 does not split into 8 equal blocks."
    assert error.hint == "Try units=16."
