"""Parts of an agent as plain functions of arrays, ready to leave Python: named inputs, named outputs, no state.

```
            obs, is_first ─┐                                     deter, stoch, action ─┐
 policy     deter, stoch,  ├─▶ action, native actions,   world   latent_noise ─────────┴─▶ next state, reward,
            prev_action,   │   next_deter, next_stoch                                      cont, observation
            noise ─────────┘
```
Each part is traced from the agent's own modules, so file formats hold the same weights under the same names as
a checkpoint; `reference` computes the same through the agent's public methods, for comparison.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from dreamer_cli.agent import Agent
from dreamer_cli.spaces import ActionPart, EnvSpec
from dreamer_cli.structs import Carry, Noise, State
from dreamer_cli.world.rssm import RSSM

TORCH_DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
    "float32": torch.float32,
}


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        name: what the file calls it.
        role: observation, reset, carry, action or noise (inputs); action, native, carry, reward, cont or
            observation (outputs).
        shape: of one row; a batch axis of any size comes first.
        key: the observation's or action part's key, where the role has one.
        draw: for noise, (distribution, first column, column after the last) of the last axis.
        about: what stands in it.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    key: str = ""
    draw: tuple[tuple[str, int, int], ...] = ()
    about: str = ""


class Choice(NamedTuple):
    """Columns of an output's last axis that hold one one-hot: the argmax of scores plus columns of a noise input."""

    output: str
    noise: str
    columns: slice


class Answer(NamedTuple):
    """Outputs by name, and for those in the environment's units how large such numbers are (at least 1)."""

    outputs: dict[str, Tensor]
    units: dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """A traceable part: `module(*inputs)` returns the outputs in order; `reference` is what it has to equal."""

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    choices: tuple[Choice, ...]
    reference: Callable[[Mapping[str, Tensor]], Answer]


class PolicyStep(nn.Module):
    """One decision. Submodules stand where they stand in the agent, so that weights keep their names."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.keys, self.action = list(agent.seen.observation), agent.spec.action
        self.world = nn.ModuleDict({"encoder": agent.world.encoder, "dynamics": agent.world.dynamics})
        self.behaviour = nn.ModuleDict({"actor": agent.behaviour.actor})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs in the order of `policy_part`."""
        obs = dict(zip(self.keys, inputs, strict=False))
        is_first, deter, stoch, prev_action, latent_noise, action_noise = inputs[len(self.keys) :]
        dynamics = cast(RSSM, self.world["dynamics"])
        embed = self.world["encoder"](obs)
        state, _ = dynamics.observe_step(State(deter, stoch), prev_action, embed, is_first, latent_noise)
        action = self.behaviour["actor"](dynamics.feat(state)).sample(action_noise)
        return action, state.deter, state.stoch, *native_actions(self.action, action)


