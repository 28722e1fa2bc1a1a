"""Peers that mean harm, or are broken: what each costs is bounded, each is told why if it listens, and others go on."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

import pytest
from tests.gateway.wire import KEY, Line, Peer, by_query, frame, head, line

from dougong.gateway.connection import Patience
from dougong.gateway.doorway import Grant
from dougong.gateway.fanout import Published
from dougong.gateway.frames import FrameLimits, Opcode, encode_close
from dougong.gateway.gateway import Gateway
from dougong.gateway.handshake import Upgrade
from dougong.gateway.hearing import PONGS_PER_READ_MAX
from dougong.gateway.outbox import Slow
from dougong.gateway.settings import GatewaySettings


def gateway(**settings: object) -> Gateway:
    return Gateway(by_query, settings=GatewaySettings(**settings))  # type: ignore[arg-type]


async def well(it: Line) -> None:
    """Others are served."""
    peer = await it.session("/live?user=other")
    peer.send(frame(Opcode.PING, b"well"))
    assert (await peer.next()).data == b"well"
    peer.hang_up()


# the handshake


async def test_a_slow_handshake_is_ended_however_it_dribbles() -> None:
    async with line(gateway(patience=Patience(handshake=5))) as it:
        silent, dribbling = await it.dial(), await it.dial()
        await it.until(lambda: len(it.gateway) == 2)
        for tick in range(1, 6):
            dribbling.send(b"GET "[tick % 4 : tick % 4 + 1])
            await asyncio.sleep(0.01)
            it.gateway.tick(tick)
        assert (await silent.answered(), await dribbling.answered()) == (408, 408)
        await well(it)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 8200 + b" HTTP/1.1\r\n\r\n", 431),
        (head(X="a" * 8200), 431),
        (head()[:-2] + b"X: 1\r\n" * 130 + b"\r\n", 431),
        (b"a" * 40_000, 431),
        (head() + b"\x81\x80", 400),
        (head("/elsewhere"), 404),
        (head("/live"), 401),
    ],
)
async def test_heads_are_bounded_and_refused_in_words(sent: bytes, status: int) -> None:
    async with line() as it:
        peer = await it.dial()
        assert await peer.shake(sent) == status  # and no reset, though much of it was never read
        if status == 401:
            assert "WWW-Authenticate: Bearer" in peer.answer
        peer.hang_up()
        await it.empty()
        await well(it)


async def test_pages_of_strangers_may_not_connect() -> None:
    async with line(gateway(origins=("https://shop.example",))) as it:
        for origin, status in (("https://evil.example", 403), ("https://shop.example", 101)):
            assert await (await it.dial()).shake(head(Origin=origin)) == status
        assert await (await it.dial()).shake(head()) == 101  # no browser


async def test_limits_by_total_address_and_user() -> None:
    limits = {"connections_max": 6, "connections_per_ip_max": 4, "connections_per_user_max": 2}
    async with line(gateway(**limits)) as it:
        peers = [await it.session(), await it.session()]
        refused = await it.dial()
        assert await refused.shake(head()) == 429
        assert "too_many_connections" in refused.answer
        refused.hang_up()
        await it.until(lambda: len(it.gateway) == 2)
        peers += [await it.session("/live?user=8"), await it.session("/live?user=9")]
        await (await it.dial()).over()  # the fifth of one address
        others = [await it.dial(host="127.0.0.2") for _ in range(2)]
        await it.until(lambda: len(it.gateway) == 6)
        await (await it.dial(host="127.0.0.3")).over()
        for peer in (*peers, *others):
            peer.hang_up()
        await it.empty()
        await well(it)


async def test_addresses_behind_a_proxy_are_those_that_it_names() -> None:
    async with line(gateway(trusted_proxies=("127.0.0.0/8",), connections_per_ip_max=2)) as it:
        for last in range(4):
            await it.session(f"/live?user={last}", X_Forwarded_For=f"6.6.6.6, 10.0.0.{last % 3}")
        assert sorted(shown.ip for shown in it.gateway.connections()) == [
            "10.0.0.0",
            "10.0.0.0",
            "10.0.0.1",
            "10.0.0.2",
        ]
        peer = await it.dial()
        assert await peer.shake(head(X_Forwarded_For="10.0.0.0")) == 429


async def test_one_address_cannot_have_all_handshakes() -> None:
    async with line(gateway(handshakes_per_ip_max=3)) as it:
        peers = [await it.dial() for _ in range(3)]
        await it.until(lambda: len(it.gateway) == 3)
        await (await it.dial()).over()
        other = await it.dial(host="127.0.0.2")
        assert await other.shake(head()) == 101
        assert await peers[0].shake(head()) == 101  # one that is over gives its place to the next
        assert await (await it.dial()).shake(head()) == 101
        peers[1].hang_up()
        await it.until(lambda: len(it.gateway) == 4)
        assert await (await it.dial()).shake(head()) == 101


async def test_handshakes_through_a_proxy_count_for_those_behind_it() -> None:
    waits = asyncio.Event()

    async def authenticate(upgrade: Upgrade) -> Grant:
        await waits.wait()
        return Grant(user=upgrade.query["user"])

    settings = GatewaySettings(handshakes_per_ip_max=1, trusted_proxies=("127.0.0.1",))
    async with line(Gateway(authenticate, settings=settings)) as it:
        one, two, again = await it.dial(), await it.dial(), await it.dial()
        one.send(head(X_Forwarded_For="10.0.0.1"))
        await it.until(lambda: it.gateway.connections()[0].ip == "10.0.0.1")
        assert await again.shake(head(X_Forwarded_For="10.0.0.1")) == 429
        two.send(head(X_Forwarded_For="10.0.0.2"))
        waits.set()
        assert (await one.answered(), await two.answered()) == (101, 101)


@contextmanager
def no_descriptors() -> Generator[None]:
    """None is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    eater = [socket.socket() for _ in range(50)]  # fills what is free below the limit
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(one.fileno() for one in eater) + 1, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in eater:
            one.close()


