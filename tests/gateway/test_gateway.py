"""A gateway and an independent client (aiohttp's)."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random

import aiohttp
import pytest
import uvloop
from tests.gateway.wire import by_query, frame, head, line

from dougong.errors import NotFound, Unauthenticated
from dougong.gateway._metrics import received
from dougong.gateway.asking import Asker
from dougong.gateway.connection import Connection, Patience
from dougong.gateway.doorway import Grant
from dougong.gateway.frames import Opcode
from dougong.gateway.gateway import Gateway
from dougong.gateway.handshake import Upgrade
from dougong.gateway.messages import Call
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.sockets import Sockets

PATIENCE_S = 60.0


async def authenticate(upgrade: Upgrade) -> Grant:
    user = upgrade.query.get("user")
    if user is None:
        raise Unauthenticated("say who you are: ?user=", code="token_missing")
    return Grant(user=user, topics=(f"user:{user}",))


async def calls(asker: Asker, call: Call) -> bytes:
    if call.method != "echo":
        raise NotFound(f"no method {call.method}", code="no_method")
    return json.dumps({"user": asker.user, "data": json.loads(bytes(call.data))}).encode()


class Live:
    def __init__(self, gateway: Gateway, port: int, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.url = f"http://127.0.0.1:{port}/live"
        self.session = session

    @asynccontextmanager
    async def client(self, user: str) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
        async with self.session.ws_connect(f"{self.url}?user={user}") as socket:
            yield socket


@asynccontextmanager
async def live(settings: GatewaySettings | None = None) -> AsyncGenerator[Live]:
    gateway = Gateway(authenticate, calls=calls, settings=settings)
    port = await gateway.start()
    try:
        async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
            yield Live(gateway, port, session)
    finally:
        await gateway.stop()


async def test_a_call_is_answered() -> None:
    async with live() as it, it.client("7") as socket:
        await socket.send_json({"kind": "call", "id": 1, "method": "echo", "data": [1]})
        assert await socket.receive_json() == {"kind": "answer", "id": 1, "data": {"user": "7", "data": [1]}}
        await socket.send_json({"kind": "call", "id": 2, "method": "nothing"})
        refused = await socket.receive_json()
        assert (refused["id"], refused["code"]) == (2, "no_method")


async def test_calls_of_one_read_wait_for_themselves_only() -> None:
    go_on = asyncio.Event()

    async def answer(_: Asker, call: Call) -> bytes:
        if call.method == "slow":
            await go_on.wait()
        return bytes(call.data)

    gateway = Gateway(authenticate, calls=answer)
    port = await gateway.start()
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{port}/live?user=7") as socket,
        ):
            for id_, method in enumerate(("slow", "fast", "slow", "fast", "fast")):  # one turn's calls share a task
                await socket.send_json({"kind": "call", "id": id_, "method": method, "data": id_})
            assert [(await socket.receive_json())["id"] for _ in range(3)] == [1, 3, 4]
            go_on.set()
            assert {(await socket.receive_json())["data"] for _ in range(2)} == {0, 2}
    finally:
        await gateway.stop()


async def test_calls_of_one_read_are_answered_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of each."""

    async def some_refused(_: Asker, call: Call) -> bytes:
        if call.method == "refused":
            raise NotFound("there is none", code="no_method")
        return bytes(call.data)

    writes: list[bytes] = []
    write = Sockets.write

    def counted(self: Sockets, connection: Connection, data: bytes) -> int:
        writes.append(data)
        return write(self, connection, data)

    async with line(Gateway(by_query, calls=some_refused)) as it:
        other, peer = await it.session("/live?user=8"), await it.session()
        (connection,) = (one for one in it.gateway._roster if one.user == "7")
        monkeypatch.setattr(Sockets, "write", counted)
        methods = ("echo", "refused", "echo", "echo")
        calls = [
            {"kind": "call", "id": number, "method": method, "data": number} for number, method in enumerate(methods)
        ]
        it.gateway.came(connection, b"".join(frame(Opcode.TEXT, json.dumps(call).encode()) for call in calls))
        other.say(kind="call", id=9, method="echo", data=9)
        told = [await peer.told() for _ in methods]
        assert [one["id"] for one in told] == [0, 1, 2, 3]
        assert [one.get("data") for one in told] == [0, None, 2, 3]
        assert (await other.told())["data"] == 9
        assert len(writes) == 2


