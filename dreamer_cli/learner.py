"""One update: losses → one backward → clip → step → slow copies.

`Learner.update` is the border for compilation: tensors go in and come out, and nothing inside waits for the
device. Metrics leave as detached scalars on the device; who logs them decides when to fetch them.

An update is sound if its loss and the norms of its gradients are finite. Any other is skipped: parameters, moments,
slow copies and running statistics stay as they are, bit for bit. Only the random generator has moved on.
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
        fetch: makes the batch of what `update` is given; keep: takes (what `update` was given, fresh latents, whether
            the update was sound). A replay in the device's own memory puts its reading and writing here, so that they
            are captured, too.
        statistics: what a forward pass moves, and a skipped update puts back: the agent's saved buffers.
        skipped: updates that were not sound; skipped_in_a_row: the newest of them. Counted on the device.
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
        self.keep: Callable[[Any, dict[str, Tensor], Tensor], None] = lambda batch, latents, sound: None
        self.learn = Captured(self.learn_as_is, warn) if capture else self.learn_as_is
        self.metric_names: list[str] = []
        self.loss_scales = loss_scales
        groups = agent.groups()
        self.params = [param for group in groups.values() for param in group]
        self.optim = optim.build(groups)
        self.device = self.params[0].device
        saved = agent.state_dict().keys()
        self.statistics = [buffer for name, buffer in agent.named_buffers() if name in saved]
        self.skipped, self.skipped_in_a_row = (torch.zeros((), dtype=torch.int64, device=self.device) for _ in range(2))
        self.bf16 = bf16
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def update(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Learn from one batch, as the replay gives it, or from what `fetch` makes a batch of (rows, B T+1).

        Returns fresh latents of its records to store (`deter` B T D, `stoch` packed B T ...), and metrics (scalars).
        The latents may be overwritten by the next update. Where the metric `update/skipped` is 1 instead of 0, the
        latents are not to be stored, and all other metrics are NaN.
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
        statistics = [x.clone() for x in self.statistics]
        with self.autocast():
            losses, states, metrics = self.agent.losses(batch._replace(start=start), noise)
            means = {name: loss.mean() for name, loss in losses.items()}
            total = torch.stack([self.scale(name) * mean for name, mean in means.items()]).sum()
        total.backward()
        with section("optimiser"):
            metrics |= self.optim.step(total.detach().isfinite())
            skipped = metrics.pop("update/skipped")
            sound = skipped == 0
            self.agent.after_update(sound)
            for statistic, old in zip(self.statistics, statistics, strict=True):
                statistic.copy_(torch.where(sound, statistic, old))
            self.skipped += ~sound
            self.skipped_in_a_row.add_(1).mul_(~sound)
        metrics |= {f"loss/{name.removeprefix('objective/')}": mean.detach() for name, mean in means.items()}
        metrics["loss/total"] = total.detach()
        latents = {"deter": states.deter, "stoch": latent.pack(states.stoch)}
        self.keep(source, latents, sound)
        self.metric_names = [*metrics, "update/skipped"]
        values = torch.stack([x.to(total.dtype) for x in metrics.values()])
        # Of an update that was skipped even what is finite means nothing: a loss of 1e30 would spoil the others' mean.
        values = torch.where(sound, values, torch.nan)
        return latents, torch.cat([values, skipped.to(total.dtype).reshape(1)])

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
        """Optimiser, counts of skipped updates and random generator, by flat names, to save."""
        counts = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        optim = {f"optim.{name}": tensor for name, tensor in self.optim.state().items()}
        return {**optim, **counts, "generator": self.generator.get_state()}

    def load_state(self, tensors: Mapping[str, Tensor], generator: bool = True) -> None:
        """The inverse of `state`; shapes are checked by whoever read the file.

        Args:
            generator: take up the random generator, too. Only where it was on a device of the same type.
        """
        for name, tensor in self.optim.state().items():
            tensor.copy_(tensors[f"optim.{name}"])
        self.skipped.copy_(tensors["skipped"])
        self.skipped_in_a_row.copy_(tensors["skipped_in_a_row"])
        if generator:
            self.generator.set_state(tensors["generator"].cpu())
