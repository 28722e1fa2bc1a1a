"""The doorway: what was decided before an await holds after it, and nobody who left stays behind."""

from __future__ import annotations

import asyncio
import math

import pytest
from tests.gateway.wire import head, line

from dougong.errors import Internal
from dougong.gateway.connection import Patience
from dougong.gateway.doorway import Grant
from dougong.gateway.gateway import Gateway
from dougong.gateway.handshake import Upgrade
from dougong.gateway.settings import GatewaySettings


class Waiting:
    """Says who somebody is when it is told to."""

    def __init__(self, **granted: object) -> None:
        self.go = asyncio.Event()
        self.asked = 0
        self.granted = granted

    async def __call__(self, upgrade: Upgrade) -> Grant:
        self.asked += 1
        await self.go.wait()
        return Grant(user="7", topics=("user:7", "news"), **self.granted)  # type: ignore[arg-type]


async def test_the_limit_of_a_user_holds_for_those_who_come_at_once() -> None:
    waiting = Waiting()
    settings = GatewaySettings(connections_per_user_max=3)
    async with line(Gateway(waiting, settings=settings)) as it:
        peers = [await it.dial() for _ in range(10)]
        for peer in peers:
            peer.send(head())
        await it.until(lambda: waiting.asked == 10)
        waiting.go.set()
        assert sorted([await peer.answered() for peer in peers]) == [101] * 3 + [429] * 7


async def test_who_leaves_while_it_is_asked_who_he_is_leaves_nothing() -> None:
    waiting = Waiting()
    async with line(Gateway(waiting, settings=GatewaySettings(handshakes_max=3))) as it:
        for _ in range(4):  # more than may be in the doorway at once: each has to give back his place
            peer = await it.dial()
            peer.send(head())
            asked = waiting.asked
            await it.until(lambda asked=asked: waiting.asked > asked)  # type: ignore[misc]
            peer.hang_up()
            await it.empty()
        waiting.go.set()
        await asyncio.sleep(0.01)
        assert it.gateway.present("user:7") == it.gateway.present("news") == 0
        assert it.gateway.connections(user="7") == []
        assert await (await it.dial()).shake(head()) == 101
        assert it.gateway.present("news") == 1


async def test_who_is_impatient_is_refused_and_the_answer_comes_too_late() -> None:
    waiting = Waiting()
    async with line(Gateway(waiting)) as it:
        peer = await it.dial()
        peer.send(head())
        await it.until(lambda: waiting.asked == 1)
        peer.send(b"\x81\x80")
        assert await peer.answered() == 400
        waiting.go.set()
        peer.hang_up()
        await it.empty()
        assert it.gateway.present("news") == 0


async def test_an_authenticate_that_hangs_holds_up_neither_the_doorway_nor_a_stop() -> None:
    waiting = Waiting()
    async with line(Gateway(waiting, settings=GatewaySettings(patience=Patience(handshake=1)))) as it:
        peer = await it.dial()
        peer.send(head())
        await it.until(lambda: waiting.asked == 1)
        assert await peer.answered() in {408, 503}
        await (await it.dial()).shake(head("/live"))
        # and `line` stops the gateway with `go` never set


@pytest.mark.parametrize("error", [RuntimeError("password=secret"), Internal("password=secret")])
async def test_faults_of_ours_are_not_told_to_strangers(error: Exception) -> None:
    async def broken(upgrade: Upgrade) -> Grant:
        raise error

    async with line(Gateway(broken)) as it:
        peer = await it.dial()
        assert await peer.shake(head()) == 503
        assert "secret" not in peer.answer


@pytest.mark.parametrize(
    ("expires_in_s", "status"), [(math.inf, 101), (5.0, 101), (0.0, 401), (-1.0, 401), (math.nan, 401)]
)
async def test_what_an_expiry_may_be(expires_in_s: float, status: int) -> None:
    waiting = Waiting(expires_in_s=expires_in_s)
    waiting.go.set()
    async with line(Gateway(waiting)) as it:
        peer = await it.dial()
        assert await peer.shake(head()) == status
        if status == 101:
            it.gateway.tick(4)
            assert len(it.gateway) == 1
            it.gateway.tick(6)
            assert (len(it.gateway), await peer.closed() if expires_in_s == 5.0 else 4001) == (1, 4001)


async def test_only_an_offered_protocol_is_spoken() -> None:
    waiting = Waiting(protocol="chat")
    waiting.go.set()
    async with line(Gateway(waiting)) as it:
        for offered, spoken in (("chat, other", True), ("other", False)):
            peer = await it.session(Sec_WebSocket_Protocol=offered)
            assert ("Sec-WebSocket-Protocol: chat\r\n" in peer.answer) is spoken


async def test_in_a_drain_those_in_the_doorway_are_told_when_to_come_again() -> None:
    waiting = Waiting()
    waiting.go.set()
    async with line(Gateway(waiting)) as it:
        inside, outside = await it.session(), await it.dial()
        await it.until(lambda: len(it.gateway) == 2)
        draining = asyncio.create_task(it.gateway.drain(1000.0))
        assert await inside.closed() == 1012
        inside.hang_up()
        assert await outside.shake(head()) == 503
        assert "Retry-After: " in outside.answer
        outside.hang_up()
        await draining


async def test_a_start_that_fails_leaves_nothing_and_a_stop_may_come_twice() -> None:
    one, two = Gateway(Waiting()), Gateway(Waiting())
    port = await one.start()
    with pytest.raises(Exception, match="cannot listen"):
        await two.start(port=port)
    await two.stop()
    await one.stop()
    await one.stop()
    await Gateway(Waiting()).stop()
