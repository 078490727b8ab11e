"""Modules whose numbers are lent: slow (EMA) copies that give stable targets, and modules held fixed for a while."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def slow_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches and no optimiser moves."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def move_slowly(slow: nn.Module, fast: nn.Module, rate: float | Tensor) -> None:
    """slow ← (1 - rate) slow + rate fast, for every parameter.

    A rate may be a tensor (a scalar). Rates of 0 and 1 leave and copy every number as it is, without rounding.
    """
    for own, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
        own.lerp_(theirs, rate)


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """What is computed inside moves none of the modules' parameters, but gradients pass through to their inputs.

    Graphs of before and after are left as they were; `backward` belongs outside. Blocks may nest.
    """
    held = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
