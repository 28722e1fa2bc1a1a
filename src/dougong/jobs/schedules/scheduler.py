"""The scheduler: of several, one fires; when it dies or sleeps, another does; none fires what another fired."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from dougong.clock import Clock, SystemClock
from dougong.errors import Error
from dougong.jobs._protocol import Queue
from dougong.jobs.database_time import DatabaseTime
from dougong.jobs.schedules.declare import Schedule, decode
from dougong.jobs.schedules.declaring import by_name, sync
from dougong.jobs.schedules.firing import Firing, Plan, plan
from dougong.jobs.schedules.leases import Lease, Leases
from dougong.jobs.schedules.rows import FireDecision, Occurrence, OccurrenceRows, Row, ScheduleRows
from dougong.jobs.schedules.schema import SCHEMA
from dougong.jobs.schedules.settings import SchedulerSettings
from dougong.store import Store, Tx, in_halves
from dougong.telemetry import counter, gauge, get_logger, histogram

__all__ = ["Scheduler", "create_tables"]

_log = get_logger("dougong.jobs.schedules")
_fires = counter("dougong_jobs_schedule_fires_total", "Fires of schedules, by what became of them.", ("decision",))
_late = histogram(
    "dougong_jobs_schedule_late_seconds",
    "How late jobs of schedules were enqueued.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400),
)
_faults = counter("dougong_jobs_schedule_faults_total", "Schedules that could not fire when due, by error.", ("code",))
_leads = gauge("dougong_jobs_scheduler_leads", "1 where this process fires the schedules.", ("database",))
_quiet = gauge(
    "dougong_jobs_scheduler_clock_back_seconds",
    "How far the clock went back: fires of that time happened already, and are not repeated.",
    ("database",),
)
_failed = counter("dougong_jobs_scheduler_failures_total", "Looks of the scheduler that failed.", ("code",))
_CHUNK = 1000
"""Schedules planned anew in one unit."""


async def create_tables(store: Store) -> None:
    """Create or check the scheduler's tables."""
    await store.migrate("dougong.jobs.schedules", SCHEMA)


