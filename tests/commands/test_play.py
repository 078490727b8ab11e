"""`dreamer play`: what it refuses; and its page, driven through every control in a browser."""

import asyncio
import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamer_cli.cli import main
from dreamer_cli.errors import EnvError, Interrupted, Preempted, ResourceError, UsageError
from tests.browser import CHROMIUM, Page, chromium
from tests.commands.running import TINY
from tests.round_trip import CATCH


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Tiny runs by name: pictures and choices, numbers and sliders. Nothing is learnt, to save time."""
    folder = tmp_path_factory.mktemp("play")
    for name, env in {"catch": CATCH, "pendulum": "Pendulum-v1"}.items():
        assert (
            main(["train", "-e", env, *TINY, "--steps", "150", "--train-ratio", "0", "--run-dir", str(folder / name)])
            == 0
        )
    return {name: folder / name for name in ("catch", "pendulum")}


def refused(capsys, *argv: str) -> tuple[int, str]:
    code = main(["play", *argv])
    return code, capsys.readouterr().err


def test_a_missing_library_is_named(capsys, monkeypatch, runs):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "dreamer_cli.play_server", raising=False)
    code, said = refused(capsys, str(runs["catch"]))
    assert code == EnvError.exit_code
    assert "pip install 'dreamer-cli[play]'" in said


def test_the_terminal_has_to_be_one(capsys, runs):
    code, said = refused(capsys, str(runs["catch"]), "--ui", "term")
    assert code == UsageError.exit_code
    assert "terminal" in said


def test_a_port_that_is_taken_is_said(capsys, runs):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, said = refused(capsys, str(runs["catch"]), "--port", str(other.getsockname()[1]))
    assert code == ResourceError.exit_code
    assert "--port 0" in said


# ── in a browser ────────────────────────────────────────────────────────────────────────────────────

in_a_browser = [
    pytest.mark.extended,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is chromium"),
]


class Served:
    """`dreamer play` in a process of its own."""

    def __init__(self, run: Path, *argv: str) -> None:
        command = [sys.executable, "-m", "dreamer_cli", "play", str(run), "--seed", "0", *argv]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.address = ""
        while not self.address:
            line = self.process.stderr.readline()
            assert line, "it ended"
            self.address = "".join(re.findall(r"http://\S+", line))

    def end(self, number: int = signal.SIGINT) -> int:
        """As Ctrl-C does. Returns the exit code."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.communicate(timeout=20)
        assert time.monotonic() - began < 10
        return self.process.returncode


@pytest.fixture
def serve() -> Iterator[type[Served]]:
    started: list[Served] = []

    def start(*argv) -> Served:
        started.append(Served(*argv))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


async def at(page: Page, moment: int) -> None:
    await page.until(f"now.at === {moment}")


async def drive_catch(page: Page, run: Path, pictures: Path) -> Path:
    """Every key and button of a game with choices. Returns the file of actions."""
    await page.until("now && now.at === 0")
    assert await page.value("[...document.querySelectorAll('#actions button')].map(b => b.innerText.trim())") == [
        "0\n←",
        "1\nno key",
        "2\n→",
    ]
    await page.key("KeyN")  # a single step, by the agent
    await at(page, 1)
    await page.key("KeyM")
    await page.until("now.wheel === 'human'")
    await page.key("ArrowLeft")  # while it is paused a key is a step
    await at(page, 2)
    assert await page.value("now.action") == 0
    await page.key("ArrowRight")
    await at(page, 3)
    assert await page.value("now.action") == 2
    await page.pointer("#actions button:nth-child(1)")  # the same by the pointer
    await at(page, 4)
    assert await page.value("now.action") == 0
    for wanted in ("game", "dream", "both"):
        await page.key("KeyG")
        await page.until(f"now.view === '{wanted}'")
        shown = await page.value("['game', 'dream'].filter(id => !document.getElementById(id).hidden)")
        assert shown == (["game", "dream"] if wanted == "both" else [wanted])
    await page.screenshot(pictures / "catch.png")
    await page.key("Comma")
    await at(page, 3)
    await page.key("Period")
    await at(page, 4)
    before = await page.value("now.curves.reward")
    await page.key("Comma")
    await page.key("Comma")
    await at(page, 2)
    await page.key("ArrowLeft")  # another line begins here, and the old one stays
    await page.until("now.lines === 2 && now.line === 1 && now.at === 3")
    assert await page.value("now.has_game")
    await page.key("KeyB")
    await page.until("now.line === 0")
    assert await page.value("now.curves.reward") == before
    await page.pointer("#timeline", 0.999)  # pulled to the end of the line
    await at(page, 4)
    assert await page.value("document.activeElement === document.body")  # the arrows steer again
    await page.key("KeyL")
    await page.until("now.said.startsWith('Awake')")
    await page.key("KeyK")
    said = await page.until("now.said.startsWith('Written') && now.said")
    await page.key("KeyV")
    await page.until("now.said.includes('.mp4')")
    assert list((run / "videos").glob("play-*.mp4"))
    await page.key("KeyM")
    await page.until("now.wheel === 'policy'")
    await page.pointer("#fps", 0.999)
    await page.until("now.fps >= 58")
    await page.key("KeyP")  # to the end of the game
    await page.until("now.over && !now.running && now.said.startsWith('The game is over')")
    assert await page.value("now.at") == 7
    await page.key("KeyR")
    await page.until("now.at === 0 && !now.over")
    await page.key("KeyJ")
    await page.until("now.said.startsWith('A recorded moment') && !now.has_game")
    await page.key("KeyN")
    await at(page, 1)
    await page.key("KeyO")
    await page.until("now.said.startsWith('From nothing')")
    await page.screenshot(pictures / "nothing.png")
    assert await page.value("document.getElementById('game').hidden")
    return Path(re.sub(r"Written: (\S+), in (.*)", r"\2/\1", said))