async def test_no_descriptor_left_is_said_and_survived() -> None:
    async with line() as it:
        there, client = await it.session(), socket.socket()
        client.setblocking(False)
        with no_descriptors():
            client.connect_ex(("127.0.0.1", it.port))
            with suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""  # not left to wait
            there.send(frame(Opcode.PING, b"on"))
            assert (await there.next()).data == b"on"
        client.close()
        await well(it)


async def test_who_stands_in_the_queue_is_let_in_when_the_listener_closes() -> None:
    async with line() as it:
        clients = [
            socket.create_connection(("127.0.0.1", it.port)) for _ in range(200)
        ]  # the loop accepts none of them
        assert it.gateway._sockets is not None
        it.gateway._sockets.stop_listening()
        assert len(it.gateway) == 200
        for client in clients:
            client.close()


async def test_without_descriptors_a_listener_closes_all_the_same() -> None:
    async with line() as it:
        client = socket.socket()
        client.setblocking(False)
        assert it.gateway._sockets is not None
        with no_descriptors():
            client.connect_ex(("127.0.0.1", it.port))
            it.gateway._sockets.stop_listening()
        client.close()


# frames


CONT, TEXT, PING = Opcode.CONTINUATION, Opcode.TEXT, Opcode.PING
BAD = {
    "unmasked": (b"\x81\x02hi", 1002),
    "reserved bit": (b"\xc1\x80" + KEY, 1002),
    "opcode": (frame(3), 1002),
    "control in fragments": (frame(PING, fin=False), 1002),
    "large control": (frame(PING, b"x" * 126), 1002),
    "nothing to continue": (frame(CONT), 1002),
    "message in a message": (frame(TEXT, fin=False) + frame(TEXT), 1002),
    "close code": (encode_close(1005, key=KEY), 1002),
    "text": (frame(TEXT, b"\xff"), 1007),
    "close reason": (frame(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
    "declared length": (b"\x81\xff" + (1 << 62).to_bytes(8, "big"), 1009),  # refused before the first byte of it
    "sum of fragments": (frame(TEXT, b"x" * 600, fin=False) + frame(CONT, b"x" * 600), 1009),
    "tiny fragments": (frame(TEXT, fin=False) + frame(CONT, fin=False) * 8, 1008),
    "binary": (frame(Opcode.BINARY, b"x"), 1003),
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_frames_end_their_connection_with_the_right_code(what: str) -> None:
    sent, code = BAD[what]
    async with line(gateway(frames=FrameLimits(message_bytes_max=1000, fragments_max=8))) as it:
        peer = await it.session()
        peer.send(sent + b"\x00" * 50_000)  # whatever comes after it
        assert await peer.closed() == code
        peer.hang_up()
        await it.empty()
        await well(it)


async def test_a_message_has_to_end_in_time_and_the_next_has_its_own() -> None:
    async with line(gateway(patience=Patience(message=10, ping_every=1000))) as it:
        endless, busy = await it.session(), await it.session("/live?user=8")
        endless.send(frame(TEXT, b"a", fin=False))
        busy.send(frame(TEXT, b"a", fin=False))
        for tick in range(1, 31):
            await asyncio.sleep(0.005)
            it.gateway.tick(tick)
            if tick % 5 == 0:  # one ends and another begins in the same read
                busy.send(frame(CONT, b"b") + frame(TEXT, b"a", fin=False))
                await busy.told()
            if tick < 5:
                endless.send(frame(PING) + frame(CONT, b"b", fin=False))
        assert await endless.closed() == 1008
        assert [shown.user for shown in it.gateway.connections() if shown.state == "open"] == ["8"]


async def test_pings_of_one_read_share_an_answer_and_a_flood_ends() -> None:
    async with line(gateway(messages_per_s_max=10.0)) as it:
        peer = await it.session()
        peer.send(b"".join(frame(PING, b"%d" % number) for number in range(50)))
        answers = [int((await peer.next()).data) for _ in range(PONGS_PER_READ_MAX + 1)]
        assert answers == [*range(PONGS_PER_READ_MAX), 49]
        peer.send(frame(PING) * 60)
        assert await peer.closed() == 1008
        other = await it.session()
        other.send(frame(Opcode.PONG) * 101)
        assert await other.closed() == 1008


# peers that do not read, or are not there


def deaf(peer: Peer) -> None:
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]


async def stuff(it: Line, user: str, size: int = 200_000) -> None:
    """Publish until it waits on our side."""
    topic = f"user:{user}"
    data = b'"' + b"x" * size + b'"'
    while not any(shown.waiting_bytes for shown in it.gateway.connections(user=user)):
        assert it.gateway.connections(user=user)
        await it.gateway.publish(topic, data, slow=Slow.CLOSE)


async def test_who_never_reads_is_bounded_in_bytes() -> None:
    async with line(gateway(outbox_bytes_max=300_000)) as it:
        peer = await it.session(limit=1000)
        deaf(peer)
        await stuff(it, "7")
        while it.gateway.connections(user="7"):
            assert it.gateway.connections(user="7")[0].waiting_bytes <= 300_000
            await it.gateway.publish("user:7", b'"' + b"x" * 100_000 + b'"', slow=Slow.CLOSE)
        await well(it)


async def test_who_never_reads_is_bounded_in_time() -> None:
    async with line(gateway(patience=Patience(write=20, ping_every=1000))) as it:
        peer = await it.session(limit=1000)
        deaf(peer)
        await stuff(it, "7")
        it.gateway.tick(19)
        assert len(it.gateway) == 1
        it.gateway.tick(21)
        assert len(it.gateway) == 0


async def test_a_frame_that_was_begun_is_never_cut_short() -> None:
    """Larger than all that may wait: what follows it must not be taken for its rest."""
    async with line(gateway(outbox_bytes_max=1000)) as it:
        peer = await it.session(limit=1000)
        deaf(peer)
        large = b'"' + b"x" * 8_000_000 + b'"'
        it.gateway.deliver(Published("user:7", large, None, Slow.RESUME))
        await it.gateway.publish("user:7", b"2", slow=Slow.RESUME)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(str((await peer.told())["data"])) == len(large) - 2
        told = await peer.told()
        assert told == {"kind": "lost", "topic": "user:7"}  # whatever the bound says, a loss is told


async def test_a_loss_is_told_however_much_of_other_topics_waits() -> None:
    async with line(gateway(outbox_bytes_max=1000)) as it:
        peer = await it.session(limit=1000)
        deaf(peer)
        it.gateway.deliver(Published("user:7", b'"' + b"x" * 8_000_000 + b'"', None, Slow.DROP_OLDEST))
        for connection in it.gateway._roster.of_user("7"):
            it.gateway._topics.subscribe(connection, "other")
        it.gateway.lost("other")  # of the fan-out: nobody would say it again
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.told()
        assert await peer.told() == {"kind": "lost", "topic": "other"}


async def test_memory_evicts_the_costliest_first() -> None:
    async with line(gateway(outbox_bytes_max=3_000_000, outboxes_bytes_max=2_500_000)) as it:
        little, much, well_ = (
            await it.session(limit=1000),
            await it.session("/live?user=8", limit=1000),
            await it.session(),
        )
        deaf(little)
        deaf(much)
        await stuff(it, "8", 1_000_000)
        await it.gateway.publish("user:8", b'"' + b"x" * 1_000_000 + b'"', slow=Slow.CLOSE)
        while it.gateway.connections(user="8"):
            assert len(it.gateway.connections(user="7")) == 2
            await it.gateway.publish("user:7", b'"' + b"x" * 100_000 + b'"', slow=Slow.CLOSE)
            await well_.told()
        assert len(it.gateway.connections(user="7")) == 2


async def test_nobody_new_is_let_in_when_memory_is_short() -> None:
    async with line(gateway(memory_bytes_max=1)) as it:
        there = await it.session()
        it.gateway.tick(1)
        peer = await it.dial()
        assert await peer.shake(head()) == 503
        assert "Retry-After: " in peer.answer
        assert "gateway_full" in peer.answer
        there.send(frame(PING))
        assert (await there.next()).opcode == Opcode.PONG


async def test_a_half_open_peer_is_gone_after_a_missed_pong_and_a_busy_one_is_not() -> None:
    async with line(gateway(patience=Patience(ping_every=5, pong=3))) as it:
        await it.session("/live?user=half-open")
        busy = await it.session("/live?user=busy")
        for tick in range(1, 30):
            busy.send(frame(Opcode.PONG, b"unasked") if tick % 2 else frame(TEXT, b"{", fin=True))
            await asyncio.sleep(0.005)
            it.gateway.tick(tick)
        assert [shown.user for shown in it.gateway.connections()] == ["busy"]


async def test_hundreds_who_are_half_open_or_read_nothing_cost_what_they_may_and_go() -> None:
    settings = {"patience": Patience(ping_every=10, pong=5, write=8), "outbox_bytes_max": 300_000}
    async with line(gateway(outboxes_bytes_max=4_000_000, **settings)) as it:
        busy = await it.session("/live?user=busy")
        half_open = [await it.session(f"/live?user=half-open-{number}") for number in range(300)]
        slow = [await it.session(f"/live?user=slow-{number}", limit=1000) for number in range(100)]
        for peer in slow:
            deaf(peer)
        large = b'"' + b"x" * 100_000 + b'"'
        for _ in range(60):  # more than kernels take, then more than may wait for all of them
            for number in range(len(slow)):
                it.gateway.deliver(Published(f"user:slow-{number}", large, None, Slow.CLOSE))
            assert it.gateway._writing.waiting_bytes <= 4_000_000
            busy.send(frame(Opcode.PING))
            assert (await busy.next()).opcode == Opcode.PONG
        for tick in range(1, 40):
            busy.send(frame(TEXT, b"{", fin=True))
            await busy.told()
            it.gateway.tick(tick)
        assert [shown.user for shown in it.gateway.connections()] == ["busy"]
        assert it.gateway._writing.waiting_bytes == 0
        assert len(half_open) == 300


async def test_what_waits_is_delivered_to_one_who_says_good_bye() -> None:
    async with line() as it:
        peer = await it.session(limit=1000)
        deaf(peer)
        await stuff(it, "7")
        peer.send(encode_close(1000, key=KEY))
        await asyncio.sleep(0.02)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await peer.told())["kind"] == "message"
        assert await peer.closed() == 1000
        peer.hang_up()
        await it.empty()
