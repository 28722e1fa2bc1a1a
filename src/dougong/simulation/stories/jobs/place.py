"""The database of the story, what each process reaches it by, and the worker's threads as tasks of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TypeVar, cast

from dougong.clock import Clock
from dougong.errors import Unavailable
from dougong.jobs import Ended, Enqueued, NewJob, SqlQueue, SqlQueueSettings, Turn, Want, Worker
from dougong.jobs.schedules.schema import SCHEMA
from dougong.jobs.sql.step import Step
from dougong.jobs.worker.term import Keeper, Renewer
from dougong.jobs.worker.watchdog import Watchdog
from dougong.simulation.faults import FaultSource
from dougong.store import MemoryDatabase, Migration, Row, Store, Tx, Unit, Value, migrations_from

__all__ = ["ShakyStore", "WatchedQueue", "on_the_loop", "set_up"]

R = TypeVar("R")

ANSWER_LOST = 0.015
"""Of the commits: they are there, and who asked for them is told that nobody knows."""

_STORY = """
CREATE TABLE story_orders (label TEXT);
CREATE TABLE story_effects (number INTEGER PRIMARY KEY, job_id INTEGER, label TEXT);
CREATE TABLE story_moves (number INTEGER PRIMARY KEY, id INTEGER, was INTEGER, state INTEGER, term INTEGER,
    attempts INTEGER, stalls INTEGER);
CREATE TRIGGER story_born AFTER INSERT ON dougong_jobs BEGIN
    INSERT INTO story_moves (id, was, state, term, attempts, stalls) VALUES (new.id, 0, new.state, NULL, 0, 0); END;
CREATE TRIGGER story_moved AFTER UPDATE OF state ON dougong_jobs
    WHEN old.state != new.state OR old.term IS NOT new.term BEGIN
    INSERT INTO story_moves (id, was, state, term, attempts, stalls)
    VALUES (new.id, old.state, new.state, new.term, new.attempts, new.stalls); END;
CREATE TABLE story_early (id INTEGER, early_us INTEGER);
CREATE TRIGGER story_hasty AFTER UPDATE OF state ON dougong_jobs WHEN new.state = 3 AND new.due_us > new.started_us
    BEGIN INSERT INTO story_early VALUES (new.id, new.due_us - new.started_us); END;
CREATE TABLE story_plans (number INTEGER PRIMARY KEY, name TEXT, revision INTEGER, changed INTEGER, paused INTEGER,
    was_us INTEGER, next_us INTEGER, changed_us INTEGER);
CREATE TRIGGER story_planned AFTER INSERT ON dougong_job_schedules BEGIN
    INSERT INTO story_plans (name, revision, changed, paused, was_us, next_us, changed_us)
    VALUES (new.name, new.revision, 1, new.paused_us IS NOT NULL, NULL, new.next_fire_us, new.changed_us); END;
CREATE TRIGGER story_replanned AFTER UPDATE ON dougong_job_schedules
    WHEN old.next_fire_us IS NOT new.next_fire_us OR old.revision != new.revision BEGIN
    INSERT INTO story_plans (name, revision, changed, paused, was_us, next_us, changed_us)
    VALUES (new.name, new.revision, old.revision != new.revision, new.paused_us IS NOT NULL, old.next_fire_us,
        new.next_fire_us, new.changed_us); END;
CREATE TABLE story_fires (number INTEGER PRIMARY KEY, schedule TEXT, fire_us INTEGER, shard INTEGER, id INTEGER);
CREATE TABLE story_occurred (number INTEGER PRIMARY KEY, schedule TEXT, fire_us INTEGER, since_us INTEGER, cause TEXT,
    decision TEXT, decided_us INTEGER, term INTEGER, lease INTEGER, paused INTEGER);
CREATE TRIGGER story_occurs AFTER INSERT ON dougong_job_occurrences BEGIN
    INSERT INTO story_occurred (schedule, fire_us, since_us, cause, decision, decided_us, term, lease, paused)
    SELECT new.schedule, new.fire_us, new.since_us, new.cause, new.decision, new.decided_us, new.term,
        (SELECT term FROM dougong_job_leases), (SELECT paused_us IS NOT NULL FROM dougong_job_schedules
        WHERE name = new.schedule); END;
