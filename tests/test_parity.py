"""The comparison itself: what counts as a tie, and what never passes."""

import numpy as np
import pytest
import torch

from dreamer_cli import frozen, parity


@pytest.mark.parametrize(("gap", "ties", "error"), [(5e-5, 1, 0.0), (2e-3, 0, 1.0)])
def test_only_near_ties_may_fall_the_other_way(gap, ties, error):
    """Two scores `gap` apart; the file takes the lower one, and what follows from it."""

    def choose(noise: torch.Tensor) -> dict[str, torch.Tensor]:
        index = noise.argmax(-1)
        return {"pick": torch.nn.functional.one_hot(index, 3).float(), "after": 10.0 * index}

    feed = {"noise": np.array([[1.0, 1.0 - gap, 0.0]], np.float32)}
    wrong = {name: value.numpy() for name, value in choose(torch.tensor([[0.0, 1.0, 0.0]])).items()}
    ports = (frozen.Port("pick", "action", "float32", (3,)), frozen.Port("after", "action", "float32", ()))
    part = frozen.Part(
        "toy",
        torch.nn.Identity(),
        (),
        ports,
        (frozen.Choice("pick", "noise", slice(None)),),
        lambda inputs: frozen.Answer(choose(inputs["noise"]), {"after": torch.full((), 10.0)}),
    )
    result = parity.compare_step(part, lambda _: wrong, feed)
    assert (result.ties, result.max_abs_error, result.passed) == (ties, error, error == 0)


def test_numbers_that_are_none_never_pass():
    part = frozen.Part(
        "toy",
        torch.nn.Identity(),
        (),
        (frozen.Port("x", "reward", "float32", ()),),
        (),
        lambda inputs: frozen.Answer({"x": torch.zeros(1)}, {}),
    )
    assert not parity.compare_step(part, lambda _: {"x": np.full(1, np.nan)}, {}).passed
    assert not parity.compare_step(part, lambda _: {"x": np.zeros(2)}, {}).passed
