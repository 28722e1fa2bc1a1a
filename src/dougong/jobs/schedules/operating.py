"""What people do with schedules: look, pause, run now, make up for the past. From any process on the database."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

import msgspec

from dougong.clock import Clock, SystemClock
from dougong.errors import Conflict, Error, Invalid, NotFound
from dougong.jobs._protocol import Queue
from dougong.jobs.database_time import DatabaseTime
from dougong.jobs.schedules.declare import Schedule, decode
from dougong.jobs.schedules.declaring import added, resumed
from dougong.jobs.schedules.firing import Firing, Plan
from dougong.jobs.schedules.leases import Leases
from dougong.jobs.schedules.misfire import Due
from dougong.jobs.schedules.rows import FireCause, Occurrence, OccurrenceRows, Row, ScheduleRows
from dougong.jobs.schedules.scheduler import create_tables
from dougong.store import Store, Tx
from dougong.telemetry import get_logger, span, traceparent

__all__ = ["BACKFILL_MAX", "Backfilled", "ScheduleStatus", "ScheduleView", "Schedules", "Upcoming"]

_log = get_logger("dougong.jobs.schedules")
UPCOMING = 5
BACKFILL_MAX = 10_000
"""Fires of one backfill."""
_BACKFILL_AT_ONCE = 500
"""Jobs put in one unit."""
_LATEST_US = 1 << 62
_PAGE_MAX = 1000


class ScheduleStatus(enum.StrEnum):
    """Where a schedule stands."""

    ACTIVE = "active"
    PAUSED = "paused"
    """By an operator, until he resumes it; a new release does not."""
    DISABLED = "disabled"
    """No longer declared."""
    OVER = "over"
    """No fire is to come."""
    FAULTY = "faulty"
    """It cannot fire, and is tried again."""


class Upcoming(msgspec.Struct, frozen=True):
    fire_us: int
    why: str


class ScheduleView(msgspec.Struct, frozen=True):
    """A schedule as people see it."""

    name: str
    status: ScheduleStatus
    declared: bool
    """In code; else an operator added it."""
    schedule: Schedule | None
    """None when its definition cannot be read by this version."""
    next_fire_us: int | None
    last_fire_us: int | None
    """The latest that enqueued something."""
    paused_us: int | None
    fault: str
    upcoming: tuple[Upcoming, ...] = ()


class Backfilled(msgspec.Struct, frozen=True):
    """What a backfill did."""

    fired: int
    already: int
    """Fires of the period that had run before."""


class Schedules:
    """The operations. `queue` and `store` as for `Scheduler`."""

    def __init__(self, queue: Queue, store: Store, *, clock: Clock | None = None) -> None:
        self._store = store
        self._time = DatabaseTime(store.dialect, clock if clock is not None else SystemClock())
        self._firing = Firing(queue)
        self._rows = ScheduleRows()
        self._occurrences = OccurrenceRows()
        self._leases = Leases("scheduler")

    async def start(self) -> None:
        """Create or check the tables."""
        await create_tables(self._store)

    # look

    async def all(self) -> list[ScheduleView]:
        """All, by name, without what is upcoming."""
        return [_shown(row) for row in await self._store.read(self._rows.all)]

    async def show(self, name: str) -> ScheduleView:
        """One, with its next five fires and why then. Raises `NotFound` (`no_schedule`)."""

        async def read(tx: Tx) -> Row:
            return await self._row(tx, name)

        return _shown(await self._store.read(read), UPCOMING)

    async def occurrences(self, name: str, *, before_us: int = _LATEST_US, limit: int = 50) -> list[Occurrence]:
        """What became of its fires, latest first; `before_us` is the `fire_us` of the last of the page before."""
        return await self._store.read(
            lambda tx: self._occurrences.page(tx, name, before_us, min(max(limit, 1), _PAGE_MAX))
        )

    async def holder(self) -> str:
        """The name of the scheduler that fires; empty when none does."""

        async def read(tx: Tx) -> str:
            return await self._leases.holder(tx, await self._time.now_us(tx))

        return await self._store.read(read)

    # decide

    async def add(self, schedule: Schedule) -> ScheduleView:
        """One that no code declares. Raises `Conflict` (`schedule_exists`)."""

        async def unit(tx: Tx) -> Row:
            if await self._rows.get(tx, schedule.name) is not None:
                raise Conflict(
                    f"there is a schedule {schedule.name!r}; remove it first, or take another name",
                    code="schedule_exists",
                    schedule=schedule.name,
                )
            row = added(schedule, await self._time.now_us(tx), declared=False)
            await self._rows.insert(tx, [row])
            return row

        row = await self._store.write(unit)
        _log.info("schedule_added", schedule=schedule.name)
        return _shown(row, UPCOMING)

    async def remove(self, name: str) -> None:
        """With its occurrences. Raises `Conflict` (`schedule_declared`) for one that code declares."""

        async def unit(tx: Tx) -> None:
            row = await self._row(tx, name)
            if row.declared and row.enabled:
                raise Conflict(
                    f"schedule {name!r} is declared in code and would come back; pause it, or remove it there",
                    code="schedule_declared",
                    schedule=name,
                )
            await self._rows.delete(tx, name)

        await self._store.write(unit)
        _log.info("schedule_removed", schedule=name)

    async def pause(self, name: str) -> ScheduleView:
        """No fire until `resume`, also not by a new release. What is enqueued stays."""

        async def change(row: Row, now_us: int) -> Row:
            return (
                row if row.paused_us is not None else msgspec.structs.replace(row, paused_us=now_us, next_fire_us=None)
            )

        return await self._change(name, "schedule_paused", change)

    async def resume(self, name: str) -> ScheduleView:
        """Fire again from now on; what was not fired meanwhile is not made up for (see `backfill`)."""

        async def change(row: Row, now_us: int) -> Row:
            if row.paused_us is None:
                return row
            if not row.enabled:
                return msgspec.structs.replace(row, paused_us=None)
            return resumed(row, decode(row.definition), now_us)

        return await self._change(name, "schedule_resumed", change)

    async def run_now(self, name: str) -> Occurrence:
        """Fire once, now, whatever its state. The job waits for those before it, unless overlap is `parallel`.

        Raises `NotFound` (`no_schedule`).
        """
        with span("jobs.run_now", schedule=name):
            trace = traceparent()

        async def unit(tx: Tx) -> Occurrence:
            row = await self._row(tx, name)
            now_us = await self._time.now_us(tx)
            fire_us = now_us
            while await self._occurrences.within(tx, name, fire_us, fire_us):
                fire_us += 1  # two in one microsecond, or on a clock that stands still
            schedule = msgspec.structs.replace(decode(row.definition), jitter_s=0.0)
            one = Plan(row, schedule, Due((fire_us,), (), row.next_fire_us), trace)
            made = await self._firing.put(tx, [(one, fire_us)], FireCause.RUN_NOW, now_us, 0)
            await self._occurrences.insert(tx, made)
            await self._rows.raise_high(tx, name, fire_us)
            return made[0]

        occurrence = await self._store.write(unit)
        _log.info("schedule_run_now", schedule=name, jobs=list(occurrence.jobs)[:10])
        return occurrence

    async def backfill(self, name: str, from_us: int, until_us: int, *, limit: int = BACKFILL_MAX) -> Backfilled:
        """Fire for every time of a period (its end not included) that has not run: was missed, or never was a fire.
        They queue, whatever the overlap policy, unless it is `parallel`.

        Raises `Invalid` (`bad_period`) for a period that is not past, or has more than `limit` fires, before any runs.
        Done in parts: after an error, the same call goes on where this one ended.
        """
        fires, shards, now_us = await self._fires_of(name, from_us, until_us, min(limit, BACKFILL_MAX))
        with span("jobs.backfill", schedule=name, fires=len(fires)):
            trace = traceparent()
        fired = 0
        at_once = max(1, _BACKFILL_AT_ONCE // shards)
        for begin in range(0, len(fires), at_once):
            some = tuple(fires[begin : begin + at_once])

            async def unit(tx: Tx, some: tuple[int, ...] = some) -> int:
                row = await self._row(tx, name)
                there = await self._firing.there(tx, name, some)
                run = [fire for fire in some if fire not in there]
                one = Plan(row, decode(row.definition), Due(tuple(run), (), row.next_fire_us), trace)
                made = await self._firing.put(tx, [(one, fire) for fire in run], FireCause.BACKFILL, now_us, 0)
                await self._occurrences.insert(tx, made)
                await self._rows.raise_high(tx, name, some[-1])
                return len(run)

            fired += await self._store.write(unit)
        _log.info("schedule_backfilled", schedule=name, fired=fired, already=len(fires) - fired)
        return Backfilled(fired, len(fires) - fired)

    async def _fires_of(self, name: str, from_us: int, until_us: int, limit: int) -> tuple[list[int], int, int]:
        async def read(tx: Tx) -> tuple[Row, int]:
            return await self._row(tx, name), await self._time.now_us(tx)

        row, now_us = await self._store.read(read)
        if not from_us < until_us <= now_us:
            raise Invalid(
                f"backfill of {name!r} from {from_us} to {until_us} us: it must begin before it ends, and end by now "
                f"({now_us})",
                code="bad_period",
                schedule=name,
            )
        schedule = decode(row.definition)
        fires: list[int] = []
        following = schedule.after_us(from_us - 1)
        while following is not None and following < until_us:
            if len(fires) >= limit:
                raise Invalid(
                    f"backfill of {name!r}: more than {limit:,} fires; take a shorter period",
                    code="bad_period",
                    schedule=name,
                )
            fires.append(following)
            following = schedule.after_us(following)
        return fires, schedule.shards, now_us

    async def _change(self, name: str, event: str, change: Callable[[Row, int], Awaitable[Row]]) -> ScheduleView:
        async def unit(tx: Tx) -> Row:
            row = await self._row(tx, name)
            now_us = await self._time.now_us(tx)
            fresh = await change(row, now_us)
            if fresh is not row:
                await self._rows.update(tx, [fresh], now_us)
            return fresh

        row = await self._store.write(unit)
        _log.info(event, schedule=name)
        return _shown(row, UPCOMING)

    async def _row(self, tx: Tx, name: str) -> Row:
        row = await self._rows.get(tx, name)
        if row is None:
            raise NotFound(f"no schedule {name[:100]!r}", code="no_schedule", schedule=name[:100])
        return row


def _shown(row: Row, upcoming: int = 0) -> ScheduleView:
    schedule, fault = None, row.fault
    try:
        schedule = decode(row.definition)
    except Error as error:
        fault = fault or str(error)
    if not row.enabled:
        status = ScheduleStatus.DISABLED
    elif row.paused_us is not None:
        status = ScheduleStatus.PAUSED
    elif fault:
        status = ScheduleStatus.FAULTY
    else:
        status = ScheduleStatus.ACTIVE if row.next_fire_us is not None else ScheduleStatus.OVER
    return ScheduleView(
        row.name,
        status,
        bool(row.declared),
        schedule,
        row.next_fire_us,
        row.last_fire_us,
        row.paused_us,
        fault,
        _upcoming(schedule, row.next_fire_us, upcoming) if schedule is not None else (),
    )


def _upcoming(schedule: Schedule, next_us: int | None, count: int) -> tuple[Upcoming, ...]:
    found: list[Upcoming] = []
    while next_us is not None and len(found) < count:
        found.append(Upcoming(next_us, schedule.when.why(next_us)))
        next_us = schedule.after_us(next_us)
    return tuple(found)
