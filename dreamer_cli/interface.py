"""interface.json: what a reader without dreamer must know to run an exported file."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from dreamer_cli import __version__
from dreamer_cli.envs.catalog import suite_of
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.envs.wrappers import DreamerEnv
from dreamer_cli.frozen import Part, Port, port_names
from dreamer_cli.spaces import EnvSpec, ObsSpec

SCHEMA = "dreamer.interface/1"
MARK = "dreamer export"  # stands somewhere in every file of an export, so that the next one knows what it may replace
ABOUT = {
    "image": "Whole numbers 0..255, channels first (C, Y, X); other sizes are brought to this one by area (Pillow's "
    "BOX). The model scales them itself.",
    "vector": "Numbers in the environment's units, flattened. A model that squashes them (symlog) does so itself.",
    "discrete": "Classes counted from 0 (the environment's number less `start`), one for each entry. The model makes "
    "one-hots of them itself.",
}
DECODE = {
    "discrete": "start + argmax over each entry's classes within `columns` of output `action`, reshaped to `shape`",
    "continuous": "low + (clip(x, -1, 1) + 1) / 2 * (high - low) of `columns` of output `action`, reshaped to `shape`",
}
CARRIED = {"deter": "next_deter", "stoch": "next_stoch", "prev_action": "action"}


def describe(
    parts: Sequence[Part],
    spec: EnvSpec,
    files: Mapping[str, str],
    format: str,
    *,
    env_config: EnvConfig | None = None,
    env: DreamerEnv | None = None,
    policy: str = "sample",
    cont_scale: float = 1.0,
    run: str | None = None,
    checkpoint_step: int | None = None,
) -> dict[str, Any]:
    """The tree of interface.json, without the outcome of the comparison.

    Args:
        files: part → the name of its file.
        env: the environment, if it could be made; says where observations come from.
        policy: `sample` or `mode`: how the run evaluates; where there is no mode, it is `sample` all the same.
        cont_scale: what `cont` says of a state that surely goes on.
    """
    inputs = port_names(spec.observation, "obs")
    sources = sources_of(env) if env is not None else {}
    return {
        "schema": SCHEMA,
        "made_by": f"{MARK}, dreamer-cli {__version__}",
        "run": run,
        "checkpoint_step": checkpoint_step,
        "format": format,
        "files": dict(files),
        "inputs": {part.name: [_port(port) for port in part.inputs] for part in parts},
        "outputs": {part.name: [_port(port) for port in part.outputs] for part in parts},
        "preprocessing": {
            key: {"input": inputs[key], **_observation(seen), "source": sources.get(key)}
            for key, seen in spec.observation.items()
        },
        "action": _actions(spec),
        "eval_policy": "sample" if any(part.always_random for part in parts) else policy,
        "initial_state": _initial(parts),
        "recurrence": CARRIED if any(part.name == "policy" for part in parts) else {},
        "cont_scale": cont_scale,
        "env": _env(env_config),
    }


def to_text(tree: Mapping[str, Any]) -> str:
    """JSON for people, too: indented, but a list of numbers or names stays on its line."""
    text = json.dumps(tree, indent=2, allow_nan=False)
    # Texts hold no line breaks, so only real lists are met.
    return re.sub(r"\[\n\s+([^][{}]*?)\n\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def example_source(format: str) -> str:
    """The text of example.py."""
    name = "weights.py.txt" if format == "safetensors" else "example.py.txt"
    return (resources.files("dreamer_cli") / "templates" / name).read_text(encoding="utf-8")


def _port(port: Port) -> dict[str, Any]:
    tree = {"name": port.name, "role": port.role, "dtype": port.dtype, "shape": ["batch", *port.shape]}
    if port.key:
        tree["key"] = port.key
    if port.draw:
        tree["draw"] = [{"distribution": what, "columns": [first, last]} for what, first, last in port.draw]
    return {**tree, "about": port.about} if port.about else tree


def _observation(seen: ObsSpec) -> dict[str, Any]:
    tree = {"kind": seen.kind, "dtype": seen.dtype, "shape": list(seen.shape), "about": ABOUT[seen.kind]}
    return {**tree, "classes": list(seen.classes)} if seen.classes else tree


def _actions(spec: EnvSpec) -> list[dict[str, Any]]:
    """Parts of the action in the order of the flat vector, with their columns and the output that has them decoded."""
    outputs = port_names([part.key for part in spec.action], "native")
    described, start = [], 0
    for part in spec.action:
        columns = [start, start + part.width]
        described.append({**asdict(part), "columns": columns, "output": outputs[part.key], "decode": DECODE[part.kind]})
        start += part.width
    return described


def _initial(parts: Sequence[Part]) -> dict[str, Any]:
    """The carry of an episode's first step: zeros (any numbers would do where is_first is true)."""
    ports = {port.name: port for part in parts for port in part.inputs if port.role == "carry"}
    return {
        name: {"shape": ["batch", *port.shape], "dtype": port.dtype, "fill": 0.0}
        for name, port in ports.items()
        if name in CARRIED
    }


def _env(config: EnvConfig | None) -> dict[str, Any] | None:
    if config is None or config.id is None:
        return None
    suite = suite_of(config.id)
    return {
        "id": config.id,
        "kwargs": config.kwargs,
        "repeat": config.repeat,
        "max_episode_steps": config.max_episode_steps,
        "pixels": config.pixels,
        "image_size": config.image_size,
        # Made by dreamer itself: its suites' protocols are no arguments of gymnasium.make.
        "adapted": suite is not None and suite.adapts(config.id),
    }


def sources_of(env: DreamerEnv) -> dict[str, dict[str, Any]]:
    """key → where the environment's own observation has it, and how it looks there."""
    return {
        key: {"path": list(entry.path), "shape": list(entry.declared), **_looks(_leaf(env, entry.path), entry.spec)}
        for key, entry in env.observations.entries.items()
    }


def _leaf(env: DreamerEnv, path: Sequence[str | int]) -> Space:
    space: Any = env.env.observation_space
    for step in path:
        space = space[step]
    return space


def _looks(space: Space, seen: ObsSpec) -> dict[str, Any]:
    if seen.kind == "discrete":
        return {"start": np.broadcast_to(getattr(space, "start", 0), space.shape or (1,)).reshape(-1).tolist()}
    if seen.kind == "vector" or not isinstance(space, spaces.Box):
        return {}
    # As `envs/observations.py` reads pictures: the shorter of first and last axis holds the channels.
    axis = None if len(space.shape) == 2 else 0 if space.shape[0] < space.shape[2] else 2
    return {"channel_axis": axis, "scale": 1.0 if space.dtype == np.uint8 else 255 / float(space.high.max())}
