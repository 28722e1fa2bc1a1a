"""Connections for reading: shared in order, within bounds, checked, replaced, missed; thrown away after a surprise."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.store.test_server_group import ScriptedLink, Server

from dougong.clock import ManualClock
from dougong.errors import Internal, Invalid, Overloaded, Unavailable
from dougong.store import Lease, Pool, Row, open_pool
from dougong.store import _meters as meters
from dougong.store._dial import POLICY, Dialer
from dougong.store._link import Link


@pytest.fixture
def server() -> Server:
    made = Server()
    made.options = msgspec.structs.replace(made.options, readers=2, acquire_timeout_s=0.05, leak_after_s=10.0)
    return made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def pool(server: Server, clock: ManualClock) -> AsyncIterator[Pool]:
    made = pool_on(server, clock)
    yield made
    made.close()


def pool_on(server: Server, clock: ManualClock) -> Pool:
    dialer = Dialer(server, name="r", now=clock.monotonic)
    return Pool(dialer, name="r", waiting_max=3, now=clock.monotonic, random=lambda: 0.5)


async def look(link: Link) -> list[Row]:
    return await link.fetch("SELECT 1", ())


def open_links(server: Server) -> int:
    return sum(link.usable for link in server.links)


async def test_connections_are_made_when_needed_and_kept(server: Server, pool: Pool) -> None:
    assert server.links == []
    for _ in range(3):
        await pool.use(look)
    assert len(server.links) == 1
    await asyncio.gather(*(pool.use(look) for _ in range(4)))
    assert len(server.links) == 2
    assert (pool.in_use, pool.idle, pool.waiting) == (0, 2, 0)


async def test_who_waits_too_long_or_behind_too_many_is_told(server: Server, pool: Pool) -> None:
    open_ = asyncio.Event()

    async def wait(link: Link) -> None:
        link.last_sql = "SELECT everything"
        await open_.wait()

    async def read() -> None:
        await pool.use(wait)

    async def handler() -> None:
        await read()

    busy = [asyncio.create_task(handler(), name="greedy") for _ in range(2)]
    while pool.in_use < 2:
        await asyncio.sleep(0)
    waiting = [asyncio.create_task(pool.use(look)) for _ in range(4)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(outcome, "code", None) for outcome in outcomes] == ["no_connection_free"] * 3 + ["store_queue_full"]
    assert isinstance(outcomes[3], Overloaded)
    for hint in ("within 0.05 s", "'greedy'", "SELECT everything", "handler: await read()", "raise readers"):
        assert hint in str(outcomes[0])
    open_.set()
    await asyncio.gather(*busy)
    assert await pool.use(look) == []


async def test_a_place_given_to_somebody_who_went_away_is_given_on(pool: Pool) -> None:
    first, second = await pool.acquire(), await pool.acquire()
    gone, next_ = (asyncio.create_task(pool.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    assert pool.waiting == 2
    first.release()  # wakes `gone`, which is cancelled before it runs
    gone.cancel()
    lease = await next_
    assert gone.cancelled()
    assert (pool.in_use, pool.waiting) == (2, 0)
    lease.release()
    second.release()
    assert (pool.in_use, pool.idle) == (0, 2)


async def test_a_cancellation_that_a_driver_keeps_to_itself_is_not_lost(
    server: Server, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(*, reads_only: bool = False) -> Link:
        try:
            await there
        except asyncio.CancelledError:
            pass  # what `asyncio.wait_for` does before Python 3.12 when both happen at once
        server.links.append(ScriptedLink(server))
        return server.links[-1]

    monkeypatch.setattr(server, "connect", connect)
    reading = asyncio.create_task(pool.use(look))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading], timeout=30)
    assert reading.cancelled()
    assert (open_links(server), pool.in_use, pool.idle) == (0, 0, 0)
    monkeypatch.undo()
    assert await pool.use(look) == []


# A connection is not handed on after a surprise


class Wire(ScriptedLink):
    """A driver that forgives everything: answers lie on the wire until somebody reads, whoever asked."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.answers: list[str] = []

    async def fetch(self, sql: str, parameters: object) -> list[Row]:
        self.answers.append(sql)
        await asyncio.sleep(0)
        return [(self.answers.pop(0),)]


