"""Parts of an agent as plain functions of arrays, ready to leave Python: named inputs, named outputs, no state.

```
            obs, is_first ─┐                                     deter, stoch, action ─┐
 policy     deter, stoch,  ├─▶ action, native actions,   world   latent_noise ─────────┴─▶ next state, reward,
            prev_action,   │   next_deter, next_stoch                                      cont, observation
            noise ─────────┘   (kept, by a planner)
```
Each part is traced from the agent's own modules, so file formats hold the same weights under the same names as
a checkpoint; `reference` computes the same through the agent's public methods, for comparison.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamer_cli.agent import Agent
from dreamer_cli.ports import Choice, Port, draws, entries, native_port, port_names, state_ports
from dreamer_cli.spaces import ActionPart, EnvSpec
from dreamer_cli.structs import Carry, Noise, State

TORCH_DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
    "float32": torch.float32,
}


class Answer(NamedTuple):
    """Outputs by name, and for those in the environment's units how large such numbers are (at least 1).

    scores: for outputs that keep some candidates (B R E of M), what each of them is worth (B R M).
    """

    outputs: dict[str, Tensor]
    units: dict[str, Tensor]
    scores: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Part:
    """A traceable part: `module(*inputs)` returns the outputs in order; `reference` is what it has to equal.

    Attributes:
        reference: of the inputs by name; if an output that keeps candidates is among them, too, these are kept.
        always_random: zeros of noise would make no sense: there is no mode.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    choices: tuple[Choice, ...]
    reference: Callable[[Mapping[str, Tensor]], Answer]
    always_random: bool = False


class PolicyStep(nn.Module):
    """One decision. Submodules stand where they stand in the agent, so that weights keep their names."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.keys, self.action = list(agent.seen.observation), agent.spec.action
        needs = ("world.encoder", "world.dynamics", *agent.behaviour.needs)
        self.world, self.behaviour = only(agent.world, "world", needs), only(agent.behaviour, "behaviour", needs)
        self.decide = self._search if searches(agent) else self._decide

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs in the order of `policy_part`."""
        obs = dict(zip(self.keys, inputs, strict=False))
        is_first, deter, stoch, prev_action, latent_noise, action_noise = inputs[len(self.keys) :]
        embed = self.world.encoder(obs)
        state, _ = self.world.dynamics.observe_step(State(deter, stoch), prev_action, embed, is_first, latent_noise)
        action, *more = self.decide(state, action_noise)
        return action, state.deter, state.stoch, *native_actions(self.action, action), *more

    def _decide(self, state: State, noise: Tensor) -> tuple[Tensor, ...]:
        return (self.behaviour.decide(self.world, state, noise, "sample"),)

    def _search(self, state: State, noise: Tensor) -> tuple[Tensor, ...]:
        found = self.behaviour.search(self.world, state, noise)
        return found.action, found.kept


