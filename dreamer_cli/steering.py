"""Actions that people write, by name, by number or in a file, as the flat vectors that an agent works with.

```
--branch policy,noop,LEFT,3+policy     who acts in each of several dreams
--actions FILE.json                    {"schema": "dreamer.actions/1", "actions": [3, "LEFT", ...]}, or the list alone
--actions FILE.npz                     `action` T A (or M T A), flat, as `dreamer imagine -o FILE.npz` writes it
```
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_cli.errors import StateError, UsageError, closest
from dreamer_cli.files import read_json
from dreamer_cli.npz import read_npz
from dreamer_cli.spaces import ActionPart, EnvSpec

SCHEMA = "dreamer.actions/1"
POLICY, RANDOM, NOOP = "policy", "random", "noop"
THEN = "+policy"  # after a word: only once, then the agent acts


class Steering(NamedTuple):
    """Who acts in M dreams, in H moments from the last record of the context on.

    given: M H A, actions; own: M H, where the agent decides itself and `given` says nothing; until: M, after so many
    actions there are no more, and the dream is over.
    """

    given: np.ndarray
    own: np.ndarray
    until: np.ndarray

    def repeated(self, count: int) -> "Steering":
        """For so many dreams, from the first again where there are not enough."""
        return Steering(*(value[np.arange(count) % len(value)] for value in self))


def encode(spec: EnvSpec, value: Any) -> np.ndarray:
    """An action as the environment takes it → A float32.

    Args:
        value: a number, the name of a choice, or a list of numbers; for an action of several parts a mapping from their
            keys. Continuous numbers are in the environment's units.

    Raises:
        UsageError: it is none.
    """
    if len(spec.action) == 1 and not isinstance(value, Mapping):
        value = {spec.action[0].key: value}
    keys = [part.key for part in spec.action]
    if not isinstance(value, Mapping) or sorted(map(str, value)) != sorted(keys):
        raise UsageError(f"{_shown(value)} is no action here.", hint=f"An action has these parts: {', '.join(keys)}.")
    return np.concatenate([_encode_part(part, value[part.key]) for part in spec.action])


def decode(spec: EnvSpec, action: np.ndarray) -> Any:
    """The inverse of `encode`: an action A as JSON, of names where a choice has one."""
    values: dict[str, Any] = {}
    start = 0
    for part in spec.action:
        flat, start = action[start : start + part.width], start + part.width
        if part.kind == "discrete":
            cuts = np.cumsum(part.classes)[:-1]
            chosen = [int(entry.argmax()) for entry in np.split(flat, cuts)]
            numbers = [k + first for k, first in zip(chosen, part.start or (0,) * len(chosen), strict=True)]
            named = len(chosen) == 1 and len(part.names) == part.classes[0]
            values[part.key] = part.names[chosen[0]] if named else numbers[0] if len(numbers) == 1 else numbers
        else:
            low, high = np.array(part.low), np.array(part.high)
            # Rounding may leave the bounds by a hair.
            numbers = (low + (flat.clip(-1, 1) + 1) / 2 * (high - low)).clip(low, high).tolist()
            values[part.key] = numbers[0] if len(numbers) == 1 else numbers
    return values if len(spec.action) > 1 else next(iter(values.values()))


def noop(spec: EnvSpec) -> np.ndarray:
    """Doing nothing → A float32: the choice of that name, and numbers as close to 0 as they can be.

    Raises:
        UsageError: the environment names no such choice.
    """
    found = []
    for part in spec.action:
        if part.kind == "continuous":
            found.append(_encode_part(part, np.clip(0.0, part.low, part.high).tolist()))
            continue
        idle = [name for name in part.names if name.casefold() in ("noop", "nop", "no-op", "nothing", "idle")]
        if not idle:
            raise UsageError("This environment names no action that does nothing.", hint=_known(part))
        found.append(_encode_part(part, idle[0]))
    return np.concatenate(found)


def parse_branches(
    words: Sequence[str], spec: EnvSpec, moments: int, draw: Callable[[int], np.ndarray]
) -> tuple[Steering, list[str]]:
    """Who acts in each dream, for `moments` moments, and what to call each.

    Args:
        words: `policy`, `random`, `noop`, a choice by number or name, or numbers joined by `/`; each but `policy` may
            end in `+policy`: once, and then the agent.
        draw: n → n A, random actions.

    Raises:
        UsageError: a word means nothing here.
    """
    given = np.zeros((len(words), moments, spec.action_width), np.float32)
    own = np.zeros((len(words), moments), bool)
    for row, word in enumerate(words):
        bare = word.removesuffix(THEN)
        own[row] = bare == POLICY
        own[row, 1:] |= word != bare
        if bare == RANDOM:
            given[row] = draw(moments)
        elif bare != POLICY:
            given[row] = noop(spec) if bare == NOOP else encode(spec, _value(bare))
    return Steering(given, own, np.full(len(words), moments)), list(words)


def read_actions(path: Path, spec: EnvSpec) -> Steering:
    """The actions of a file, for the last record of the context and all that follow.

    Of a file that `imagine -o FILE.npz` wrote, those that were dreamt, or that the truth took in open loop.

    Raises:
        StateError: it cannot be read, or holds something else, or an action that the environment has not.
    """
    if path.suffix == ".npz":
        action, until = _stored(path, spec.action_width)
    else:
        tree = read_json(path)
        if isinstance(tree, dict):
            tree = tree.get("actions")
        if not isinstance(tree, list):
            raise StateError(f"{path} holds no list of actions.", hint='{"actions": [3, "LEFT", ...]}, or the list.')
        rows = []
        for k, value in enumerate(tree):
            try:
                rows.append(encode(spec, value))
            except UsageError as err:
                raise StateError(f"{path}, action {k}: {err.what}", hint=err.hint) from err
        action, until = np.array(rows, np.float32).reshape(1, len(rows), spec.action_width), np.array([len(rows)])
    if not (until > 0).any():
        raise StateError(f"{path} holds no action.")
    action, until = action[until > 0, : until.max()], until[until > 0]
    return Steering(action, np.zeros(action.shape[:2], bool), until)


def _stored(path: Path, width: int) -> tuple[np.ndarray, np.ndarray]:
    """`action` of a file as M H A, from the one that answers the last record of the context on; and how many: M."""
    arrays = read_npz(path, only=("action", "context", "length"))
    action = arrays.get("action")
    if action is None or action.dtype.kind != "f" or action.ndim not in (2, 3) or action.shape[-1] != width:
        raise StateError(f"{path} holds no `action` of shape (T, {width}).")
    if not np.isfinite(action).all():
        raise StateError(f"{path}: its actions are not finite.")
    action = (action[None] if action.ndim == 2 else action).astype(np.float32)
    context, length = arrays.get("context"), arrays.get("length")
    if context is None or length is None:
        return action, np.full(len(action), action.shape[1])
    whole = context.dtype.kind in "iu" and length.dtype.kind in "iu"
    if not whole or context.shape != () or context < 0 or length.shape != action.shape[:1]:
        raise StateError(f"{path}: its `context` or `length` makes no sense.")
    before = max(0, int(context) - 1)  # T moments have T - 1 actions between them
    return action[:, before:], (length.clip(0, action.shape[1]) - 1 - before).clip(0)


def _encode_part(part: ActionPart, value: Any) -> np.ndarray:
    if isinstance(value, str):
        names = [name.casefold() for name in part.names]
        if value.casefold() not in names:
            raise UsageError(f"There is no action {value!r}.", hint=closest(value, list(part.names)) + _known(part))
        value = names.index(value.casefold()) + (part.start[0] if part.start else 0)
    try:
        numbers = np.asarray(value, np.float64).ravel()
    except (ValueError, TypeError, OverflowError) as err:
        raise UsageError(f"{_shown(value)} is no action.", hint=_known(part)) from err
    if len(numbers) != (len(part.classes) or part.size) or not np.isfinite(numbers).all():
        raise UsageError(f"{_shown(value)} is no action.", hint=_known(part))
    if part.kind == "continuous":
        low, high = np.array(part.low), np.array(part.high)
        if (numbers < low).any() or (numbers > high).any():
            raise UsageError(f"{_shown(value)} is out of bounds.", hint=_known(part))
        return ((numbers - low) / (high - low) * 2 - 1).astype(np.float32)
    chosen = numbers - np.array(part.start or (0,) * len(part.classes))
    if (chosen != chosen.round()).any() or (chosen < 0).any() or (chosen >= part.classes).any():
        raise UsageError(f"There is no action {_shown(value)}.", hint=_known(part))
    return np.concatenate(
        [np.eye(count, dtype=np.float32)[int(k)] for k, count in zip(chosen, part.classes, strict=True)]
    )


def _value(word: str) -> Any:
    """A word of the command line: a number, numbers joined by `/`, or a name."""
    try:
        numbers = [float(part) for part in word.split("/")]
    except ValueError:
        return word
    return numbers[0] if len(numbers) == 1 else numbers


def _shown(value: Any) -> str:
    """As a file of actions has it; whole numbers without a point."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    text = json.dumps(whole, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def _known(part: ActionPart) -> str:
    if part.kind == "continuous":
        return f"{part.size} number{'s' * (part.size > 1)} from {list(part.low)} to {list(part.high)}."
    if len(part.names) == part.classes[0] and len(part.classes) == 1:
        return f"Known: {', '.join(f'{name} ({k})' for k, name in enumerate(part.names, (part.start or (0,))[0]))}."
    first = part.start or (0,) * len(part.classes)
    return f"Known: {', '.join(f'{low} to {low + count - 1}' for low, count in zip(first, part.classes, strict=True))}."
