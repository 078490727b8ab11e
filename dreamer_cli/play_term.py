"""`dreamer play --ui term`: the same player in a terminal, over ssh as well; half blocks for pictures.

A terminal tells when a key is pressed, but not when it is let go: a key counts as held for a moment after it came.
"""

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dreamer_cli.errors import UsageError
from dreamer_cli.live_dream import fitted, half_blocks
from dreamer_cli.live_text import FAINT, sparkline
from dreamer_cli.player import VIEWS, Player
from dreamer_cli.stop import StopSignal

HELD_S = 0.3
ARROWS = {"A": "ArrowUp", "B": "ArrowDown", "C": "ArrowRight", "D": "ArrowLeft"}
SHOWN = {**dict(zip(ARROWS.values(), "↑↓→←", strict=True)), "Space": "space"}
HELP = (
    "P play  N step  , . back, forward  + - speed  G view  M who steers  Q quit",
    "R new episode  L wake  B other line  J recorded  O from nothing  K keep  V film",
)
LEAST_ROWS = 14  # of text, beside the pictures


def play_in_terminal(player: Player, title: str, stop: StopSignal) -> None:
    """Until Q or a request to stop.

    Raises:
        UsageError: there is no terminal. EnvError: the environment failed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--ui term needs a terminal for both input and output.", hint="--ui web makes a page.")
    console = Console(file=sys.stdout)
    pressed: dict[str, float] = {}
    with raw_keys() as read, Live(console=console, screen=True, auto_refresh=False) as live:
        due, shown = time.monotonic(), (0, 0)
        while not stop.requested:
            keys = read()
            if "Q" in keys:
                return
            for key in keys:
                handle(player, key, pressed, time.monotonic())
            changed = let_go(player, pressed, time.monotonic()) or bool(keys) or shown != console.size
            if time.monotonic() >= due:
                changed = player.tick() or changed
                due = max(due + 1 / player.fps, time.monotonic())
            if changed:
                shown = console.size
                live.update(screen(player, title, *shown), refresh=True)
            time.sleep(min(0.02, max(0.0, due - time.monotonic())))


def handle(player: Player, key: str, pressed: dict[str, float], now: float) -> None:
    """One key that came: an order of the page's, or part of an action."""
    orders: Mapping[str, dict[str, Any]] = {
        "P": {"do": "run", "on": not player.running},
        "N": {"do": "step"},
        ",": {"do": "go", "by": -1},
        ".": {"do": "go", "by": 1},
        "G": {"do": "view", "name": VIEWS[(VIEWS.index(player.view_name) + 1) % len(VIEWS)]},
        "M": {"do": "wheel", "who": "policy" if player.wheel == "human" else "human"},
        "L": {"do": "wake"},
        "B": {"do": "line", "by": 1},
        "R": {"do": "restart"},
        "J": {"do": "replayed"},
        "O": {"do": "nothing"},
        "K": {"do": "save", "what": "actions"},
        "V": {"do": "save", "what": "film"},
        "+": {"do": "speed", "fps": player.fps + 1},
        "-": {"do": "speed", "fps": player.fps - 1},
    }
    if key in orders:
        player.do(orders[key])
        return
    used = {one for control in player.controls for one in control.keys}
    used |= {one for slider in player.sliders for one in (slider.less, slider.more)}
    if key in used:
        pressed[key] = now
        player.do({"do": "wheel", "who": "human"})
        player.do({"do": "hold", "action": meant(player, set(pressed))})


def let_go(player: Player, pressed: dict[str, float], now: float) -> bool:
    """Forget keys that came too long ago; whether there were any."""
    gone = [key for key, when in pressed.items() if now - when > HELD_S]
    for key in gone:
        del pressed[key]
    if gone and player.running:
        player.do({"do": "hold", "action": meant(player, set(pressed)) if pressed else None})
    elif gone and not pressed:
        player.held = None
    return bool(gone)


def meant(player: Player, held: set[str]) -> Any:
    """The action of some held keys, as the page has it: the largest control that they make, or pushed sliders."""
    fitting = [control for control in player.controls if control.keys and held.issuperset(control.keys)]
    if fitting:
        return max(fitting, key=lambda control: len(control.keys)).action
    if not player.sliders and not player.selectors:
        return None
    values: dict[str, list[float]] = {}
    for selector in player.selectors:  # stays where it is: lists have no keys here
        values.setdefault(selector.key, []).append(selector.values[selector.at])
    for slider in player.sliders:
        push = (slider.more in held) - (slider.less in held)
        rest = min(max(0.0, slider.low), slider.high)
        values.setdefault(slider.key, []).append(slider.high if push > 0 else slider.low if push < 0 else rest)
    return values if len(values) > 1 else next(iter(values.values()))