async def test_what_was_cancelled_inside_of_a_call_is_told_and_ends_nothing_else() -> None:
    over: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def wait_for_another(_: Asker, call: Call) -> bytes:
        return await over if call.method == "cancelled" else bytes(call.data)

    async with line(Gateway(by_query, calls=wait_for_another)) as it:
        mine, other = await it.session(), await it.session("/live?user=8")
        for moment in ("while it is waited for", "before"):
            mine.say(kind="call", id=1, method="cancelled")
            if moment != "before":
                await it.until(lambda: it.gateway._conversation._under_way != {})
                over.cancel()
            told = await mine.told()
            assert (told["id"], told["code"]) == (1, "internal")
            for peer in (mine, other):
                peer.say(kind="call", id=2, method="echo", data="still there")
                assert await peer.told() == {"kind": "answer", "id": 2, "data": "still there"}
        assert it.gateway._conversation._under_way == {}


async def test_whatever_comes_in_one_read_each_call_is_answered_once_and_none_stays_under_way() -> None:
    async def all_kinds(_: Asker, call: Call) -> bytes:
        if call.method == "waits":
            await asyncio.sleep(0)
        elif call.method == "refused":
            raise NotFound("there is none", code="no_method")
        elif call.method == "broken":
            raise RuntimeError
        return bytes(call.data)

    random, count = Random(7), 3
    settings = GatewaySettings(calls_per_connection_max=count, messages_per_s_max=1e9)
    async with line(Gateway(by_query, calls=all_kinds, settings=settings)) as it:
        peer = await it.session()
        (connection,) = it.gateway._roster
        for _ in range(100):
            methods = random.choices(("echo", "waits", "refused", "broken"), (4, 4, 1, 1), k=10)
            calls = [
                {"kind": "call", "id": number, "method": method, "data": number}
                for number, method in enumerate(methods)
            ]
            it.gateway.came(connection, b"".join(frame(Opcode.TEXT, json.dumps(call).encode()) for call in calls))
            told = dict[object, object]()
            for _ in calls:
                one = await peer.told()
                assert one["id"] not in told
                told[one["id"]] = one.get("code", "answer")
            shown = {"echo": "answer", "waits": "answer", "refused": "no_method", "broken": "internal"}
            for number, method in enumerate(methods):
                too_many = methods[:number].count("waits") >= count
                assert told[number] == ("too_many_calls" if too_many else shown[method])
            await it.until(lambda: it.gateway._conversation._under_way == {})


async def test_who_waits_has_a_task_and_all_others_share_one() -> None:
    gate = asyncio.Event()

    async def some_wait(_: Asker, call: Call) -> bytes:
        if call.method == "wait":
            await gate.wait()
        return b"1"

    async with line(Gateway(by_query, calls=some_wait)) as it:
        peer = await it.session()

        async def answered(*numbers: int, method: str = "echo") -> None:
            for number in numbers:
                peer.say(kind="call", id=number, method=method)
            assert sorted([(await peer.told())["id"] for _ in numbers]) == list(numbers)  # type: ignore[type-var]

        await answered(1, 2)
        one = len(asyncio.all_tasks())
        for number in range(3, 10):
            await answered(number, number + 100)
        assert len(asyncio.all_tasks()) == one
        for number in range(5):
            peer.say(kind="call", id=number, method="wait")
        await it.until(lambda: len(asyncio.all_tasks()) == one + 5)
        await answered(10, 11)  # those who wait hold up nobody
        assert len(asyncio.all_tasks()) == one + 5
        gate.set()
        assert sorted([(await peer.told())["id"] for _ in range(5)]) == list(range(5))  # type: ignore[type-var]
        await it.until(lambda: len(asyncio.all_tasks()) == one)


async def test_what_is_heard_is_counted() -> None:
    before = received.value()
    async with line() as it:
        peer = await it.session()
        for number in range(3):
            peer.say(kind="subscribe", id=number, topic="user:7")
            await peer.told()
    assert received.value() - before == 3


async def test_users_get_what_is_published_for_them() -> None:
    async with live() as it, it.client("7") as one, it.client("7") as two, it.client("8") as other:
        await it.gateway.publish("user:7", b'{"order":1}')
        await it.gateway.publish("user:8", b'{"order":2}')
        for socket, order in ((one, 1), (two, 1), (other, 2)):
            told = await socket.receive_json()
            assert (told["kind"], told["data"]) == ("message", {"order": order})
        assert [shown.user for shown in it.gateway.connections(user="7")] == ["7", "7"]


