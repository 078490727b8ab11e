"""Dict and Tuple spaces, taken apart: each leaf, and the way to it."""

from collections.abc import Iterator

from gymnasium import Space, spaces

Place = tuple[str | int, ...]  # names in a Dict, positions in a Tuple; () is the whole


def leaves(space: Space, place: Place = ()) -> Iterator[tuple[Place, Space]]:
    """Every space that is neither Dict nor Tuple, in the declared order."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from leaves(inner, (*place, key))
    elif isinstance(space, spaces.Tuple):
        for position, inner in enumerate(space.spaces):
            yield from leaves(inner, (*place, position))
    else:
        yield place, space
