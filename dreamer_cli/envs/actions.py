"""Actions at the environment's border: the flat vector of the agent, and whatever the environment takes.

```
agent     [0 0 1 | 0.3 -2.1]                       one-hot (or scores), then raw numbers
          argmax   clip to [-1, 1], rescale        decode
env       {"gear": 2, "pedals": [0.65, 0.0]}
```
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import Env, Space, spaces

from dreamer_cli.envs.nested import Place, leaves
from dreamer_cli.errors import EnvError
from dreamer_cli.spaces import ActionPart

Decoder = Callable[[np.ndarray], Any]


class ActionCodec:
    """Turns the flat action vector into actions of one Gymnasium space.

    The tables (`parts`, sorted by key) describe the decoding completely: see `ActionPart`.
    """

    def __init__(self, parts: tuple[ActionPart, ...]) -> None:
        self.parts = parts
        self.width = sum(part.width for part in parts)  # A
        self._decoders: list[tuple[ActionPart, slice, Decoder]] = []
        column = 0
        for part in parts:
            self._decoders.append((part, slice(column, column + part.width), _decoder(part)))
            column += part.width

    @classmethod
    def from_space(cls, space: Space, env_id: str = "the environment", names: tuple[str, ...] = ()) -> "ActionCodec":
        """Describe a space: Discrete, Box, MultiDiscrete, MultiBinary, or Dict and Tuple of these, nested.

        Args:
            names: what the choices of a single Discrete action are called.

        Raises:
            EnvError: a space that cannot be acted in, named with the reason.
        """
        parts = [_part(path, leaf, env_id) for path, leaf in leaves(space)]
        if not parts:
            raise EnvError(f"{env_id} takes no action: its action space is {space}.")
        if len(parts) == 1 and parts[0].classes == (len(names),):
            parts = [ActionPart(**{**vars(parts[0]), "names": names})]
        return cls(tuple(sorted(parts, key=lambda part: part.key)))

    def decode(self, action: np.ndarray) -> Any:
        """The environment's action for one flat vector (A,): an int, an array, or a nested dict or tuple."""
        return _nest({part.path: decode(action[columns]) for part, columns, decode in self._decoders})


def action_names(env: Env) -> tuple[str, ...]:
    """What the environment calls its discrete actions, in lower case; () where it does not say."""
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if callable(meanings):  # ALE, MinAtar
        return tuple(str(name).lower() for name in meanings())
    actions = getattr(env.unwrapped, "actions", None)
    if isinstance(actions, type) and hasattr(actions, "__members__"):  # MiniGrid: an IntEnum
        return tuple(name.lower() for name in actions.__members__)
    return ()


def _part(path: Place, space: Space, env_id: str) -> ActionPart:
    key = "/".join(map(str, path)) or "action"
    classes: tuple[int, ...]
    start: tuple[int, ...]
    if isinstance(space, spaces.Discrete):
        classes, start = (int(space.n),), (int(space.start),)
    elif isinstance(space, spaces.MultiDiscrete):
        classes = tuple(map(int, space.nvec.flat))
        start = tuple(map(int, np.broadcast_to(getattr(space, "start", 0), space.nvec.shape).flat))
    elif isinstance(space, spaces.MultiBinary):
        classes = (2,) * int(np.prod(space.shape))
        start = (0,) * len(classes)
    elif isinstance(space, spaces.Box):
        return _continuous(path, key, space, env_id)
    else:
        raise EnvError(
            f"{env_id}: the action {key!r} is a {type(space).__name__} space, which no policy here can act in.",
            hint="Supported: Discrete, Box, MultiDiscrete, MultiBinary, and Dict of these. Wrap the environment.",
        )
    return ActionPart(key, "discrete", classes, start=start, shape=space.shape or (), dtype=str(space.dtype), path=path)


def _continuous(path: Place, key: str, space: spaces.Box, env_id: str) -> ActionPart:
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise EnvError(
            f"{env_id}: the action {key!r} has no finite bounds: {space}.",
            hint="Wrap it with gymnasium.wrappers.RescaleAction, or declare bounds in its action_space.",
        )
    low, high = (tuple(map(float, bound.flat)) for bound in (space.low, space.high))
    return ActionPart(
        key, "continuous", size=len(low), low=low, high=high, shape=space.shape, dtype=str(space.dtype), path=path
    )


def _decoder(part: ActionPart) -> Decoder:
    """Made once for each part: this runs at every step of every environment."""
    return _discrete_decoder(part) if part.kind == "discrete" else _continuous_decoder(part)


def _discrete_decoder(part: ActionPart) -> Decoder:
    if part.shape == ():
        first = part.start[0]
        return lambda flat: int(flat.argmax()) + first
    ends = np.cumsum(part.classes)
    entries = [slice(end - classes, end) for end, classes in zip(ends, part.classes, strict=True)]
    dtype, start = np.dtype(part.dtype), np.array(part.start)
    return lambda flat: (np.array([flat[e].argmax() for e in entries]) + start).astype(dtype).reshape(part.shape)


def _continuous_decoder(part: ActionPart) -> Decoder:
    low, high, dtype = np.array(part.low), np.array(part.high), np.dtype(part.dtype)
    least, most = low.astype(dtype), high.astype(dtype)

    def decode(flat: np.ndarray) -> np.ndarray:
        value = low + (np.clip(flat.astype(np.float64), -1, 1) + 1) / 2 * (high - low)
        value = np.round(value) if dtype.kind in "iu" else value
        # Rounding to float32 may leave the bounds by a hair, and some environments refuse that.
        return np.clip(value.astype(dtype), least, most).reshape(part.shape)

    return decode


def _nest(values: Mapping[Place, Any]) -> Any:
    """Values by path as nested dicts, and tuples where the path counts positions."""
    if () in values:
        return values[()]
    heads: dict[str | int, dict[Place, Any]] = {}
    for path, value in values.items():
        heads.setdefault(path[0], {})[path[1:]] = value
    if all(isinstance(head, int) for head in heads):
        return tuple(_nest(heads[position]) for position in range(len(heads)))
    return {head: _nest(inner) for head, inner in heads.items()}
