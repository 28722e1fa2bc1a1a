"""The shell around the stream pool: what it lets go of, and whose turn it is, at the worst moments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import Random
from typing import cast

import pytest
from tests.rpc.conftest import until
from tests.rpc.example import Answer, Ask, Example

from dougong.contract import batch_codec, describe
from dougong.errors import Error, Overloaded, Unauthenticated, Unavailable
from dougong.mesh import Cluster, ConnectionLimits, Limits, OutlierPolicy, Policy
from dougong.rpc import PoolSettings, Transport
from dougong.rpc._batches import Batches
from dougong.rpc._connections import Connections
from dougong.rpc._transport import Lost, Metadata, connect_failed
from dougong.rpc.credentials import Credentials
from dougong.rpc.pool import FixedAddresses, Pool
from dougong.rpc.ways import Way

LOOK = next(method for method in describe(Example).methods if method.attribute == "look")


class Wire:
    """A connection whose calls wait for `gate`, and whose streams the server answers with `refusal`, or never takes."""

    def __init__(self, refusal: Error | Lost | None = None) -> None:
        self.gate = asyncio.Event()
        self.refusal = refusal
        self.calls = 0
        self.opened = 0
        self.cancelled = 0
        self.last_breath_s = 0.0

    async def unary(self, path: str, request: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        self.calls += 1
        await self.gate.wait()
        time.sleep(self.last_breath_s)
        return request

    async def stream(self, path: str, metadata: Metadata, timeout_s: float | None) -> Wire:
        self.opened += 1
        return self

    async def accepted(self, timeout_s: float) -> None:
        if self.refusal is not None:
            raise self.refusal
        await asyncio.sleep(1000)

    async def send(self, message: bytes) -> None:
        """Never reached."""

    async def finish(self) -> None:
        """Never reached."""

    async def receive(self) -> bytes | None:
        return None

    def cancel(self) -> None:
        self.cancelled += 1

    async def close(self) -> None:
        """Nothing is open."""


def connections(wire: Wire, **settings: float) -> Connections:
    chosen = PoolSettings(**settings)  # type: ignore[arg-type]
    return Connections("here:1", lambda _: wire, chosen, Random(1))


@pytest.mark.parametrize("refusal", [None, Unauthenticated("no", code="token_missing")])
async def test_a_stream_that_was_not_taken_is_let_go(refusal: Error | None) -> None:
    wire = Wire(refusal)
    made = connections(wire)
    end = asyncio.get_running_loop().time() + 1000
    opening = asyncio.create_task(made.lease(LOOK.batch_path, Metadata(), batch_codec(LOOK), end))
    await until(lambda: wire.opened)
    if refusal is None:
        opening.cancel()
    (outcome,) = await asyncio.gather(opening, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError if refusal is None else Unauthenticated)
    assert wire.cancelled == 1, "the server would keep it until the connection ends"
    assert made.stats.streams == 0
    await made.close()


async def test_all_that_wait_for_a_connection_that_fails_are_counted() -> None:
    class Nobody(Wire):
        on_leaving = None

        async def check(self, timeout_s: float) -> None:
            await self.gate.wait()
            raise connect_failed("here:1", "refused")

    limits, wire = Limits(ConnectionLimits(max_pending=3)), Nobody()
    made = Connections("here:1", lambda _: wire, PoolSettings(), Random(1), limits)
    end = asyncio.get_running_loop().time() + 1000
    calls = [asyncio.create_task(made.unary("/a", b"a", Metadata(), end)) for _ in range(4)]
    await until(lambda: limits.pending == 3)
    wire.gate.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Lost, Lost, Lost, Overloaded]
    counters = limits.counters
    assert (counters.upstream_cx_total, counters.upstream_cx_connect_fail) == (1, 1)
    assert (counters.upstream_rq_pending_failure_eject, counters.upstream_rq_pending_overflow) == (3, 1)
    assert (limits.pending, limits.connections, limits.requests) == (0, 0, 0)
    await made.close()


@pytest.mark.parametrize("held_up_s", [(0.1, 0.0), (0.0, 0.1)], ids=["before", "after"])
async def test_a_turn_that_comes_too_late_is_passed_on(held_up_s: tuple[float, float]) -> None:
    """The loop is held up, so that room and the end of the hasty one's time come together."""
    wire = Wire()
    made = connections(wire, connections=1, streams_per_connection=1, wait_s=1000.0)
    loop = asyncio.get_running_loop()

    async def call(timeout_s: float) -> bytes:
        return await made.unary("/a", b"a", Metadata(), loop.time() + timeout_s)

    holder = asyncio.create_task(call(1000))
    await until(lambda: wire.calls == 1)
    hasty, patient = asyncio.create_task(call(0.05)), asyncio.create_task(call(1000))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    before_s, wire.last_breath_s = held_up_s
    wire.gate.set()
    time.sleep(before_s)
    async with asyncio.timeout(60):
        with pytest.raises(Overloaded):
            await hasty
        assert (await holder, await patient) == (b"a", b"a")
    await made.close()


async def test_what_was_answered_stays_answered_when_the_next_stream_is_refused() -> None:
    refused = Unauthenticated("the token has run out", code="token_expired")
    broken = Lost(Unavailable("broke", code="connection_lost"), started=True)
    cluster = Cluster("example", Policy(), 0.0, random=Random(1))
    wire = Wire(refused)
    transport = cast("Transport", type("Wires", (), {"connect": lambda self, address: wire})())
    pool = Pool("test.v1.Example", FixedAddresses("test.v1.Example", ["here:1"]), transport, cluster)
    way = Way(pool, None, Random(1))

    class Halfway(Batches):
        """The first attempt brings one of two answers, then breaks."""

        tried = 0

        async def _attempt(self, requests: Sequence[Ask], *rest: object) -> object:  # type: ignore[override]
            self.tried += 1
            if self.tried == 1:
                return [Answer(text="first"), None], broken
            return await super()._attempt(requests, *rest)  # type: ignore[arg-type]

    batches = Halfway(LOOK, way, Credentials(""), frames_per_stream=1, max_pending=10, max_message_bytes=1000)
    first, second = await batches.many([Ask(), Ask()])
    assert isinstance(first, Answer), "it was here already"
    assert isinstance(second, Error)
    assert second.code == "connection_lost", "and of the other it is not known whether it was begun"
    await batches.close()
    await pool.close()


async def test_failures_to_connect_count_in_a_row_only() -> None:
    outlier = OutlierPolicy(split_local_origin=True, consecutive_local_origin=3, max_ejection_percent=100)
    cluster = Cluster("example", Policy(outlier=outlier), 0.0, random=Random(1))
    transport = cast("Transport", type("Wires", (), {"connect": lambda self, address: Wire()})())
    pool = Pool("test.v1.Example", FixedAddresses("test.v1.Example", ["here:1"]), transport, cluster)
    now = asyncio.get_running_loop().time()
    nobody = Lost(Unavailable("nobody listens", code="connect_failed"), started=False)
    peer = await pool.pick(now + 1)
    for _ in range(2):
        pool.failed(peer, nobody, now, now)
    pool.answered(peer, now)
    for _ in range(2):
        pool.failed(peer, nobody, now, now)
    assert not cluster.outlier_counters.ejections_total, "two, an answer, two: never three in a row"
    pool.failed(peer, nobody, now, now)
    assert [host.ejected for host in cluster.hosts] == [True]
    pool.release(peer)
    await pool.close()
