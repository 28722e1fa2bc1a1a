"""What a worker takes: the first in each queue by priority and time, as far as rates allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from dougong.jobs._protocol import Claimed, QueueSettings, Want
from dougong.jobs.sql.step import DELAYED, RUNNING, WAITING, Step, by_queue
from dougong.store import Row, execute_with

__all__ = ["due_sql", "holds", "move_due", "read_settings", "take"]

MOVED_MAX = 2000
"""Delayed jobs that take their place in one transaction."""
BURST_S = 0.1
"""So many seconds' worth of a rate may start at once: workers look now and then."""

# Statistics are old when a million jobs have just come: then PostgreSQL thinks that a handful wait and sorts them all,
# unless it cannot know the limit, and MariaDB may read the whole table. So both are told.
_LIMIT = {"postgresql": "(SELECT CAST(? AS BIGINT))"}
_HINT = {"mysql": "FORCE INDEX ({index}) "}


def take_sql(dialect: str) -> str:
    """The first so many of a lane."""
    hint = _HINT.get(dialect, "").format(index="dougong_jobs_place")
    return (
        "SELECT j.id, j.queue, j.job, j.payload, j.attempts, j.stalls, j.enqueued_us, j.due_us, j.trace, "  # noqa: S608
        "j.shard_index, j.shard_total, j.schedule, e.job_key, j.place, j.priority, e.id, j.fire_us "
        f"FROM dougong_jobs j {hint}LEFT JOIN dougong_job_extras e ON e.id = j.id "
        f"WHERE j.lane = ? AND j.place IS NOT NULL ORDER BY j.place, j.id LIMIT {_LIMIT.get(dialect, '?')}"
    )


def due_sql(dialect: str) -> str:
    """The first so many whose time has come."""
    hint = _HINT.get(dialect, "").format(index="dougong_jobs_delayed")
    return (
        f"SELECT id, queue FROM dougong_jobs {hint}WHERE delayed_us IS NOT NULL AND delayed_us <= ? "  # noqa: S608
        f"ORDER BY delayed_us LIMIT {_LIMIT.get(dialect, '?')}"
    )


_TAKE = {dialect: take_sql(dialect) for dialect in ("sqlite", "mysql", "postgresql")}
_DUE = {dialect: due_sql(dialect) for dialect in ("sqlite", "mysql", "postgresql")}
STANDS = "SELECT 1 FROM dougong_jobs WHERE lane = ? AND place IS NOT NULL LIMIT 1"
NEXT_DUE = "SELECT min(delayed_us) FROM dougong_jobs WHERE delayed_us IS NOT NULL"


async def move_due(step: Step) -> int | None:
    """Those whose time has come take their place. When the next of those that are still delayed is due.

    Mostly none has come: then that is one statement, and while it is on its way nobody else has the turn to write.
    """
    next_us = await _next_due_us(step)
    if next_us is None or next_us > step.now_us:
        return next_us
    rows = cast("list[tuple[int, str]]", await step.tx.fetch_all(_DUE[step.dialect], (step.now_us, MOVED_MAX)))
    await execute_with(
        step.tx,
        "UPDATE dougong_jobs SET place = priority * 4503599627370496 + due_us, delayed_us = NULL WHERE id IN ({ids})",
        [row[0] for row in rows],
    )
    for queue, count in by_queue(row[1] for row in rows).items():
        step.move(queue, DELAYED, WAITING, count)
    return await _next_due_us(step)


async def _next_due_us(step: Step) -> int | None:
    row = await step.tx.fetch_one(NEXT_DUE)
    return cast("int | None", row[0]) if row is not None else None


async def read_settings(step: Step) -> tuple[dict[str, QueueSettings], dict[str, int]]:
    """What was set for queues, and how many jobs ever came to each."""
    rows = await step.tx.fetch_all("SELECT queue, concurrency, paused, configured, arrived FROM dougong_job_queues")
    settings: dict[str, QueueSettings] = {}
    arrived: dict[str, int] = {}
    for queue, concurrency, paused, configured, count in cast("list[tuple[str, int | None, int, int, int]]", rows):
        arrived[queue] = count
        if configured:
            settings[queue] = QueueSettings(concurrency=concurrency, paused=bool(paused))
    return settings, arrived


