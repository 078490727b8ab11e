"""At the wheel: turns an agent (or chance) into the policy that a collector and an evaluation call.

Everything is numpy on the outside, so whoever steps environments needs no torch.
"""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch

from dreamer_cli.agent import Agent
from dreamer_cli.behaviour.contract import Behaviour
from dreamer_cli.errors import StateError
from dreamer_cli.graph import Captured
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.stopwatch import Stopwatch
from dreamer_cli.structs import Carry, Mode, Noise, Records, State, to_numpy

Latent = Mapping[str, np.ndarray]


class AgentDriver:
    """The agent acts.

    Args:
        agent: on its device; its weights may change between calls.
        mode: `explore` while training data is collected, else `sample` or `mode`.
        seed: of its own random generator; nothing else draws from it.
        bf16: run networks in bfloat16.
        capture: launch a decision as one CUDA graph; for always the same number of environments.
        warn: told if that does not work.
        behaviour: decides in place of the agent's own.
    """

    def __init__(
        self,
        agent: Agent,
        mode: Mode,
        seed: int,
        bf16: bool = False,
        capture: bool = False,
        warn: Callable[[str], None] = warnings.warn,
        behaviour: Behaviour | None = None,
    ) -> None:
        self.agent, self.mode, self.bf16, self.behaviour = agent, mode, bf16, behaviour
        self.decide = Captured(self.decide_as_is, warn) if capture else self.decide_as_is
        self.device = next(agent.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def initial(self, num_envs: int) -> Carry:
        """An empty memory."""
        return self.agent.initial(num_envs)

    @torch.inference_mode()
    def __call__(self, records: Records, carry: Carry | None) -> tuple[np.ndarray, Latent, Carry]:
        """One decision in each environment."""
        assert carry is not None
        action, carry = self.decide(*self._seen(records), carry, self._noise(records))
        return to_numpy(action), latents(self.agent, carry), carry

    @torch.inference_mode()
    def watch(self, records: Records, carry: Carry, action: np.ndarray) -> tuple[Latent, Carry]:
        """See what is there while another one acts; as much is drawn as for a decision of one's own."""
        (obs, is_first), noise, world = self._seen(records), self._noise(records), self.agent.world
        with self._precision():
            state, _ = world.dynamics.observe_step(*carry, world.encoder(obs), is_first, noise.latent)
        carry = Carry(state, torch.from_numpy(action).to(carry.action))
        return latents(self.agent, carry), carry

    def pack(self, carry: Carry) -> dict[str, torch.Tensor]:
        """A carry as named tensors, to save."""
        return {"deter": carry.state.deter, "stoch": carry.state.stoch, "action": carry.action}

    def unpack(self, tensors: Mapping[str, torch.Tensor], num_envs: int) -> Carry:
        """The inverse of `pack`, on the agent's device.

        Raises:
            StateError: they are not what this agent carries.
        """
        like = self.pack(self.initial(num_envs))
        if {name: x.shape for name, x in tensors.items()} != {name: x.shape for name, x in like.items()}:
            raise StateError("The saved memory of the policy is not what this model carries.")
        moved = {name: x.to(self.device) for name, x in tensors.items()}
        return Carry(State(moved["deter"], moved["stoch"]), moved["action"])

    def decide_as_is(
        self, obs: dict[str, torch.Tensor], is_first: torch.Tensor, carry: Carry, noise: Noise
    ) -> tuple[torch.Tensor, Carry]:
        """`Agent.policy` in the precision and the mode of this driver. Safe to capture."""
        with self._precision():
            return self.agent.policy(obs, is_first, carry, noise, self.mode, self.behaviour)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _seen(self, records: Records) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        obs = {key: self._send(value) for key, value in records.obs.items()}
        return obs, self._send(records.is_first)

    def _noise(self, records: Records) -> Noise:
        return self.agent.noise(len(records.is_first), self.generator, self.behaviour)

    def _send(self, value: np.ndarray) -> torch.Tensor:
        """To the device, from page-locked memory: all keys travel at once, while the host goes on."""
        here = torch.from_numpy(value)
        return here.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else here


class RandomDriver:
    """Chance acts: every class equally likely, continuous numbers uniform in [-1, 1]. Stores empty latents."""

    def __init__(self, spec: EnvSpec, latent: Mapping[str, tuple[tuple[int, ...], np.dtype]], seed: int) -> None:
        self.spec, self.latent = spec, latent
        self.generator = np.random.default_rng(seed)

    def initial(self, num_envs: int) -> None:
        """Nothing is carried."""

    def __call__(self, records: Records, carry: Carry | None) -> tuple[np.ndarray, Latent, None]:
        """One decision in each environment."""
        rows = len(records.is_first)
        empty = {name: np.zeros((rows, *shape), dtype) for name, (shape, dtype) in self.latent.items()}
        return self.actions(rows), empty, None

    def actions(self, rows: int) -> np.ndarray:
        """Flat random actions, rows A."""
        columns = []
        for part in self.spec.action:
            for count in part.classes:
                columns.append(np.eye(count, dtype=np.float32)[self.generator.integers(count, size=rows)])
            if part.size:
                columns.append(self.generator.uniform(-1, 1, (rows, part.size)).astype(np.float32))
        return np.concatenate(columns, 1)


class PrefillDriver:
    """The agent watches, chance acts: what it remembers of the episode is there when it takes over."""

    def __init__(self, agent: AgentDriver, chance: RandomDriver) -> None:
        self.agent, self.chance = agent, chance
        self.initial = agent.initial

    def __call__(self, records: Records, carry: Carry) -> tuple[np.ndarray, Latent, Carry]:
        """One decision in each environment, with the agent's own latents to store."""
        action = self.chance.actions(len(records.is_first))
        latent, carry = self.agent.watch(records, carry, action)
        return action, latent, carry


class Timed:
    """A driver whose time is counted apart from the environments'."""

    def __init__(self, driver: AgentDriver | PrefillDriver, watch: Stopwatch) -> None:
        self.driver, self.watch = driver, watch
        self.initial = driver.initial

    def __call__(self, records: Records, carry: Carry) -> tuple[np.ndarray, Latent, Carry]:
        """What the driver says."""
        with self.watch("policy"):
            return self.driver(records, carry)


def latent_fields(agent: Agent) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of what a record keeps of the agent's state."""
    dynamics = agent.world.dynamics
    return {"deter": ((dynamics.core.size,), np.dtype(np.float32)), "stoch": dynamics.latent.packed}


def latents(agent: Agent, carry: Carry) -> Latent:
    """The state of a carry, as it is stored."""
    packed = agent.world.dynamics.latent.pack(carry.state.stoch)
    dtype = agent.world.dynamics.latent.packed[1]
    return {"deter": to_numpy(carry.state.deter), "stoch": packed.cpu().numpy().astype(dtype)}
