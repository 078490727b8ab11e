"""One update: losses → one backward → clip → step → slow copies.

`Learner.update` is the border for compilation: tensors go in and come out, and nothing inside waits for the
device. Metrics leave as detached scalars on the device; who logs them decides when to fetch them.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dreamer_cli.agent import Agent
from dreamer_cli.errors import ConfigError
from dreamer_cli.structs import Batch, State


class Learner:
    """Trains an agent on batches.

    Args:
        agent: on its device already.
        optim: settings of the optimiser.
        loss_scales: weight of each loss; `objective` weighs those of every observation key, `objective/KEY` of one.
        bf16: run networks in bfloat16 (parameters, losses and distributions stay float32).
        seed: of the randomness of updates.
        compile: compile the steps of the RSSM; the first update takes a minute longer, the others are faster.
    """

    def __init__(
        self,
        agent: Agent,
        optim: Any,
        loss_scales: Mapping[str, float],
        bf16: bool,
        seed: int,
        compile: bool = False,
    ) -> None:
        self.agent = agent
        if compile:
            agent.world.dynamics.compile_steps()
        self.loss_scales = loss_scales
        self.params = [p for p in agent.parameters() if p.requires_grad]
        self.optim = optim.build(self.params)
        self.device = self.params[0].device
        self.bf16 = bf16
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def update(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Learn from one batch, as the replay gives it.

        Returns fresh latents of its records to store (`deter` B T D, `stoch` packed B T ...), and metrics (scalars).
        """
        latent = self.agent.world.dynamics.latent
        start = State(batch.start.deter, latent.unpack(batch.start.stoch))
        noise = self.agent.update_noise(batch.reward.shape[0], batch.reward.shape[1], self.generator)
        for param in self.params:
            param.grad = None
        with self.autocast():
            losses, states, metrics = self.agent.losses(batch._replace(start=start), noise)
            means = {name: loss.mean() for name, loss in losses.items()}
            total = torch.stack([self.scale(name) * mean for name, mean in means.items()]).sum()
        total.backward()
        metrics |= self.optim.step()
        self.agent.behaviour.after_update()
        metrics |= {f"loss/{name.removeprefix('objective/')}": mean.detach() for name, mean in means.items()}
        metrics["loss/total"] = total.detach()
        return {"deter": states.deter, "stoch": latent.pack(states.stoch)}, metrics

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
