"""A preview draws, and leaves the model alone."""

import torch

from dreamer_cli.world.preview import Preview
from tests.small import near
from tests.world.parts import make_batch, make_parts


def test_a_preview_learns_and_the_model_does_not():
    parts = make_parts()
    preview = Preview(parts.make_decoder())
    seen = parts.see(make_batch(parts))
    losses = preview.losses(seen)
    assert {name: loss.shape for name, loss in losses.items()} == {"preview": (2, 5)}
    losses["preview"].mean().backward()
    assert all(bool(param.grad.any()) for param in preview.parameters())
    for part in (parts.encoder, parts.dynamics):
        assert all(param.grad is None for param in part.parameters())


def test_its_loss_is_that_of_reconstruction_summed_over_the_keys():
    parts = make_parts()
    objective = parts.objective("reconstruct")
    preview = Preview(objective.decoder)
    seen = parts.see(make_batch(parts))
    near(preview.losses(seen)["preview"], sum(parts.losses(objective, seen).values()).detach(), 1e-5)
    drawn, known = preview.decode(seen.feat), objective.decode(seen.feat)
    assert drawn.keys() == known.keys()
    assert all(torch.equal(drawn[key], known[key]) for key in drawn)