def screen(player: Player, title: str, width: int, height: int) -> Group:
    """Everything, as lines that fit."""
    facts, pictures = player.view()
    who = "you steer" if player.wheel == "human" else "the agent steers"
    head = f"{title}   moment {facts['at']} of {facts['length'] - 1}, line {facts['line'] + 1} of {facts['lines']}"
    state = f"{'▶' if player.running else '■'} {player.fps}/s   {who}"
    lines = [Text(head, "bold"), Text(state), Text(facts["said"] or " ")]
    shown = [name for name in ("game", "dream") if name in pictures and player.view_name in ("both", name)]
    room = (max(2, (width - 4) // max(1, len(shown))), 2 * max(4, height - LEAST_ROWS - len(facts["vectors"])))
    drawn = [half_blocks(fitted(pictures[name], *room)) for name in shown]
    over = {"game": facts["over"], "dream": facts["dream_over"]}
    heads = [f"{name}, over" if over[name] else name for name in shown]
    lines.append(Text("    ".join(head.ljust(one[0].cell_len) for head, one in zip(heads, drawn, strict=True)), FAINT))
    for row in range(max(map(len, drawn), default=0)):
        parts = [one[row] if row < len(one) else Text(" " * one[0].cell_len) for one in drawn]
        lines.append(Text("    ").join(parts))
    returns = {name: _number(facts["returns"][name]) for name in ("game", "dream")}
    returns |= {} if facts["has_game"] else {"game": "not there"}
    lines.append(Text(f"return    game {returns['game']}   dream {returns['dream']}", FAINT))
    for vector in facts["vectors"]:
        truth = " ".join(map(_number, vector["truth"] or []))
        lines.append(Text(f"{vector['key']}  game {truth}  dream {' '.join(map(_number, vector['dream']))}"))
    for name in ("reward", "value", "cont", "entropy"):
        values = [(i, value) for i, value in enumerate(facts["curves"][name]) if value is not None]
        curve = sparkline(values, max(1, min(60, width - 22)), 1)[0] if values else ""
        lines.append(Text(f"{name:<8} {_number(facts['numbers'][name]):>9}  {curve}"))
    lines.append(Text(f"action    {'-' if facts['action'] is None else facts['action']}   {legend(player)}"))
    lines += [Text(line, FAINT) for line in HELP]
    for line in lines:
        line.truncate(width - 1)
        line.no_wrap = True
    return Group(*lines[: height - 1])


def legend(player: Player) -> str:
    """Which keys do what."""
    named = [("".join(SHOWN.get(key, key) for key in one.keys) or "no key", one.label) for one in player.controls]
    pushed = [(f"{SHOWN.get(one.less, one.less)}{SHOWN.get(one.more, one.more)}", one.key) for one in player.sliders]
    lists = ["choices: on the page (--ui web)"] if player.selectors else []
    return "  ".join([*(f"{keys} {label}" for keys, label in [*named, *pushed]), *lists])


@contextlib.contextmanager
def raw_keys() -> Iterator[Any]:
    """What reads the keys that came, without waiting; the terminal is as it was afterwards. Ctrl-C stays a signal."""
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    keys = Keys()

    def read() -> list[str]:
        text = ""
        while select.select([fd], [], [], 0)[0]:
            more = os.read(fd, 1024)
            if not more:
                return ["Q"]  # the terminal is gone
            text += more.decode(errors="replace")
        return keys.feed(text)

    try:
        tty.setcbreak(fd)
        yield read
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Keys:
    """What a terminal sends for keys, in pieces, as it comes → their names: arrows, Space, and capitals.

    Everything else that begins with an escape (function keys, Alt and a letter) is swallowed whole.
    """

    # A whole sequence, an escape and one character, or a plain character; the beginning of a sequence waits.
    ONE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[ -~]|\x1b[^\x1b\[O]|[^\x1b]")

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """The keys that are complete now."""
        self._rest, keys = self._rest + text, []
        while found := self.ONE.match(self._rest):
            one, self._rest = found.group(), self._rest[found.end() :]
            if one[0] != "\x1b":
                keys.append("Space" if one == " " else one.upper())
            elif len(one) == 3 and one[2] in ARROWS:
                keys.append(ARROWS[one[2]])
        if self._rest.startswith("\x1b\x1b") or len(self._rest) > 32:
            self._rest = ""  # nothing that a terminal sends
        return keys


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