async def take(
    step: Step, term: int, wants: Sequence[Want], settings: Mapping[str, QueueSettings]
) -> tuple[list[Claimed], int | None]:
    """What is due, and when the next may start of those that only their rate holds back."""
    if not any(want.count > 0 for want in wants):
        return [], None
    rates = cast(
        "list[tuple[str, float, int]]", await step.tx.fetch_all("SELECT job, rate, free_us FROM dougong_job_rates")
    )
    claimed: list[Claimed] = []
    next_us: int | None = None
    budgets = {job: _Budget(job, rate, free_us, step.now_us) for job, rate, free_us in rates}
    for want in wants:
        if want.count <= 0 or (want.queue in settings and settings[want.queue].paused):
            continue
        rows = await step.tx.fetch_all(_TAKE[step.dialect], (want.queue, want.count))
        if budgets:
            rows, held_until_us = await _take_rated(step, want, rows, budgets)
            if held_until_us is not None:
                next_us = held_until_us if next_us is None else min(next_us, held_until_us)
        if rows:
            claimed += map(_claimed, rows)
            step.move(want.queue, WAITING, RUNNING, len(rows))
            await execute_with(
                step.tx,
                "UPDATE dougong_jobs SET state = 3, place = NULL, term = ?, last_term = ?, started_us = ?, "
                "attempts = attempts + 1, progress_done = NULL, progress_total = NULL, progress_note = NULL "
                "WHERE id IN ({ids})",
                [cast(int, row[0]) for row in rows],
                (term, term, step.now_us),
            )
    spent = [budget for budget in budgets.values() if budget.taken]
    if spent:
        await step.tx.execute_many(
            "UPDATE dougong_job_rates SET free_us = ? WHERE job = ?", [(b.free_us, b.job) for b in spent]
        )
    return claimed, next_us


class _Budget:
    """How many of a job's name may start now. A virtual schedule, as in ITU-T I.371 (GCRA)."""

    def __init__(self, job: str, rate: float, free_us: int, now_us: int) -> None:
        self.job = job
        self._interval_us = 1e6 / rate
        burst = max(1, int(rate * BURST_S))
        if free_us > now_us + self._interval_us + 1:  # further off than ever: the clock has been moved back since
            free_us = now_us
        self._from_us = max(float(free_us), now_us - (burst - 1) * self._interval_us)
        self._now_us = now_us
        self.taken = 0

    @property
    def left(self) -> int:
        """Starts that are allowed now."""
        start_us = self._from_us + self.taken * self._interval_us
        return int((self._now_us - start_us) // self._interval_us) + 1 if start_us <= self._now_us else 0

    @property
    def free_us(self) -> int:
        """When the next one is."""
        return self.free_us_after(0)

    def free_us_after(self, more: int) -> int:
        """When the next one is after so many more."""
        return math.ceil(self._from_us + (self.taken + more) * self._interval_us)


async def _take_rated(
    step: Step, want: Want, rows: list[Row], budgets: Mapping[str, _Budget]
) -> tuple[list[Row], int | None]:
    """Jobs with a rate stand in lanes of their own, so that those held back are in nobody's way."""
    next_us: int | None = None
    for budget in budgets.values():
        lane = f"{want.queue}/{budget.job}"
        allowed = min(budget.left, want.count)
        found = await step.tx.fetch_all(_TAKE[step.dialect], (lane, allowed)) if allowed else []
        if allowed < want.count and (len(found) == allowed > 0 or (not allowed and await _stands(step, lane))):
            free_us = budget.free_us_after(allowed)  # there may be more
            next_us = free_us if next_us is None else min(next_us, free_us)
        rows += found
    rows.sort(key=_by_place)
    del rows[want.count :]
    for row in rows:
        if row[2] in budgets:
            budgets[cast(str, row[2])].taken += 1
    return rows, next_us


async def _stands(step: Step, lane: str) -> bool:
    """Whether a job stands there."""
    return await step.tx.fetch_one(STANDS, (lane,)) is not None


def _by_place(row: Row) -> tuple[int, int]:
    return cast("tuple[int, int]", (row[13], row[0]))


HOLDS = (
    "SELECT j.id, j.queue, j.job, j.payload, j.attempts - 1, j.stalls, j.enqueued_us, j.due_us, j.trace, "
    "j.shard_index, j.shard_total, j.schedule, e.job_key, j.place, j.priority, e.id, j.fire_us "
    "FROM dougong_jobs j LEFT JOIN dougong_job_extras e ON e.id = j.id WHERE j.term = ? ORDER BY j.id"
)


async def holds(step: Step, term: int) -> list[Claimed]:
    """All that a term holds, as it was taken."""
    return [_claimed(row) for row in await step.tx.fetch_all(HOLDS, (term,))]


def _claimed(row: Row) -> Claimed:
    id_, queue, job, payload, attempts, stalls, enqueued_us, due_us, trace, index, total, schedule, key = row[:13]
    return Claimed(
        id=id_,  # type: ignore[arg-type]
        queue=queue,  # type: ignore[arg-type]
        job=job,  # type: ignore[arg-type]
        payload=payload,  # type: ignore[arg-type]
        priority=row[14],  # type: ignore[arg-type]
        alone=row[15] is None,
        attempt=cast(int, attempts) + 1,
        stalls=stalls,  # type: ignore[arg-type]
        enqueued_us=enqueued_us,  # type: ignore[arg-type]
        due_us=due_us,  # type: ignore[arg-type]
        key=key,  # type: ignore[arg-type]
        trace=trace,  # type: ignore[arg-type]
        index=index,  # type: ignore[arg-type]
        total=total,  # type: ignore[arg-type]
        schedule=schedule,  # type: ignore[arg-type]
        fire_us=row[16],  # type: ignore[arg-type]
    )