@pytest.fixture
def wired(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*, reads_only: bool = False) -> Link:
        server.links.append(Wire(server))
        return server.links[-1]

    monkeypatch.setattr(server, "connect", connect)


async def cancelled_in_mid_statement(lease: Lease) -> None:
    task = asyncio.create_task(lease.fetch_all("SELECT 'a secret of mine'"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lease.release()  # somebody caught it and went on as if nothing had happened


@pytest.mark.usefixtures("wired")
async def test_nobody_gets_the_answer_to_another_s_question(server: Server, pool: Pool) -> None:
    await cancelled_in_mid_statement(await pool.acquire())
    assert [link.usable for link in server.links] == [False]
    async with await pool.acquire() as lease:
        assert await lease.fetch_one("SELECT 'mine'") == ("SELECT 'mine'",)


@pytest.mark.usefixtures("wired")
async def test_a_connection_that_is_kept_gives_another_s_answer(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation of the above."""
    monkeypatch.setattr(Wire, "abort", lambda self: None)
    await cancelled_in_mid_statement(await pool.acquire())
    async with await pool.acquire() as lease:
        assert await lease.fetch_one("SELECT 'mine'") == ("SELECT 'a secret of mine'",)


async def test_cancelled_or_broken_ones_are_not_handed_on(server: Server, pool: Pool) -> None:
    async def hang(link: Link) -> None:
        await asyncio.sleep(60)

    task = asyncio.create_task(pool.use(hang))
    while not server.links:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [link.usable for link in server.links] == [False]

    async def fail(link: Link) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await pool.use(fail)
    await pool.use(look)
    assert len(server.links) == 2, "a unit that failed leaves a good connection"


async def test_a_lease_that_is_over_is_over(pool: Pool) -> None:
    lease = await pool.acquire()
    lease.release()
    lease.release()
    assert pool.idle == 1, "given back once"
    with pytest.raises(Internal) as over:
        await lease.fetch_all("SELECT 1")
    assert over.value.code == "lease_over"


# Health


async def test_a_connection_is_checked_unless_it_was_used_just_now(
    server: Server, pool: Pool, clock: ManualClock
) -> None:
    await pool.use(look)
    clock.advance(0.5)
    await pool.use(look)
    assert server.calls == ["connect"], "used half a second ago"
    clock.advance(0.6)
    await pool.use(look)
    assert server.calls == ["connect", "SELECT 1"]


async def test_one_that_does_not_answer_is_replaced_unnoticed(server: Server, pool: Pool, clock: ManualClock) -> None:
    await pool.use(look)
    clock.advance(1)
    server.happens("SELECT 1", "lost")
    tries = 0

    async def count(link: Link) -> None:
        nonlocal tries
        tries += 1

    await pool.use(count)
    assert tries == 1
    assert [link.usable for link in server.links] == [False, True]


async def test_unchecked_a_dead_one_is_handed_out(
    server: Server, pool: Pool, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ablation of the check."""

    async def trust(self: Pool, slot: object) -> bool:
        return True

    monkeypatch.setattr(Pool, "_is_alive", trust)
    await pool.use(look)
    clock.advance(1)
    server.happens("SELECT 1", "lost")
    lease = await pool.acquire()
    with pytest.raises(Exception, match="lost"):
        await lease.link.control("SELECT 1")
    lease.release()


async def test_cancelled_while_it_was_checked(
    server: Server, pool: Pool, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.use(look)
    clock.advance(1)

    async def hang(sql: str) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(server.links[0], "control", hang)
    task = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pool.in_use, open_links(server)) == (0, 0)


async def test_a_connection_that_died_just_now_is_replaced_once(server: Server, pool: Pool) -> None:
    await pool.use(look)
    tries = 0

    async def gone(link: Link) -> None:
        nonlocal tries
        tries += 1
        link.abort()
        raise Unavailable("gone", code="connection_lost")

    with pytest.raises(Unavailable):
        await pool.use(gone)
    assert tries == 2, "once on the old connection, once on a new one"
    assert await pool.use(look) == []


async def test_old_connections_are_replaced(server: Server, pool: Pool, clock: ManualClock) -> None:
    lease = await pool.acquire()
    clock.advance(server.options.life_s)
    lease.release()
    await pool.use(look)
    assert open_links(server) == 1, "too old since it was lent"
    clock.advance(server.options.life_s)
    await pool.use(look)
    assert server.calls == ["connect"] * 3, "too old when it was wanted: not even asked whether it lives"
    clock.advance(server.options.life_s)
    pool.sweep()
    assert open_links(server) == 0, "too old, and nobody wants it"


async def test_one_that_was_kept_for_long_is_checked(server: Server, pool: Pool, clock: ManualClock) -> None:
    lease = await pool.acquire()
    clock.advance(1)
    lease.release()
    await pool.use(look)
    assert server.calls == ["connect", "SELECT 1"], "what counts is when it was lent"


async def test_connections_that_nobody_needs_are_closed(server: Server, pool: Pool, clock: ManualClock) -> None:
    await asyncio.gather(pool.use(look), pool.use(look))
    for _ in range(3):
        clock.advance(server.options.idle_s / 2)
        await pool.use(look)  # always the same one, the other sinks
        pool.sweep()
    assert (pool.idle, open_links(server)) == (1, 1)
    clock.advance(server.options.idle_s)
    pool.sweep()
    assert (pool.idle, open_links(server)) == (0, 0)


async def test_closed_while_in_use(server: Server, pool: Pool) -> None:
    async def close(link: Link) -> None:
        pool.close()

    await pool.use(close)
    assert [link.usable for link in server.links] == [False]
    with pytest.raises(Unavailable) as closed:
        await pool.use(look)
    assert closed.value.code == "closed"


async def test_a_database_that_does_not_answer_is_left_alone_for_a_while(
    server: Server, pool: Pool, clock: ManualClock
) -> None:
    server.happens("connect", *["lost"] * 100)

    async def code() -> str:
        with pytest.raises(Unavailable) as fault:
            await pool.use(look)
        assert fault.value.retry_after_s is not None
        return fault.value.code

    assert [await code() for _ in range(POLICY.failures + 3)] == ["connect_failed"] * POLICY.failures + [
        "breaker_open"
    ] * 3
    assert server.calls.count("connect") == POLICY.failures
    clock.advance(POLICY.open_s)
    assert [await code() for _ in range(3)] == ["connect_failed", "breaker_open", "breaker_open"], "one finds out"
    server.script.clear()
    clock.advance(POLICY.open_s_max)
    assert await pool.use(look) == []


async def test_a_server_that_says_no_opens_no_breaker(server: Server, pool: Pool) -> None:
    server.happens("connect", *["full"] * 20)
    for _ in range(20):
        with pytest.raises(Unavailable, match="full"):
            await pool.use(look)


async def test_only_servers_have_a_pool() -> None:
    with pytest.raises(Invalid, match="SQLite is read on the spot"):
        open_pool("sqlite:///here.db")
    with pytest.raises(Invalid, match="no engine"):
        open_pool("oracle://here/there")


# Leaks


async def forgets(pool: Pool, kept: list[Lease]) -> None:
    lease = await pool.acquire()
    await lease.fetch_one("SELECT 'forgotten'")
    kept.append(lease)


async def hangs(pool: Pool, until: asyncio.Event) -> None:
    lease = await pool.acquire()
    try:
        await until.wait()
    finally:
        lease.release()


async def drops(pool: Pool) -> None:
    lease = await pool.acquire()
    if await lease.fetch_one("SELECT 1") is None:
        raise LookupError  # and nobody releases
    lease.release()


async def test_who_hangs_is_named_and_cleared_when_it_comes_back(pool: Pool, clock: ManualClock) -> None:
    until = asyncio.Event()
    task = asyncio.create_task(hangs(pool, until), name="order 7")
    while not pool.in_use:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.advance(9.9)
    pool.sweep()
    assert list(pool.leaks) == []
    clock.advance(0.1)
    with capture_logs() as lines:
        pool.sweep()
        pool.sweep()
        until.set()
        await task
    (leak,) = pool.leaks
    assert (leak.kind, leak.task, leak.database, leak.held_s) == ("held", "order 7", "r", 10.0)
    assert "hangs: lease = await pool.acquire()" in leak.stack[0]
    assert any("hangs: await until.wait()" in place for place in leak.now_at)
    assert [line["event"] for line in lines] == [
        "a connection was not given back in time",
        "a connection came back after all",
    ], "once, and once that it came back"
    assert pool.idle == 1, "it was never taken away"


async def test_who_forgets_it_is_named_at_the_next_sweep(pool: Pool) -> None:
    kept: list[Lease] = []
    await asyncio.create_task(forgets(pool, kept), name="forgetful")
    pool.sweep()
    (leak,) = pool.leaks
    assert (leak.kind, leak.task, leak.sql, leak.now_at) == ("ended", "forgetful", "SELECT 'forgotten'", ())
    assert "forgets" in leak.stack[0]
    assert pool.in_use == 1, "it may be used yet"
    kept.clear()
    gc.collect()
    pool.sweep()
    assert [leak.kind for leak in pool.leaks] == ["ended", "dropped"]
    assert pool.in_use == 0, "nobody can use it any more"


async def test_who_drops_it_in_an_exception_is_named_and_the_place_is_free_again(
    server: Server, pool: Pool, clock: ManualClock
) -> None:
    for _ in range(5):
        with pytest.raises(LookupError):
            await asyncio.create_task(drops(pool), name="careless")
        gc.collect()
        clock.advance(0.1)
    assert {(leak.kind, leak.task) for leak in pool.leaks} == {("dropped", "careless")}
    assert open_links(server) <= 2
    assert await pool.use(look) == []


async def test_while_a_leak_is_looked_for_stacks_are_deep(pool: Pool, clock: ManualClock) -> None:
    async def deep(levels: int) -> Lease:
        return await deep(levels - 1) if levels else await pool.acquire()

    await asyncio.gather(pool.use(look), pool.use(look))
    shallow = await deep(10)
    clock.advance(10)
    pool.sweep()
    assert len(pool.leaks[0].stack) == 1
    other = await deep(10)
    clock.advance(10)
    pool.sweep()
    assert len(pool.leaks[1].stack) > 10
    shallow.release()
    other.release()


async def test_the_timer_sweeps_while_there_are_connections(server: Server, clock: ManualClock) -> None:
    server.options = msgspec.structs.replace(server.options, leak_after_s=0.002)
    pool = pool_on(server, clock)
    kept: list[Lease] = []
    await asyncio.create_task(forgets(pool, kept))
    async with asyncio.timeout(60):
        while not pool.leaks:
            await asyncio.sleep(0.001)
        kept[0].release()
        clock.advance(server.options.life_s)
        while pool.idle:
            await asyncio.sleep(0.001)
        while pool._timer is not None:
            await asyncio.sleep(0.001)
    pool.close()


async def test_metrics_follow(server: Server, pool: Pool) -> None:
    acquired, discarded = meters.acquire_seconds.count("r"), meters.connections_discarded.value("r", "closed")
    first, second = await pool.acquire(), await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    pool.sweep()
    assert [meters.connections_in_use.value("r"), meters.connections_waited_for.value("r")] == [2, 1]
    first.release()
    (await waiting).release()
    second.release()
    pool.sweep()
    assert [meters.connections_in_use.value("r"), meters.connections_idle.value("r")] == [0, 2]
    assert meters.acquire_seconds.count("r") == acquired + 3, "two were opened, one was waited for"
    pool.close()
    assert meters.connections_discarded.value("r", "closed") == discarded + 2
    assert meters.connections_idle.value("r") == 0
