"""Observations at the environment's border: any Gymnasium space becomes a flat dict of settled arrays.

| space | becomes |
|---|---|
| Box with sides of at least 8: uint8 of rank 2 or 3; others of rank 3 with bounds 0..1 or 0..255 | image, uint8 C Y X |
| any other Box of numbers | vector, float32, flattened |
| Discrete, MultiDiscrete, MultiBinary | discrete, int32, counted from 0 |
| Dict, Tuple | their entries, keys joined with `/` |
| Text, Sequence, Graph, object, ... | left out, with the reason |

A float picture loses what 8 bits cannot hold; in exchange it is stored in a quarter of the memory and read by
the image encoder. Uint8 grids below 8x8 (MiniGrid's 7x7) are too small for it and are read as numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces
from PIL import Image

from dreamer_cli.envs.nested import Place, leaves
from dreamer_cli.errors import EnvError
from dreamer_cli.spaces import ObsSpec

SMALLEST_IMAGE, LARGEST_NATIVE, USUAL_IMAGE = 8, 96, (64, 64)
RESERVED = ("reward", "is_first", "is_last", "is_terminal", "action")
FLOAT32_MAX = float(np.finfo(np.float32).max)

Size = tuple[int, int]
Reader = Callable[[np.ndarray], np.ndarray]


class BadValue(Exception):
    """A value that breaks the declared space; the wrapper adds which environment, key and step."""


class Entry(NamedTuple):
    """One key: where to find it in the environment's observation, what it must look like, how to settle it."""

    path: Place
    spec: ObsSpec
    declared: tuple[int, ...]
    read: Reader


class ObservationCodec:
    """Settles the observations of one space.

    Attributes:
        specs: key → spec, in the environment's order.
        left_out: key → why it cannot be learnt from.

    Args:
        size: (rows, columns) of every image; None keeps sides up to 96 and makes 64x64 of larger ones.

    Raises:
        EnvError: nothing is left to learn from.
    """

    def __init__(self, space: Space, size: Size | None = None, env_id: str = "the environment") -> None:
        self.entries: dict[str, Entry] = {}
        self.left_out: dict[str, str] = {}
        for path, leaf in leaves(space):
            shown = "/".join(map(str, path)) or "observation"
            try:
                spec, read = _settle(leaf, size)
            except BadValue as err:
                self.left_out[shown] = str(err)
                continue
            self.entries[self._name(path, spec.kind)] = Entry(path, spec, leaf.shape or (), read)
        if not self.entries:
            reasons = "; ".join(f"{key}: {why}" for key, why in self.left_out.items()) or "the space is empty"
            raise EnvError(
                f"{env_id} shows nothing that can be learnt from ({reasons}).",
                hint="--pixels learns from its picture, if it can render one.",
            )
        self.specs = {key: entry.spec for key, entry in self.entries.items()}

    def _name(self, path: Place, kind: str) -> str:
        # Dots and a handful of names mean something to torch's module containers and to the record itself.
        name = "/".join(map(str, path)).replace(".", "_") or kind
        name = f"obs_{name}" if name in RESERVED else name
        while name in self.entries:
            name += "_"
        return name

    def read(self, observation: Any) -> dict[str, np.ndarray]:
        """One observation, settled.

        Raises:
            BadValue: a key is missing, has another shape or type than declared, or is not finite.
        """
        return {key: self._read(key, entry, observation) for key, entry in self.entries.items()}

    def _read(self, key: str, entry: Entry, observation: Any) -> np.ndarray:
        try:
            for step in entry.path:
                observation = observation[step]
        except (KeyError, IndexError, TypeError):
            raise BadValue(f"the observation has no key {key!r}") from None
        value = np.asarray(observation)
        if value.dtype.kind not in "biuf":
            raise BadValue(f"the observation {key!r} has dtype {value.dtype}, which holds no numbers")
        if value.shape != entry.declared:
            raise BadValue(f"the observation {key!r} has shape {value.shape}, but {entry.declared} was declared")
        try:
            return entry.read(value)
        except BadValue as err:
            raise BadValue(f"the observation {key!r} {err}") from None


def plain_name(space: Space) -> str:
    """What a space without keys is called: by its kind, or `observation`."""
    try:
        return _settle(space, None)[0].kind
    except BadValue:
        return "observation"