class WorldStep(nn.Module):
    """One imagined step, and what the heads and the decoder say of it."""

    def __init__(self, agent: Agent, shown: Iterable[str]) -> None:
        super().__init__()
        self.shown = list(shown)
        world = agent.world
        parts = {"dynamics": world.dynamics, "reward": world.reward, "cont": world.cont}
        # What cannot draw has nothing to add here, however large it is.
        self.world = nn.ModuleDict(parts | ({"objective": world.objective} if self.shown else {}))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs in the order of `world_part`."""
        deter, stoch, action, latent_noise = inputs
        dynamics = cast(RSSM, self.world["dynamics"])
        state = dynamics.imagine_step(State(deter, stoch), action, latent_noise)
        feat = dynamics.feat(state)
        decoded = cast(Any, self.world["objective"]).decode(feat) if self.shown else {}
        heads = self.world["reward"](feat).mean, self.world["cont"](feat).mean
        return state.deter, state.stoch, *heads, *(decoded[key] for key in self.shown)


def native_actions(parts: tuple[ActionPart, ...], action: Tensor) -> list[Tensor]:
    """Each part of the flat action (B A) as the environment takes it (B ...): int64 or float32.

    Discrete: start + argmax; continuous: clipped to [-1, 1] and stretched to the bounds (see `ActionPart`).
    """
    decoded = []
    for part, flat in zip(parts, action.split([part.width for part in parts], -1), strict=True):
        if part.kind == "discrete":
            start = part.start or (0,) * len(part.classes)
            entries = [one.argmax(-1) + first for one, first in zip(flat.split(part.classes, -1), start, strict=True)]
            native = torch.stack(entries, -1)
        else:
            low, high = flat.new_tensor(part.low or (-1.0,)), flat.new_tensor(part.high or (1.0,))
            native = low + (flat.clamp(-1, 1) + 1) / 2 * (high - low)
            native = torch.minimum(torch.maximum(native, low), high)  # a hair of rounding may leave the bounds
            native = native.round() if part.dtype.startswith(("int", "uint")) else native
        decoded.append(native.unflatten(-1, part.shape) if part.shape else _scalar(native))
    return decoded


def _scalar(native: Tensor) -> Tensor:
    """Parts without a shape: one number loses its axis; several (their shape was not recorded) keep it."""
    return native.squeeze(-1) if native.shape[-1] == 1 else native


def frozen(agent: Agent, part: str) -> list[Part]:
    """The parts that `--part` names: `policy`, `world`, or `all` (both)."""
    makers = {"policy": policy_part, "world": world_part}
    return [make(agent) for name, make in makers.items() if part in (name, "all")]


def policy_part(agent: Agent) -> Part:
    """(observation, is_first, carry, noise) → (action, carry, native actions)."""
    spec, state = agent.seen, agent.world.dynamics.initial(1)
    action = (spec.action_width,)
    names = port_names(spec.observation, "obs")
    native = port_names([part.key for part in spec.action], "native")
    columns = list(_columns(spec))
    observed = [
        Port(names[key], "observation", seen.dtype, tuple(seen.shape), key) for key, seen in spec.observation.items()
    ]
    inputs = (
        *observed,
        Port("is_first", "reset", "bool", (), about="true where an episode begins: the carry is blanked"),
        *_state_ports(state, ""),
        Port("prev_action", "carry", "float32", action, about="output `action` of the step before"),
        _latent_noise(state),
        Port("action_noise", "noise", "float32", action, draw=tuple(_draws(spec)), about="zeros take the mode"),
    )
    outputs = (
        Port("action", "action", "float32", action, about="flat: one-hots, and unclipped numbers"),
        *_state_ports(state, "next_"),
        *(_native_port(part, native[part.key]) for part in spec.action),
    )
    choices = (
        Choice("next_stoch", "latent_noise", slice(None)),
        *(Choice("action", "action_noise", one) for part, one in columns if part.kind == "discrete"),
    )

    def reference(feed: Mapping[str, Tensor]) -> Answer:
        obs = {key: feed[name] for key, name in names.items()}
        carry = Carry(State(feed["deter"], feed["stoch"]), feed["prev_action"])
        noise = Noise(feed["latent_noise"], feed["action_noise"])
        flat, carry = agent.policy(obs, feed["is_first"], carry, noise)
        decoded = dict(zip(native.values(), native_actions(spec.action, flat), strict=True))
        units = {name: size_of(value.double()) for name, value in decoded.items()}
        return Answer({"action": flat, **_named(carry.state), **decoded}, units)

    return Part("policy", PolicyStep(agent), inputs, outputs, choices, reference)


def world_part(agent: Agent) -> Part:
    """(carry, action, noise) → (carry, reward, cont, decoded observation)."""
    world, state = agent.world, agent.world.dynamics.initial(1)
    with torch.no_grad():
        shown = world.decode(world.dynamics.feat(state)) or {}
    names = port_names(shown, "obs")
    inputs = (
        *_state_ports(state, ""),
        Port("action", "action", "float32", (agent.spec.action_width,), about="flat: one-hots, and plain numbers"),
        _latent_noise(state),
    )
    outputs = (
        *_state_ports(state, "next_"),
        Port("reward", "reward", "float32", (), about="expected reward of arriving in the next state"),
        Port("cont", "cont", "float32", (), about="chance that the episode goes on, times `cont_scale`"),
        *(Port(names[key], "observation", "float32", tuple(x.shape[1:]), key) for key, x in shown.items()),
    )

    def reference(feed: Mapping[str, Tensor]) -> Answer:
        start = State(feed["deter"], feed["stoch"])
        state = world.dynamics.imagine_step(start, feed["action"], feed["latent_noise"])
        feat = world.dynamics.feat(state)
        reward, decoded = world.reward(feat), world.decode(feat) or {}
        seen = {names[key]: value for key, value in decoded.items()}
        answer = {**_named(state), "reward": reward.mean, "cont": world.cont(feat).mean, **seen}
        # A reward is an expectation: rounding grows with the numbers that it averages, not with their mean.
        units = {"reward": size_of(getattr(reward, "magnitude", reward.mean))}
        return Answer(answer, units | {name: size_of(value) for name, value in seen.items()})

    choices = (Choice("next_stoch", "latent_noise", slice(None)),)
    return Part("world", WorldStep(agent, shown), inputs, outputs, choices, reference)


def size_of(value: Tensor) -> Tensor:
    """How large numbers are, at least 1: what a difference in them is divided by."""
    return value.abs().clamp(min=1)


def port_names(keys: Iterable[str], prefix: str) -> dict[str, str]:
    """key → a name that every format and language can spell, each only once."""
    names: dict[str, str] = {}
    for key in keys:
        name = f"{prefix}_{re.sub(r'[^A-Za-z0-9_]', '_', key)}"
        while name in names.values():
            name += "_"
        names[key] = name
    return names


def _named(state: State) -> dict[str, Tensor]:
    return {"next_deter": state.deter, "next_stoch": state.stoch}


def _state_ports(state: State, prefix: str) -> tuple[Port, Port]:
    about = ("memory", "sampled guess about the present")
    deter, stoch = (
        Port(f"{prefix}{name}", "carry", "float32", tuple(value.shape[1:]), about=what)
        for name, value, what in zip(("deter", "stoch"), state, about, strict=True)
    )
    return deter, stoch


def _latent_noise(state: State) -> Port:
    shape = tuple(state.stoch.shape[1:])
    return Port(
        "latent_noise", "noise", "float32", shape, draw=(("gumbel", 0, shape[-1]),), about="zeros take the mode"
    )


def _native_port(part: ActionPart, name: str) -> Port:
    count = len(part.classes) or part.size
    shape = part.shape or (() if count == 1 else (count,))
    return Port(name, "native", "int64" if part.kind == "discrete" else "float32", shape, part.key)


def _columns(spec: EnvSpec) -> Iterable[tuple[ActionPart, slice]]:
    """Columns of the flat action: one slice for each categorical entry, one for each continuous part."""
    start = 0
    for part in spec.action:
        for width in part.classes or (part.size,):
            yield part, slice(start, start + width)
            start += width


def _draws(spec: EnvSpec) -> Iterable[tuple[str, int, int]]:
    start = 0
    for part in spec.action:
        yield "gumbel" if part.kind == "discrete" else "normal", start, start + part.width
        start += part.width
