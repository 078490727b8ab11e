"""What an environment shows and takes, after wrapping: the agent's only knowledge of it.

Observations are a flat dict of arrays, one spec a key. Actions are one flat float vector, the parts
joined in order of their keys: a one-hot for every categorical entry, then plain numbers in [-1, 1]
for continuous ones. Environments translate at their border (`envs/wrappers.py`), so replay, RSSM and
actor never meet a Gymnasium space. No torch, no gymnasium here: a run's `run.json` rebuilds the spec.
"""

import colorsys
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

MOST_NUMBERS, MOST_KEYS = 16_000_000, 10_000  # in an observation or action that is read from a file
OBSERVATION_DTYPES = {"image": "uint8", "vector": "float32", "discrete": "int32"}


@dataclass(frozen=True)
class ObsSpec:
    """One key of the observation.

    Attributes:
        kind: `image` (uint8, C Y X), `vector` (float32, n) or `discrete` (int32, one number an entry).
        shape: shape of one observation.
        classes: for `discrete`, how many values each entry can take.
    """

    kind: Literal["image", "vector", "discrete"]
    shape: tuple[int, ...]
    classes: tuple[int, ...] = ()

    @property
    def dtype(self) -> str:
        """The settled numpy dtype of this kind."""
        return OBSERVATION_DTYPES[self.kind]

    @property
    def width(self) -> int:
        """Numbers that enter a network: one-hots for discrete entries."""
        return sum(self.classes) if self.kind == "discrete" else math.prod(self.shape)


