"""Ours, on SQLite: the jobs, who enqueues them, and the worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from dougong.clock import SystemClock
from dougong.jobs import (
    NewJob,
    Queue,
    QueueSettings,
    SqlQueue,
    Worker,
    WorkerSettings,
    current_job,
    job,
    needs,
)
from dougong.store import Store, Tx, migrations_from, open_store
from shop.proof.jobs.processes import python
from shop.proof.jobs.systems import JobName
from shop.proof.jobs.tally import tally

__all__ = [
    "BUSY_S",
    "CALLS",
    "FEW",
    "MANY",
    "SLOW_S",
    "URL",
    "OnSqlite",
    "is_slow",
    "nothing",
    "on_sqlite",
    "putter",
    "queue",
    "work",
    "work_on",
]

URL = "SHOP_PROOF_DATABASE"
"""The variable that says where the database is."""
FEW, MANY = 10, 100
"""Jobs that run at once: of a worker that is to be resized, and of all others."""
BUSY_S = 0.05
_INTAKE = 2_000
_TTL_S = 5.0
_FOLLOW_S = 1.5
SLOW_S = 1.0
_SLOW_EVERY = 500


@job
async def nothing(number: int) -> None:
    tally().note(number)


@job
async def pause(number: int) -> None:
    await asyncio.sleep(0.001)
    tally().note(number)


@job
async def effect(number: int, store: Store = needs(Store)) -> None:
    """Writes a row, once, however often it runs."""
    run = current_job()

    async def unit(tx: Tx) -> None:
        if await run.first(tx):
            await tx.execute("INSERT INTO effects (number) VALUES (?)", (number,))

    await store.write(unit)
    tally().note(number)


@job
async def busy(number: int) -> None:
    """Notes its end only when nothing interrupts it."""
    tally().note(number)
    await asyncio.sleep(BUSY_S)
    tally().end(number)


@job
async def uneven(number: int) -> None:
    tally().note(number)
    if is_slow(number):
        await asyncio.sleep(SLOW_S)


def is_slow(number: int) -> bool:
    """One of so many takes long."""
    return number % _SLOW_EVERY == _SLOW_EVERY // 2


CALLS: Mapping[str, Callable[[int], NewJob]] = {
    "nothing": nothing.call,
    "pause": pause.call,
    "effect": effect.call,
    "busy": busy.call,
    "uneven": uneven.call,
}


@asynccontextmanager
async def queue(url: str) -> AsyncGenerator[tuple[Store, SqlQueue]]:
    """Both, started; the caller's to use."""
    store = await open_store(url)
    try:
        opened = SqlQueue(store, SystemClock())
        await opened.start()
        try:
            yield store, opened
        finally:
            await opened.close()
    finally:
        await store.close()


class OnSqlite:
    """A database of its own, and what looks at it from the experiment's process."""

    name = "ours"

    def __init__(self, url: str, store: Store, queue: SqlQueue) -> None:
        self.environment: Mapping[str, str] = {URL: url}
        self.store = store
        self.queue = queue

    def command(self, job: JobName) -> Sequence[str]:
        return python("work", str(FEW if job == "busy" else MANY))

    async def left(self) -> int:
        return sum(of.waiting + of.running for of in await self.queue.counts())

    async def pause(self, paused: bool) -> None:
        """Workers take nothing, or again; they follow within a second."""
        await self.queue.configure("default", QueueSettings(paused=paused))
        await asyncio.sleep(_FOLLOW_S)

    async def effects(self) -> Sequence[int]:
        """Numbers of jobs that had their effect, each as often as it had."""
        rows = await self.store.fetch_all("SELECT number FROM effects")
        return [int(str(row[0])) for row in rows]


@asynccontextmanager
async def on_sqlite(path: Path) -> AsyncGenerator[OnSqlite]:
    """Empty, with tables; the file is gone afterwards."""
    url = f"sqlite:///{path}"
    try:
        async with queue(url) as (store, opened):
            await store.migrate("dougong.jobs.effects", migrations_from("dougong.jobs.sql.migrations.effects"))

            async def unit(tx: Tx) -> None:
                await tx.execute("CREATE TABLE effects (number INTEGER NOT NULL)")

            await store.write(unit)
            yield OnSqlite(url, store, opened)
    finally:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()


@asynccontextmanager
async def putter() -> AsyncGenerator[Callable[[str, range], Awaitable[None]]]:
    """Enqueues some at once: a transaction of their own, on the disk when it returns."""
    async with queue(os.environ[URL]) as (_, opened):

        async def put(job: str, numbers: range) -> None:
            call = CALLS[job]
            await opened.put([call(number) for number in numbers])

        yield put


async def work(concurrency: int) -> None:
    """The worker, until killed."""
    async with queue(os.environ[URL]) as (store, opened):
        await work_on(opened, store, concurrency)


async def work_on(opened: Queue, store: Store, concurrency: int = MANY) -> None:
    """The same, wherever the jobs wait."""

    async def provide(_: type) -> object:
        return store

    settings = WorkerSettings(concurrency=concurrency, intake=_INTAKE, ttl_s=_TTL_S, reap_every_s=1.0)
    await Worker(opened, [nothing, pause, effect, busy, uneven], provide=provide, settings=settings).run()
