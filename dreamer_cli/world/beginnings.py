"""What an episode begins with: the memory and the guess before anything was seen."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dreamer_cli.shapes import Bool

# (is_first B, deter B D, stoch B and its axes) → deter and stoch, as an episode begins where is_first.
Blank = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def zero_where(mask: Bool[Tensor, "*lead"], x: Tensor) -> Tensor:
    """x (lead ...) with the rows of `mask` blanked: filled, so that not even NaN survives, without a host sync."""
    return x.masked_fill(mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim())), 0)


class Zeros:
    """Nothing. Source: PlaNet, Dreamer V1, V2, and V3 since 2024."""

    by_hand = True  # time loops know it

    def __init__(self, size: int, expected: Callable[[Tensor], Tensor]) -> None:
        pass

    def ready(self) -> Blank:
        """What blanks states from now on, until weights change."""
        return zero_both


def zero_both(is_first: Bool[Tensor, " B"], deter: Tensor, stoch: Tensor) -> tuple[Tensor, Tensor]:
    """Both with zeros where an episode begins."""
    return zero_where(is_first, deter), zero_where(is_first, stoch)


class Learned(nn.Module):
    """deter = tanh(w), learnt from zeros, and the guess that the prior holds likeliest there, as a constant.

    Source: Dreamer V3 of 2023, official code.

    Args:
        size: numbers of the memory (D).
        expected: deter 1 D → stoch, 1 and its axes: the mode of the prior.
    """

    by_hand = False

    def __init__(self, size: int, expected: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.deter = nn.Parameter(torch.zeros(size))
        self.expected = expected

    def ready(self) -> Blank:
        """What blanks states from now on, until weights change."""
        first = torch.tanh(self.deter).unsqueeze(0)
        # The official code takes no gradient of a mode either: rep must not reach the prior on this way.
        guess = self.expected(first).detach()

        def blank(is_first: Tensor, deter: Tensor, stoch: Tensor) -> tuple[Tensor, Tensor]:
            return replace_where(is_first, deter, first), replace_where(is_first, stoch, guess)

        return blank


def replace_where(mask: Bool[Tensor, " B"], x: Tensor, row: Tensor) -> Tensor:
    """x (B ...) with `row` (1 ...) in the rows of `mask`, in x's dtype; not even NaN survives there."""
    return torch.where(mask.reshape(-1, *[1] * (x.dim() - 1)), row.to(x.dtype), x)


BEGINNINGS: dict[str, Callable[[int, Callable[[Tensor], Tensor]], Zeros | Learned]] = {
    "zeros": Zeros,
    "learned": Learned,
}
