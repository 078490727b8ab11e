"""Memories: known answers for the block GRU, and every core through the same contract."""

import json

import pytest
import torch
from pydantic import TypeAdapter

from dreamer_cli.world.cores import CORES, BlockGRU, BlockGRUConfig
from tests.small import near, refused

TINY = {"block_gru": {"units": 8, "hidden": 4, "blocks": 2, "layers": 2}}


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


@pytest.mark.parametrize("kind", CORES)
def test_contract(kind):
    torch.manual_seed(0)
    core = TypeAdapter(CORES[kind]).validate_json(json.dumps(TINY.get(kind, {}))).build(stoch=6, action=3)
    deter = torch.zeros(5, core.size)
    stoch, action = torch.randn(5, 6, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    new = core(deter, stoch, action)
    assert new.shape == deter.shape
    assert torch.equal(new, core(deter, stoch, action))
    assert core.read(new).shape[0] == 5
    assert core.read(new).shape[1] <= core.size
    near(core(deter[:2], stoch[:2], action[:2]), new[:2], 1e-6)  # rows know nothing of each other
    core.read(core(new, stoch, action)).square().sum().backward()
    assert all(bool(p.grad.any()) for p in core.parameters())
    assert bool(stoch.grad.any())
    assert bool(action.grad.any())
    with torch.no_grad():
        for _ in range(100):
            new = core(new, stoch, action)
    assert bool(new.isfinite().all())
    assert new.abs().max() < 100, "a memory that stays bounded"


def test_units_must_split_into_blocks():
    error = refused(BlockGRUConfig, units=20, blocks=8)
    assert error.what == "units=20 does not split into 8 equal blocks."
    assert error.hint == "Try units=16."
