"""A headless Chromium, driven as a person drives it: keys, the pointer, and looking at the screen.

Over Chromium's own DevTools protocol, so that nothing but the browser is needed: Debian's package `chromium`.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 about:blank"
)
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Space": 32, "Comma": 188, "Period": 190}


class ScriptError(Exception):
    """An expression failed in the page."""


class Page:
    """One tab. `complaints` has what the page's console said, errors and warnings."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._count = socket, itertools.count()
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        number = next(self._count)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = json.loads((await asyncio.wait_for(self._socket.receive(), 30)).data)
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(message["params"]["exceptionDetails"]["text"])
            elif message.get("method") == "Log.entryAdded":
                self.complaints.append(message["params"]["entry"]["text"])
            elif message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def open(self, address: str) -> None:
        """Go there."""
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=address)

    async def value(self, script: str) -> Any:
        """What an expression gives, as JSON."""
        result = (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"]
        if result.get("subtype") == "error":
            raise ScriptError(result["description"])
        return result.get("value")

    async def until(self, script: str, seconds: float = 15.0) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(ScriptError):  # the page is not there yet
                if found := await self.value(script):
                    return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {script}\n{await self.value('document.body.innerText')}")

    async def key(self, code: str, kind: str = "press") -> None:
        """Press a key, or only its beginning (`down`) or end (`up`); codes as `KeyP`, `ArrowLeft`."""
        number = KEYS.get(code) or ord(code[-1])
        told = {"code": code, "key": code.removeprefix("Key").lower(), "windowsVirtualKeyCode": number}
        for event, when in (("rawKeyDown", ("press", "down")), ("keyUp", ("press", "up"))):
            if kind in when:
                await self.call("Input.dispatchKeyEvent", type=event, **told)

    async def pointer(self, selector: str, share: float = 0.5, clicks: int = 1) -> None:
        """Click in the middle of an element, or at another share of its width."""
        box = await self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " return [r.x, r.y, r.width, r.height]; })()"
        )
        at = {"x": box[0] + share * box[2], "y": box[1] + box[3] / 2, "button": "left"}
        for click in range(1, clicks + 1):
            for event in ("mousePressed", "mouseReleased"):
                await self.call("Input.dispatchMouseEvent", type=event, clickCount=click, **at)

    async def screenshot(self, path: Path) -> None:
        """The page as it is seen."""
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """A running Chromium."""

    def __init__(self, client: aiohttp.ClientSession, port: int) -> None:
        self._client, self._at = client, f"http://127.0.0.1:{port}"

    @contextlib.asynccontextmanager
    async def tab(self, address: str, width: int = 1180, height: int = 1000) -> AsyncIterator[Page]:
        """A tab of its own, closed at the end."""
        async with self._client.put(f"{self._at}/json/new?about:blank") as answer:
            target = await answer.json()
        async with self._client.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            page = Page(socket)
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            await page.call("Emulation.setDeviceMetricsOverride", **size)
            await page.open(address)
            yield page
        async with self._client.get(f"{self._at}/json/close/{target['id']}"):
            pass


@contextlib.asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Browser]:
    """Start it with an empty profile, and end it."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        f"--user-data-dir={profile}",
        *QUIET.split(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        told = profile / "DevToolsActivePort"
        for _ in range(600):
            if told.exists() and told.read_text().count("\n"):
                break
            await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as client:
            yield Browser(client, int(told.read_text().split()[0]))
    finally:
        process.terminate()
        await process.wait()
