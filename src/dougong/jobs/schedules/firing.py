"""Fires: planned from rows as read, then written in one unit that first looks whether the plan still holds.

Planning walks calendars and takes a while, so it happens before the unit. The unit is what counts: it looks at the term
of the lease, at the revision and the next fire of each schedule, at the occurrences that are there where a repeat is
thinkable, and writes jobs, occurrences and next fires together. Three things would each have to fail for a fire to
happen twice: the term, the plan's recheck, and the occurrences' primary key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from dougong.errors import Error, Invalid
from dougong.jobs._protocol import NewJob, Queue
from dougong.jobs.schedules.declare import Schedule, decode
from dougong.jobs.schedules.misfire import Due, due
from dougong.jobs.schedules.overlap import Overlap, Overlapped, overlap
from dougong.jobs.schedules.rows import FireCause, FireDecision, Occurrence, OccurrenceRows, Row, ScheduleRows
from dougong.store import Tx
from dougong.telemetry import span, traceparent

__all__ = ["Firing", "Plan", "plan"]


class Plan(msgspec.Struct, frozen=True):
    """What is to be done about a schedule that is due."""

    row: Row
    schedule: Schedule
    due: Due
    trace: str = ""

    @property
    def repeats_thinkable(self) -> bool:
        """Whether a fire in it may have an occurrence: none has that is later than all that have."""
        return min((*self.due.run, *self.due.missed)) <= self.row.high_us


def plan(rows: Sequence[Row], now_us: int, *, late_us: int, limit: int) -> tuple[list[Plan], list[tuple[Row, Error]]]:
    """Plans for rows that are due, and what cannot be planned. About `limit` jobs in all: the rest is still due."""
    plans: list[Plan] = []
    faults: list[tuple[Row, Error]] = []
    left = limit
    for row in rows:
        if left <= 0:
            break
        if row.next_fire_us is None:  # not written by us
            faults.append((row, Invalid("it is due, and has no next fire", code="bad_schedule")))
            continue
        try:
            schedule = decode(row.definition)
        except Error as error:
            faults.append((row, error))
            continue
        decided = due(
            row.next_fire_us,
            now_us,
            schedule.after_us,
            schedule.misfire,
            late_us=late_us,
            window_us=int(schedule.catch_up_s * 1e6),
            limit=max(1, left // schedule.shards),
        )
        left -= (len(decided.run) + len(decided.missed)) * schedule.shards
        if not decided.run and not decided.missed:  # put off for a fault, or the clock went back: not due by now
            continue
        # One trace from here through the queue to the end of the job.
        with span("jobs.fire", schedule=row.name, fires=len(decided.run)):
            plans.append(Plan(row, schedule, decided, traceparent()))
    return plans, faults


class Firing:
    """Writes plans down."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._schedules = ScheduleRows()
        self._occurrences = OccurrenceRows()

    async def write(self, tx: Tx, plans: Sequence[Plan], now_us: int, term: int) -> list[Occurrence]:
        """What became of their fires. Plans that no longer hold are passed over."""
        plans = await self.holding(tx, plans) if plans else []
        if not plans:
            return []
        there: dict[str, frozenset[int]] = {}
        for one in plans:
            if one.repeats_thinkable:
                there[one.row.name] = await self.there(tx, one.row.name, (*one.due.run, *one.due.missed))
        busy = await self.unfinished(tx, [one.row.name for one in plans if one.schedule.overlap.asks])
        occurrences: list[Occurrence] = []
        advanced: list[tuple[str, int | None, int | None, int]] = []
        put: list[tuple[Plan, int]] = []
        cancel: list[int] = []
        for one in plans:
            name = one.row.name
            old = there.get(name, frozenset())
            run = [fire for fire in one.due.run if fire not in old]
            missed = [fire for fire in one.due.missed if fire not in old]
            fates = overlap(one.schedule.overlap, run, bool(busy.get(name)))
            if fates.cancel:
                cancel += busy[name]
            put += [(one, fire) for fire in fates.put]
            occurrences += _unfired(name, missed, FireDecision.MISSED, now_us, term)
            occurrences += _unfired(name, fates.passed, FireDecision.OVERLAPPED, now_us, term)
            high_us = max(one.row.high_us, *one.due.run, *one.due.missed)
            advanced.append((name, one.due.next_us, _last(one, fates), high_us))
        if cancel:
            await self._queue.cancel(cancel, tx)
        occurrences += await self.put(tx, put, FireCause.SCHEDULE, now_us, term)
        await self._occurrences.insert(tx, occurrences)
        await self._schedules.advance(tx, advanced)
        return occurrences

    async def holding(self, tx: Tx, plans: Sequence[Plan]) -> list[Plan]:
        """Those whose schedules are as they were planned with, and which of their fires have an occurrence by now."""
        rows = {row.name: row for row in await self.unchanged(tx, [one.row for one in plans])}
        return [msgspec.structs.replace(one, row=rows[one.row.name]) for one in plans if one.row.name in rows]

    async def unchanged(self, tx: Tx, rows: Sequence[Row]) -> list[Row]:
        """Those that neither an operator, nor a release, nor another scheduler changed since they were read. A run by
        hand changes what has an occurrence, and nothing else.
        """
        standing = await self._schedules.standing(tx, [row.name for row in rows])
        found: list[Row] = []
        for row in rows:
            revision, next_us, high_us = standing.get(row.name, (0, None, 0))
            if (revision, next_us) == (row.revision, row.next_fire_us):
                found.append(row if high_us == row.high_us else msgspec.structs.replace(row, high_us=high_us))
        return found

    async def there(self, tx: Tx, name: str, fires: Sequence[int]) -> frozenset[int]:
        """Those that happened. Those that did not run are decided about anew, so what was written of them goes."""
        old = await self._occurrences.within(tx, name, min(fires), max(fires))
        unrun = {fire for fire, decision in old.items() if decision in {FireDecision.MISSED, FireDecision.OVERLAPPED}}
        await self._occurrences.drop(tx, name, unrun.intersection(fires))
        return frozenset(old).difference(unrun)

    async def unfinished(self, tx: Tx, names: Sequence[str]) -> dict[str, list[int]]:
        """Jobs of earlier fires that are still to be done. Where all of a fire are done, that is written down."""
        if not names:
            return {}
        fires = await self._occurrences.busy(tx, names)
        if not fires:
            return {}
        standing = await self._queue.unfinished([id_ for _, _, jobs in fires for id_ in jobs], tx)
        found: dict[str, list[int]] = {}
        done: list[tuple[str, int]] = []
        for schedule, fire_us, jobs in fires:
            left = [id_ for id_ in jobs if id_ in standing]
            if left:
                found.setdefault(schedule, []).extend(left)
            else:
                done.append((schedule, fire_us))
        if done:
            await self._occurrences.finished(tx, done)
        return found

    async def put(
        self, tx: Tx, fires: Sequence[tuple[Plan, int]], cause: FireCause, now_us: int, term: int
    ) -> list[Occurrence]:
        """Enqueue the jobs of fires; their occurrences, which are the caller's to insert."""
        if not fires:
            return []
        jobs: list[NewJob] = []
        for one, fire in fires:
            # What is made up for, or replaces, waits its turn too: only `parallel` runs beside its like.
            jobs += one.schedule.jobs(fire, one.trace, in_order=one.schedule.overlap is not Overlap.PARALLEL)
        enqueued = iter(await self._queue.put(jobs, tx))
        made: list[Occurrence] = []
        for one, fire in fires:
            own = [next(enqueued) for _ in range(one.schedule.shards)]
            decision = FireDecision.FIRED if own[0].new else FireDecision.JOINED
            ids = tuple(job.id for job in own)
            busy = one.schedule.overlap.asks
            made.append(Occurrence(one.row.name, fire, fire, 1, cause, decision, ids, now_us, term, busy))
        return made


def _last(one: Plan, fates: Overlapped) -> int | None:
    return max(fates.put, default=one.row.last_fire_us)


def _unfired(name: str, fires: Sequence[int], decision: FireDecision, now_us: int, term: int) -> Iterator[Occurrence]:
    """One row for all of them: a schedule of every second that slept for a week must not write a million."""
    if fires:
        yield Occurrence(name, fires[-1], fires[0], len(fires), FireCause.SCHEDULE, decision, (), now_us, term)