class Scheduler:
    """Fires the schedules of one database. Run as many as there are processes: `async with TaskGroup: scheduler.run()`.

    `schedules` is what the app declares; `start` brings the stored ones in line. `queue` puts its jobs in the same
    database, in the scheduler's own transaction.
    """

    def __init__(
        self,
        queue: Queue,
        store: Store,
        schedules: Sequence[Schedule] = (),
        *,
        clock: Clock | None = None,
        settings: SchedulerSettings | None = None,
        name: str = "",
    ) -> None:
        self._store = store
        self._declared = by_name(schedules)
        self._settings = settings if settings is not None else SchedulerSettings()
        self._name = name
        clock = clock if clock is not None else SystemClock()
        self._monotonic = clock.monotonic
        self._time = DatabaseTime(store.dialect, clock)
        self._leases = Leases("scheduler")
        self._firing = Firing(queue)
        self._rows = ScheduleRows()
        self._occurrences = OccurrenceRows()
        self._term: int | None = None
        self._seen_us = 0
        self._quiet_until_us = 0
        self._swept_at = float("-inf")
        self._stopping = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether it believes that it is the one that fires. The database knows."""
        return self._term is not None

    async def start(self) -> None:
        """Create the tables, and store what is declared: new schedules begin, changed ones are planned anew, those no
        longer declared are disabled.
        """
        await create_tables(self._store)

        async def unit(tx: Tx) -> tuple[int, int, list[str]]:
            await self._leases.create(tx)
            now_us = await self._time.now_us(tx)
            found = sync(await self._rows.all(tx), self._declared, now_us)
            if found.new:
                await self._rows.insert(tx, found.new)
            if found.changed or found.gone:
                await self._rows.update(tx, [*found.changed, *found.gone], now_us)
            return len(found.new), len(found.changed), [row.name for row in found.gone]

        new, changed, gone = await self._store.write(unit)
        if new or changed or gone:
            _log.info("schedules_stored", new=new, changed=changed, disabled=len(gone))
        for name in gone[:100]:
            _log.warning("schedule_disabled", schedule=name, reason="no longer declared")

    async def run(self) -> None:
        """Until `stop`: look, fire, sleep. Whatever fails is logged and tried again."""
        try:
            while not self._stopping.is_set():
                pause_s = self._settings.interval_s
                try:
                    pause_s = await self.turn()
                except Error as error:
                    _failed.inc(1, error.code)
                    _log.warning("scheduling_delayed", error=str(error))
                except Exception:  # noqa: BLE001 (a bug in one look must not end all later ones)
                    _failed.inc(1, "internal")
                    _log.exception("scheduling_failed")
                try:
                    async with asyncio.timeout(pause_s):
                        await self._stopping.wait()
                except TimeoutError:
                    pass
        finally:
            await self._release()

    def stop(self) -> None:
        """`run` returns after what it is at, and another scheduler may begin at once."""
        self._stopping.set()

    async def turn(self) -> float:
        """Look once, and fire what is due as far as one unit goes; how long to pause then (seconds)."""
        if self._term is None and not await self._lead():
            return self._settings.interval_s
        now_us, next_us, rows = await self._store.read(self._look)
        if now_us < self._seen_us - int(self._settings.back_s * 1e6):
            await self._plan_anew(now_us)
            return 0.0
        self._seen_us = max(self._seen_us, now_us)
        self._tell_quiet(now_us)
        if rows:
            return await self._fire(rows, now_us)
        if not await self._still_leading():
            return 0.0
        await self._sweep()
        wait_s = self._settings.interval_s if next_us is None else (next_us - now_us) / 1e6
        return min(max(wait_s, 0.0), self._settings.interval_s)

    async def _look(self, tx: Tx) -> tuple[int, int | None, list[Row]]:
        now_us = await self._time.now_us(tx)
        next_us = await self._rows.next_look_us(tx)
        if next_us is None or next_us > now_us:
            return now_us, next_us, []
        return now_us, next_us, await self._rows.due(tx, now_us, self._settings.rows_at_once)

    # the lease

    async def _lead(self) -> bool:
        ttl_us = int(self._settings.lease_ttl_s * 1e6)

        async def held(tx: Tx) -> bool:
            lease = await self._leases.read(tx)
            return lease is not None and lease.held(await self._time.now_us(tx))

        async def take(tx: Tx) -> Lease | None:
            return await self._leases.take(tx, self._name, ttl_us, await self._time.now_us(tx))

        if await self._store.read(held):
            return False
        lease = await self._store.write(take)
        if lease is None:
            return False
        self._term, self._seen_us = lease.term, lease.seen_us
        _leads.set(1, self._store.name)
        _log.info("scheduler_leads", term=lease.term, name=self._name)
        return True

    async def _still_leading(self) -> bool:
        """Renew in time when there is nothing to fire."""

        async def wants(tx: Tx) -> bool:
            lease = await self._leases.read(tx)
            return lease is None or lease.term != self._term or lease.wants_renewal(await self._time.now_us(tx))

        if not await self._store.read(wants):
            return True
        if await self._store.write(self._holds):
            return True
        self._lost()
        return False

    async def _holds(self, tx: Tx) -> bool:
        assert self._term is not None, "only who leads asks"
        return await self._leases.hold(tx, self._term, await self._time.now_us(tx), self._seen_us)

    def _lost(self) -> None:
        _log.warning(
            "scheduler_lost", term=self._term, name=self._name, reason="the lease was over; nothing was written"
        )
        self._term = None
        _leads.set(0, self._store.name)

    async def _release(self) -> None:
        term, self._term = self._term, None
        _leads.set(0, self._store.name)
        if term is None:
            return
        try:
            async with asyncio.timeout(5):
                await self._store.write(lambda tx: self._leases.release(tx, term))
        except (Error, TimeoutError) as error:  # the lease ends by itself
            _log.warning("scheduler_release_failed", error=str(error))

    # firing

    async def _fire(self, rows: Sequence[Row], now_us: int) -> float:
        settings = self._settings
        plans, faults = plan(rows, now_us, late_us=int(settings.late_s * 1e6), limit=settings.jobs_at_once)

        async def part(some: Sequence[Plan]) -> list[Occurrence] | None:
            return await self._store.write(lambda tx: self._write(tx, some))

        written, culprits = await in_halves(plans, part) if plans else ([], [])
        if None in written:
            self._lost()
            return 0.0
        wrong = [*faults, *((one.row, error) for one, error in culprits)]
        if wrong:
            await self._put_off(wrong)
        self._tell([one for some in written for one in some or ()], now_us)
        return 0.0 if plans or wrong else settings.interval_s

    async def _write(self, tx: Tx, plans: Sequence[Plan]) -> list[Occurrence] | None:
        """None when the term is over: then nothing is written."""
        if not await self._holds(tx):
            return None
        assert self._term is not None, "it holds"
        return await self._firing.write(tx, plans, await self._time.now_us(tx), self._term)

    async def _put_off(self, wrong: Sequence[tuple[Row, Exception]]) -> None:
        """They stay due, are told, and hold up no other."""

        async def unit(tx: Tx) -> None:
            if await self._holds(tx):
                look_us = await self._time.now_us(tx) + int(self._settings.retry_s * 1e6)
                await self._rows.put_off(tx, [(row.name, str(error)) for row, error in wrong], look_us)

        await self._store.write(unit)
        for row, error in wrong:
            _faults.inc(1, error.code if isinstance(error, Error) else type(error).__name__)
            _log.error("schedule_cannot_fire", schedule=row.name, error=str(error))

    def _tell(self, occurrences: Sequence[Occurrence], now_us: int) -> None:
        for one in occurrences:
            _fires.inc(one.fires, one.decision.value)
            if one.decision in {FireDecision.FIRED, FireDecision.JOINED}:
                _late.observe(max(0.0, (now_us - one.fire_us) / 1e6))
            else:
                tell = _log.warning if one.decision is FireDecision.MISSED else _log.info
                tell(
                    "schedule_did_not_run",
                    schedule=one.schedule,
                    decision=one.decision.value,
                    fires=one.fires,
                    since_us=one.since_us,
                    until_us=one.fire_us,
                )

    # a clock that goes back

    async def _plan_anew(self, now_us: int) -> None:
        """Every schedule's next fire from now on. What had fired by the clock as it was has an occurrence, and is not
        repeated: so there may be silence until then, and that is told.
        """
        back_s = (self._seen_us - now_us) / 1e6
        _log.error(
            "clock_went_back",
            seconds=back_s,
            effect="schedules are planned anew; fires that happened already in that time are not repeated",
        )
        self._quiet_until_us = self._seen_us
        rows = await self._store.read(self._rows.all)
        standing = [row for row in rows if row.enabled and row.paused_us is None]
        for begin in range(0, len(standing), _CHUNK):
            some = standing[begin : begin + _CHUNK]
            earlier = {row.name: next_us for row in some if (next_us := _earlier(row, now_us)) is not None}

            async def unit(tx: Tx, some: Sequence[Row] = some, earlier: Mapping[str, int] = earlier) -> bool:
                if not await self._holds(tx):
                    return False
                rows = await self._firing.unchanged(tx, [row for row in some if row.name in earlier])
                await self._rows.advance(
                    tx, [(row.name, earlier[row.name], row.last_fire_us, row.high_us) for row in rows]
                )
                return True

            if earlier and not await self._store.write(unit):
                self._lost()
                return
        self._seen_us = now_us
        self._tell_quiet(now_us)

    def _tell_quiet(self, now_us: int) -> None:
        _quiet.set(max(0.0, (self._quiet_until_us - now_us) / 1e6), self._store.name)

    # keeping

    async def _sweep(self) -> None:
        """Forget old occurrences, a window at a time."""
        if self._monotonic() < self._swept_at + self._settings.sweep_every_s:
            return

        async def unit(tx: Tx) -> int:
            if not await self._holds(tx):
                return 0
            before_us = await self._time.now_us(tx) - int(self._settings.retention_s * 1e6)
            return await self._occurrences.sweep(tx, before_us, self._settings.sweep_rows)

        if await self._store.write(unit) < self._settings.sweep_rows:
            self._swept_at = self._monotonic()


def _earlier(row: Row, now_us: int) -> int | None:
    """A next fire before the one that is stored; None when there is none."""
    try:
        next_us = decode(row.definition).after_us(now_us)
    except Error:
        return None  # told when it is due
    return next_us if next_us is not None and (row.next_fire_us is None or next_us < row.next_fire_us) else None
