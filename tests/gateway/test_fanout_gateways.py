"""Two gateways of one machine and a client (aiohttp's) that goes from one to the other."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from dougong.gateway import Gateway, Grant, Hub, LocalFanOut, Upgrade

PATIENCE_S = 60.0


async def authenticate(upgrade: Upgrade) -> Grant:
    return Grant(user=upgrade.query["user"])


@asynccontextmanager
async def gateway(folder: Path) -> AsyncGenerator[tuple[Gateway, str]]:
    one = Gateway(authenticate, fan_out=LocalFanOut(folder, serves=False, timeout_s=PATIENCE_S))
    port = await one.start()
    try:
        yield one, f"http://127.0.0.1:{port}/live?user=7"
    finally:
        await one.stop()


async def test_who_comes_back_to_another_gateway_misses_nothing_and_hears_when_he_does() -> None:
    folder = Path(tempfile.mkdtemp(prefix="dougong-hub-"))
    hub = Hub(folder)
    await hub.start()
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            gateway(folder) as (one, here),
            gateway(folder) as (_, there),
            aiohttp.ClientSession() as session,
        ):
            async with session.ws_connect(here) as socket:
                await socket.send_json({"kind": "subscribe", "id": 1, "topic": "user:7"})
                place = (await socket.receive_json())["offset"]
            await one.publish("user:7", b"1")
            async with session.ws_connect(there) as socket:
                await socket.send_json({"kind": "subscribe", "id": 2, "topic": "user:7", "offset": place})
                assert (await socket.receive_json())["complete"]
                assert (await socket.receive_json())["data"] == 1
                await one.publish("user:7", b"2")
                assert (await socket.receive_json())["data"] == 2
                await hub.stop()
                (folder / "history").unlink()
                await hub.start()
                assert await socket.receive_json() == {"kind": "lost", "topic": "user:7"}
                await socket.send_json({"kind": "subscribe", "id": 3, "topic": "user:7", "offset": place})
                assert not (await socket.receive_json())["complete"]
    finally:
        await hub.stop()
        shutil.rmtree(folder)
