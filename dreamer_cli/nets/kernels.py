"""The arithmetic between matrix products, forward and backward in as few passes over memory as it takes.

Autograd would record every operation on its own, keep what each of them needs, and walk back through them one by
one. Here each chain is one node: it keeps its inputs, forms the rest again, and works in place where nobody else
looks. The tests compare each with its plain form (`tests/nets/test_kernels.py`).

`choose_kernels` makes one compiled function of each of them.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


class Kernel:
    """A function of tensors without side effects, which can be compiled by itself: it is small."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = self.run = function
        self.compiled: Callable[..., Any] | None = None
        KERNELS.append(self)

    def __call__(self, *args: Any) -> Any:
        """What the function says."""
        return self.run(*args)

    def choose(self, compiled: bool, warn: Callable[[str], None]) -> None:
        """Run compiled from now on, or as it is."""
        if compiled and self.compiled is None:
            self.compiled = self._compile(warn)
        self.run = self.compiled if compiled and self.compiled else self.plain

    def _compile(self, warn: Callable[[str], None]) -> Callable[..., Any]:
        """Compiled at the first call; as it is, where that fails (without a compiler on the machine, say)."""
        compiled = torch.compile(self.plain, dynamic=False)
        worked = False

        def run(*args: Any) -> Any:
            nonlocal worked
            try:
                out = compiled(*args)
            except (RuntimeError, OSError) as error:
                if worked or isinstance(error, torch.OutOfMemoryError):
                    raise
                self.run = self.compiled = self.plain
                warn(f"{self.plain.__name__} could not be compiled, so it stays slower: {str(error).splitlines()[0]}")
                return self.plain(*args)
            worked = True
            return out

        return run


KERNELS: list[Kernel] = []


def choose_kernels(compiled: bool, warn: Callable[[str], None]) -> None:
    """Run compiled kernels in this process from now on, or plain ones. Choosing again is cheap."""
    if compiled:
        # One kernel serves many layers, each with its own shape: torch's limit of 8 is meant for something else.
        torch._dynamo.config.recompile_limit = max(256, torch._dynamo.config.recompile_limit)
    for kernel in KERNELS:
        kernel.choose(compiled, warn)


SMALL = 1 << 14  # below so many numbers, fewer operations count for more than fewer passes over memory


def full_precision(x: Tensor) -> Tensor:
    """Half precisions become float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


# ── norm and activation ─────────────────────────────────────────────────────────────────────────────────────


def rms_root(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x²) + eps) over the last axis, which stays as 1."""
    # Spelled out: autocast would form a dot product in half precision.
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