class WorldStep(nn.Module):
    """One imagined step, and what the heads and the decoder say of it."""

    def __init__(self, agent: Agent, shown: Iterable[str]) -> None:
        super().__init__()
        self.shown = list(shown)
        # What cannot draw has nothing to add here, however large it is.
        drawing = "world.objective" if agent.world.preview is None else "world.preview"
        needs = ("world.dynamics", "world.reward", "world.cont", *([drawing] if self.shown else []))
        self.world = only(agent.world, "world", needs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs in the order of `world_part`."""
        deter, stoch, action, latent_noise = inputs
        state = self.world.dynamics.imagine_step(State(deter, stoch), action, latent_noise)
        feat = self.world.dynamics.feat(state)
        decoded = self.world.decode(feat) if self.shown else {}
        heads = self.world.reward(feat).mean, self.world.cont(feat).mean
        return state.deter, state.stoch, *heads, *(decoded[key] for key in self.shown)


def only(module: nn.Module, name: str, needs: Iterable[str]) -> Any:
    """The same module with those of its submodules that are needed (`name.part`), and no others."""
    slim = copy.copy(module)
    slim._modules = {part: value for part, value in module._modules.items() if f"{name}.{part}" in needs}
    return slim


def searches(agent: Agent) -> bool:
    """Whether the agent's behaviour is a planner, which can say what it kept on the way."""
    return hasattr(agent.behaviour, "search")


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
    observed = [
        Port(names[key], "observation", seen.dtype, tuple(seen.shape), key) for key, seen in spec.observation.items()
    ]
    inputs = (
        *observed,
        Port("is_first", "reset", "bool", (), about="true where an episode begins: the carry is blanked"),
        *state_ports(state, ""),
        Port("prev_action", "carry", "float32", action, about="output `action` of the step before"),
        _latent_noise(agent),
        _action_noise(agent),
    )
    outputs = (
        Port("action", "action", "float32", action, about="flat: one-hots, and unclipped numbers"),
        *state_ports(state, "next_"),
        *(native_port(part, native[part.key]) for part in spec.action),
        *_kept_ports(agent),
    )

    def seen(feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: feed[name] for key, name in names.items()}

    def answer(flat: Tensor, state: State) -> Answer:
        decoded = dict(zip(native.values(), native_actions(spec.action, flat), strict=True))
        units = {name: size_of(value.double()) for name, value in decoded.items()}
        return Answer({"action": flat, **_named(state), **decoded}, units)

    def acted(feed: Mapping[str, Tensor]) -> Answer:
        carry = Carry(State(feed["deter"], feed["stoch"]), feed["prev_action"])
        noise = Noise(feed["latent_noise"], feed["action_noise"])
        flat, carry = agent.policy(seen(feed), feed["is_first"], carry, noise)
        return answer(flat, carry.state)

    def searched(feed: Mapping[str, Tensor]) -> Answer:
        world, before = agent.world, State(feed["deter"], feed["stoch"])
        now = (feed["prev_action"], world.encoder(seen(feed)), feed["is_first"], feed["latent_noise"])
        state, _ = world.dynamics.observe_step(before, *now)
        found = agent.behaviour.search(world, state, feed["action_noise"], feed.get("kept"))
        given = answer(found.action, state)
        return given._replace(outputs={**given.outputs, "kept": found.kept}, scores={"kept": found.scores})

    step, plans = PolicyStep(agent), searches(agent)
    choices = _latent_choice(agent) + (() if plans else _action_choices(spec))
    return Part("policy", step, inputs, outputs, choices, searched if plans else acted, always_random=plans)


def world_part(agent: Agent) -> Part:
    """(carry, action, noise) → (carry, reward, cont, decoded observation)."""
    world, state = agent.world, agent.world.dynamics.initial(1)
    with torch.no_grad():
        shown = world.decode(world.dynamics.feat(state)) or {}
    names = port_names(shown, "obs")
    inputs = (
        *state_ports(state, ""),
        Port("action", "action", "float32", (agent.spec.action_width,), about="flat: one-hots, and plain numbers"),
        _latent_noise(agent),
    )
    outputs = (
        *state_ports(state, "next_"),
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

    return Part("world", WorldStep(agent, shown), inputs, outputs, _latent_choice(agent), reference)


def decision_noise(agent: Agent, generator: torch.Generator | None = None) -> Noise:
    """Randomness of one decision, as an exported policy takes it: without the explorer's, who stays behind."""
    noise = agent.noise(1, generator)
    width = noise.action.shape[-1] - agent.behaviour.explorer.width
    return noise._replace(action=noise.action[..., :width].contiguous())


def size_of(value: Tensor) -> Tensor:
    """How large numbers are, at least 1: what a difference in them is divided by."""
    return value.abs().clamp(min=1)


def _named(state: State) -> dict[str, Tensor]:
    return {"next_deter": state.deter, "next_stoch": state.stoch}


def _latent_noise(agent: Agent) -> Port:
    latent = agent.world.dynamics.latent
    draw = ((latent.noise_kind, 0, latent.shape[-1]),)
    return Port("latent_noise", "noise", "float32", tuple(latent.shape), draw=draw, about="zeros take the mode")


def _action_noise(agent: Agent) -> Port:
    """As the behaviour draws it: columns of the action, and a planner's of the guesses in its dreams."""
    shape = tuple(decision_noise(agent).action.shape[1:])
    columns, width = list(draws(agent.seen)), agent.seen.action_width
    if shape[-1] > width:
        columns.append((agent.world.dynamics.latent.noise_kind, width, shape[-1]))
    about = "of every plan: always drawn" if searches(agent) else "zeros take the mode"
    return Port("action_noise", "noise", "float32", shape, draw=tuple(columns), about=about)


def _kept_ports(agent: Agent) -> Iterable[Port]:
    if searches(agent):
        shape = (agent.behaviour.iterations, agent.behaviour.elites)
        yield Port("kept", "kept", "int64", shape, about="plans that each round of the search kept, for comparison")


def _latent_choice(agent: Agent) -> tuple[Choice, ...]:
    if agent.world.dynamics.latent.noise_kind != "gumbel":
        return ()
    return (Choice("next_stoch", "latent_noise", slice(None)),)


def _action_choices(spec: EnvSpec) -> tuple[Choice, ...]:
    return tuple(Choice("action", "action_noise", one) for part, one in entries(spec) if part.kind == "discrete")
