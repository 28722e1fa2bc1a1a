"""The client against a real gateway: what it is told, and what it does when the connection ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, asynccontextmanager

import pytest

from dougong.errors import DeadlineExceeded, Error, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from dougong.gateway import (
    Asker,
    Call,
    ClientSettings,
    Gateway,
    GatewaySettings,
    Grant,
    InProcess,
    LiveClient,
    Pauses,
    Slow,
    Subscription,
    Told,
    Upgrade,
    messages,
)
from dougong.gateway.connection import SESSION_OVER
from dougong.gateway.fanout._protocol import MESSAGE_BYTES_MAX
from dougong.gateway.greeting import read_address
from dougong.gateway.returning import after_close, after_error

PATIENCE_S = 60.0
QUICK = ClientSettings(pauses=Pauses(first_s=0.02, max_s=0.1))


class Door:
    """Who may come in: tokens name users; a token that was `spent` is not believed any more."""

    def __init__(self) -> None:
        self.spent: set[str] = set()
        self.given = 0
        self.expires_in_s: float | None = None

    async def authenticate(self, upgrade: Upgrade) -> Grant:
        offered = next((name for name in upgrade.protocols if name.startswith("bearer.")), "")
        token = offered.removeprefix("bearer.") or upgrade.headers.get("authorization", "").removeprefix("Bearer ")
        if not token or token in self.spent:
            raise Unauthenticated("log in again", code="token_expired")
        user = token.split("-")[0]
        protocol = "dougong" if offered else None
        return Grant(user=user, topics=(f"user:{user}",), expires_in_s=self.expires_in_s, protocol=protocol)

    async def token(self, renew: bool) -> str:
        self.given += renew
        return f"7-{self.given}"


async def calls(asker: Asker, call: Call) -> bytes:
    if call.method == "echo":
        return json.dumps([asker.user, json.loads(bytes(call.data))]).encode()
    if call.method == "never":
        await asyncio.sleep(PATIENCE_S)
    raise NotFound(f"no method {call.method}", code="no_method", method=call.method)


class Server:
    """A gateway at one address, which ends and comes again. What is published survives it, unless told otherwise."""

    def __init__(self) -> None:
        self.door = Door()
        self.fan_out = InProcess()
        self.port = 0
        self.gateway: Gateway

    async def start(self, *, shared: bool = False) -> None:
        settings = GatewaySettings(reconnect_s=0.1)
        self.gateway = Gateway(self.door.authenticate, calls=calls, fan_out=self.fan_out, settings=settings)
        self.port = await self.gateway.start(port=self.port, shared=shared)

    async def kill(self) -> None:
        """No close frame, no answer: as when the process is killed."""
        assert self.gateway._sockets is not None
        self.gateway._sockets.close()
        self.gateway._over.set()
        runner = self.gateway._runner
        assert runner is not None
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/live"

    async def publish(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            await self.fan_out.publish("user:7", str(number).encode(), slow=Slow.RESUME, keep=True)

    def client(self, settings: ClientSettings = QUICK) -> LiveClient:
        return LiveClient(self.url, token=self.door.token, settings=settings)


@asynccontextmanager
async def serving() -> AsyncGenerator[Server]:
    server = Server()
    await server.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield server
    finally:
        await server.gateway.stop()


async def read(subscription: Subscription, count: int) -> list[int | None]:
    """What is told next; None for a gap."""
    got: list[int | None] = []
    if not count:
        return got
    async with aclosing(aiter(subscription)) as news:
        async for told in news:
            got.append(int(told.data) if isinstance(told, Told) else None)
            if len(got) == count:
                break
    return got


async def until(condition: object) -> None:
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.005)


async def test_calls_are_answered_refused_or_late() -> None:
    async with serving() as server, server.client() as live:
        assert json.loads(await live.call("echo", b"[1]")) == ["7", [1]]
        with pytest.raises(NotFound) as caught:
            await live.call("nothing")
        assert (caught.value.code, caught.value.fields) == ("no_method", {"method": "nothing"})
        with pytest.raises(DeadlineExceeded):
            await live.call("never", timeout_s=0.05)
        with pytest.raises(Forbidden) as forbidden:
            await live.subscribe("user:8")
        assert forbidden.value.code == "topic_forbidden"


async def test_what_the_gateway_cannot_read_is_refused_to_who_waits_for_it() -> None:
    async with serving() as server, server.client() as live:
        with pytest.raises(Invalid, match="timeout_s"):
            await live.call("echo", timeout_s=900.0)
        with pytest.raises(Invalid, match="characters"):
            await live.subscribe("x" * 201)


async def test_a_late_refusal_ends_nobody_else() -> None:
    async with serving() as server, server.client() as live:
        await live.wait_connected()
        with pytest.raises(DeadlineExceeded):
            await live.subscribe("user:8", timeout_s=0.0)
        with pytest.raises(Forbidden):
            await live.subscribe("user:8")


async def test_the_largest_message_reaches_a_client() -> None:
    async with serving() as server, server.client() as live:
        news = await live.subscribe("user:7")
        await server.fan_out.publish("user:7", b"1" + b" " * (MESSAGE_BYTES_MAX - 1), slow=Slow.RESUME, keep=True)
        assert await read(news, 1) == [1]


async def test_a_killed_gateway_costs_no_message() -> None:
    async with serving() as server, server.client() as live:
        news = await live.subscribe("user:7")
        await server.publish(range(3))
        assert await read(news, 2) == [0, 1]
        under_way = asyncio.create_task(live.call("never"))
        await until(lambda: live._calls)
        await server.kill()
        await server.publish(range(3, 6))
        with pytest.raises(Unavailable) as caught:
            await under_way
        assert caught.value.code == "connection_lost"
        await until(lambda: not live.connected)
        await server.start()
        assert await read(news, 4) == [2, 3, 4, 5]
        await server.publish([6])
        assert await read(news, 1) == [6]
        assert live.connections == 2


async def test_what_is_lost_with_the_gateway_is_said() -> None:
    async with serving() as server, server.client() as live:
        news = await live.subscribe("user:7")
        await server.publish([1])
        assert await read(news, 1) == [1]
        await server.kill()
        server.fan_out = InProcess()
        await server.publish([2])
        await server.start()
        assert await read(news, 1) == [None]
        await server.publish([3])
        assert await read(news, 1) == [3]


async def test_a_drain_moves_clients_at_the_time_they_are_told() -> None:
    async with serving() as server:
        await server.gateway.stop()
        await server.start(shared=True)
        slow = ClientSettings(pauses=Pauses(first_s=PATIENCE_S * 10, max_s=PATIENCE_S * 10))
        async with server.client(slow) as live:
            news = await live.subscribe("user:7")
            old = server.gateway
            await server.start(shared=True)
            await old.drain(100)
            await server.publish(range(3))
            assert await read(news, 3) == [0, 1, 2]  # by the hint: its own pause would be longer than we wait
            await old.stop()


async def test_a_session_that_is_over_goes_on_with_a_new_token() -> None:
    async with serving() as server:
        server.door.expires_in_s = 3.0
        async with server.client() as live:
            news = await live.subscribe("user:7")
            server.door.spent.add("7-0")
            server.door.expires_in_s = None
            server.gateway.tick(100)
            await server.publish([1])
            assert await read(news, 1) == [1]
            assert (server.door.given, live.connections) == (1, 2)


async def test_a_token_is_renewed_once_and_then_its_refusal_is_told() -> None:
    async with serving() as server:
        server.door.spent |= {"7-0", "7-1"}
        async with server.client() as live:
            with pytest.raises(Unauthenticated) as caught:
                await live.call("echo")
            assert (caught.value.code, caught.value.message) == ("token_expired", "log in again")
            with pytest.raises(Unauthenticated):
                await live.subscribe("user:7")
        assert server.door.given == 1


async def test_who_is_kicked_stays_away_and_knows_why() -> None:
    async with serving() as server, server.client() as live:
        news = await live.subscribe("user:7")
        await server.publish([1])
        server.gateway.kick(user="7", reason="no more of this")
        with pytest.raises(Forbidden, match="no more of this") as caught:
            await read(news, 2)
        assert caught.value.code == "kicked"


async def test_nothing_there_is_said_in_time_and_another_path_at_once() -> None:
    async with serving() as server:
        async with LiveClient(server.url.replace("/live", "/other")) as live:
            with pytest.raises(NotFound) as caught:
                await live.call("echo")
            assert caught.value.code == "no_gateway"
        await server.kill()
        async with server.client() as live:
            with pytest.raises(DeadlineExceeded) as late:
                await live.wait_connected(0.1)
            assert late.value.code == "not_connected"
        await server.start()


async def test_who_reads_late_gets_all_of_it_from_few_places() -> None:
    async with serving() as server, server.client(ClientSettings(queue_max=4)) as live:
        news = await live.subscribe("user:7")
        await server.publish(range(60))
        await until(lambda: len(news._follower.queue) == 4)
        assert await read(news, 60) == list(range(60))


async def test_lost_is_asked_for_again() -> None:
    async with serving() as server, server.client() as live:
        news = await live.subscribe("user:7")
        (connection,) = server.gateway._roster
        server.gateway._topics.drop(connection)  # as if what waited had been forgotten
        await server.publish(range(3))
        server.gateway._send(connection, messages.lost("user:7"))
        assert await read(news, 3) == [0, 1, 2]


async def test_pings_are_answered() -> None:
    async with serving() as server, server.client() as live:
        await live.wait_connected()
        for tick in range(1, 60):
            server.gateway.tick(tick)
            await asyncio.sleep(0.002)
        assert len(server.gateway) == 1
        assert live.connections == 1


async def test_leaving_is_polite_and_ends_readers() -> None:
    async with serving() as server:
        async with server.client() as live:
            news = await live.subscribe("user:7")
            other = asyncio.create_task(read(news, 1))
            await asyncio.sleep(0)
        assert await other == []
        await until(lambda: len(server.gateway) == 0)
        with pytest.raises(Unavailable):
            await live.call("echo")


@pytest.mark.parametrize("url", ["http://x/live", "ws:///live", "ws://x:99999/", "ws://x/\r\nHost: y"])
def test_addresses_are_checked(url: str) -> None:
    with pytest.raises(Error) as caught:
        read_address(url)
    assert caught.value.code == "bad_url"


async def test_what_answers_must_be_a_gateway() -> None:
    answers = [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: bm8=\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 40_000,
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop() if answers else b"")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(PATIENCE_S), LiveClient(f"ws://127.0.0.1:{port}/live", settings=QUICK) as live:
        while answers:
            with pytest.raises(DeadlineExceeded):
                await live.wait_connected(0.1)


def test_pauses_are_drawn_by_lot_and_grow_to_a_bound() -> None:
    pauses = Pauses(first_s=1.0, max_s=8.0)
    drawn = [after_close(None, "", tries, 0.5, pauses).pause_s for tries in range(6)]
    assert drawn == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert after_close(1012, "reconnect in 3.5 s", 9, 0.5, pauses).pause_s == 3.5
    assert after_close(1012, "reconnect in 999 s", 0, 0.5, pauses).pause_s == 8.0
    over = after_close(SESSION_OVER, "", 0, 0.5, pauses)
    assert (over.renew, over.pause_s) == (True, 0.0)
    asked = after_error(Unavailable("", retry_after_s=2.0), 0, 0.5, pauses, renewed=False)
    assert asked.pause_s == 3.0
