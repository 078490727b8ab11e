"""Inputs and outputs of exported parts: what they are called, and what they hold."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dreamer_cli.spaces import ActionPart, EnvSpec
from dreamer_cli.structs import State


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        name: what the file calls it.
        role: observation, reset, carry, action or noise (inputs); action, native, carry, reward, cont, observation
            or kept (outputs).
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


def port_names(keys: Iterable[str], prefix: str) -> dict[str, str]:
    """key → a name that every format and language can spell, each only once."""
    names: dict[str, str] = {}
    for key in keys:
        name = f"{prefix}_{re.sub(r'[^A-Za-z0-9_]', '_', key)}"
        while name in names.values():
            name += "_"
        names[key] = name
    return names


def state_ports(state: State, prefix: str) -> tuple[Port, Port]:
    """deter and stoch, as `state` has them."""
    about = ("memory", "sampled guess about the present")
    deter, stoch = (
        Port(f"{prefix}{name}", "carry", "float32", tuple(value.shape[1:]), about=what)
        for name, value, what in zip(("deter", "stoch"), state, about, strict=True)
    )
    return deter, stoch


def native_port(part: ActionPart, name: str) -> Port:
    """A part of the action as the environment takes it."""
    count = len(part.classes) or part.size
    shape = part.shape or (() if count == 1 else (count,))
    return Port(name, "native", "int64" if part.kind == "discrete" else "float32", shape, part.key)


def entries(spec: EnvSpec) -> Iterable[tuple[ActionPart, slice]]:
    """Columns of the flat action: one slice for each categorical entry, one for each continuous part."""
    start = 0
    for part in spec.action:
        for width in part.classes or (part.size,):
            yield part, slice(start, start + width)
            start += width


def draws(spec: EnvSpec) -> Iterable[tuple[str, int, int]]:
    """What the columns of an action's noise are drawn from: (distribution, first, after the last)."""
    start = 0
    for part in spec.action:
        yield "gumbel" if part.kind == "discrete" else "normal", start, start + part.width
        start += part.width
