"""The same observations, seen from a little aside."""

import torch
from torch import Tensor

from dreamer_cli.shapes import Int, UInt8


def shift_choices(count: int, pad: int, like: Tensor, generator: torch.Generator | None) -> Int[Tensor, "count 2"]:
    """`count` shifts down and right, each 0 to 2·pad: the randomness of as many augmented sequences."""
    return torch.randint(2 * pad + 1, (count, 2), device=like.device, generator=generator)


def shift(pictures: UInt8[Tensor, "B T C Y X"], shifts: Int[Tensor, "B 2"], pad: int) -> UInt8[Tensor, "B T C Y X"]:
    """What a window of the pictures' size shows, shifted over pictures that are continued by `pad` pixels at each side.

    One shift for each sequence and axis, the same for all of its time steps. The outermost pixels are repeated beyond
    the border; a shift of `pad` changes nothing. Source: DrQ (arXiv 2004.13649); DreamerPro (arXiv 2110.14565).
    """

    def pixels(size: int, by: Tensor) -> Tensor:
        # Read at the pixel that a padded picture would have there: exact, and no padded picture is needed.
        return (torch.arange(size, device=by.device) + (by - pad).unsqueeze(-1)).clamp(0, size - 1)  # B size

    rows, columns = (pixels(size, by) for size, by in zip(pictures.shape[-2:], shifts.unbind(-1), strict=True))
    shifted = torch.take_along_dim(pictures, rows[:, None, None, :, None], 3)
    return torch.take_along_dim(shifted, columns[:, None, None, None, :], 4)
