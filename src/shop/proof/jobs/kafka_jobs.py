"""Ours, on Kafka and SQLite: who enqueues, and the worker."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from dougong.clock import SystemClock
from dougong.jobs import KafkaQueue, KafkaQueueSettings, SqlQueue
from dougong.store import Store, open_store
from shop.proof.jobs.our_jobs import CALLS, URL, on_sqlite, work_on
from shop.proof.jobs.processes import python
from shop.proof.jobs.systems import JobName

__all__ = ["BROKER", "PARTITIONS", "PREFIX", "OnKafka", "on_kafka", "putter", "work_kafka"]

BROKER = "SHOP_PROOF_KAFKA"
"""The variable that says where the broker is."""
PREFIX = "SHOP_PROOF_PREFIX"
"""The one that says how topics begin."""
PARTITIONS = 4


class OnKafka:
    """A database and topics of its own."""

    name = "kafka"

    def __init__(self, environment: Mapping[str, str], rows: SqlQueue) -> None:
        self.environment = environment
        self._rows = rows

    def command(self, job: JobName) -> Sequence[str]:
        return python("work-kafka")

    async def left(self) -> int:
        """Whose end is not written; what nobody has taken has not run either."""
        return sum(of.waiting + of.running for of in await self._rows.counts())


@asynccontextmanager
async def on_kafka(broker: str, prefix: str, folder: Path) -> AsyncGenerator[OnKafka]:
    """Empty; the database is gone afterwards."""
    async with on_sqlite(folder / "jobs.db") as rows:
        yield OnKafka({**rows.environment, BROKER: broker, PREFIX: prefix}, rows.queue)


@asynccontextmanager
async def _queue() -> AsyncGenerator[tuple[Store, KafkaQueue]]:
    store = await open_store(os.environ[URL])
    try:
        settings = KafkaQueueSettings(prefix=os.environ[PREFIX], partitions=PARTITIONS, session_s=6.0)
        opened = KafkaQueue(store, os.environ[BROKER], SystemClock(), settings)
        await opened.start()
        try:
            yield store, opened
        finally:
            await opened.close()
    finally:
        await store.close()


@asynccontextmanager
async def putter() -> AsyncGenerator[Callable[[str, range], Awaitable[None]]]:
    """Enqueues some at once: acknowledged by the broker when it returns."""
    async with _queue() as (_, opened):

        async def put(job: str, numbers: range) -> None:
            call = CALLS[job]
            await opened.put([call(number) for number in numbers])

        yield put


async def work_kafka() -> None:
    """The worker, until killed."""
    async with _queue() as (store, opened):
        await work_on(opened, store)
