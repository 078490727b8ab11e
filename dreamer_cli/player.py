"""What a person sees of a walk and does in it, whichever screen there is: orders in, a view out.

A clock calls `tick`, and whoever has a screen calls `do` and `view`. Everything here runs in one thread.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import numpy as np

from dreamer_cli.controls import Control, Selector, Slider, controls, idle_action, selectors, sliders
from dreamer_cli.dream import Stretch
from dreamer_cli.errors import DreamerError, StateError, UsageError
from dreamer_cli.panels import as_picture
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.steering import SCHEMA, decode, encode
from dreamer_cli.walk import NUMBERS, Moment, Walk

VIEWS, WHEELS = ("both", "game", "dream"), ("human", "policy")
SLOWEST, FASTEST = 1, 60  # decisions a second
CURVE, MOST_DIMS, MOST_ENTRIES = 240, 24, 8  # moments of a curve; numbers of a vector and classes that are sent
FILM = 256  # pixels of a side, at least


class View(NamedTuple):
    """What to show now: plain JSON, and pictures by name (`game`, `dream`), uint8 (Y, X, 3)."""

    facts: dict[str, Any]
    pictures: dict[str, np.ndarray]


class Player:
    """One walk and its clock.

    Attributes:
        running: whether the clock steps; fps: how often a second.
        view_name: what is looked at, of `VIEWS`; it also says by what the agent steers: the game, unless it is hidden.
        wheel: who acts, of `WHEELS`.
        said: the last thing worth saying.
        kept: files that were written.

    Args:
        spec: of the environment.
        replayed: gives another recorded stretch; None where there are none.
        save_actions, save_film: write what was done, and pictures of it; return where.
    """

    def __init__(
        self,
        walk: Walk,
        spec: EnvSpec,
        replayed: Callable[[], Stretch] | None,
        save_actions: Callable[[dict[str, Any]], Path],
        save_film: Callable[[Iterable[np.ndarray], int], Path],
        fps: int = 15,
    ) -> None:
        self.walk, self.spec, self.replayed = walk, spec, replayed
        self.save_actions, self.save_film = save_actions, save_film
        self.running, self.fps, self.view_name, self.wheel, self.said = False, fps, VIEWS[0], WHEELS[1], ""
        self.controls: list[Control] = controls(spec)
        self.sliders: list[Slider] = sliders(spec)
        self.selectors: list[Selector] = selectors(spec)
        self.idle = idle_action(spec)
        self.held: Any = None
        self.kept: list[Path] = []
        self.image = next((key for key, obs in spec.observation.items() if obs.kind == "image"), None)
        self._orders: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "run": self._run,
            "step": self._step,
            "speed": self._speed,
            "view": self._view,
            "wheel": self._wheel,
            "hold": self._hold,
            "go": self._go,
            "line": self._line,
            "restart": self._restart,
            "replayed": self._replayed,
            "nothing": lambda order: self._begun(self.walk.begin_from_nothing, "from nothing: the model's own idea"),
            "wake": self._wake,
            "save": self._save,
        }

    def do(self, order: Mapping[str, Any]) -> None:
        """Follow an order `{"do": name, ...}`; what cannot be done is said, never raised.

        Raises:
            EnvError: the environment failed.
        """
        name = order.get("do")
        if not isinstance(name, str) or name not in self._orders:
            self.said = "That is no order."
            return
        self.said = ""
        try:
            self._orders[name](order)
        except (UsageError, StateError) as err:
            self.said = f"{err.what} {err.hint}".strip()
        except (KeyError, TypeError, ValueError, OverflowError):
            self.said = f"The order {name} makes no sense."

    def tick(self) -> bool:
        """One beat of the clock; whether anything has changed.

        Raises:
            EnvError: the environment failed.
        """
        if not self.running:
            return False
        try:
            return self.advance()
        except StateError as err:
            self.said = err.what
            return True

    def advance(self) -> bool:
        """One decision by whoever is at the wheel; False where nobody acts."""
        now = self.walk.now
        watched = "dream" if self.view_name == "dream" or now.seen is None else "game"
        if now.dream_over if watched == "dream" else now.over:
            self.running = False
            self.said = f"The {watched} is over. R begins anew, and every moment before can be gone back to."
            return True
        action = None
        if self.wheel == "human":
            wanted = self.idle if self.held is None else self.held
            if wanted is None:
                return False
            action = encode(self.spec, wanted)
        before = self.walk.lost
        try:
            self.walk.step(action, awake=watched == "game")
        except StateError:
            self.running = False
            raise
        if self.walk.lost and not before:
            self.said = f"The game cannot be brought back: {self.walk.lost}. The dream goes on alone."
        return True

    def view(self) -> View:
        """Where one stands."""
        walk = self.walk
        line, at = walk.lines[walk.line], walk.at
        now = line[at]
        first = max(0, min(at - CURVE * 3 // 4, len(line) - CURVE))
        shown = line[first : first + CURVE]
        curves = {name: [_finite(moment.numbers[name]) for moment in shown] for name in NUMBERS}
        curves["real_reward"] = [_finite(moment.reward) for moment in shown]
        facts = {
            "at": at,
            "length": len(line),
            "first": first,
            "line": walk.line,
            "lines": len(walk.lines),
            "running": self.running,
            "fps": self.fps,
            "view": self.view_name,
            "wheel": self.wheel,
            "held": self.held,
            "action": None if now.action is None else decode(self.spec, now.action),
            "numbers": {**{name: _finite(now.numbers[name]) for name in NUMBERS}, "real_reward": _finite(now.reward)},
            "curves": curves,
            "returns": {"dream": _finite(now.promised), "game": _finite(now.paid)},
            "over": now.over,
            "dream_over": now.dream_over,
            "has_game": now.seen is not None,
            "vectors": self._vectors(now),
            "said": self.said,
        }
        return View(facts, self.pictures(now))

    def pictures(self, now: Moment) -> dict[str, np.ndarray]:
        """What is seen of the game, and what the dream shows."""
        found = {}
        if self.image is not None:
            if now.seen is not None:
                found["game"] = as_picture(now.seen[self.image])
            elif now.picture is not None:  # of a recorded moment
                found["game"] = as_picture(now.picture)
            found["dream"] = as_picture(now.shown[self.image])
        elif now.picture is not None:
            found["game"] = now.picture
        return found

    def layout(self) -> dict[str, Any]:
        """What does not change: controls, and what the environment is."""
        return {
            "controls": [control._asdict() for control in self.controls],
            "sliders": [slider._asdict() for slider in self.sliders],
            "selectors": [selector._asdict() for selector in self.selectors],
            "idle": self.idle,
            "parts": [part.key for part in self.spec.action],
            "numbers": [*NUMBERS],
            "can": {"game": self.walk.envs is not None, "replayed": self.replayed is not None},
        }

    def _vectors(self, now: Moment) -> list[dict[str, Any]]:
        """Numbers as they are; of classes the true one, and the one that the model thinks likeliest."""
        rows = []
        for key, obs in self.spec.observation.items():
            if obs.kind == "image" or key not in now.shown:
                continue
            most = MOST_DIMS if obs.kind == "vector" else MOST_ENTRIES
            dream = now.shown[key] if obs.kind == "vector" else likeliest(now.shown[key], obs.classes)
            truth = None if now.seen is None else [_finite(x) for x in now.seen[key][:most].tolist()]
            rows.append({"key": key, "truth": truth, "dream": [_finite(x) for x in dream[:most].tolist()]})
        return rows

    def _run(self, order: Mapping[str, Any]) -> None:
        self.running = bool(order["on"])

    def _step(self, order: Mapping[str, Any]) -> None:
        self.running = False
        if not self.advance():
            self.said = "Hold a key, or press a button: this environment knows no doing nothing."

    def _speed(self, order: Mapping[str, Any]) -> None:
        self.fps = min(FASTEST, max(SLOWEST, int(order["fps"])))

    def _view(self, order: Mapping[str, Any]) -> None:
        self.view_name = VIEWS[VIEWS.index(order["name"])]

    def _wheel(self, order: Mapping[str, Any]) -> None:
        self.wheel = WHEELS[WHEELS.index(order["who"])]

    def _hold(self, order: Mapping[str, Any]) -> None:
        wanted = order["action"]
        if wanted is not None:
            encode(self.spec, wanted)
        self.held = wanted
        if wanted is not None and not self.running and self.wheel == "human" and not order.get("still"):
            self.advance()  # while the clock stands still, a key is a step

    def _go(self, order: Mapping[str, Any]) -> None:
        self.running = False
        self.walk.go(self.walk.at + int(order["by"]) if "by" in order else int(order["at"]))

    def _line(self, order: Mapping[str, Any]) -> None:
        self.running = False
        self.walk.change_line(int(order["by"]))

    def _restart(self, order: Mapping[str, Any]) -> None:
        if self.walk.envs is None:
            self._begun(self.walk.begin_from_nothing, "there is no game: from nothing")
        else:
            self._begun(self.walk.begin, "a new episode")

    def _replayed(self, order: Mapping[str, Any]) -> None:
        if self.replayed is None:
            raise StateError("This run has no replay to take a moment from.")
        stretch = self.replayed()
        self._begun(lambda: self.walk.begin_from(stretch), "a recorded moment; from here there is only the dream")

    def _begun(self, begin: Callable[[], None], what: str) -> None:
        begin()
        self.said = what[0].upper() + what[1:] + "."

    def _wake(self, order: Mapping[str, Any]) -> None:
        if self.walk.now.belief is None:
            raise StateError("There is no game to wake up to.")
        self.walk.wake()
        self.said = "Awake: the dream goes on from what was seen."

    def _save(self, order: Mapping[str, Any]) -> None:
        moments = self.walk.lines[self.walk.line][: self.walk.at + 1]
        if len(moments) < 2:
            raise StateError("Nothing was done yet.")
        try:
            if order["what"] == "film":
                path = self.save_film(self.frames(moments), self.fps)
            else:
                actions = [decode(self.spec, action) for action in self.walk.actions()]
                path = self.save_actions({"schema": SCHEMA, "actions": actions, "episode": self.walk.episode})
        except DreamerError as err:
            raise StateError(err.what, err.hint) from err
        self.kept.append(path)
        self.said = f"Written: {path.name}, in {path.parent}"

    def frames(self, moments: Sequence[Moment]) -> Iterator[np.ndarray]:
        """Game and dream side by side, for a film; blank where there is none.

        Raises:
            StateError: nothing of any moment can be drawn.
        """
        drawn = [self.pictures(moment) for moment in moments]
        shapes = {name: one.shape for pictures in drawn for name, one in pictures.items()}
        if not shapes:
            raise StateError("Nothing of this can be drawn.")
        times = max(1, FILM // max(shape[0] for shape in shapes.values()))
        for pictures in drawn:
            tiles = [
                pictures.get(name, np.full(shape, 40, np.uint8)) for name, shape in sorted(shapes.items(), reverse=True)
            ]
            large = [np.kron(tile, np.ones((times, times, 1), np.uint8)) for tile in tiles]
            joined = np.concatenate([np.pad(tile, ((0, 0), (0, 8), (0, 0))) for tile in large], 1)[:, :-8]
            yield np.pad(joined, ((0, joined.shape[0] % 2), (0, joined.shape[1] % 2), (0, 0)))


def likeliest(chances: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """The likeliest class of each entry, from the chances of all classes of all entries."""
    ends = np.cumsum(classes)
    return np.array([chances[end - count : end].argmax() for end, count in zip(ends, classes, strict=True)])


def _finite(number: SupportsFloat) -> float | None:
    return round(float(number), 5) if math.isfinite(float(number)) else None
