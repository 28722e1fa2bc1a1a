"""The servers: ours, and four that people write. All answer the same call with the same answer, and keep nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

import msgspec

from dougong.errors import NotFound, Unauthenticated
from dougong.gateway import Asker, Call, Gateway, GatewaySettings, Grant, Opcode, Patience, Upgrade, encode_frame

__all__ = ["IMPORTS", "NAMES", "NEWS", "TOKEN", "Kind", "Options", "Published", "start"]

Kind = Literal["gateway", "streams", "websockets", "picows", "uvicorn"]
NAMES: Mapping[Kind, str] = {
    "streams": "a task with asyncio's streams each",
    "websockets": "`websockets`",
    "picows": "`picows`",
    "uvicorn": "`uvicorn` with `websockets`",
}
"""The baselines, for people."""
TOKEN = "of-everybody"  # noqa: S105 (there is nobody to keep it from)
NEWS = "news"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    kind: Kind
    workers: int = 1
    news: bool = False
    """Sessions subscribe to `news` beside their own topic."""
    patience: Patience = Patience()


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """Tell a topic's members so many bytes of JSON, the time in them."""

    topic: str
    data: str


Publish = Callable[[Published], Awaitable[None]]


async def start(options: Options) -> tuple[int, Publish]:
    """Start one on this loop: its port, and what publishes there."""
    if options.kind == "gateway":
        return await _gateway(options)
    return await _BASELINES[options.kind](), _no_publish


# ours


async def _gateway(options: Options) -> tuple[int, Publish]:
    async def authenticate(upgrade: Upgrade) -> Grant:
        if not hmac.compare_digest(upgrade.headers.get("authorization", ""), f"Bearer {TOKEN}"):
            raise Unauthenticated("a token is needed", code="token_missing")
        user = upgrade.query["user"]
        return Grant(user=user, topics=(f"user:{user}", NEWS) if options.news else (f"user:{user}",))

    async def echo(_: Asker, call: Call) -> bytes:
        if call.method != "echo":
            raise NotFound(f"there is no method {call.method}", code="no_method")
        return bytes(call.data)

    settings = GatewaySettings(
        connections_max=20_000,
        connections_per_ip_max=20_000,
        handshakes_per_ip_max=1000,
        messages_per_s_max=1e9,
        patience=options.patience,
    )
    gateway = Gateway(authenticate, calls=echo, settings=settings)

    async def publish(published: Published) -> None:
        await gateway.publish(published.topic, published.data.encode(), keep=False)

    return await gateway.start(), publish


# theirs


class _Call(msgspec.Struct):
    kind: str
    id: int
    method: str
    data: msgspec.Raw


_read = msgspec.json.Decoder(_Call).decode
_write = msgspec.json.Encoder().encode


def _answer(text: bytes | str | memoryview) -> bytes:
    call = _read(text)
    return _write({"kind": "answer", "id": call.id, "data": call.data})


async def _no_publish(_: Published) -> None:
    raise NotFound("the baselines publish nothing", code="no_publish")


async def _streams() -> int:
    """One task with two streams per connection, and the protocol by hand."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            key = head.lower().partition(b"sec-websocket-key: ")[0]
            key = head[len(key) + 19 :].split(b"\r\n", 1)[0]
            digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
            )
            while True:
                first, second = await reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                key = await reader.readexactly(4)
                data = await reader.readexactly(size)
                keys = key * (size // 4) + key[: size % 4]
                data = (int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")
                if first & 0x0F == Opcode.TEXT:
                    writer.write(encode_frame(Opcode.TEXT, _answer(data)))
                    await writer.drain()
                elif first & 0x0F == Opcode.PING:
                    writer.write(encode_frame(Opcode.PONG, data))
                elif first & 0x0F == Opcode.CLOSE:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass  # it is gone
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    _kept.append(server)
    return int(server.sockets[0].getsockname()[1])


async def _websockets() -> int:
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed

    async def handle(connection: ServerConnection) -> None:
        try:
            async for text in connection:
                await connection.send(_answer(text).decode())
        except ConnectionClosed:
            pass  # it is gone

    server = await serve(handle, "127.0.0.1", 0, compression=None, backlog=4096)
    _kept.append(server)
    return int(next(iter(server.sockets)).getsockname()[1])


async def _picows() -> int:
    import picows

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            if frame.msg_type == picows.WSMsgType.TEXT:
                transport.send(picows.WSMsgType.TEXT, _answer(frame.get_payload_as_memoryview()))
            elif frame.msg_type == picows.WSMsgType.CLOSE:
                transport.disconnect()

    server = await picows.ws_create_server(lambda _: Listener(), "127.0.0.1", 0, backlog=4096)
    _kept.append(server)
    return int(server.sockets[0].getsockname()[1])


async def _uvicorn() -> int:
    import uvicorn

    async def app(
        _: Mapping[str, object],
        receive: Callable[[], Awaitable[Mapping[str, object]]],
        send: Callable[[Mapping[str, object]], Awaitable[None]],
    ) -> None:
        while True:
            event = await receive()
            if event["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            elif event["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": _answer(str(event["text"])).decode()})
            else:
                return

    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="warning", backlog=4096,
                            ws_per_message_deflate=False)  # fmt: skip
    server = uvicorn.Server(config)
    _kept.append(asyncio.create_task(server.serve()))
    async with asyncio.timeout(30.0):
        while not server.started:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.01)
    return int(server.servers[0].sockets[0].getsockname()[1])


_kept: list[object] = []
"""Servers, as long as their process lives."""
_BASELINES: Mapping[Kind, Callable[[], Awaitable[int]]] = {
    "streams": _streams,
    "websockets": _websockets,
    "picows": _picows,
    "uvicorn": _uvicorn,
}
IMPORTS: Mapping[Kind, Sequence[str]] = {
    "gateway": (),
    "streams": (),
    "websockets": ("websockets.asyncio.server",),
    "picows": ("picows",),
    "uvicorn": ("uvicorn", "websockets.asyncio.server"),
}
"""What each needs beside this module, to be there before the fork."""
