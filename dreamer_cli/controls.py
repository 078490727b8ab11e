"""Keys for the actions of an environment: arrows where its names say so, digits else; sliders for numbers, and lists
for each of several choices.

Every control is a set of keys and the action that they mean together, as JSON: of those whose keys are all held, the
one with the most keys is meant.
"""

import re
from typing import Any, NamedTuple

from dreamer_cli.errors import UsageError
from dreamer_cli.spaces import ActionPart, EnvSpec
from dreamer_cli.steering import decode, noop

LEFT, RIGHT, UP, DOWN, SPACE = "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Space"
# What names of choices begin with or are, in the order of preference.
WORDS = {
    "LEFT": LEFT,
    "RIGHT": RIGHT,
    "UP": UP,
    "DOWN": DOWN,
    "FIRE": SPACE,
    "FORWARD": UP,
    "BACKWARD": DOWN,
    "NORTH": UP,
    "SOUTH": DOWN,
    "WEST": LEFT,
    "EAST": RIGHT,
    "TOGGLE": SPACE,
    "DO": SPACE,
}
LETTERS = "QWERTYUIOPASDFGHJKLZXCVBNM"
TAKEN = "GPNRBJLMKVQO"  # keys that the page and the terminal use themselves


class Control(NamedTuple):
    """keys: all held together; action: as `steering.encode` takes it; label: what to write on the button."""

    keys: tuple[str, ...]
    action: Any
    label: str


class Slider(NamedTuple):
    """One number of the action: its part's key, its place there, its bounds, and the keys that push it."""

    key: str
    place: int
    low: float
    high: float
    less: str
    more: str


class Selector(NamedTuple):
    """One choice among several that make up the action: its part's key, its place there, and what can be chosen.

    at: which of them to begin with.
    """

    key: str
    place: int
    values: tuple[int, ...]
    labels: tuple[str, ...]
    at: int


def controls(spec: EnvSpec) -> list[Control]:
    """One control for every choice of an action that is a single choice; none for other actions."""
    if len(spec.action) != 1 or len(spec.action[0].classes) != 1:
        return []
    (part,) = spec.action
    count, first = part.classes[0], (part.start or (0,))[0]
    names = part.names if len(part.names) == count else ()
    keys = [_keys(name) for name in names] or _by_number(count)
    free = [key for key in [*map(str, range(10)), *LETTERS] if key not in TAKEN]
    found: list[Control] = []
    used: set[tuple[str, ...]] = set()
    for k in range(count):
        held = keys[k]
        if held in used or not held:
            # Nothing held is nothing done; any other choice without a key of its own gets the next that is free.
            idle = not held and () not in used and (_is_idle(names[k]) if names else count == 3)
            held = () if idle else (free.pop(0),) if free else ()
        used.add(held)
        found.append(Control(held, first + k, names[k] if names else str(first + k)))
    return found


def selectors(spec: EnvSpec) -> list[Selector]:
    """One for every choice of an action that is more than a single choice; none where `controls` has them."""
    if controls(spec):
        return []
    found: list[Selector] = []
    for part in spec.action:
        for i, count in enumerate(part.classes):
            first = part.start[i] if part.start else 0
            values = tuple(range(first, first + count))
            labels = part.names if len(part.names) == count and len(part.classes) == 1 else tuple(map(str, values))
            at = next((k for k, label in enumerate(labels) if _is_idle(label)), 0)
            found.append(Selector(part.key, i, values, labels, at))
    return found


def sliders(spec: EnvSpec) -> list[Slider]:
    """One slider for every continuous number; arrows push the first two, letters the next."""
    pairs = [(LEFT, RIGHT), (DOWN, UP), ("A", "D"), ("S", "W"), ("F", "H"), ("Y", "T")]
    found: list[Slider] = []
    for part in spec.action:
        for i in range(part.size if part.kind == "continuous" else 0):
            less, more = pairs[len(found)] if len(found) < len(pairs) else ("", "")
            found.append(Slider(part.key, i, part.low[i], part.high[i], less, more))
    return found


def idle_action(spec: EnvSpec) -> Any:
    """What is done while no key is held, as JSON; None where there is no such thing, and the game waits."""
    try:
        return decode(spec, noop(spec))
    except UsageError:
        middle = _middle(spec.action[0]) if len(spec.action) == 1 else None
        return middle


def _middle(part: ActionPart) -> Any:
    """The middle of three nameless choices, as in MountainCar: left, nothing, right."""
    if part.classes == (3,) and not part.names:
        return (part.start or (0,))[0] + 1
    return None


def _keys(name: str) -> tuple[str, ...]:
    """The keys that a name is made of: `UPRIGHTFIRE`, `turn_left`, `move forward`; none if it is made of others."""
    found: list[str] = []
    for word in re.split(r"[\s_-]+", name.upper()):
        rest = word
        while rest:
            part = next((known for known in sorted(WORDS, key=len, reverse=True) if rest.startswith(known)), None)
            if part is None:
                break
            found.append(WORDS[part])
            rest = rest.removeprefix(part)
        if rest and word not in ("MOVE", "TURN", "GO"):
            return ()
    return tuple(dict.fromkeys(found))


def _by_number(count: int) -> list[tuple[str, ...]]:
    """Nameless choices: left and right for two, with nothing between them for three, else digits."""
    if count == 2:
        return [(LEFT,), (RIGHT,)]
    if count == 3:
        return [(LEFT,), (), (RIGHT,)]
    return [()] * count  # digits and letters, by `controls`


def _is_idle(name: str) -> bool:
    return name.casefold() in ("noop", "nop", "no-op", "nothing", "idle", "stay", "still")
