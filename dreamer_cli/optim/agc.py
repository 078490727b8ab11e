"""Adaptive gradient clipping."""

import torch
from torch import Tensor


def clip_adaptively(grads: list[Tensor], params: list[Tensor], clip: float, floor: float = 1e-3) -> Tensor:
    """Scale each gradient in place so that its norm is at most `clip` times its parameter's norm.

    Norms are of whole tensors, not of units; a parameter's norm counts as at least `floor`, so that zero
    weights can move. Returns the share of tensors that were clipped.
    Source: Brock et al. 2021 (arXiv 2102.06171) as used in the official Dreamer V3 code.
    """
    grad_norm = torch.stack(torch._foreach_norm(grads))
    param_norm = torch.stack(torch._foreach_norm(params))
    excess = grad_norm / (clip * param_norm.clamp(min=floor))
    torch._foreach_mul_(grads, (1 / excess.clamp(min=1)).unbind())
    return (excess > 1).to(grad_norm.dtype).mean()
