"""What goes wrong around workers and schedulers that live on: the database ends, the disk is full, the clock is moved,
poison comes by the thousand, operators change limits. Nothing is lost, nothing happens twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from tests.engines import make_server
from tests.jobs.worker.working import until, working

from dougong.clock import Clock, SystemClock
from dougong.errors import Unavailable
from dougong.jobs import (
    Backoff,
    Effects,
    Every,
    FireDecision,
    Misfire,
    Overlap,
    QueueSettings,
    Schedule,
    Scheduler,
    SchedulerSettings,
    Schedules,
    SqlQueue,
    SqlQueueSettings,
    State,
    WorkerSettings,
    current_job,
    job,
)
from dougong.store import Migration, Store, Tx, open_store

SETTINGS = WorkerSettings(ttl_s=2.0, look_s=0.1, reap_every_s=0.2, drain_s=30.0)
MADE = Migration(1, "made", "CREATE TABLE made (n BIGINT NOT NULL)")


class Place:
    """A database with a queue, what jobs made there, and a job that makes it."""

    def __init__(self, url: str, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.queue = SqlQueue(store, clock, SqlQueueSettings(stalls_max=1000), reopen=lambda: open_store(url))
        self.acknowledged: list[int] = []

        @job(retries=1000, backoff=Backoff(first_s=0.05, max_s=0.5))
        async def make(n: int) -> str:
            run = current_job()

            async def unit(tx: Tx) -> None:
                if await run.first(tx):
                    await tx.execute("INSERT INTO made (n) VALUES (?)", (n or -run.id,))

            await store.write(unit)
            return "x" * 1000

        self.make = make

    async def flood(self) -> None:
        """Enqueue until cancelled; what was acknowledged is noted."""
        n = 0
        while True:
            n += 1
            try:
                await self.queue.put([self.make.call(n)])
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                self.acknowledged.append(n)
            await asyncio.sleep(0.005)

    async def made(self) -> list[int]:
        return [cast(int, n) for (n,) in await self.store.fetch_all("SELECT n FROM made ORDER BY n")]

    async def all_done(self) -> None:
        """Once nothing is left: each effect is there once, and that of every acknowledged job."""
        async with asyncio.timeout(60):
            while any(one.waiting or one.blocked or one.running for one in await self.queue.counts()):
                await asyncio.sleep(0.02)
        made = await self.made()
        assert len(made) == len(set(made))
        assert set(self.acknowledged) <= set(made)
        assert {row[0] for row in await self.store.fetch_all("SELECT state FROM dougong_jobs")} <= {4}


@contextlib.asynccontextmanager
async def place(url: str, clock: Clock | None = None) -> AsyncGenerator[Place]:
    store = await open_store(url)
    here = Place(url, store, clock if clock is not None else SystemClock())
    await here.queue.start()
    await Effects(store, here.clock).start()
    await store.migrate("tests", [MADE])
    try:
        yield here
    finally:
        await here.queue.close()
        await store.close()


@contextlib.asynccontextmanager
async def beside(*loops: Any) -> AsyncGenerator[None]:
    """Run these for the length of the block. None may end by itself."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
        assert not any(task.done() for task in tasks), tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def more(here: Place, count: int = 20) -> None:
    """Until so many more were made."""
    seen: list[int] = []
    async with asyncio.timeout(60):
        while not seen or seen[-1] < seen[0] + count:
            with contextlib.suppress(Unavailable):
                seen.append(len(await here.made()))
            await asyncio.sleep(0.02)