@Kernel
def norm_silu_forward(x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(silu(x · root · scale), root) of x (... W)."""
    full = full_precision(x)
    if torch.compiler.is_compiling() or x.is_cuda or full.numel() < SMALL:
        root = rms_root(full, eps)
    else:  # one pass over memory instead of two
        root = torch.linalg.vector_norm(full, dim=-1, keepdim=True)
        root = root.square_().mul_(1 / full.shape[-1]).add_(eps).rsqrt_()
    return F.silu((full * root).mul_(scale), inplace=True).to(x.dtype), root


@Kernel
def norm_silu_backward(grad: Tensor, x: Tensor, root: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x, and that of the scale for each row."""
    full = full_precision(x)
    normed = full * root
    grad = aten.silu_backward(full_precision(grad), normed * scale)
    by_scale = grad * normed
    grad = grad.mul_(scale)
    # Every number of a row moves the row's root.
    pull = (by_scale * scale).mean(-1, keepdim=True)
    return grad.addcmul_(normed, pull, value=-1).mul_(root).to(x.dtype), by_scale


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        out, root = norm_silu_forward(x, scale, eps)
        ctx.save_for_backward(x, root, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, by_scale = norm_silu_backward(grad, *ctx.saved_tensors)
        return grad_x, by_scale.sum(0), None


def norm_silu(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """silu(x / sqrt(mean(x²) + eps) · scale) over the last axis: ... W → ... W, in x's own dtype."""
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return _NormSiLU.apply(x.reshape(-1, x.shape[-1]), scale, eps).view(x.shape)
    if torch.compiler.is_compiling() or x.dtype != scale.dtype:
        return norm_silu_forward(x, scale, eps)[0]
    # One call instead of six: acting in one environment is mostly calls.
    return F.silu(F.rms_norm(x, scale.shape, scale, eps), inplace=True)


# ── gates ───────────────────────────────────────────────────────────────────────────────────────────────────


def tanh(x: Tensor) -> Tensor:
    """tanh(x); on a CPU as 2 σ(2x) - 1, which is three times as fast there and as exact on the scale of 1."""
    return torch.sigmoid(2 * x).mul_(2).sub_(1) if x.device.type == "cpu" else torch.tanh(x)


@Kernel
def gru_gates_forward(gates: Tensor, deter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The next memory, and (reset, cand, update) as they came out."""
    reset, cand, update = full_precision(gates).unbind(-2)
    reset, update = torch.sigmoid(reset), torch.sigmoid(update - 1)  # -1: remember by default
    cand = tanh(reset * cand)
    return torch.lerp(deter, cand.to(deter.dtype), update.to(deter.dtype)), reset, cand, update


@Kernel
def gru_gates_backward(
    grad: Tensor, gates: Tensor, deter: Tensor, reset: Tensor, cand: Tensor, update: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of gates and memory."""
    pull = grad * update
    grad_cand = aten.tanh_backward(pull, cand)
    grad_reset = aten.sigmoid_backward(grad_cand * full_precision(gates).select(-2, 1), reset)
    grad_update = aten.sigmoid_backward(grad * (cand - deter), update)
    return torch.stack([grad_reset, grad_cand * reset, grad_update], -2).to(gates.dtype), grad - pull


class _GRUGates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, deter: Tensor) -> Tensor:
        out, reset, cand, update = gru_gates_forward(gates, deter)
        ctx.save_for_backward(gates, deter, reset, cand, update)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return gru_gates_backward(grad, *ctx.saved_tensors)


def gru_gates(gates: Tensor, deter: Tensor) -> Tensor:
    """Gates (... 3 N: reset, candidate, update) and memory (... N) → the next memory.

    h' = u ∘ tanh(σ(r) ∘ c) + (1 - u) ∘ h with u = σ(update - 1). Source: Dreamer V2 and V3, official code.
    """
    if torch.is_grad_enabled() and (gates.requires_grad or deter.requires_grad):
        return _GRUGates.apply(gates, deter)
    return gru_gates_forward(gates, deter)[0]


# ── classes ─────────────────────────────────────────────────────────────────────────────────────────────────


def softmax(logits: Tensor) -> Tensor:
    """Over the last axis. Rows as short as a latent's classes are slow on a CPU, so they are laid across there."""
    # Compiled code is its own best judge, and an exported one knows no sizes yet.
    if torch.compiler.is_compiling() or logits.device.type != "cpu":
        return torch.softmax(logits, -1)
    if logits.shape[-1] <= 8 and logits.numel() > SMALL:
        return torch.softmax(logits.transpose(-1, -2).contiguous(), -2).transpose(-1, -2).contiguous()
    return torch.softmax(logits, -1)


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """... → ... K, as many classes and of the dtype as `like`."""
    # Not F.one_hot: by way of int64 it takes far longer on the CPU, and reads its bounds on the host.
    return torch.zeros_like(like, memory_format=torch.contiguous_format).scatter_(-1, index.unsqueeze(-1), 1.0)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probs: Tensor, index: Tensor) -> Tensor:
        return one_hot(index, probs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(probs: Tensor, index: Tensor) -> Tensor:
    """One-hot of the classes `index` (...), ... K, with the gradient of the probabilities `probs` (... K)."""
    if torch.is_grad_enabled() and probs.requires_grad:
        return _StraightThrough.apply(probs, index)
    return one_hot(index, probs)


# ── cross-entropy ───────────────────────────────────────────────────────────────────────────────────────────


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_probs: Tensor, probs: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(probs, index, weight)
        return -(weight * log_probs.gather(-1, index)).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        probs, index, weight = ctx.saved_tensors
        weight = weight * grad.unsqueeze(-1)
        return (probs * weight.sum(-1, keepdim=True)).scatter_add_(-1, index, -weight), None, None, None, None


def cross_entropy(logits: Tensor, log_probs: Tensor, probs: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """-Σ weight · log_probs[index]: ... K → ..., for a target that is nonzero in few places.

    log_probs, probs: of the logits, without gradient: several targets and the mean share them.
    index, weight: ... n, the target's places and what lies there. No gradient of them.
    """
    return _CrossEntropy.apply(logits, log_probs, probs, index, weight)
