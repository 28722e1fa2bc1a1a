"""A job comes out of the log: a row is written that says who runs it, and from then on the row speaks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dougong.jobs._protocol import Claimed
from dougong.jobs.kafka.assignment import Held
from dougong.jobs.kafka.waiting import Waiting
from dougong.jobs.sql.new_rows import insert_rows
from dougong.jobs.sql.step import CANCELLED, RUNNING, UNREAD, Step
from dougong.store import Value, execute_with, fetch_with

__all__ = ["cancel_in_log", "claim", "rows_of"]

_COMMON = (
    "queue, lane, job, state, priority, started_us, finished_us, term, last_term, attempts, shard_index, shard_total, "
    "schedule"
)
_OWN = "id, due_us, enqueued_us, trace, payload"


async def rows_of(step: Step, ids: Sequence[int]) -> set[int]:
    """Those that the database knows."""
    if not ids:
        return set()
    rows = await fetch_with(step.tx, "SELECT id FROM dougong_jobs WHERE id IN ({ids})", ids)
    return {cast(int, row[0]) for row in rows}


async def claim(
    step: Step, term: int, queue: str, jobs: Sequence[Held], count: int
) -> tuple[list[Claimed], list[Held]]:
    """Take up to `count` of a queue's jobs: those taken, and those that a row speaks for by now, whose ever it is.

    A record comes again when who read it died before it could commit. Whoever asks here finds the row, and its job is
    not run a second time.
    """
    there = await rows_of(step, [held.id for held in jobs])
    claimed: list[Claimed] = []
    settled: list[Held] = []
    now_us = step.now_us
    rows: dict[tuple[Value, ...], list[tuple[Value, ...]]] = {}
    for held in jobs:
        if held.id in there:
            settled.append(held)
            continue
        if len(claimed) >= count:
            continue
        settled.append(held)
        job = held.job
        common = (
            queue, queue, job.job, RUNNING, job.priority, now_us, None, term, term, 1, job.index, job.total,
            job.schedule,
        )  # fmt: skip
        rows.setdefault(common, []).append((held.id, job.enqueued_us, job.enqueued_us, job.trace, job.payload))
        claimed.append(
            Claimed(
                id=held.id,
                queue=queue,
                job=job.job,
                payload=job.payload,
                attempt=1,
                priority=job.priority,
                enqueued_us=job.enqueued_us,
                due_us=job.enqueued_us,
                trace=job.trace,
                index=job.index,
                total=job.total,
                schedule=job.schedule,
                alone=True,
                place=held.place,
            )
        )
    if claimed:
        await insert_rows(step, _COMMON, _OWN, rows)
        step.count(queue, RUNNING, len(claimed))
    if there:  # some may have been cancelled in a transaction, which could not read the log
        await step.tx.execute_many(
            "UPDATE dougong_jobs SET job = ?, priority = ?, payload = ?, trace = ? WHERE id = ? AND job = ''",
            [(h.job.job, h.job.priority, h.job.payload, h.job.trace, h.id) for h in settled if h.id in there],
        )
        await execute_with(
            step.tx,
            f"UPDATE dougong_jobs SET last_term = NULL WHERE last_term = {UNREAD} AND id IN ({{ids}})",  # noqa: S608 (our own number)
            sorted(there),
        )
    return claimed, settled


async def cancel_in_log(step: Step, waiting: Sequence[Waiting]) -> set[int]:
    """A row that says so is all it takes: who reads the record finds it. The ids of those that had none."""
    there = await rows_of(step, [each.id for each in waiting])
    new = [each for each in waiting if each.id not in there]
    rows: dict[tuple[Value, ...], list[tuple[Value, ...]]] = {}
    for each in new:
        job = each.job
        common = (
            each.queue, each.queue, job.job, CANCELLED, job.priority, None, step.now_us, None, UNREAD, 0, job.index,
            job.total, job.schedule,
        )  # fmt: skip
        rows.setdefault(common, []).append((each.id, job.enqueued_us, job.enqueued_us, job.trace, job.payload))
        step.count(each.queue, CANCELLED)
    await insert_rows(step, _COMMON, _OWN, rows)
    return {each.id for each in new}
