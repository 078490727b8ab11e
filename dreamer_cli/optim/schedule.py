"""What changes with the number of updates done: the warm-up, and the correction of averages that began at zero."""

import math

import torch
from torch import Tensor


def ramp(done: Tensor, warmup: int) -> Tensor:
    """Factor of the step size after `done` updates: from 0 to 1 over `warmup` of them, and 1 from there on."""
    # Without a warm-up it is over before the first update.
    return ((done + (warmup == 0)) / max(1, warmup)).clamp(max=1.0)


def correction(done: Tensor, beta: float) -> Tensor:
    """1 - beta^t in update t = done + 1: the sum of the weights in an average that keeps `beta` of itself each time."""
    return -torch.expm1((done + 1) * (math.log(beta) if beta else -math.inf))
