"""Watching T records as one node of the graph, with a way back by hand (see `nets/loops.py`).

```
state before ─▶ blank where an episode begins ─▶ core ─▶ memory ─▶ post ─▶ statistics ─▶ latent ─▶ guess
```
What actions and observations alone decide is computed before the loop, for all steps at once; gradients of weights are
formed after the loop back, from all steps at once.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer_cli.nets.blocks import MLP, Linear
from dreamer_cli.nets.loops import Chain, Product, as_given
from dreamer_cli.sections import section
from dreamer_cli.shapes import Bool, Float
from dreamer_cli.structs import State
from dreamer_cli.world.beginnings import zero_where


class PostLoop:
    """`RSSM.post` for time loops (see `nets/loops.py`): what observations alone decide is `inputs`, for all steps."""

    def __init__(self, net: MLP, out: Linear, core: Any) -> None:
        first, *rest = net.layers
        size = core.read_size
        by_deter, self.by_embed = first.linear.weight.split([size, first.linear.in_features - size], 1)
        self.read: Callable[[Tensor], Tensor] = core.read
        self.bias = first.linear.bias
        products = [Product(by_deter.t()), *(layer.linear.loop() for layer in rest), out.loop()]
        self.chain = Chain(products, [layer.norm.loop() for layer in net.layers])
        self.learnt, self.forward = self.chain.learnt, self.chain.forward
        self.backward, self.gradients = self.chain.backward, self.chain.gradients

    def inputs(self, embed: Float[Tensor, "*lead E"]) -> Float[Tensor, "*lead hidden"]:
        """What the first layer gets from the observation, and its bias."""
        return F.linear(embed, self.by_embed, self.bias)


class _Scan(torch.autograd.Function):
    """The loop over T, and the loop back."""

    @staticmethod
    def forward(
        ctx: Any,
        core: Any,
        post: PostLoop,
        latent: Any,
        inputs: Tensor,
        sight: Tensor,
        is_first: Tensor,
        noise: Tensor,
        deter: Tensor,
        stoch: Tensor,
        *learnt: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, deters, stochs, stats = [], [], [], []
        with as_given(inputs.device.type):
            for t, first in enumerate(is_first.unbind(1)):
                flat = zero_where(first, stoch.flatten(-len(latent.shape)))
                deter, by_core = core.forward(zero_where(first, deter), flat, inputs[:, t])
                stat, by_post = post.forward(post.read(deter), sight[:, t])
                stoch, by_latent = latent.sample_forward(stat, noise[:, t])
                steps.append((first, by_core, by_post, by_latent))
                deters.append(deter)
                stochs.append(stoch)
                stats.append(stat)
        ctx.steps, ctx.parts = steps, (core, post, latent)
        return torch.stack(deters, 1), torch.stack(stochs, 1), torch.stack(stats, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with section("observe"):
            return _Scan.walk_back(ctx, *grads)

    @staticmethod
    def walk_back(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        core, post, latent = ctx.parts
        steps, by_inputs, by_sight = list(ctx.steps), [], []
        by_deters, by_stochs, by_stats = (grad.unbind(1) for grad in grads)
        deter, stoch = torch.zeros_like(by_deters[0]), torch.zeros_like(by_stochs[0])
        for t in reversed(range(len(steps))):
            first, by_core, by_post, by_latent = steps.pop()
            stats = latent.sample_backward(by_latent, by_stochs[t] + stoch).add_(by_stats[t])
            read, sight = post.backward(by_post, stats)
            deter = deter + by_deters[t]
            deter[:, : read.shape[1]] += read  # heads see the first numbers of a memory
            deter, flat, inputs = core.backward(by_core, deter)
            deter, stoch = zero_where(first, deter), zero_where(first, flat).view(stoch.shape)
            by_inputs.append(inputs)
            by_sight.append(sight)
        learnt = [*core.gradients(), *post.gradients()]
        back = (torch.stack(by_inputs[::-1], 1), torch.stack(by_sight[::-1], 1), None, None, deter, stoch)
        return None, None, None, *back, *learnt


def scan(
    core: Any,
    post: PostLoop,
    latent: Any,
    inputs: Float[Tensor, "B T _"],
    sight: Float[Tensor, "B T _"],
    is_first: Bool[Tensor, "B T"],
    noise: Tensor,
    start: State,
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk through T records: deter B T D, stoch B T S K, posterior statistics B T S·K.

    core, post: laid out for loops; inputs, sight: what they made of actions and observations; latent: with
    `sample_forward` and `sample_backward`.
    """
    return _Scan.apply(core, post, latent, inputs, sight, is_first, noise, *start, *core.learnt, *post.learnt)
