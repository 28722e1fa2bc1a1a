"""What nobody holds any more comes back, and what was kept long enough goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar, cast

from dougong.clock import Clock
from dougong.jobs.sql import meters
from dougong.jobs.sql.ending import cancel_waiting, finish, hold_of, read_rows, take_back
from dougong.jobs.sql.numbers import Numbers
from dougong.jobs.sql.operating import drop
from dougong.jobs.sql.settings import SqlQueueSettings
from dougong.jobs.sql.step import DEAD, UNREAD, Step
from dougong.store import Store
from dougong.telemetry import get_logger

__all__ = ["Reaper", "Stays", "nothing_stays"]

R = TypeVar("R")
_log = get_logger("dougong.jobs")

TERMS_AT_ONCE = 100
HELD_AT_ONCE = 1000
WINDOW_ROWS = 2000
WINDOWS_AT_ONCE = 20


class Write(Protocol):
    """Runs a step in a unit."""

    def __call__(self, work: Callable[[Step], Awaitable[R]]) -> Awaitable[R]: ...


Stays = Callable[[int], bool]
"""Whether the row of that id must not be forgotten yet."""


async def nothing_stays() -> Stays:
    """Where rows are all there is of a job."""
    return lambda _id: False


class Reaper:
    """Any number of processes may do this: what one did, another no longer finds."""

    def __init__(
        self,
        write: Write,
        numbers: Numbers,
        store: Store,
        clock: Clock,
        settings: SqlQueueSettings,
        id_ranges: Sequence[int] = (0,),
        stays: Callable[[], Awaitable[Stays]] = nothing_stays,
    ) -> None:
        self._write = write
        self._numbers = numbers
        self._store = store
        self._clock = clock
        self._settings = settings
        self._ranges = id_ranges
        self._stays = stays
        self._range = 0
        self._swept_id = 0
        self._sweep_at_s = 0.0

    async def reap(self) -> int:
        """Take back what terms that are over held, then forget what was kept long enough; how many wait again."""
        came_back = 0
        for term, name in await self._write(self._terms_over):
            while True:
                back, dead, more = await self._write(lambda step, term=term: self._take_back(step, term))  # type: ignore[misc]
                came_back += back
                if back or dead:
                    meters.reaped.inc(back, "back")
                    meters.reaped.inc(dead, "dead")
                    _log.warning("worker_lost", term=term, worker=name, jobs_back=back, jobs_dead=dead)
                if not more:
                    break
        await self._sweep()
        return came_back

    async def _terms_over(self, step: Step) -> list[tuple[int, str]]:
        """Also those whose end is much further off than they are long: it was set by a clock that has been moved back
        since, and a worker that died before would be waited for until then. To take a living one's is safe (`closed`).
        """
        rows = await step.tx.fetch_all(
            "SELECT term, name FROM dougong_job_workers WHERE closed = 2 OR "
            "(closed = 0 AND (until_us <= ? OR until_us > ? + 2 * ttl_us)) ORDER BY term LIMIT ?",
            (step.now_us, step.now_us, TERMS_AT_ONCE),
        )
        return cast("list[tuple[int, str]]", rows)

    async def _take_back(self, step: Step, term: int) -> tuple[int, int, bool]:
        """From here on the term is over for good, also when the clock is set back. It may have been renewed since it
        was looked at; then nothing happens.
        """
        over = await step.tx.execute(
            "UPDATE dougong_job_workers SET closed = 2 WHERE term = ? "
            "AND (closed = 2 OR (closed = 0 AND (until_us <= ? OR until_us > ? + 2 * ttl_us)))",
            (term, step.now_us, step.now_us),
        )
        if not over:
            return 0, 0, False
        rows = list((await hold_of(step, term, HELD_AT_ONCE)).values())
        asked = await step.tx.fetch_all("SELECT job_id FROM dougong_job_cancels WHERE term = ?", (term,))
        cancels = {row[0] for row in asked}
        dead = [row for row in rows if row.stalls + 1 >= self._settings.stalls_max and row.id not in cancels]
        gone = {row.id for row in dead} | cancels
        back = [row for row in rows if row.id not in gone]
        await cancel_waiting(step, self._numbers, [row for row in rows if row.id in cancels])
        await take_back(step, back, stalled=True)
        if dead:
            stalls = self._settings.stalls_max
            await finish(
                step, self._numbers, dead, DEAD, f"stalled: its worker died or fell silent, {stalls} times in all"
            )
            await step.tx.execute_many(
                "UPDATE dougong_jobs SET stalls = stalls + 1 WHERE id = ?", [(row.id,) for row in dead]
            )
        if len(rows) < HELD_AT_ONCE:
            await step.tx.execute(
                "UPDATE dougong_job_workers SET closed = 1, until_us = CASE WHEN until_us < ? THEN until_us ELSE ? END "
                "WHERE term = ?",
                (step.now_us, step.now_us, term),
            )
            await step.tx.execute("DELETE FROM dougong_job_cancels WHERE term = ?", (term,))
        return len(back), len(dead), len(rows) == HELD_AT_ONCE

    async def _sweep(self) -> None:
        """The table is walked from where the oldest of each range are, until all that comes is too young."""
        if self._swept_id == 0 and self._clock.monotonic() < self._sweep_at_s:
            return
        stays = await self._stays()
        for _ in range(WINDOWS_AT_ONCE):
            last, dropped, young = await self._write(lambda step: self._sweep_window(step, stays))
            meters.swept.inc(dropped)
            if young:
                self._range = (self._range + 1) % len(self._ranges)
                self._swept_id = self._ranges[self._range]
                if self._swept_id:
                    continue
                self._sweep_at_s = self._clock.monotonic() + self._settings.sweep_every_s
                return
            self._swept_id = last

    async def _sweep_window(self, step: Step, stays: Stays) -> tuple[int, int, bool]:
        """(the last row seen, how many were dropped, whether there is no need to look further)."""
        before_us = step.now_us - round(self._settings.keep_s * 1e6)
        rows = await step.tx.fetch_all(
            "SELECT id, state, finished_us, enqueued_us, last_term FROM dougong_jobs WHERE id > ? ORDER BY id LIMIT ?",
            (self._swept_id, WINDOW_ROWS),
        )
        old = [
            cast(int, row[0])
            for row in rows
            if row[1] in (4, 6) and cast(int, row[2]) <= before_us and row[4] != UNREAD and not stays(cast(int, row[0]))
        ]
        if old:
            await drop(step, (await read_rows(step, old)).values())
        if len(rows) < WINDOW_ROWS:
            await step.tx.execute("DELETE FROM dougong_job_workers WHERE closed = 1 AND until_us <= ?", (before_us,))
        young = len(rows) < WINDOW_ROWS or (not old and all(cast(int, row[3]) > before_us for row in rows))
        return cast(int, rows[-1][0]) if rows else 0, len(old), young