async def fires_once(here: Place, begin_us: int) -> None:
    """Every second since it was declared has its fire, and every fire its job."""
    name = "secondly"
    occurrences = await Schedules(here.queue, here.store, clock=here.clock).occurrences(name, limit=10_000)
    seconds = sorted(one.fire_us // 1_000_000 for one in occurrences)
    assert len(seconds) == len(set(seconds))
    since = [second for second in seconds if second * 1_000_000 > begin_us]
    assert since == list(range(begin_us // 1_000_000 + 1, seconds[-1] + 1))
    assert all(one.decision is FireDecision.FIRED and len(one.jobs) == 1 for one in occurrences)
    rows = await here.store.fetch_all("SELECT id FROM dougong_jobs WHERE schedule = ? ORDER BY id", (name,))
    assert [row[0] for row in rows] == sorted(one.jobs[0] for one in occurrences)


async def scheduler_of(here: Place) -> tuple[int, Scheduler]:
    """With a schedule of every second, and since when there is that."""
    schedule = Schedule("secondly", Every(1), here.make.call(0), Misfire.ALL, overlap=Overlap.PARALLEL)
    settings = SchedulerSettings(interval_s=0.2, lease_ttl_s=1.0)
    scheduler = Scheduler(here.queue, here.store, [schedule], clock=here.clock, settings=settings)
    await scheduler.start()
    row = await here.store.fetch_one("SELECT next_fire_us FROM dougong_job_schedules")
    assert row is not None
    return cast(int, row[0]) - 1_000_000, scheduler


@pytest.mark.processes
@pytest.mark.parametrize(
    "dialect",
    [
        pytest.param("mysql", marks=pytest.mark.xdist_group("kill-mysql")),
        pytest.param("postgresql", marks=pytest.mark.xdist_group("kill-postgresql")),
    ],
)
async def test_the_database_is_killed_and_comes_back(dialect: str) -> None:
    """Twice: at once, and when the worker's term and the scheduler's lease are over."""
    server = make_server(dialect)
    try:
        with server.database() as url, structlog.testing.capture_logs() as logs:
            async with place(url) as here, working(here.queue, [here.make], SETTINGS) as worker:
                begin_us, scheduler = await scheduler_of(here)
                async with beside(scheduler.run(), here.flood()):
                    await more(here)
                    server.kill()
                    await until(lambda: told(logs, "job_turn_failed"))
                    server.start()
                    await more(here)
                    term = worker.term
                    server.kill()
                    await until(lambda: told(logs, "job_term_lost"))
                    server.start()
                    await more(here)
                await here.all_done()
                assert worker.term > term
                await fires_once(here, begin_us)
    finally:
        server.remove()


async def test_the_disk_is_full_and_has_room_again(tmp_path: Path) -> None:
    """No page more: jobs run, and their ends cannot be written. They are when they can be, and no job runs again."""
    calls: list[int] = []

    @job
    async def long_result(n: int) -> str:
        calls.append(n)
        return "x" * 3000

    async with place(f"sqlite:///{tmp_path}/a.db") as here:
        put = await here.queue.put([long_result.call(n) for n in range(200)])
        connection = cast(Any, here.store)._writer._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")
        with structlog.testing.capture_logs() as logs:
            async with working(here.queue, [long_result], SETTINGS):
                await until(lambda: any("free space" in str(line.get("error")) for line in logs))
                connection.execute("PRAGMA max_page_count = 1000000")
                await here.all_done()
        rows = await here.queue.find([one.id for one in put])
    assert sorted(calls) == list(range(200))
    assert {(row.state, row.attempts, len(row.result or b"")) for row in rows if row} == {(State.DONE, 1, 3002)}


class Jumping(SystemClock):
    """A wall clock that an operator sets."""

    ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us


async def test_the_clock_is_moved_forward_and_back(tmp_path: Path) -> None:
    """By a minute, more than any term or lease, so that all of them are over at once, or seem to last for long."""
    clock = Jumping()
    async with place(f"sqlite:///{tmp_path}/a.db", clock) as here:
        begin_us, scheduler = await scheduler_of(here)
        async with working(here.queue, [here.make], SETTINGS, clock=clock) as worker:
            async with beside(scheduler.run(), here.flood()):
                for ahead_us in (0, 60_000_000, 0, -60_000_000):
                    clock.ahead_us = ahead_us
                    await more(here)
            # A fire that was decided about in the moment of the jump has a job that is due by the clock as it was.
            clock.ahead_us = 120_000_000
            await here.all_done()
            assert worker.term > 1, "it noticed"
        await fires_once(here, begin_us)


async def test_poison_by_the_thousand_slows_nobody(tmp_path: Path) -> None:
    """All of it was there first, and fails again and again: each time it goes behind those that wait already."""
    poisons, goods = 1000, 500
    starts: list[str] = []

    @job(retries=1, backoff=Backoff(first_s=0.001, max_s=0.001))
    async def poison() -> None:
        starts.append(f"poison {current_job().attempt}")
        raise ValueError("poison")

    @job
    async def good() -> None:
        starts.append("good")

    async with place(f"sqlite:///{tmp_path}/a.db") as here:
        await here.queue.put([poison.call()] * poisons)
        await here.queue.put([good.call()] * goods)
        with structlog.testing.capture_logs():  # of each failure
            async with working(here.queue, [poison, good], SETTINGS):
                async with asyncio.timeout(60):
                    while (counts := await here.queue.counts())[0].waiting or counts[0].running:
                        await asyncio.sleep(0.02)
    assert (counts[0].done, counts[0].dead) == (goods, poisons)
    # As many as run at once have their place, and may still be waiting for the loop.
    assert starts[: poisons + goods].count("good") >= goods - SETTINGS.concurrency
    assert len(starts) == 2 * poisons + goods


async def test_a_limit_follows_the_operator_under_load(tmp_path: Path) -> None:
    """Up and down while jobs come and go: it holds as soon as it is heard of, and no job is interrupted."""
    running, most, started, interrupted = 0, 0, 0, 0

    @job
    async def short() -> None:
        nonlocal running, most, started, interrupted
        started += 1
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            interrupted += 1
            raise
        finally:
            running -= 1

    async def flood() -> None:
        while True:
            if not (counts := await here.queue.counts()) or counts[0].waiting < 500:
                await here.queue.put([short.call()] * 500)
            await asyncio.sleep(0.01)

    async def resize(limit: int) -> int:
        """How many run at once at most, from when the limit is heard of and those too many are done."""
        nonlocal most, started
        await here.queue.configure("default", QueueSettings(concurrency=limit))
        await until(lambda: worker._intake.limit("default") == limit and running <= limit)
        most = started = 0
        await until(lambda: started > 3 * limit)
        return most

    async with place(f"sqlite:///{tmp_path}/a.db") as here:
        async with working(here.queue, [short], SETTINGS) as worker:
            async with beside(flood()):
                limits = [100, 3, 40, 1]
                assert [await resize(limit) for limit in limits] == limits
            await here.queue.configure("default", QueueSettings(concurrency=100))
            await here.all_done()
        assert interrupted == 0
        assert await here.store.fetch_all("SELECT DISTINCT attempts FROM dougong_jobs") == [(1,)]


def told(logs: Sequence[MutableMapping[str, Any]], event: str) -> bool:
    return any(line["event"] == event for line in logs)
