"""What people decide about jobs that are over: again, or no longer kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from dougong.jobs.sql.ending import JobRow, read_rows
from dougong.jobs.sql.putting import Waiting, join_line, wait
from dougong.jobs.sql.step import BLOCKED, CANCELLED, DEAD, DONE, UNREAD, Step
from dougong.store import execute_with, fetch_with

__all__ = ["drop", "forget", "replay"]


async def replay(step: Step, ids: Sequence[int]) -> set[int]:
    """Dead or cancelled jobs wait again: at once, or for what they waited for before."""
    rows = {id_: row for id_, row in (await read_rows(step, ids)).items() if row.state in (DEAD, CANCELLED)}
    marks = [row.unique_mark for row in rows.values() if row.unique_mark is not None]
    if marks:
        sql = "SELECT mark FROM dougong_job_marks WHERE mark IN ({ids})"
        taken = {cast(bytes, row[0]) for row in await fetch_with(step.tx, sql, sorted(set(marks)))}
        free: dict[int, JobRow] = {}
        for id_, row in sorted(rows.items()):
            if row.unique_mark is None or row.unique_mark not in taken:
                free[id_] = row
                if row.unique_mark is not None:
                    taken.add(row.unique_mark)
        rows = free
        await step.tx.execute_many(
            "INSERT INTO dougong_job_marks (mark, job_id) VALUES (?, ?)",
            [(row.unique_mark, row.id) for row in rows.values() if row.unique_mark is not None],
        )
    sql = "SELECT id FROM dougong_job_groups WHERE missing > 0 AND id IN ({ids})"
    heads = {row[0] for row in await fetch_with(step.tx, sql, sorted(rows))}
    waiting: dict[int, list[Waiting]] = {}
    blocked: list[JobRow] = []
    for row in rows.values():
        if row.id in heads or (row.line is not None and await join_line(step, row.line, row.id) > 1):
            blocked.append(row)
        else:
            waiting.setdefault(row.state, []).append((row.id, row.queue, row.priority, step.now_us, 0, 0, ""))
    for state, some in waiting.items():
        await wait(step, some, state)
    await step.tx.execute_many(
        "UPDATE dougong_jobs SET state = 2, attempts = 0, stalls = 0, finished_us = NULL WHERE id = ?",
        [(row.id,) for row in blocked],
    )
    for row in blocked:
        step.move(row.queue, row.state, BLOCKED)
    return set(rows)


async def forget(step: Step, ids: Sequence[int]) -> set[int]:
    """Jobs that are over are deleted."""
    sql = f"SELECT id FROM dougong_jobs WHERE last_term = {UNREAD} AND id IN ({{ids}})"  # noqa: S608 (our own number)
    unread = {row[0] for row in await fetch_with(step.tx, sql, ids)}
    rows = [
        row
        for row in (await read_rows(step, ids)).values()
        if row.state in (DONE, DEAD, CANCELLED) and row.id not in unread
    ]
    await drop(step, rows)
    return {row.id for row in rows}


async def drop(step: Step, rows: Iterable[JobRow]) -> None:
    """Delete jobs that are over and all there is of them."""
    rows = list(rows)
    ids = [row.id for row in rows]
    extras = [row.id for row in rows if row.extra is not None]
    if extras:
        sql = "SELECT key_mark FROM dougong_job_extras WHERE key_mark IS NOT NULL AND id IN ({ids})"
        marks = [cast(bytes, row[0]) for row in await fetch_with(step.tx, sql, extras)]
        await execute_with(step.tx, "DELETE FROM dougong_job_marks WHERE mark IN ({ids})", marks)
        await execute_with(step.tx, "DELETE FROM dougong_job_extras WHERE id IN ({ids})", extras)
    await execute_with(step.tx, "DELETE FROM dougong_job_groups WHERE id IN ({ids})", ids)
    await execute_with(step.tx, "DELETE FROM dougong_jobs WHERE id IN ({ids})", ids)
    for row in rows:
        step.count(row.queue, row.state, -1)
