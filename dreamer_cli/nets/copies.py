"""Copies of modules: slow (EMA) ones that lend stable targets."""

import copy

import torch
from torch import Tensor, nn


def slow_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches and no optimiser moves."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def move_slowly(slow: nn.Module, fast: nn.Module, rate: float | Tensor) -> None:
    """slow ← (1 - rate) slow + rate fast, for every parameter. A rate that is a tensor (a scalar) may be 0."""
    for own, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
        own.lerp_(theirs, rate)
