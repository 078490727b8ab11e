"""Copies of modules: slow (EMA) ones that lend stable targets."""

import copy

import torch
from torch import nn


def slow_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches and no optimiser moves."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def move_slowly(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """slow ← (1 - rate) slow + rate fast, for every parameter."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)
