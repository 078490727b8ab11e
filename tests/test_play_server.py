"""The page's server: who is let in, what comes back, and that nobody can keep it busy."""

import asyncio
import json
import struct
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest

from dreamer_cli.envs.make import EnvConfig, make_env
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import EnvError, ResourceError
from dreamer_cli.play_server import LARGEST_ORDER, PlayServer, pack
from dreamer_cli.player import Player
from dreamer_cli.stop import StopSignal
from dreamer_cli.walk import Walk
from tests.small import make_agent

CARTPOLE = EnvConfig(id="CartPole-v1")


@pytest.fixture
def player():
    agent = make_agent(make_env(CARTPOLE).spec_dreamer, awake=True)
    with VectorEnv(CARTPOLE, 1, 3, "sync", render_mode="rgb_array") as envs:
        walk = Walk(agent, envs, "mode", seed=5)
        walk.begin()
        yield Player(walk, agent.spec, None, lambda document: None, lambda frames, fps: None, fps=60)


class Stop(StopSignal):
    """One that a test can ask for."""

    asked = False

    @property
    def requested(self):
        return "interrupted" if self.asked else None


@asynccontextmanager
async def served(player, port=0):
    stop, ready = Stop(), asyncio.Event()
    server = PlayServer(player, port, "a title", stop)
    task = asyncio.ensure_future(server.serve(lambda address: ready.set()))
    waiting = asyncio.ensure_future(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        await task
    async with aiohttp.ClientSession() as client:
        try:
            yield server, client
        finally:
            stop.asked = True
            await asyncio.wait_for(task, 10)


def origin_of(server):
    return server.address[: server.address.index("/", 8)]


@asynccontextmanager
async def tab(server, client, **headers):
    origin = {"Origin": origin_of(server), **headers}
    async with client.ws_connect(server.address + "ws", headers=origin, max_msg_size=0) as socket:
        yield socket


async def view(socket):
    message = await asyncio.wait_for(socket.receive(), 10)
    size = struct.unpack(">I", message.data[:4])[0]
    facts = json.loads(message.data[4 : 4 + size])
    assert len(message.data) == 4 + size + sum(3 * one["width"] * one["height"] for one in facts["pictures"])
    return facts


def test_the_page_and_nothing_else_behind_the_token(player):
    async def main():
        async with served(player) as (server, client):
            root = server.address.rsplit("/", 2)[0]
            assert root.startswith("http://127.0.0.1:")
            async with client.get(server.address) as page:
                assert page.status == 200
                assert "default-src 'none'" in page.headers["Content-Security-Policy"]
                text = await page.text()
                assert "http" not in text.replace("http-equiv", "")  # nothing comes from outside
            for name in ("play.js", "play.css"):
                async with client.get(server.address + name) as file:
                    assert file.status == 200
            for path, status in {
                "/": 404, "/wrong/": 403, f"/{server.token[:-1]}/": 403, f"/{server.token}/../secret": 404,
                f"/{server.token}/play.py": 404, f"/{server.token}": 404,
            }.items():  # fmt: skip
                async with client.get(root + path) as answer:
                    assert answer.status == status, path
            async with client.get(server.address, headers={"Host": "evil.example"}) as answer:
                assert answer.status == 403

    asyncio.run(main())


def test_orders_and_views(player):
    async def main():
        async with served(player) as (server, client), tab(server, client) as socket:
            layout = json.loads((await socket.receive()).data)
            assert layout["title"] == "a title"
            assert len(layout["controls"]) == 2
            assert (await view(socket))["at"] == 0
            await socket.send_str(json.dumps({"do": "step"}))
            assert (await view(socket))["at"] == 1
            for text in ("{", "3", "[]", "null", "[" * 2000, json.dumps({"do": "hold", "action": 9})):
                await socket.send_str(text)
                assert (await view(socket))["said"]
            async with tab(server, client) as other:  # two tabs see the same
                await other.receive()
                assert (await view(other))["at"] == 1
                await view(socket)
                await other.send_str(json.dumps({"do": "step"}))
                assert (await view(other))["at"] == (await view(socket))["at"] == 2
            await socket.send_str(json.dumps({"do": "run", "on": True}))
            seen = [(await view(socket))["at"] for _ in range(6)]
            assert seen == sorted(seen)
            assert seen[-1] > 3

    asyncio.run(main())


def test_without_a_tab_the_clock_stands_still_and_a_closed_one_can_come_back(player):
    async def main():
        async with served(player) as (server, client):
            async with tab(server, client) as socket:
                await socket.send_str(json.dumps({"do": "run", "on": True}))
                await socket.receive()
                await view(socket)
            await asyncio.sleep(0.3)
            before = player.walk.at
            await asyncio.sleep(0.3)
            assert player.walk.at == before
            async with tab(server, client) as socket:
                await socket.receive()
                assert (await view(socket))["at"] >= before

    asyncio.run(main())


def test_strangers_are_refused(player):
    async def main():
        async with served(player) as (server, client):
            for origin in ("http://evil.example", "null", "", server.address.replace("http:", "https:")):
                with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                    async with tab(server, client, Origin=origin):
                        pass
                assert error.value.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with client.ws_connect(
                    server.address.replace(server.token, "x" * 32) + "ws", headers={"Origin": origin_of(server)}
                ):
                    pass
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with tab(server, client, Host="evil.example", Origin="http://evil.example"):
                    pass
            async with tab(server, client) as socket:
                await socket.receive()
                await view(socket)
                await socket.send_str("x" * (LARGEST_ORDER + 1))
                message = await asyncio.wait_for(socket.receive(), 10)
                assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            async with tab(server, client) as socket:  # and the server goes on
                await socket.receive()
                assert (await view(socket))["at"] == 0

    asyncio.run(main())


def test_a_key_that_a_closed_tab_held_is_let_go(player):
    async def main():
        async with served(player) as (server, client):
            async with tab(server, client) as socket:
                await socket.receive()
                for order in ({"do": "wheel", "who": "human"}, {"do": "hold", "action": 1}):
                    await socket.send_str(json.dumps(order))
                while (await view(socket))["at"] != 1:
                    pass
            async with tab(server, client) as socket:
                await socket.receive()
                while (await view(socket))["held"] is not None:
                    pass
            assert player.held is None

    asyncio.run(main())


def test_a_tab_that_does_not_read_holds_up_nobody(player, monkeypatch):
    """Views are large, and one of two tabs never takes any."""
    large = {"game": np.zeros((1000, 1000, 3), np.uint8)}
    monkeypatch.setattr(player, "pictures", lambda moment: large)

    async def main():
        async with served(player) as (server, client), tab(server, client), tab(server, client) as socket:
            await socket.receive()
            await socket.send_str(json.dumps({"do": "run", "on": True}))
            seen = [(await view(socket))["at"] for _ in range(12)]
            assert seen[-1] > seen[0] + 5

    asyncio.run(main())


def test_a_taken_port_is_said(player):
    async def main():
        async with served(player) as (server, _):
            with pytest.raises(ResourceError, match="cannot be used"):
                async with served(player, int(server.address.split(":")[2].split("/")[0])):
                    pass

    asyncio.run(main())


def test_an_environment_that_fails_ends_it_with_its_error(player, monkeypatch):
    def fails(*arguments, **more):
        raise EnvError("the engine fell off")

    async def main():
        async with served(player) as (server, client), tab(server, client) as socket:
            monkeypatch.setattr(player.walk, "step", fails)
            await socket.send_str(json.dumps({"do": "run", "on": True}))
            while (await asyncio.wait_for(socket.receive(), 10)).type != aiohttp.WSMsgType.CLOSE:
                pass

    with pytest.raises(EnvError, match="engine"):
        asyncio.run(main())


def test_a_message_is_its_facts_and_its_pictures():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    message = pack({"at": 3}, {"game": picture})
    size = struct.unpack(">I", message[:4])[0]
    facts = json.loads(message[4 : 4 + size])
    assert facts == {"at": 3, "pictures": [{"name": "game", "height": 2, "width": 2}]}
    assert message[4 + size :] == picture.tobytes()
