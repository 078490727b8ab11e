"""GRUs against torch's own cell, against the formulas written out, and against known answers."""

import math

import pytest
import torch

from dreamer_cli.world.gru import GRUConfig
from dreamer_cli.world.gru_ln import GRULayerNormConfig
from dreamer_cli.world.rssm import RSSMConfig
from tests.golden import configure
from tests.small import near

F64 = torch.float64


def draw(*shape):
    return torch.randn(*shape, dtype=F64)


def awake(core):
    """Every parameter drawn: zeros would hide mistakes."""
    for parameter in core.to(F64).parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return core


def test_it_is_torchs_cell_behind_one_layer():
    """The form of Keras, reset after the product. torch's gates are in the order reset, update, candidate, too."""
    core = awake(GRUConfig(units=4, hidden=3).build(stoch=5, action=2))
    cell = torch.nn.GRUCell(3, 4, dtype=F64)
    cell.load_state_dict(
        {
            "weight_ih": core.cell.by_input.weight,
            "bias_ih": core.cell.by_input.bias,
            "weight_hh": core.cell.by_deter.weight,
            "bias_hh": core.cell.by_deter.bias,
        }
    )
    deter, stoch, action = draw(6, 4), draw(6, 5), draw(6, 2)
    layer = core.inputs.linear
    x = torch.nn.functional.elu(torch.cat([stoch, action], -1) @ layer.weight.T + layer.bias)
    near(core(deter, stoch, action), cell(x, deter), 1e-12)


def test_reset_before_by_hand():
    """TensorFlow's GRUBlockCell: the reset gate acts on the memory itself, and u keeps instead of replacing."""
    core = awake(GRUConfig(units=2, hidden=1, reset_after=False, bricks="relu").build(stoch=1, action=1))
    deter, stoch, action = draw(1, 2), draw(1, 1), draw(1, 1)
    weight, bias = core.inputs.linear.weight[0].tolist(), core.inputs.linear.bias.item()
    x = max(0.0, weight[0] * float(stoch) + weight[1] * float(action) + bias)
    old = deter[0].tolist()

    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    def row(linear, i, inputs):
        return sum(w * v for w, v in zip(linear.weight[i].tolist(), inputs, strict=True)) + linear.bias[i].item()

    gates = [sigmoid(row(core.cell.gates, i, [x, *old])) for i in range(4)]
    reset, update = gates[:2], gates[2:]
    expected = []
    for i in range(2):
        cand = math.tanh(row(core.cell.cand, i, [x, reset[0] * old[0], reset[1] * old[1]]))
        expected.append(update[i] * old[i] + (1 - update[i]) * cand)
    near(core(deter, stoch, action)[0], expected, 1e-12)


def test_initial_weights_are_those_of_keras():
    torch.manual_seed(0)
    core = GRUConfig(units=50, hidden=80).build(stoch=5, action=2)
    by_input, by_deter = core.cell.by_input, core.cell.by_deter
    limit = math.sqrt(6 / (80 + 150))
    assert 0.98 * limit < by_input.weight.abs().max() <= limit
    near(by_deter.weight.T @ by_deter.weight, torch.eye(50), 1e-5)
    assert not by_input.bias.any()
    assert not by_deter.bias.any()


def test_planets_gates_begin_open():
    cell = GRUConfig(units=4, hidden=3, reset_after=False).build(stoch=5, action=2).cell
    assert torch.equal(cell.gates.bias, torch.ones(8))
    assert not cell.cand.bias.any()


# ── with normed gates ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def known(reference) -> dict:
    """D 3, an input of 2 numbers: weights of [x, h] together."""
    return reference["gru_layernorm_v2"]


def normed(known, **settings):
    """The core of the reference, its layer put aside: the guess is what goes into the gates."""
    core = GRULayerNormConfig(units=3, hidden=2, **settings).build(stoch=2, action=1)
    core.fed.layer.forward = lambda x: x[:, :2]
    weights = {"fed.product.weight": torch.tensor(known["kernel"]).T, "fed.product.bias": torch.tensor(known["bias"])}
    core.load_state_dict({**core.state_dict(), **{k: v for k, v in weights.items() if k in core.state_dict()}})
    return core


def test_normed_gates(known, precision):
    core = normed(known)
    assert core.norm.eps == known["ln_eps"]
    new = core(torch.tensor([known["h"]]), torch.tensor([known["x"]]), torch.zeros(1, 1))
    near(new[0], known["new_h"], precision.tolerance)


def test_normed_gates_without_a_bias(known, precision):
    """V3 of 2023: the same with a bias of zeros."""
    core, zeros = normed(known, bias=False), normed({**known, "bias": [0.0] * 9})
    assert "fed.product.bias" not in core.state_dict()
    args = torch.tensor([known["h"]]), torch.tensor([known["x"]]), torch.zeros(1, 1)
    near(core(*args), zeros(*args), precision.tolerance)
    assert not torch.allclose(core(*args), normed(known)(*args), atol=1e-3), "a bias would matter"


def test_the_norm_shifts_and_scales(known, precision):
    """By hand: shift 1 undoes the bias of -1 on the update gate, scale 0 leaves nothing else: h' = h / 2."""
    core = normed(known)
    torch.nn.init.zeros_(core.norm.weight)
    with torch.no_grad():
        core.norm.bias[6:] = 1.0
    deter = torch.tensor([known["h"]])
    near(core(deter, torch.tensor([known["x"]]), torch.zeros(1, 1)), deter / 2, precision.tolerance)


@pytest.mark.parametrize("bricks", ["elu", "ln_silu"])
def test_the_layer_before_the_gates_is_of_its_generation(bricks):
    core = configure(GRULayerNormConfig, {"units": 4, "hidden": 3, "bricks": bricks}).build(stoch=2, action=1)
    awake(core)
    x = draw(5, 3)
    y = x @ core.fed.layer.linear.weight.T
    if bricks == "elu":
        y = torch.nn.functional.elu(y + core.fed.layer.linear.bias)
    else:
        norm = core.fed.layer.norm
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-3).sqrt()
        y = torch.nn.functional.silu(y * norm.scale + norm.shift)
    near(core.fed.layer(x), y, 1e-10)


# ── sizes ───────────────────────────────────────────────────────────────────────────────────────────────────

GAUSSIAN = {"kind": "gaussian", "size": 30}
CATEGORICAL = {"kind": "categorical", "groups": 32, "classes": 32, "unimix": 0.0}
# Official networks, counted by hand: core, latent, hidden, embed, action, numbers of parameters.
OFFICIAL = {
    "planet": ({"kind": "gru", "reset_after": False, "bricks": "relu"}, GAUSSIAN, 200, 1024, 6, 557_320),
    "v1": ({"kind": "gru"}, GAUSSIAN, 200, 1024, 6, 557_920),
    "v2 atari": ({"kind": "gru_ln"}, CATEGORICAL, 600, 1536, 18, 5_664_848),
    "v2 control": ({"kind": "gru_ln", "units": 200, "hidden": 200}, CATEGORICAL, 200, 1536, 6, 1_247_248),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_are_as_many_as_in_the_official_networks(name):
    core, latent, hidden, embed, action, count = OFFICIAL[name]
    settings = {"core": core, "latent": latent, "hidden": hidden, "prior_layers": 1, "bricks": "elu"}
    with torch.device("meta"):
        rssm = configure(RSSMConfig, settings).build(embed=embed, action=action)
    assert sum(p.numel() for p in rssm.parameters()) == count
