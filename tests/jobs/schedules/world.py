"""A database, a clock moved by hand, and a queue that writes a row for each job in the transaction it is given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import msgspec

from dougong.clock import ManualClock
from dougong.errors import Invalid
from dougong.jobs import Enqueued, NewJob, Queue
from dougong.jobs.database_time import DatabaseTime
from dougong.jobs.schedules import Schedule, Scheduler, SchedulerSettings, Schedules
from dougong.store import Migration, Store, Tx

TABLE = """
CREATE TABLE fake_jobs (id BIGINT NOT NULL PRIMARY KEY, job VARCHAR(100) NOT NULL, schedule VARCHAR(100),
    due_us BIGINT, state VARCHAR(10) NOT NULL, mark VARCHAR(200), part INTEGER NOT NULL, trace VARCHAR(100))
"""
BEGIN_US = round(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND


def call(job: str = "sweep") -> NewJob:
    return NewJob(job=job, payload=b"{}")


class FakeQueue:
    """What a scheduler needs of a `Queue`. Jobs named `refused` are."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, jobs: Sequence[NewJob], tx: Tx | None = None) -> list[Enqueued]:
        assert tx is not None, "jobs of schedules are put in the scheduler's transaction"
        row = await tx.fetch_one("SELECT COALESCE(MAX(id), 0) FROM fake_jobs")
        assert row is not None
        first = cast(int, row[0]) + 1
        for job in jobs:
            if job.job == "refused":
                raise Invalid("no worker could ever take it", code="job_refused")
        await tx.execute_many(
            "INSERT INTO fake_jobs (id, job, schedule, due_us, state, mark, part, trace) "
            "VALUES (?, ?, ?, ?, 'waiting', ?, ?, ?)",
            [
                (id_, job.job, job.schedule, job.due_us, job.order, job.index, job.trace)
                for id_, job in enumerate(jobs, first)
            ],
        )
        return [Enqueued(id_) for id_ in range(first, first + len(jobs))]

    async def unfinished(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        assert tx is not None
        rows = await tx.fetch_all("SELECT id FROM fake_jobs WHERE state = 'waiting'")
        return {cast(int, id_) for (id_,) in rows}.intersection(ids)

    async def cancel(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        assert tx is not None
        await tx.execute_many("UPDATE fake_jobs SET state = 'cancelled' WHERE id = ?", [(id_,) for id_ in ids])
        return set(ids)


class World:
    """`clock` is everybody's, on servers too."""

    def __init__(self, store: Store, *, by_hand: bool = True) -> None:
        self.store = store
        self.by_hand = by_hand
        self.clock = ManualClock(now_us=BEGIN_US)
        self.use(cast(Queue, FakeQueue(store)))

    def use(self, queue: Queue) -> None:
        """Another queue from now on."""
        self.queue = queue
        self.operate = Schedules(queue, self.store)
        self._set_clock(self.operate)

    async def start(self) -> None:
        await self.store.migrate("fake", [Migration(1, "jobs", TABLE)])
        await self.operate.start()

    def _set_clock(self, who: Scheduler | Schedules) -> None:
        if self.by_hand:
            vars(who)["_time"] = DatabaseTime("by hand", self.clock)

    async def scheduler(
        self,
        *schedules: Schedule,
        store: Store | None = None,
        name: str = "",
        settings: SchedulerSettings | None = None,
    ) -> Scheduler:
        made = Scheduler(self.queue, store or self.store, schedules, settings=settings, name=name)
        self._set_clock(made)
        await made.start()
        return made

    async def finish(self, *ids: int) -> None:
        async def unit(tx: Tx) -> None:
            await tx.execute_many("UPDATE fake_jobs SET state = 'done' WHERE id = ?", [(id_,) for id_ in ids])

        await self.store.write(unit)

    async def jobs(self, schedule: str | None = None) -> list[int]:
        """Seconds after the beginning at which jobs are due, in the order they were put."""
        rows = await self.store.fetch_all("SELECT due_us, schedule FROM fake_jobs ORDER BY id")
        return [(cast(int, due) - BEGIN_US) // SECOND for due, of in rows if schedule is None or of == schedule]

    async def states(self) -> list[str]:
        return [str(state) for (state,) in await self.store.fetch_all("SELECT state FROM fake_jobs ORDER BY id")]

    async def decided(self, schedule: str) -> list[tuple[str, int, int]]:
        """(decision, seconds after the beginning, fires), earliest first."""
        found = await self.operate.occurrences(schedule, limit=1000)
        return [(one.decision.value, (one.fire_us - BEGIN_US) // SECOND, one.fires) for one in reversed(found)]


async def drive(scheduler: Scheduler) -> None:
    """Until it would sleep."""
    for _ in range(1000):
        if await scheduler.turn() > 0:
            return
    raise AssertionError("it never sleeps")


def replaced(schedule: Schedule, **changes: object) -> Schedule:
    return msgspec.structs.replace(schedule, **changes)
