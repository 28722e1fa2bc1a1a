"""Sockets by their numbers: the kernel tells once that something came, and nothing of it may be left lying."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from tests.gateway.wire import by_query, frame, head, line

from dougong.gateway.asking import Asker
from dougong.gateway.connection import Patience
from dougong.gateway.frames import FrameLimits, Opcode
from dougong.gateway.gateway import Gateway
from dougong.gateway.messages import Call
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.sockets import MORE_BYTES, READ_BYTES

_NEVER = Patience(ping_every=100_000, message=100_000, closing=100_000, write=100_000)
"""What is not read when it is told of would be found by nobody."""


_SIZES = [100, READ_BYTES, READ_BYTES + 1, READ_BYTES + MORE_BYTES, READ_BYTES + MORE_BYTES + 1, 3 * MORE_BYTES]


@pytest.mark.parametrize("size", _SIZES)
async def test_what_came_before_the_end_is_heard_and_the_end_too(size: int) -> None:
    heard = asyncio.Event()

    async def calls(_: Asker, call: Call) -> bytes:
        heard.set()
        return b"1"

    call = json.dumps({"kind": "call", "id": 1, "method": "m"}).encode()
    call += b" " * (size - len(frame(Opcode.TEXT, call)))
    call = call[: len(call) - len(frame(Opcode.TEXT, call)) + size]  # longer ones have longer heads
    sent = frame(Opcode.TEXT, call)
    assert len(sent) == size
    settings = GatewaySettings(patience=_NEVER, frames=FrameLimits(message_bytes_max=4 * MORE_BYTES))
    async with line(Gateway(by_query, calls=calls, settings=settings)) as it:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", it.port)) as peer:
            peer.setblocking(False)
            await loop.sock_sendall(peer, head())
            assert b"101" in await loop.sock_recv(peer, 4096)
            peer.setblocking(True)  # all of it, and the end, before the gateway looks: it runs in this thread
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            await heard.wait()
            await it.empty()


async def test_who_is_written_to_slowly_is_still_heard() -> None:
    async def calls(_: Asker, call: Call) -> bytes:
        return bytes(call.data)

    settings = GatewaySettings(
        patience=_NEVER, frames=FrameLimits(message_bytes_max=4 * MORE_BYTES), outbox_bytes_max=1 << 26
    )
    async with line(Gateway(by_query, calls=calls, settings=settings)) as it:
        peer = await it.session(limit=1 << 12)  # reads only what it is asked to
        waits = 0
        while not waits:  # until the kernel takes no more
            await it.gateway.publish("user:7", b'"%b"' % (b"x" * 100_000), keep=False)
            await asyncio.sleep(0)
            waits = it.gateway.connections()[0].waiting_bytes
        peer.say(kind="call", id=1, method="echo", data="x" * (2 * MORE_BYTES + 1))
        while (await peer.told())["kind"] != "answer":
            pass
        await it.until(lambda: it.gateway.connections()[0].waiting_bytes == 0)
        peer.say(kind="call", id=2, method="echo", data="y" * (2 * MORE_BYTES + 1))
        assert (await peer.told())["id"] == 2
