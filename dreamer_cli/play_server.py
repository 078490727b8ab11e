"""The page of `dreamer play`: on this machine only, behind a token, and nothing from outside.

```
GET  /TOKEN/             the page; its files stand beside it
GET  /TOKEN/ws           orders as JSON texts in; views as binary messages out:
                         length of the JSON (4 bytes, big endian), the JSON, then the pictures' bytes, row by row
```
One walk, however many tabs: whoever gives an order gives it to all. A tab that is slow, or far away, gets the newest
view each time it is ready for one, and holds up nobody. Without a tab the clock stands still.
"""

import asyncio
import contextlib
import hmac
import json
import secrets
import struct
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web

from dreamer_cli.errors import ResourceError
from dreamer_cli.player import Player
from dreamer_cli.stop import StopSignal

HOST = "127.0.0.1"
LARGEST_ORDER = 4096  # bytes
FILES = {
    "": ("index.html", "text/html"),
    "play.css": ("play.css", "text/css"),
    "play.js": ("play.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Tab:
    """One page that is open; a task of its own sends the newest view whenever the last one has left."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self._newest, self._there = b"", asyncio.Event()

    def show(self, message: bytes) -> None:
        """What to send next; one that still waits is dropped."""
        self._newest = message
        self._there.set()

    async def send(self) -> None:
        """Until the page is gone."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            while not self.socket.closed:
                await self._there.wait()
                self._there.clear()
                await self.socket.send_bytes(self._newest)


class PlayServer:
    """Serves one player.

    Attributes:
        address: where the page is, once it is served.

    Args:
        port: 0 takes any that is free.
        title: of the page.
    """

    def __init__(self, player: Player, port: int, title: str, stop: StopSignal) -> None:
        self.player, self.port, self.title, self.stop = player, port, title, stop
        self.token = secrets.token_urlsafe(24)
        self.address = ""
        self._error: Exception | None = None
        self._tabs: set[Tab] = set()
        self._holder: Tab | None = None  # who holds a key
        # One thread for all that computes: orders and steps come one after the other, and the server goes on answering.
        self._work = ThreadPoolExecutor(1, "play")
        self._files = {
            name: resources.files("dreamer_cli.page").joinpath(file).read_bytes() for name, (file, _) in FILES.items()
        }

    async def serve(self, ready: Any = lambda address: None) -> None:
        """Until a stop is requested.

        Args:
            ready: told the address.

        Raises:
            ResourceError: the port is taken. EnvError: the environment failed.
        """
        app = web.Application(client_max_size=LARGEST_ORDER)
        app.router.add_get("/{token}/ws", self._socket)
        app.router.add_get("/{token}/{file:.*}", self._file)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, HOST, self.port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise ResourceError(
                f"Port {self.port} cannot be used: {error.strerror or error}.", hint="Another one: --port 0 takes any."
            ) from error
        port = runner.addresses[0][1]
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        self.address = f"http://{HOST}:{port}/{self.token}/"
        ready(self.address)
        try:
            await self._beat()
        finally:
            for tab in list(self._tabs):
                with contextlib.suppress(Exception):  # it may be gone already
                    await asyncio.wait_for(tab.socket.close(code=1001, message=b"the end"), 1.0)
            await runner.cleanup()
            self._work.shutdown()

    async def _beat(self) -> None:
        """The clock."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self.stop.requested:
            if self._error is not None:
                raise self._error
            due = max(due + 1 / self.player.fps, loop.time())
            if self._tabs and self.player.running and await loop.run_in_executor(self._work, self.player.tick):
                await self._show()
            await asyncio.sleep(
                min(0.1, max(0.0, due - loop.time())) if not self.player.running else max(0.0, due - loop.time())
            )

    async def _file(self, request: web.Request) -> web.Response:
        self._require(request)
        name = request.match_info["file"]
        if name not in FILES:
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=FILES[name][1], charset="utf-8", headers=HEADERS)

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        self._require(request)
        origin = request.headers.get("Origin", "")
        if origin not in {f"http://{host}" for host in self._hosts}:
            raise web.HTTPForbidden(text="another origin")
        socket = web.WebSocketResponse(max_msg_size=LARGEST_ORDER, heartbeat=20.0)
        await socket.prepare(request)
        tab = Tab(socket)
        await socket.send_str(json.dumps({"title": self.title, **self.player.layout()}))
        self._tabs.add(tab)
        sender = asyncio.ensure_future(tab.send())
        try:
            await self._show()
            async for message in socket:
                if message.type != WSMsgType.TEXT:
                    break
                await self._obey(tab, message.data)
        finally:
            sender.cancel()
            self._tabs.discard(tab)
            if self._holder is tab:  # nobody would ever let go
                self._holder = None
                await self._do({"do": "hold", "action": None})
        return socket

    async def _obey(self, tab: Tab, text: str) -> None:
        try:
            order = json.loads(text)
        except (ValueError, RecursionError):
            order = {}
        order = order if isinstance(order, dict) else {}
        if order.get("do") == "hold":
            self._holder = tab
        await self._do(order)

    async def _do(self, order: dict[str, Any]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._work, self.player.do, order)
        except Exception as error:  # the environment's; it ends everything, by the clock
            self._error = error
            return
        await self._show()

    async def _show(self) -> None:
        """The same view to every tab."""
        message = await asyncio.get_running_loop().run_in_executor(self._work, lambda: pack(*self.player.view()))
        for tab in self._tabs:
            tab.show(message)

    def _require(self, request: web.Request) -> None:
        """The right token, asked of the right name: another site's page can send requests here, too."""
        if not hmac.compare_digest(request.match_info["token"].encode(), self.token.encode()):
            raise web.HTTPForbidden(text="wrong token")
        if request.host not in self._hosts:
            raise web.HTTPForbidden(text="another host")


def pack(facts: dict[str, Any], pictures: dict[str, np.ndarray]) -> bytes:
    """A view as one message."""
    sizes = [{"name": name, "height": one.shape[0], "width": one.shape[1]} for name, one in pictures.items()]
    head = json.dumps({**facts, "pictures": sizes}, allow_nan=False).encode()
    return (
        struct.pack(">I", len(head)) + head + b"".join(np.ascontiguousarray(one).tobytes() for one in pictures.values())
    )
