"""The LSTM against torch's own cell, and its gates' way back."""

import torch

from dreamer_cli.world.lstm import LSTMConfig, lstm_gates_backward, lstm_gates_forward
from tests.small import near

F64 = torch.float64


def draw(*shape):
    return torch.randn(*shape, dtype=F64)


def test_it_is_torchs_cell_behind_one_layer():
    """torch's gates are in the order input, forget, candidate, output, too; of its two biases one is enough."""
    core = LSTMConfig(units=4, hidden=3).build(stoch=5, action=2).to(F64)
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    by_layer, by_memory = core.fed.product.weight.split([3, 4], 1)
    cell = torch.nn.LSTMCell(3, 4, dtype=F64)
    cell.load_state_dict(
        {"weight_ih": by_layer, "weight_hh": by_memory, "bias_ih": core.fed.product.bias, "bias_hh": torch.zeros(16)}
    )
    deter, stoch, action = draw(6, 8), draw(6, 5), draw(6, 2)
    new = core(deter, stoch, action)
    memory, kept = cell(core.fed.layer(torch.cat([stoch, action], -1)), tuple(deter.split(4, -1)))
    near(new, torch.cat([memory, kept], -1), 1e-12)
    assert torch.equal(core.read(new), new[:, :4]), "heads see h only"


def test_it_remembers_by_default():
    core = LSTMConfig(units=4, hidden=3).build(stoch=5, action=2)
    assert core.fed.product.bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


def test_the_gates_way_back():
    gates, deter, pull = draw(5, 12).requires_grad_(), draw(5, 6).requires_grad_(), draw(5, 6)
    after, *opened = lstm_gates_forward(gates, deter)
    by_gates, by_deter = torch.autograd.grad((after * pull).sum(), (gates, deter))
    found = lstm_gates_backward(pull, gates.detach(), deter.detach(), *(x.detach() for x in opened))
    near(found[0], by_gates, 1e-12)
    near(found[1], by_deter[:, 3:], 1e-12)
    assert not by_deter[:, :3].any(), "h acts through the gates alone"
