"""Frames in parts: only where gradients are kept."""

import pytest
import torch

from dreamer_cli.nets.recompute import in_parts


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return in_parts(lambda y: 2 * y, 2, x)


def test_without_gradients_everything_goes_at_once():
    sizes = []

    def note(x):
        sizes.append(len(x))
        return x + 1

    x = torch.arange(5.0, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(in_parts(note, 2, x), x + 1)
    assert sizes == [5]
    assert torch.equal(in_parts(note, 2, x), x + 1)
    assert sizes[1:] == [2, 2, 1]


@pytest.mark.extended
def test_it_exports_with_any_number_of_rows():
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Doubled(), (torch.ones(4, 3),), dynamic_shapes=({0: batch},))
    assert torch.equal(program.module()(torch.ones(7, 3)), torch.full((7, 3), 2.0))
