"""A peer that says exactly what a test has it say, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from dougong.errors import Unauthenticated
from dougong.gateway.doorway import Authenticate, Grant
from dougong.gateway.frames import FrameLimits, FrameReader, Opcode, Received, encode_frame
from dougong.gateway.gateway import Gateway
from dougong.gateway.handshake import Upgrade

PATIENCE_S = 60.0
KEY = b"\x01\x02\x03\x04"
_ANSWERS = FrameLimits(message_bytes_max=1 << 24, masked=False)


async def by_query(upgrade: Upgrade) -> Grant:
    """`?user=7` is user 7, who has his own topic."""
    user = upgrade.query.get("user")
    if user is None:
        raise Unauthenticated("say who you are: ?user=", code="token_missing")
    return Grant(user=user, topics=(f"user:{user}",))


def head(target: str = "/live?user=7", **more: str) -> bytes:
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: here",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *(f"{name.replace('_', '-')}: {value}" for name, value in more.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def frame(opcode: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    return encode_frame(opcode, data, key=KEY, fin=fin)


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.answer = ""
        """The head, and of refusals the body."""
        self._frames = FrameReader()
        self._got: list[Received] = []

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def say(self, **message: object) -> None:
        self.send(frame(Opcode.TEXT, json.dumps(message).encode()))

    async def shake(self, data: bytes) -> int:
        """The answer's status."""
        self.send(data)
        return await self.answered()

    async def answered(self) -> int:
        self.answer = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        self.status = int(self.answer.split()[1])
        if self.status != 101:
            self.answer += (await self.reader.read()).decode()
        return self.status

    async def next(self) -> Received:
        """The next frame; EOFError when there is none."""
        while not self._got:
            data = await self.reader.read(1 << 16)
            if not data:
                raise EOFError
            self._got += self._frames.feed(data, _ANSWERS)
        return self._got.pop(0)

    async def told(self) -> dict[str, object]:
        got = await self.next()
        assert got.opcode == Opcode.TEXT, got
        told = json.loads(got.data)
        assert isinstance(told, dict)
        return told

    async def closed(self) -> int:
        """The code with which the gateway closes; 0 when it only hangs up."""
        try:
            while True:
                got = await self.next()
                if got.opcode == Opcode.CLOSE:
                    return int.from_bytes(got.data[:2], "big")
        except (EOFError, ConnectionError):
            return 0

    async def over(self) -> None:
        """The connection ended."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass

    def hang_up(self) -> None:
        self.writer.close()


class Line:
    """A gateway, and peers."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.port = port
        self._peers: list[Peer] = []

    async def dial(self, *, limit: int = 1 << 16, host: str = "127.0.0.1") -> Peer:
        """Connected, and nothing said."""
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit, local_addr=(host, 0)))
        self._peers.append(peer)
        return peer

    async def session(self, target: str = "/live?user=7", *, limit: int = 1 << 16, **headers: str) -> Peer:
        peer = await self.dial(limit=limit)
        assert await peer.shake(head(target, **headers)) == 101, peer.answer
        return peer

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.005)

    async def empty(self) -> None:
        await self.until(lambda: len(self.gateway) == 0)

    def hang_up(self) -> None:
        for peer in self._peers:
            peer.hang_up()


@asynccontextmanager
async def line(gateway: Gateway | None = None, authenticate: Authenticate = by_query) -> AsyncGenerator[Line]:
    gateway = gateway if gateway is not None else Gateway(authenticate)
    it = Line(gateway, await gateway.start())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield it
    finally:
        it.hang_up()
        await gateway.stop()
