"""What is done to gradients before they are used: adaptive clipping, and blanking those that must not be."""

import torch
from torch import Tensor

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


def clip_adaptively(
    grads: list[Tensor], params: list[Tensor], clip: float, floor: float = 1e-3, norms: Tensor | None = None
) -> Tensor:
    """Scale each gradient in place so that its norm is at most `clip` times its parameter's norm.

    Norms are of whole tensors, not of units; a parameter's norm counts as at least `floor`, so that zero
    weights can move. Returns the share of tensors that were clipped.
    norms: of the gradients, one each, if they are known.
    Source: Brock et al. 2021 (arXiv 2102.06171) as used in the official Dreamer V3 code.
    """
    grad_norm = torch.stack(torch._foreach_norm(grads)) if norms is None else norms
    param_norm = torch.stack(torch._foreach_norm(params))
    excess = grad_norm / (clip * param_norm.clamp(min=floor))
    torch._foreach_mul_(grads, (1 / excess.clamp(min=1)).unbind())
    return (excess > 1).to(grad_norm.dtype).mean()


def blank_unless(sound: Tensor, tensors: list[Tensor]) -> None:
    """Zeros in place of everything, NaN too, if `sound` (a bool) is false; if it is true, nothing changes by a bit.

    Their bits are multiplied, as integers: NaN times 0 is NaN, and there is no `where` for many tensors at once.
    """
    bits = _BITS[tensors[0].element_size()]
    torch._foreach_mul_([x.view(bits) for x in tensors], sound.to(bits))