async def drive_pendulum(page: Page, pictures: Path) -> None:
    """Sliders: by keys, by the pointer, and back to rest."""
    await page.until("now && now.at === 0")
    await page.key("ArrowRight")
    await at(page, 1)
    assert await page.value("now.action") == 2
    await page.pointer(".slider input", 0.25)
    await at(page, 2)
    assert -1.2 < await page.value("now.action[0] ?? now.action") < -0.8
    await page.pointer(".slider input", 0.25, clicks=2)
    await page.until("Number(document.querySelector('.slider input').value) === 0")
    await page.key("KeyP")
    await page.until("now.at > 20")
    await page.key("KeyP")
    await page.until("!now.running")
    assert await page.value("document.querySelectorAll('.vector').length") == 3
    await page.screenshot(pictures / "pendulum.png")


@pytest.mark.parametrize("name", [pytest.param(name, marks=in_a_browser) for name in ("catch", "pendulum")])
def test_every_control_does_what_it_says(name, runs, serve, tmp_path, capsys):
    served = serve(runs[name], "--fps", "30")

    async def drive() -> Path | None:
        async with chromium(tmp_path / "profile") as browser, browser.tab(served.address) as page:
            found = None
            if name == "catch":
                found = await drive_catch(page, runs[name], tmp_path)
            else:
                await drive_pendulum(page, tmp_path)
            assert page.complaints == []
            return found

    kept = asyncio.run(drive())
    for picture in tmp_path.glob("*.png"):
        assert np.asarray(Image.open(picture)).std() > 5
    assert served.end() == Interrupted.exit_code
    if kept is not None:
        document = json.loads(kept.read_text())
        assert document["actions"][1:] == [0, 2, 0]
        argv = ["imagine", str(runs[name]), "--mode", "actions", "--actions", str(kept), "--horizon", "4"]
        assert main([*argv, "--context", "1", "--samples", "1", "-o", str(tmp_path / "again.npz"), "--json"]) == 0
        taken = np.load(tmp_path / "again.npz")["action"][0].argmax(-1).tolist()  # it may end early
        assert taken
        assert taken == document["actions"][: len(taken)]


@pytest.mark.extended
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is chromium")
def test_tabs_come_and_go(runs, serve, tmp_path):
    served = serve(runs["catch"])

    async def drive() -> None:
        async with chromium(tmp_path / "profile") as browser:
            async with browser.tab(served.address) as one:
                await one.until("now")
                async with browser.tab(served.address) as two:
                    await two.until("now")
                    await two.key("KeyN")
                    await at(two, 1)
                    await at(one, 1)  # both see the same walk
                await one.key("KeyN")
                await at(one, 2)
                await one.key("KeyP")
                await one.until("now.running")
            await asyncio.sleep(0.5)  # nobody looks: the clock stands still
            async with browser.tab(served.address) as three:
                await three.until("now")
                assert await three.value("now.at") <= 7
            async with browser.tab(served.address.rsplit("/", 2)[0] + "/wrong/") as stranger:
                assert "wrong token" in await stranger.until("document.body.innerText")

    asyncio.run(drive())
    assert served.end(signal.SIGTERM) == Preempted.exit_code


@pytest.mark.extended
def test_in_a_terminal(runs):
    """Keys, one that means nothing, and Ctrl-C; the terminal is as it was afterwards."""
    argv = [sys.executable, "-m", "dreamer_cli", "play", str(runs["catch"]), "--ui", "term", "--seed", "0"]
    child, terminal = pty.fork()
    if not child:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        os.execv(sys.executable, argv)
    try:
        terminal_says(terminal, "moment 0 of 0")
        assert not termios.tcgetattr(terminal)[3] & termios.ICANON
        for keys, wanted in ((b"n", "moment 1 of 1"), (b"\x1b[C", "you steer"), (b",", "moment 1 of 2")):
            os.write(terminal, keys)
            terminal_says(terminal, wanted)
        os.write(terminal, b"\x1b[5~\x1bOP.")  # PageUp and F1 do nothing
        terminal_says(terminal, "moment 2 of 2")
        os.write(terminal, b"\x03")
        terminal_says(terminal, "Ended by Ctrl-C")
        assert termios.tcgetattr(terminal)[3] & termios.ICANON
        end = time.monotonic() + 20
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            assert time.monotonic() < end, "it does not end"
            time.sleep(0.05)
        assert os.waitstatus_to_exitcode(ended[1]) == Interrupted.exit_code
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.close(terminal)


def terminal_says(terminal: int, wanted: str) -> None:
    """Read until it is there."""
    seen, end = "", time.monotonic() + 30
    while wanted not in seen:
        assert time.monotonic() < end, seen[-3000:]
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
