"""The engines of the `Queue` family, as the conformance suite makes them.

Another engine is another entry of `ENGINES`: how it is made, and what it can. A test says what it needs, and runs on
those engines that can it.
"""

from __future__ import annotations

import contextlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from tests import engines

from dougong.clock import ManualClock
from dougong.jobs import (
    Claimed,
    Ended,
    Enqueued,
    MemoryQueue,
    NewJob,
    Outcome,
    Queue,
    SqlQueue,
    SqlQueueSettings,
    Want,
    WorkerInfo,
)
from dougong.jobs.database_time import DatabaseTime
from dougong.jobs.kafka import KafkaQueue, KafkaQueueSettings
from dougong.store import Store, open_store

__all__ = [
    "ENGINES",
    "KEEP_S",
    "PRIORITIES",
    "RETENTION",
    "SHARED",
    "STALLS_MAX",
    "TRANSACTIONS",
    "TTL_S",
    "Engine",
    "SqlEngine",
    "attach",
    "ends",
    "ids",
    "needs",
    "new",
    "sql_engine",
    "take",
]

TRANSACTIONS = "transactions"
"""`put(tx=...)`, `cancel(tx=...)`: in the caller's own transaction."""
SHARED = "shared"
"""Several processes work on the same jobs."""
PRIORITIES = "priorities"
"""Taken by priority, then by time; a log is taken in the order of its partitions."""
RETENTION = "retention"
"""What is over is forgotten by `reap` after `keep_s`."""

KEEP_S = 100.0
STALLS_MAX = 3
TTL_S = 10.0

Q = TypeVar("Q", bound=Queue)


class Engine(Protocol):
    """One engine with an empty queue, started."""

    @property
    def queue(self) -> Queue:
        """The queue."""

    @property
    def store(self) -> Store:
        """The database that callers' transactions are on (`TRANSACTIONS`)."""

    def pass_s(self, seconds: float) -> None:
        """Time passes for it."""

    def now_us(self) -> int:
        """What the time is for it."""

    async def another(self) -> Queue:
        """As another process has it, started (`SHARED`)."""


class Kind(NamedTuple):
    """How an engine is made, and what it can."""

    make: Callable[[Path], AbstractAsyncContextManager[Engine]]
    can: frozenset[str]


def needs(*capabilities: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """This test runs on engines that can all of that."""

    def mark(test: Callable[..., object]) -> Callable[..., object]:
        test.needs = frozenset(capabilities)  # type: ignore[attr-defined]
        return test

    return mark


class _Stored(ABC, Generic[Q]):
    """On a fresh database. Time is a clock's, on servers too, so that tests need not wait."""

    def __init__(self, url: str, store: Store) -> None:
        self.url = url
        self.store = store
        self.clock = ManualClock()
        self.queue: Q = self.make(store)
        self._others: list[tuple[Q, Store]] = []

    @abstractmethod
    def make(self, store: Store) -> Q:
        """The queue, as a process has it that opened the store."""

    def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def now_us(self) -> int:
        return self.clock.now_us()

    async def another(self) -> Q:
        store = await open_store(self.url, name="another")
        queue = self.make(store)
        await queue.start()
        self._others.append((queue, store))
        return queue

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncGenerator[Self]:
        try:
            await self.queue.start()
            yield self
        finally:
            for queue, store in [*self._others, (self.queue, self.store)]:
                await queue.close()
                await store.close()


class SqlEngine(_Stored[SqlQueue]):
    """The database is all there is."""

    def __init__(self, url: str, store: Store, keep_s: float) -> None:
        self.settings = SqlQueueSettings(keep_s=keep_s, stalls_max=STALLS_MAX, sweep_every_s=0.0)
        super().__init__(url, store)

    def make(self, store: Store) -> SqlQueue:
        queue = SqlQueue(store, self.clock, self.settings, reopen=lambda: open_store(self.url))
        queue._time = DatabaseTime("by hand", self.clock)
        return queue


@contextlib.asynccontextmanager
async def sql_engine(dialect: str, folder: Path, keep_s: float = KEEP_S) -> AsyncGenerator[SqlEngine]:
    """On one of the databases."""
    with engines.database_url(dialect, folder) as url:
        async with SqlEngine(url, await open_store(url, name="jobs"), keep_s).started() as engine:
            yield engine


def _sql(dialect: str) -> Callable[[Path], AbstractAsyncContextManager[Engine]]:
    return lambda folder: sql_engine(dialect, folder)


class KafkaEngine(_Stored[KafkaQueue]):
    """Topics of its own on this worker's broker, beside the database."""

    def __init__(self, url: str, store: Store) -> None:
        self._prefix = f"test{secrets.token_hex(6)}."
        super().__init__(url, store)

    def make(self, store: Store) -> KafkaQueue:
        return KafkaQueue(
            store,
            engines.kafka().address,
            self.clock,
            KafkaQueueSettings(
                prefix=self._prefix, partitions=2, replicas=1, join_s=60.0, own_s=60.0, commit_every_s=0.1
            ),
            rows=SqlQueueSettings(keep_s=KEEP_S, stalls_max=STALLS_MAX, sweep_every_s=0.0),
            reopen=lambda: open_store(self.url),
        )


@contextlib.asynccontextmanager
async def _kafka(folder: Path) -> AsyncGenerator[KafkaEngine]:
    with engines.database_url("sqlite", folder) as url:
        async with KafkaEngine(url, await open_store(url, name="jobs")).started() as engine:
            yield engine


ENGINES = {
    f"sql-{dialect}": Kind(_sql(dialect), frozenset({TRANSACTIONS, SHARED, PRIORITIES, RETENTION}))
    for dialect in engines.DIALECTS
} | {"kafka": Kind(_kafka, frozenset({TRANSACTIONS, SHARED, RETENTION}))}


class MemoryEngine:
    """In this process alone."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queue = MemoryQueue(self.clock, stalls_max=STALLS_MAX)

    @property
    def store(self) -> Store:
        raise NotImplementedError("there is no database")

    def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def now_us(self) -> int:
        return self.clock.now_us()

    async def another(self) -> Queue:
        raise NotImplementedError("no other process sees it")


@contextlib.asynccontextmanager
async def _memory(folder: Path) -> AsyncGenerator[MemoryEngine]:
    yield MemoryEngine()


ENGINES["memory"] = Kind(_memory, frozenset({PRIORITIES}))


# What tests say all the time


def new(job: str = "greet", payload: bytes = b"{}", **rest: Any) -> NewJob:
    return NewJob(job=job, payload=payload, **rest)


def ids(enqueued: Sequence[Enqueued]) -> list[int]:
    return [one.id for one in enqueued]


def ends(claimed: Sequence[Claimed], outcome: Outcome = Outcome.DONE, **rest: Any) -> list[Ended]:
    return [Ended(claimed=one, outcome=outcome, **rest) for one in claimed]


async def attach(queue: Queue, name: str = "worker", ttl_s: float = TTL_S) -> int:
    return await queue.attach(WorkerInfo(name=name), ttl_s)


async def take(queue: Queue, term: int, count: int = 100, of: str = "default") -> list[Claimed]:
    return list((await queue.turn(term, [], [Want(of, count)])).claimed)