@dataclass(frozen=True)
class ActionPart:
    """One key of the action: categorical entries (`classes`) or `size` continuous numbers.

    With the flat vector's numbers x of this part, the environment is given, reshaped to `shape` as `dtype`:
    for `discrete`, `start + argmax` over each entry's classes; for `continuous`,
    `low + (clip(x, -1, 1) + 1) / 2 * (high - low)`, rounded where `dtype` is an integer.

    Attributes:
        key: `action`, or the path inside a Dict or Tuple action joined with `/`.
        classes: choices of each categorical entry.
        size: how many continuous numbers.
        names: what the choices of a single categorical entry are called, if the environment says.
        low, high: bounds of the continuous numbers, in the environment's units.
        start: the environment's number for class 0 of each categorical entry.
        shape, dtype: of the array that the environment is given; shape () is a single number.
        path: where the part stands in a nested action (names in a Dict, positions in a Tuple); () is the whole action.
    """

    key: str
    kind: Literal["discrete", "continuous"]
    classes: tuple[int, ...] = ()
    size: int = 0
    names: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    start: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    path: tuple[str | int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in the flat action vector."""
        return sum(self.classes) if self.kind == "discrete" else self.size


@dataclass(frozen=True)
class EnvSpec:
    """Everything about an environment that the agent is built from.

    Attributes:
        observation: key → spec, in the order that the environment declares.
        action: parts, sorted by key.
        repeat: environment steps that one decision costs (action repeat, frameskip).
        left_out: keys of the observation that cannot be learnt from → why; no part of equality.
        told: names of the numbers that the environment tells of an episode at its end; no part of equality.
    """

    observation: Mapping[str, ObsSpec]
    action: tuple[ActionPart, ...]
    repeat: int = 1
    left_out: Mapping[str, str] = field(default_factory=dict, compare=False)
    told: tuple[str, ...] = field(default=(), compare=False)

    @property
    def action_width(self) -> int:
        """A, the width of the flat action vector."""
        return sum(part.width for part in self.action)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for `run.json` and `interface.json`."""
        return {
            "observation": {key: asdict(spec) for key, spec in self.observation.items()},
            "action": [asdict(part) for part in self.action],
            "repeat": self.repeat,
            "left_out": dict(self.left_out),
            "told": list(self.told),
        }

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> "EnvSpec":
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: the tree is none of `to_json`'s, or a size in it is absurd.
        """

        def tuples(record: Mapping[str, Any]) -> dict[str, Any]:
            return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}

        spec = EnvSpec(
            observation={key: ObsSpec(**tuples(spec)) for key, spec in tree["observation"].items()},
            action=tuple(ActionPart(**tuples(part)) for part in tree["action"]),
            repeat=tree["repeat"],
            left_out=dict(tree.get("left_out", {})),
            told=tuple(tree.get("told", ())),
        )
        _check_spec(spec)
        return spec


def _check_spec(spec: EnvSpec) -> None:
    """See that what was read from a file has the types and sizes of a spec. A ValueError if not."""

    def counts(values: Any) -> bool:
        return isinstance(values, tuple) and all(type(value) is int and value >= 1 for value in values)

    def plain(values: Any, *kinds: type) -> bool:
        return isinstance(values, tuple) and all(type(value) in kinds for value in values)

    def observation(obs: ObsSpec) -> bool:
        return (
            obs.kind in tuple(OBSERVATION_DTYPES)
            and counts(obs.shape)
            and counts(obs.classes)
            and (obs.kind != "image" or len(obs.shape) == 3)
            and len(obs.classes) == (math.prod(obs.shape) if obs.kind == "discrete" else 0)
            and math.prod(obs.shape) <= MOST_NUMBERS
        )

    def part(part: ActionPart) -> bool:
        return (
            isinstance(part.key, str)
            and part.kind in ("discrete", "continuous")
            and counts(part.classes)
            and type(part.size) is int
            and part.width > 0
            and counts(part.shape)
            and plain(part.names, str)
            and plain(part.low, int, float)
            and plain(part.high, int, float)
            and plain(part.start, int)
            and plain(part.path, int, str)
            and np.dtype(part.dtype).kind in "biuf"
        )

    sound = (
        all(isinstance(key, str) and observation(obs) for key, obs in spec.observation.items())
        and all(map(part, spec.action))
        and 0 < len(spec.observation) <= MOST_KEYS
        and 0 < len(spec.action) <= MOST_KEYS
        and sum(obs.width for obs in spec.observation.values()) <= MOST_NUMBERS
        and spec.action_width <= MOST_NUMBERS
        and plain(spec.told, str)
        and len(spec.told) <= MOST_KEYS
        and type(spec.repeat) is int
        and 1 <= spec.repeat <= 10_000
    )
    if not sound:
        raise ValueError("no spaces of an environment")


def action_from_indices(part: ActionPart, indices: np.ndarray) -> np.ndarray:
    """One-hots (..., width) of chosen classes (..., entries) of a discrete part."""
    columns = [np.eye(n, dtype=np.float32)[indices[..., i]] for i, n in enumerate(part.classes)]
    return np.concatenate(columns, -1)


def as_bytes(image: np.ndarray) -> np.ndarray:
    """An image of uint8 or of floats 0..1 as uint8; what is no number is black."""
    if image.dtype == np.uint8:
        return image
    return (np.nan_to_num(image).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Any image observation as a picture: uint8 (..., C, Y, X) to uint8 (..., Y, X, 3).

    One channel is grey, three are red, green, blue. Other numbers (MinAtar has one channel for each kind of
    object) get one fixed colour a channel; where several are lit, the brighter component shows.
    """
    channels = image.shape[-3]
    if channels == 1:
        return np.repeat(np.moveaxis(image, -3, -1), 3, axis=-1)
    if channels == 3:
        return np.ascontiguousarray(np.moveaxis(image, -3, -1))
    picture = np.zeros((*image.shape[:-3], *image.shape[-2:], 3), np.uint8)
    for channel in range(channels):
        lit = image[..., channel, :, :, None].astype(np.uint16) * PALETTE[channel % len(PALETTE)] // 255
        np.maximum(picture, lit.astype(np.uint8), out=picture)
    return picture


def _palette(colours: int) -> np.ndarray:
    """Hues a golden ratio apart, so that neighbours differ however many there are; two levels of saturation."""
    rgb = [colorsys.hsv_to_rgb(0.58 + 0.618 * i, (0.85, 0.45)[i % 2], 1.0) for i in range(colours)]
    return np.round(np.array(rgb) * 255).astype(np.uint16)


PALETTE = _palette(24)