"""


def set_up(database: MemoryDatabase) -> None:
    """All rooms' tables, and the story's own, which triggers fill: what was committed, in the order of commits."""
    owners: Mapping[str, Sequence[Migration]] = {
        "dougong.jobs": migrations_from("dougong.jobs.sql.migrations.jobs"),
        "dougong.jobs.effects": migrations_from("dougong.jobs.sql.migrations.effects"),
        "dougong.jobs.schedules": SCHEMA,
    }
    for owner, migrations in owners.items():
        database.migrate(owner, migrations, 0)
    database.run_script(_STORY)


class ShakyStore:
    """One process's connection: its units go one after the other, one that has begun goes on though its caller gave
    up, and now and then the answer is lost. `rewrite` puts other SQL in the place of some, to take safeguards away.
    """

    dialect = "sqlite"

    def __init__(self, store: Store, answers: FaultSource, rewrite: Mapping[str, str]) -> None:
        self._store = store
        self._answers = answers
        self._rewrite = rewrite
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._store.name

    async def write(self, unit: Unit[R]) -> R:
        await self._turn.acquire()
        return await asyncio.shield(asyncio.create_task(self._begun(unit)))  # the loop keeps an owner's tasks

    async def _begun(self, unit: Unit[R]) -> R:
        try:
            result = await self._store.write(self._rewritten(unit))
        finally:
            self._turn.release()
        if self._answers.strike(((ANSWER_LOST, "answer lost"),)) is not None:
            raise Unavailable("the connection broke while it committed", code="connection_lost", retry_after_s=0.1)
        return result

    async def read(self, unit: Unit[R]) -> R:
        return await self._store.read(self._rewritten(unit))

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return await self._store.fetch_all(sql, parameters)

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        return await self._store.fetch_one(sql, parameters)

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        return await self._store.migrate(owner, migrations)

    async def check(self) -> None:
        await self._store.check()

    async def close(self) -> None:
        await self._store.close()

    def _rewritten(self, unit: Unit[R]) -> Unit[R]:
        return (lambda tx: unit(_OtherTx(tx, self._rewrite))) if self._rewrite else unit


class _OtherTx:
    """A transaction in which some statements are others."""

    def __init__(self, tx: Tx, rewrite: Mapping[str, str]) -> None:
        self._tx = tx
        self._rewrite = rewrite

    def _other(self, sql: str) -> str:
        for text, other in self._rewrite.items():
            sql = sql.replace(text, other)
        return sql

    async def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        return await self._tx.execute(self._other(sql), parameters)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        return await self._tx.execute_many(self._other(sql), rows)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return await self._tx.fetch_all(self._other(sql), parameters)

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        return await self._tx.fetch_one(self._other(sql), parameters)


_TERM: ContextVar[int] = ContextVar("story_term", default=0)


class WatchedQueue(SqlQueue):
    """Tells when a worker writes under a term that is over."""

    def __init__(self, store: Store, clock: Clock, settings: SqlQueueSettings, say: Callable[[str], None]) -> None:
        super().__init__(store, clock, settings)
        self._say = say

    async def put(self, jobs: Sequence[NewJob], tx: Tx | None = None) -> list[Enqueued]:
        enqueued = await super().put(jobs, tx)
        fires = [(job.schedule, job.fire_us, job.index, one.id) for job, one in zip(jobs, enqueued, strict=True)]
        if tx is not None and any(fire[0] for fire in fires):
            await tx.execute_many("INSERT INTO story_fires (schedule, fire_us, shard, id) VALUES (?, ?, ?, ?)", fires)
        return enqueued

    async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
        token = _TERM.set(term)
        try:
            return await super().turn(term, ended, wants)
        finally:
            _TERM.reset(token)

    async def _write(self, work: Callable[[Step], Awaitable[R]], tx: Tx | None = None) -> R:
        term = _TERM.get()
        if not term:
            return await super()._write(work, tx)

        async def watched(step: Step) -> R:
            result = await work(step)
            row = await step.tx.fetch_one("SELECT until_us, closed FROM dougong_job_workers WHERE term = ?", (term,))
            if row is None or row[1] or cast(int, row[0]) <= step.now_us:
                self._say(f"term {term} is over, and wrote a turn")
            return result

        return await super()._write(watched, tx)


class _KeeperOnTheLoop(Keeper):
    """Renews in a task: a world has no threads, and a process that stands still does so with all it has."""

    _task: asyncio.Task[None]

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        self._closing = True
        self._wake_up()
        await asyncio.wait([self._task])


class _NoWatchdog(Watchdog):
    """In a world no code takes any time, so none takes too long."""

    def start(self) -> None:
        pass


def on_the_loop(worker: Worker, queue: SqlQueue, renewer: Renewer, ttl_s: float, clock: Clock) -> None:
    """Have the worker do on the loop what it does in threads."""
    worker._keeper = _KeeperOnTheLoop(queue, renewer, ttl_s, worker._keeper_lost, monotonic=clock.monotonic)
    worker._watchdog = _NoWatchdog(1.0, worker._blocked)
