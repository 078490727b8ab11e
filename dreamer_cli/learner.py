"""One update: losses → one backward → clip → step → slow copies.

`Learner.update` is the border for compilation: tensors go in and come out, and nothing inside waits for the
device. Metrics leave as detached scalars on the device; who logs them decides when to fetch them.
"""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dreamer_cli.agent import Agent, UpdateNoise
from dreamer_cli.errors import ConfigError
from dreamer_cli.graph import Captured
from dreamer_cli.nets.kernels import choose_kernels
from dreamer_cli.sections import listening, section
from dreamer_cli.structs import Batch, State


class Learner:
    """Trains an agent on batches.

    Args:
        agent: on its device already.
        optim: settings of the optimiser.
        loss_scales: weight of each loss; `objective` weighs those of every observation key, `objective/KEY` of one.
        bf16: run networks in bfloat16 (parameters, losses and distributions stay float32).
        seed: of the randomness of updates.
        compile: compile the arithmetic between products; the first update takes longer, the others are faster.
        capture: launch an update as one CUDA graph.
        warn: told what does not work as it should, but does work.

    Attributes:
        fetch: makes the batch of what `update` is given; keep: takes (what `update` was given, fresh latents).
            A replay in the device's own memory puts its reading and writing here, so that they are captured, too.
    """

    def __init__(
        self,
        agent: Agent,
        optim: Any,
        loss_scales: Mapping[str, float],
        bf16: bool,
        seed: int,
        compile: bool = False,
        capture: bool = False,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.agent = agent
        self.compile, self.warn = compile, warn
        self.fetch: Callable[[Any], Batch] = lambda batch: batch
        self.keep: Callable[[Any, dict[str, Tensor]], None] = lambda batch, latents: None
        self.learn = Captured(self.learn_as_is, warn) if capture else self.learn_as_is
        self.metric_names: list[str] = []
        self.loss_scales = loss_scales
        self.params = [p for p in agent.parameters() if p.requires_grad]
        self.optim = optim.build(self.params)
        self.device = self.params[0].device
        self.bf16 = bf16
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def update(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Learn from one batch, as the replay gives it, or from what `fetch` makes a batch of (rows, B T+1).

        Returns fresh latents of its records to store (`deter` B T D, `stoch` packed B T ...), and metrics (scalars).
        The latents may be overwritten by the next update.
        """
        size, length = batch.reward.shape if isinstance(batch, Batch) else (batch.shape[0], batch.shape[1] - 1)
        noise = self.agent.update_noise(size, length, self.generator)
        choose_kernels(self.compile, self.warn)  # of the process; another learner may want others
        # What is replayed runs no line of ours, so nobody could hear its sections.
        latents, metrics = (self.learn_as_is if listening() else self.learn)(batch, noise)
        return latents, dict(zip(self.metric_names, metrics.clone().unbind(), strict=True))

    def learn_as_is(self, source: Any, noise: UpdateNoise) -> tuple[dict[str, Tensor], Tensor]:
        """The update itself: latents, and metrics in the order of `metric_names`. Safe to capture."""
        batch = self.fetch(source)
        latent = self.agent.world.dynamics.latent
        start = State(batch.start.deter, latent.unpack(batch.start.stoch))
        for param in self.params:
            param.grad = None
        with self.autocast():
            losses, states, metrics = self.agent.losses(batch._replace(start=start), noise)
            means = {name: loss.mean() for name, loss in losses.items()}
            total = torch.stack([self.scale(name) * mean for name, mean in means.items()]).sum()
        total.backward()
        with section("optimiser"):
            metrics |= self.optim.step()
            self.agent.behaviour.after_update()
        metrics |= {f"loss/{name.removeprefix('objective/')}": mean.detach() for name, mean in means.items()}
        metrics["loss/total"] = total.detach()
        latents = {"deter": states.deter, "stoch": latent.pack(states.stoch)}
        self.keep(source, latents)
        self.metric_names = list(metrics)
        return latents, torch.stack([x.to(total.dtype) for x in metrics.values()])

    def scale(self, name: str) -> float:
        """The weight of a loss: its own (`objective/image`), or that of its family (`objective`).

        Raises:
            ConfigError: no weight is given for it: a loss must not be dropped by accident.
        """
        family = name.split("/")[0]
        scale = self.loss_scales.get(name, self.loss_scales.get(family))
        if scale is None:
            raise ConfigError(f"The loss {family!r} has no scale.", hint=f"Set loss_scales.{family}=1.0")
        return scale

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision that networks run in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def state(self) -> dict[str, Tensor]:
        """Optimiser and random generator, by flat names, to save."""
        return {**{f"optim.{k}": v for k, v in self.optim.state().items()}, "generator": self.generator.get_state()}

    def load_state(self, tensors: Mapping[str, Tensor], generator: bool = True) -> None:
        """The inverse of `state`; shapes are checked by whoever read the file.

        Args:
            generator: take up the random generator, too. Only where it was on a device of the same type.
        """
        for name, tensor in self.optim.state().items():
            tensor.copy_(tensors[f"optim.{name}"])
        if generator:
            self.generator.set_state(tensors["generator"].cpu())
