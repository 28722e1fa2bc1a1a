"""The `Queue` of a database: each method is a unit, or a few."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar, cast

from dougong.clock import Clock
from dougong.errors import Conflict, Invalid
from dougong.jobs._protocol import (
    Claimed,
    Ended,
    Enqueued,
    Filter,
    NewJob,
    Progress,
    QueueCounts,
    QueueSettings,
    Stored,
    Turn,
    Want,
    WorkerInfo,
)
from dougong.jobs.database_time import DatabaseTime
from dougong.jobs.sql import meters
from dougong.jobs.sql.checking import AT_ONCE_MAX, bounded, check_batch, check_job, check_jobs, check_queue
from dougong.jobs.sql.combining import ALONE_MIN, Combiner
from dougong.jobs.sql.ending import cancel_waiting, end, hold_of, read_rows, take_back
from dougong.jobs.sql.numbers import Numbers
from dougong.jobs.sql.operating import forget, replay
from dougong.jobs.sql.putting import insert, insert_group
from dougong.jobs.sql.reading import Reading
from dougong.jobs.sql.reaping import Reaper, Stays, nothing_stays
from dougong.jobs.sql.settings import SqlQueueSettings
from dougong.jobs.sql.step import RUNNING, Step, by_queue
from dougong.jobs.sql.taking import holds, move_due, read_settings, take
from dougong.jobs.sql.waking import Waking
from dougong.store import Store, Tx, execute_with, fetch_with, migrations_from

__all__ = ["More", "SqlQueue"]

R = TypeVar("R")
More = Callable[[Step, Mapping[str, QueueSettings], Sequence[Claimed]], Awaitable[list[Claimed]]]
"""Given the step, settings of queues and what was taken: further jobs, which now have rows and are running."""

JOBS_BLOCK = 10_000
TERMS_BLOCK = 10
RETURNED_AT_ONCE = 1000
NOTE_CHARS_MAX = 500


class SqlQueue:
    """`Queue` on a store: jobs wait in the app's own database, so that they are put in the app's own transactions.

    `reopen` opens the same database once more, on whatever loop it is called: with it a term can be renewed from
    another loop (see `renew`) while this one is busy. Belongs to the loop it was made on.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: SqlQueueSettings | None = None,
        *,
        reopen: Callable[[], Awaitable[Store]] | None = None,
        id_ranges: Sequence[int] = (0,),
        stays: Callable[[], Awaitable[Stays]] = nothing_stays,
    ) -> None:
        self._store = store
        self._settings = settings if settings is not None else SqlQueueSettings()
        self._reopen = reopen
        self._time = DatabaseTime(store.dialect, clock)
        self._ids = Numbers(store, "jobs", JOBS_BLOCK)
        self._terms = Numbers(store, "terms", TERMS_BLOCK)
        self._puts = Combiner(self._insert)
        self._waking = Waking(store, self._settings)
        self._reading = Reading(store)
        self._reaper = Reaper(self._write, self._ids, store, clock, self._settings, id_ranges, stays)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._store.migrate("dougong.jobs", migrations_from("dougong.jobs.sql.migrations.jobs"))
        await self._ids.fill()

    async def close(self) -> None:
        await self._puts.close()
        await self._ids.close()
        await self._terms.close()

    # who enqueues

    async def put(self, jobs: Sequence[NewJob], tx: Tx | None = None) -> list[Enqueued]:
        """See `Queue.put`. A job whose time has passed is due now.

        At most 10,000 at once, which hold the writer (and on SQLite the loop) for some 60 ms. In `tx` it costs three
        statements, one more for each kind of extra, and one for each order mark. Without it, callers side by side share
        a unit. An ordered job is `BLOCKED` until those before it are over, dead ones included.
        """
        check_jobs(jobs)
        if not jobs:
            return []
        if tx is None and len(jobs) < ALONE_MIN:
            return await self._puts.put(jobs)
        return await self._insert(jobs, tx)

    async def _insert(self, jobs: Sequence[NewJob], tx: Tx | None = None) -> list[Enqueued]:
        async def unit(step: Step) -> list[Enqueued]:
            return await insert(step, self._ids, jobs)

        if tx is None:
            await self._ids.fill(len(jobs))
        return await self._write(unit, tx)

    async def put_group(self, jobs: Sequence[NewJob], then: NewJob, tx: Tx | None = None) -> tuple[int, list[Enqueued]]:
        """See `Queue.put_group`. The group's id is that of the job it leads to, which is blocked until then.

        A member that is dead or cancelled holds it up until it is replayed and done. Where `then` has a key (or is
        unique) and is there, that group is given and nothing is put. `Conflict` (`in_another_group`) when a member was
        there before and belongs to another.
        """
        check_jobs(jobs)
        check_job(then)

        async def unit(step: Step) -> tuple[int, list[Enqueued]]:
            return await insert_group(step, self._ids, jobs, then)

        if tx is None:
            await self._ids.fill(len(jobs) + 1)
        return await self._write(unit, tx)

    # who works

    async def attach(self, worker: WorkerInfo, ttl_s: float) -> int:
        for queue in worker.queues:
            check_queue(queue)
        ttl_us = _microseconds(ttl_s)
        await self._terms.fill()

        async def unit(step: Step) -> int:
            (term,) = await self._terms.take(step.tx, 1)
            await step.tx.execute(
                "INSERT INTO dougong_job_workers (term, name, until_us, ttl_us) VALUES (?, ?, ?, ?)",
                (term, bounded(worker.name, 200), step.now_us + ttl_us, ttl_us),
            )
            return term

        return await self._write(unit)

    async def renew(self, term: int, ttl_s: float) -> bool:
        """See `Queue.renew`. From another loop it opens the database anew (`reopen`) for the time of the call; without
        `reopen` it waits for this queue's own loop, so that a job that blocks it can cost the term.
        """
        ttl_us = _microseconds(ttl_s)

        async def unit(tx: Tx) -> bool:
            now_us = await self._time.now_us(tx)
            changed = await tx.execute(
                "UPDATE dougong_job_workers SET until_us = ?, ttl_us = ? "
                "WHERE term = ? AND until_us > ? AND closed = 0",
                (now_us + ttl_us, ttl_us, term, now_us),
            )
            return changed > 0

        if self._loop is None or asyncio.get_running_loop() is self._loop:
            return await self._store.write(unit)
        if self._reopen is None:
            there = asyncio.run_coroutine_threadsafe(self.renew(term, ttl_s), self._loop)
            return await asyncio.wrap_future(there)
        store = await self._reopen()
        try:
            return await store.write(unit)
        finally:
            await store.close()

    async def detach(self, term: int) -> None:
        async def unit(step: Step) -> int:
            await step.tx.execute(
                "UPDATE dougong_job_workers SET until_us = ?, closed = 2 WHERE term = ? AND closed = 0",
                (step.now_us, term),
            )
            rows = await hold_of(step, term, RETURNED_AT_ONCE)
            cancels = await self._asked_to_cancel(step, term)
            await cancel_waiting(step, self._ids, [row for row in rows.values() if row.id in cancels])
            await take_back(step, [row for row in rows.values() if row.id not in cancels], stalled=False)
            if len(rows) < RETURNED_AT_ONCE:
                await step.tx.execute("DELETE FROM dougong_job_cancels WHERE term = ?", (term,))
            return len(rows)

        while await self._write(unit) == RETURNED_AT_ONCE:
            pass

    async def held(self, term: int) -> Sequence[Claimed]:
        """What the term holds, for a worker that does not know what came of a turn. It is asked in a unit of its own,
        after whatever of that turn is still on its way here. Raises `Conflict` (`term_over`).
        """

        async def unit(step: Step) -> list[Claimed]:
            await self._check_term(step, term)
            return await holds(step, term)

        return await self._write(unit)

    async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
        """See `Queue.turn`. One transaction; some microseconds a job, whatever number waits."""
        return await self.turn_with(term, ended, wants)

    async def turn_with(
        self, term: int, ended: Sequence[Ended], wants: Sequence[Want], more: More | None = None
    ) -> Turn:
        """A turn in which `more`, in the same transaction, takes jobs from elsewhere as well."""
        check_batch("ended jobs", ended)
        for want in wants:
            check_queue(want.queue)
        if sum(max(want.count, 0) for want in wants) > AT_ONCE_MAX:
            raise Invalid(f"{list(wants)}: at most {AT_ONCE_MAX:,} jobs at once", code="too_many_at_once")

        async def unit(step: Step) -> tuple[Turn, dict[str, int], int]:
            await self._check_term(step, term)
            cancels = await self._asked_to_cancel(step, term)
            lost = await end(step, self._ids, term, ended, cancels) if ended else []
            due_us = await move_due(step)
            settings, arrived = await read_settings(step)
            claimed, free_us = await take(step, term, wants, settings)
            if more is not None:
                claimed += await more(step, settings, claimed)
            if free_us is not None:
                due_us = free_us if due_us is None else min(due_us, free_us)
            over = {one.claimed.id for one in ended}
            turn = Turn(
                claimed=claimed,
                lost=lost,
                cancel=sorted(cancels - over),
                settings=settings,
                next_due_us=due_us,
                now_us=step.now_us,
            )
            seen = {want.queue: arrived.get(want.queue, 0) + step.arrived(want.queue) for want in wants}
            return turn, seen, step.now_us

        turn, arrived, now_us = await self._write(unit)
        self._note(turn, wants, arrived, now_us)
        return turn

    async def report(self, term: int, progress: Sequence[Progress]) -> None:
        check_batch("reports", progress)
        rows = [(_number(p.done), _number(p.total), bounded(p.note, NOTE_CHARS_MAX), p.id, term) for p in progress]

        async def unit(tx: Tx) -> None:
            await tx.execute_many(
                "UPDATE dougong_jobs SET progress_done = ?, progress_total = ?, progress_note = ? "
                "WHERE id = ? AND term = ?",
                rows,
            )

        if rows:
            await self._store.write(unit)

    async def news(self, timeout_s: float) -> None:
        """See `Queue.news`. At once for what this process puts, by looking for what others do: every 4 to 20 ms
        on SQLite, every 50 to 250 ms on a server.
        """
        await self._waking.wait(timeout_s)

    async def reap(self) -> int:
        """See `Queue.reap`. Call it every second or so, from any number of processes."""
        return await self._reaper.reap()

    # who looks and decides

    async def find(self, ids: Sequence[int]) -> list[Stored | None]:
        check_batch("ids", ids)
        return await self._reading.find(ids)

    async def page(self, which: Filter, *, after: int | None = None, limit: int = 50) -> list[Stored]:
        """See `Queue.page`. By key, and dead ones: by an index. Else it walks down the table, 20,000 rows at a time,
        until enough are found: rare ones among millions take seconds, and others have their turn between.
        """
        return await self._reading.page(which, after, limit)

    async def counts(self, tx: Tx | None = None) -> list[QueueCounts]:
        """See `Queue.counts`. Reads one row of each queue, and its head by the index: numbers are kept, not counted."""
        return await self._reading.counts(tx)

    async def unfinished(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        check_batch("ids", ids)

        async def unit(tx: Tx) -> set[int]:
            sql = "SELECT id FROM dougong_jobs WHERE state IN (1, 2, 3) AND id IN ({ids})"
            return {cast(int, row[0]) for row in await fetch_with(tx, sql, list(ids))}

        return await (unit(tx) if tx is not None else self._store.read(unit))

    async def cancel(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        """See `Queue.cancel`. What comes after a cancelled job in a chain, or after its group, does not come."""
        check_batch("ids", ids)

        async def unit(step: Step) -> set[int]:
            rows = await read_rows(step, list(ids))
            running = [id_ for id_, row in rows.items() if row.state == RUNNING]
            waiting = [row for row in rows.values() if row.state < RUNNING]
            await cancel_waiting(step, self._ids, waiting)
            if running:
                asked = await fetch_with(
                    step.tx, "SELECT job_id FROM dougong_job_cancels WHERE job_id IN ({ids})", running
                )
                new = sorted(set(running) - {cast(int, row[0]) for row in asked})
                await execute_with(
                    step.tx,
                    "INSERT INTO dougong_job_cancels (job_id, term) SELECT id, term FROM dougong_jobs "
                    "WHERE id IN ({ids})",
                    new,
                )
            return {row.id for row in waiting} | set(running)

        return await self._write(unit, tx)

    async def replay(self, ids: Sequence[int]) -> set[int]:
        """See `Queue.replay`. One that is unique is left out while another of its mark is unfinished."""
        check_batch("ids", ids)
        return await self._write(lambda step: replay(step, list(ids)))

    async def forget(self, ids: Sequence[int]) -> set[int]:
        check_batch("ids", ids)
        return await self._write(lambda step: forget(step, list(ids)))

    async def settings(self) -> Mapping[str, QueueSettings]:
        return await self._reading.settings()

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        check_queue(queue)
        if settings.concurrency is not None and not 0 <= settings.concurrency <= AT_ONCE_MAX:
            raise Invalid(
                f"concurrency {settings.concurrency} of queue {queue} must be 0 to {AT_ONCE_MAX:,}", code="bad_settings"
            )

        async def unit(step: Step) -> None:
            changed = await step.tx.execute(
                "UPDATE dougong_job_queues SET concurrency = ?, paused = ?, configured = 1, arrived = arrived + 1 "
                "WHERE queue = ?",
                (settings.concurrency, int(settings.paused), queue),
            )
            if not changed:
                await step.tx.execute(
                    "INSERT INTO dougong_job_queues (concurrency, paused, configured, queue) VALUES (?, ?, 1, ?)",
                    (settings.concurrency, int(settings.paused), queue),
                )

        await self._write(unit)
        self._waking.call()

    # inside

    async def _write(self, work: Callable[[Step], Awaitable[R]], tx: Tx | None = None) -> R:
        """Run a step in a unit of its own, or in the caller's."""

        async def unit(tx: Tx) -> tuple[R, Step]:
            step = Step(tx, await self._time.now_us(tx), self._store.dialect)
            result = await work(step)
            await step.write_counts()
            return result, step

        result, step = await (unit(tx) if tx is not None else self._store.write(unit))
        for queue, count in step.put.items():
            meters.put.inc(count, queue)
        for (queue, outcome), count in step.ended.items():
            meters.ended.inc(count, queue, outcome)
        if step.brings_jobs:
            self._waking.call()
        return result

    async def _check_term(self, step: Step, term: int) -> None:
        """The fence: a worker whose term is over must not believe that it still holds anything."""
        row = await step.tx.fetch_one("SELECT until_us FROM dougong_job_workers WHERE term = ? AND closed = 0", (term,))
        if row is None or cast(int, row[0]) <= step.now_us:
            raise Conflict(
                f"term {term} is over: its worker was not heard of in time, and others have its jobs; attach again",
                code="term_over",
                term=term,
            )

    async def _asked_to_cancel(self, step: Step, term: int) -> set[int]:
        rows = await step.tx.fetch_all("SELECT job_id FROM dougong_job_cancels WHERE term = ?", (term,))
        return {cast(int, row[0]) for row in rows}

    def _note(self, turn: Turn, wants: Sequence[Want], arrived: Mapping[str, int], now_us: int) -> None:
        """For metrics, and for who waits for news."""
        first: dict[str, Claimed] = {}
        for one in turn.claimed:
            first.setdefault(one.queue, one)
        for queue, one in first.items():
            meters.head_age_s.set((now_us - one.due_us) / 1e6, queue)
        taken = by_queue(one.queue for one in turn.claimed)
        for queue, count in taken.items():
            meters.claimed.inc(count, queue)
        if turn.lost:
            meters.lost.inc(len(turn.lost))
        for want in wants:
            if taken.get(want.queue, 0) < want.count:
                self._waking.found_empty(want.queue, arrived[want.queue])
            elif want.count > 0:
                self._waking.found_more(want.queue)
        self._waking.asked_for({want.queue for want in wants if want.count > 0})


def _number(told: int) -> int:
    """What a job says is a number of anything."""
    return min(max(told, 0), 1 << 62)


def _microseconds(ttl_s: float) -> int:
    if not 0 < ttl_s <= 86_400:
        raise Invalid(f"a term of {ttl_s} s is none; give more than 0 and at most a day", code="bad_ttl")
    return round(ttl_s * 1e6)
