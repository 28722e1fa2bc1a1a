"""Plain frames: the same gateway, by fewer bytes; what a client may send is checked as it is of WebSocket's."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.gateway.wire import PATIENCE_S, Line, Peer, by_query, frame, line

from dougong.errors import NotFound, Unauthenticated
from dougong.gateway import Asker, Call, Gateway, GatewaySettings, LiveClient, Opcode, Slow, Told
from dougong.gateway.fanout import Published
from dougong.gateway.frames import FrameLimits, ProtocolError
from dougong.gateway.plain import PlainReader, encode_plain

TEXT, PING, CLOSE = Opcode.TEXT, Opcode.PING, Opcode.CLOSE
LIMITS = FrameLimits(message_bytes_max=1000)


def plain_head(target: str = "/live?user=7") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: here\r\nUpgrade: dougong\r\nConnection: Upgrade\r\n\r\n".encode()


async def plain_session(it: Line, target: str = "/live?user=7", *, limit: int = 1 << 16) -> Peer:
    peer = await it.dial(limit=limit)
    assert await peer.shake(plain_head(target)) == 101
    assert "\r\nUpgrade: dougong\r\n" in peer.answer
    return peer


async def told(peer: Peer) -> tuple[int, bytes]:
    """The next frame: its kind, and what is in it."""
    first = await peer.reader.readexactly(4)
    return first[0], await peer.reader.readexactly(int.from_bytes(first[1:], "big"))


def say(peer: Peer, **message: object) -> None:
    peer.send(encode_plain(TEXT, json.dumps(message).encode()))


async def test_a_client_follows_calls_and_comes_again_as_with_websocket() -> None:
    async def calls(asker: Asker, call: Call) -> bytes:
        if call.method != "echo":
            raise NotFound("no such method", code="no_method")
        return bytes(call.data)

    gateway = Gateway(by_query, calls=calls)
    async with line(gateway) as it, LiveClient(f"tcp://127.0.0.1:{it.port}/live?user=7") as client:
        subscription = await client.subscribe("user:7", timeout_s=PATIENCE_S)
        asked, large = (b'"' + "茶".encode() * count + b'"' for count in (20_000, 30_000))
        assert await client.call("echo", asked, timeout_s=PATIENCE_S) == asked
        with pytest.raises(NotFound):
            await client.call("other", timeout_s=PATIENCE_S)
        gateway.shed(1)
        for number in range(3):  # while it is away
            await gateway.publish("user:7", str(number).encode())
        await gateway.publish("user:7", large)
        got = list[bytes]()
        async for one in subscription:
            assert isinstance(one, Told)
            got.append(one.data)
            if len(got) == 4:
                break
        assert got == [b"0", b"1", b"2", large]
        assert client.connections == 2


async def test_refusals_are_the_same() -> None:
    async with line() as it:
        peer = await it.dial()
        assert await peer.shake(plain_head("/live")) == 401
        with pytest.raises(Unauthenticated):
            async with LiveClient(f"tcp://127.0.0.1:{it.port}/live") as client:
                await client.wait_connected(PATIENCE_S)


async def test_members_hear_the_same_by_both() -> None:
    async with line() as it:
        plain, other, websocket = await plain_session(it), await plain_session(it), await it.session()
        for size in (1, 125, 126, 70_000):
            await it.gateway.publish("user:7", b'"' + b"x" * size + b'"')
            message = await websocket.told()
            for peer in (plain, other):
                kind, data = await told(peer)
                assert (kind, json.loads(data)) == (TEXT, message)
        plain.send(encode_plain(PING, b"there?"))
        assert await told(plain) == (Opcode.PONG, b"there?")
        plain.send(encode_plain(CLOSE, (1000).to_bytes(2, "big")))
        assert await told(plain) == (CLOSE, (1000).to_bytes(2, "big"))
        await plain.over()


async def test_what_is_told_together_is_so_in_plain_frames() -> None:
    """Answers to calls that came together, and messages that waited for the same members."""

    async def calls(_: Asker, call: Call) -> bytes:
        return bytes(call.data)

    settings = GatewaySettings(broadcast_slice=1)
    gateway = Gateway(by_query, calls=calls, may_subscribe=lambda user, topic: topic == "news", settings=settings)
    async with line(gateway) as it:
        plain, websocket = await plain_session(it), await it.session()
        say(plain, kind="subscribe", id=1, topic="news")
        websocket.say(kind="subscribe", id=1, topic="news")
        assert json.loads((await told(plain))[1])["kind"] == (await websocket.told())["kind"] == "subscribed"
        asks = [{"kind": "call", "id": number, "method": "echo", "data": number} for number in range(3)]
        plain.send(b"".join(encode_plain(TEXT, json.dumps(ask).encode()) for ask in asks))
        assert [json.loads((await told(plain))[1])["data"] for _ in asks] == [0, 1, 2]
        for number in range(3):
            await gateway.publish("news", b"%d" % number)
        assert [json.loads((await told(plain))[1])["data"] for _ in range(3)] == [0, 1, 2]
        assert [(await websocket.told())["data"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x03\x00\x00\x00", 1002),
        (frame(TEXT, b"{}"), 1002),
        (encode_plain(PING, b"x" * 126), 1002),
        (b"\x01\xff\xff\xff", 1009),  # declared, and refused before any of it is there
        (encode_plain(TEXT, b"\xff"), 1007),
        (encode_plain(Opcode.BINARY, b"x"), 1003),
        (encode_plain(CLOSE, b"\x00"), 1002),
        (encode_plain(PING, b"") * 1001, 1008),
    ],
)
async def test_what_nobody_may_send_ends_the_connection_with_the_right_code(sent: bytes, code: int) -> None:
    async with line() as it:
        peer = await plain_session(it)
        peer.send(sent)
        kind, data = await told(peer)
        while kind == Opcode.PONG:
            kind, data = await told(peer)
        assert (kind, int.from_bytes(data[:2], "big")) == (CLOSE, code)


async def test_a_frame_before_the_answer_is_refused() -> None:
    async with line() as it:
        peer = await it.dial()
        assert await peer.shake(plain_head() + encode_plain(PING, b"")) == 400


async def test_a_slow_reader_is_told_of_a_loss_in_its_own_frames() -> None:
    async with line(Gateway(by_query, settings=GatewaySettings(outbox_bytes_max=1000))) as it:
        peer = await plain_session(it, limit=1000)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        it.gateway.deliver(Published("user:7", b'"' + b"x" * 8_000_000 + b'"', None, Slow.RESUME))
        await it.gateway.publish("user:7", b"2", slow=Slow.RESUME)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await told(peer))[1]) > 8_000_000
        assert json.loads((await told(peer))[1]) == {"kind": "lost", "topic": "user:7"}


async def test_one_that_dribbles_keeps_no_more_than_came() -> None:
    async with line() as it:
        peer = await plain_session(it)
        text = json.dumps({"kind": "subscribe", "id": 1, "topic": "user:7"}).encode()
        for byte in encode_plain(TEXT, text):
            peer.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert json.loads((await told(peer))[1])["kind"] == "subscribed"
        (connection,) = it.gateway._roster.of_user("7")
        assert not connection.reading


def test_what_is_declared_is_not_what_is_kept() -> None:
    reader = PlainReader()
    with pytest.raises(ProtocolError) as refused:
        reader.feed(b"\x01\x00\x03\xe9", LIMITS)
    assert refused.value.code == 1009
    reader = PlainReader()
    assert list(reader.feed(b"\x01\x00\x03\xe8abc", LIMITS)) == []
    assert reader._message is not None
    assert len(reader._message.data) == 3