async def test_who_was_away_gets_what_he_missed() -> None:
    async with live() as it:
        async with it.client("7") as socket:
            await socket.send_json({"kind": "subscribe", "id": 1, "topic": "user:7"})
            offset = (await socket.receive_json())["offset"]
        for number in range(3):
            await it.gateway.publish("user:7", str(number).encode())
        async with it.client("7") as socket:
            await socket.send_json({"kind": "subscribe", "id": 1, "topic": "user:7", "offset": offset})
            told = [await socket.receive_json() for _ in range(4)]
            assert told[0]["complete"]
            assert [one["data"] for one in told[1:]] == [0, 1, 2]


async def test_nobody_and_strangers_are_refused() -> None:
    async with live() as it:
        for path, status in (("/live", 401), ("/other?user=7", 404)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await it.session.ws_connect(it.url.replace("/live", path))
            assert caught.value.status == status
        async with it.client("7") as socket:
            await socket.send_json({"kind": "subscribe", "id": 1, "topic": "user:8"})
            assert (await socket.receive_json())["code"] == "topic_forbidden"
            await socket.send_str("{")
            assert (await socket.receive_json())["code"] == "bad_message"
            await socket.send_bytes(b"x")
            closing = await socket.receive()
            assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, 1003)
        while len(it.gateway):
            await asyncio.sleep(0.01)


async def test_a_drain_says_when_to_come_again() -> None:
    async with live() as it, it.client("7") as socket:
        draining = asyncio.create_task(it.gateway.drain(100))
        closing = await socket.receive()
        assert (closing.type, closing.data) == (aiohttp.WSMsgType.CLOSE, 1012)
        assert str(closing.extra).startswith("reconnect in ")
        await draining
        assert len(it.gateway) == 0


class Stalling(Gateway):
    """Its machine is busy for a while whenever somebody was asked to go."""

    def __init__(self) -> None:
        super().__init__(authenticate)
        self.asked: list[int] = []

    def shed(self, count: int, *, code: int = 1013, why: str = "") -> int:
        shed = super().shed(count, code=code, why=why)
        if shed:
            self.asked.append(shed)
            time.sleep(0.5)
        return shed


async def test_a_drain_that_was_held_up_does_not_make_up_for_it_at_once() -> None:
    async with line(Stalling()) as it:
        for _ in range(12):
            await it.session()
        gateway = it.gateway
        assert isinstance(gateway, Stalling)
        await gateway.drain(20.0)
        assert sum(gateway.asked) == 12
        assert max(gateway.asked) == 4  # half a second's would be 10


def test_who_answered_while_the_process_was_stopped_is_still_there() -> None:
    """uvloop runs timers before it reads: the pong lies in the kernel when its deadline comes up."""

    async def scenario() -> None:
        gateway = Gateway(authenticate, settings=GatewaySettings(patience=Patience(pong=1)))
        port = await gateway.start()
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(head())
        while not gateway.connections(user="7") or gateway.connections()[0].state != "open":
            await asyncio.sleep(0.005)
        (connection,) = gateway._roster
        loop, (mine, its) = asyncio.get_running_loop(), socket.socketpair()
        stopped = -1

        def stop() -> None:
            nonlocal stopped
            loop.remove_reader(mine)
            connection.pinged = stopped = gateway.tick_now()
            gateway._look_again(connection)
            client.sendall(frame(Opcode.PONG))
            time.sleep(2.5)

        loop.add_reader(mine, stop)
        its.send(b"x")
        while stopped < 0:
            await asyncio.sleep(0.005)
        while gateway.tick_now() == stopped:
            await asyncio.sleep(0.005)
        assert len(gateway) == 1
        for one in (client, mine, its):
            one.close()
        await gateway.stop()

    uvloop.run(asyncio.wait_for(scenario(), PATIENCE_S))


async def test_a_silent_peer_is_asked_and_then_gone() -> None:
    patience = Patience(ping_every=5, pong=3)
    async with live(GatewaySettings(patience=patience)) as it:
        alive = await it.session.ws_connect(f"{it.url}?user=7", autoping=True)
        silent = await it.session.ws_connect(f"{it.url}?user=8", autoping=False)
        reading = asyncio.create_task(alive.receive())
        for tick in range(1, 40):
            it.gateway.tick(tick)
            await asyncio.sleep(0.01)
        assert [shown.user for shown in it.gateway.connections()] == ["7"]
        reading.cancel()
        await silent.close()
        await alive.close()


def test_what_has_no_epoll_can_import_it_and_is_told() -> None:
    script = """
import select
for name in [one for one in dir(select) if "epoll" in one.lower()]:
    delattr(select, name)
import asyncio
import dougong.evidence
from dougong.gateway import Gateway
async def main():
    try:
        await Gateway(None).start()
    except dougong.errors.Invalid as error:
        print(error.code)
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.stdout, ended.returncode) == ("no_epoll\n", 0), ended.stderr
