"""Memory for time: work on some frames at a time, and compute again on the way back what lies between."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint


def in_parts(function: Callable[..., Any], frames: int, *inputs: Any) -> Any:
    """`function` of tensors (nested as they like, N rows each) → tensors of N rows, `frames` rows at a time.

    Of each part only inputs and outputs are kept; its inside is computed again for its gradient. frames 0: everything
    at once, and kept. Source: Chen et al. 2016 (arXiv 1604.06174).
    """
    if not frames or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*inputs)  # nothing is kept without gradients, and what is exported knows no sizes
    leaves, form = pytree.tree_flatten(inputs)
    parts = [
        checkpoint(function, *pytree.tree_unflatten(list(part), form), use_reentrant=False, preserve_rng_state=False)
        for part in zip(*(leaf.split(frames) for leaf in leaves), strict=True)
    ]
    outputs, form = zip(*(pytree.tree_flatten(part) for part in parts), strict=True)
    return pytree.tree_unflatten([torch.cat(column) for column in zip(*outputs, strict=True)], form[0])