def _settle(space: Space, size: Size | None) -> tuple[ObsSpec, Reader]:
    if isinstance(space, spaces.Discrete):
        return _discrete(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        return _discrete(space.nvec, np.broadcast_to(getattr(space, "start", 0), space.nvec.shape))
    if isinstance(space, spaces.MultiBinary):
        return _discrete(np.full(space.shape, 2), np.zeros(space.shape, np.int64))
    if not isinstance(space, spaces.Box):
        raise BadValue(f"{type(space).__name__} spaces cannot be learnt from")
    if space.dtype is None or space.dtype.kind not in "biuf":
        raise BadValue(f"values of dtype {space.dtype} cannot be learnt from")
    if not np.prod(space.shape):
        raise BadValue("it is empty")
    scale = _image_scale(space)
    return _vector(space.shape) if scale is None else _image(space, scale, size)


def _discrete(classes: np.ndarray, start: np.ndarray) -> tuple[ObsSpec, Reader]:
    counts, first = classes.reshape(-1).astype(np.int64), start.reshape(-1).astype(np.int64)

    def read(value: np.ndarray) -> np.ndarray:
        if value.dtype.kind == "f":
            raise BadValue(f"has dtype {value.dtype}, but whole numbers were declared")
        entries = value.reshape(-1).astype(np.int64) - first
        if ((entries < 0) | (entries >= counts)).any():
            raise BadValue(f"is {value.tolist()}, outside its declared range")
        return entries.astype(np.int32)

    return ObsSpec("discrete", (len(counts),), tuple(map(int, counts))), read


def _vector(shape: tuple[int, ...]) -> tuple[ObsSpec, Reader]:
    def read(value: np.ndarray) -> np.ndarray:
        flat = value.reshape(-1)
        if flat.dtype.kind == "f" and not np.isfinite(flat).all():
            raise BadValue(f"is not finite: {_excerpt(flat)}")
        if flat.dtype.itemsize > 4:
            flat = np.clip(flat, -FLOAT32_MAX, FLOAT32_MAX)
        return flat.astype(np.float32)

    return ObsSpec("vector", (int(np.prod(shape)),)), read


def _image_scale(space: spaces.Box) -> float | None:
    """What makes 0..255 of the space's numbers, or None if it is no image."""
    rows, columns, _ = _layout(space.shape)
    if min(rows, columns) < SMALLEST_IMAGE:
        return None
    if space.dtype == np.uint8:
        return 1.0
    if len(space.shape) != 3 or space.low.any():
        return None
    return next((255 / top for top in (1, 255) if (space.high == top).all()), None)


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(rows, columns, axis of the channels): the shorter of first and last axis holds them; -1 in a tie.

    For other ranks than 2 (grey) and 3 rows and columns are 0: no image.
    """
    if len(shape) == 2:
        return *shape, 2
    if len(shape) != 3:
        return 0, 0, 0
    return (*shape[1:], 0) if shape[0] < shape[2] else (*shape[:2], 2)


def _image(space: spaces.Box, scale: float, size: Size | None) -> tuple[ObsSpec, Reader]:
    rows, columns, channel_axis = _layout(space.shape)
    if size is None:
        size = (rows, columns) if max(rows, columns) <= LARGEST_NATIVE else USUAL_IMAGE
    channels = space.shape[channel_axis] if len(space.shape) == 3 else 1

    def read(value: np.ndarray) -> np.ndarray:
        if space.dtype == np.uint8 and value.dtype != np.uint8:
            raise BadValue(f"has dtype {value.dtype}, but uint8 was declared")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise BadValue(f"is not finite: {_excerpt(value)}")
        if value.dtype != np.uint8 or scale != 1.0:
            value = np.clip(np.round(value * scale), 0, 255).astype(np.uint8)
        value = value[..., None] if value.ndim == 2 else value
        chw = np.moveaxis(value, channel_axis, 0)
        return np.ascontiguousarray(chw if chw.shape[1:] == size else resize(chw, size))

    return ObsSpec("image", (channels, *size)), read


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """C Y X to (rows, columns) by area: every new pixel is the mean of the old ones beneath it, for any C."""
    if len(image) == 3:  # one call instead of three
        picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
        return np.moveaxis(np.asarray(picture.resize(size[::-1], Image.Resampling.BOX)), -1, 0)
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BOX)) for plane in planes])


def _excerpt(value: np.ndarray) -> str:
    shown = ", ".join(f"{number:g}" for number in value.reshape(-1)[:6])
    return f"[{shown}{', ...' if value.size > 6 else ''}]"
