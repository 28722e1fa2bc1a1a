"""Jobs come in: by far most of them are one row each; a key, an order, a group or a chain cost a row more."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import cast

import msgspec

from dougong.errors import Conflict
from dougong.jobs._protocol import Enqueued, NewJob
from dougong.jobs.sql.new_rows import insert_rows
from dougong.jobs.sql.numbers import Numbers
from dougong.jobs.sql.step import BLOCKED, DELAYED, DONE, WAITING, Step, place_of
from dougong.store import Value, fetch_with
from dougong.telemetry import get_logger

__all__ = ["Waiting", "insert", "insert_group", "insert_next", "join_line", "mark_of", "release", "wait"]

_log = get_logger("dougong.jobs")

_COMMON = (
    "queue, lane, job, state, priority, place, delayed_us, due_us, enqueued_us, shard_index, shard_total, schedule, "
    "fire_us"
)
_OWN = "id, trace, payload"
_INSERT_EXTRA = (
    "INSERT INTO dougong_job_extras (id, job_key, key_mark, unique_mark, line, seq, group_id, then_jobs) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_LEND = "UPDATE dougong_job_extras SET job_key = ?, key_mark = ? WHERE id = ? AND key_mark IS NULL"
_STAND = "INSERT INTO dougong_job_lines (line, seq, job_id) VALUES (?, ?, ?)"
_INSERT_MARK = "INSERT INTO dougong_job_marks (mark, job_id) VALUES (?, ?)"
_READY = (
    "UPDATE dougong_jobs SET state = 1, place = ?, delayed_us = NULL, due_us = ?, term = NULL, attempts = ?, "
    "stalls = ?, finished_us = NULL, error = COALESCE(NULLIF(?, ''), error) WHERE id = ?"
)
_LATER = (
    "UPDATE dougong_jobs SET state = 1, place = NULL, delayed_us = ?, due_us = ?, term = NULL, attempts = ?, "
    "stalls = ?, finished_us = NULL, error = COALESCE(NULLIF(?, ''), error) WHERE id = ?"
)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[NewJob, ...]).decode


async def insert(
    step: Step, numbers: Numbers, jobs: Sequence[NewJob], *, group: int | None = None, blocked: bool = False
) -> list[Enqueued]:
    """Put checked jobs, as members of a group if one is given. `blocked`: until a group is done."""
    taken = await _there_already(step, jobs)
    ids = iter(await numbers.take(step.tx, len(jobs)))
    now_us = step.now_us
    rows: dict[tuple[Value, ...], list[tuple[Value, ...]]] = {}
    extras: list[Sequence[Value]] = []
    marks: dict[bytes, int] = {}
    rates: dict[str, float] = {}
    lines: dict[bytes, int] = {}
    stands: list[Sequence[Value]] = []
    lent: list[tuple[str | None, bytes, int]] = []
    enqueued: list[Enqueued] = []
    counted: dict[tuple[str, int], int] = {}
    for job in jobs:
        queue, key_mark, unique_mark, line, seq = job.queue, None, None, None, None
        if job.key is not None or job.unique is not None:
            key_mark, unique_mark = _marks(job)
            there = _find(taken, key_mark, unique_mark)
            if there is not None:
                if key_mark is not None and key_mark not in taken:  # put again when that one is over, it is meant still
                    taken[key_mark] = there
                    lent.append((job.key, key_mark, there))
                enqueued.append(Enqueued(there, False))
                continue
        id_ = next(ids)
        due_us = now_us if job.due_us is None or job.due_us < now_us else job.due_us
        lane, where = queue, BLOCKED if blocked else WAITING if due_us == now_us else DELAYED
        if job.rate is not None:
            lane = f"{queue}/{job.job}"
            rates[job.job] = job.rate
        if key_mark is not None:
            taken[key_mark] = marks[key_mark] = id_
        if unique_mark is not None:
            taken[unique_mark] = marks[unique_mark] = id_
        if job.order is not None:
            line = mark_of("order", queue, job.order)
            if not blocked:
                if line not in lines:
                    lines[line] = await _last_of(step, line)
                lines[line] += 1
                seq = lines[line]
                if seq > 1:
                    where = BLOCKED
                stands.append((line, seq, id_))
        if job.then or line is not None or group is not None or key_mark is not None or unique_mark is not None:
            then = _encode(job.then) if job.then else None
            extras.append((id_, job.key, key_mark, unique_mark, line, seq, group, then))
        common = (
            queue,
            lane,
            job.job,
            where or WAITING,
            job.priority,
            place_of(job.priority, due_us) if where == WAITING else None,
            due_us if where == DELAYED else None,
            due_us,
            now_us,
            job.index,
            job.total,
            job.schedule,
            job.fire_us,
        )
        alike = rows.get(common)
        if alike is None:
            alike = rows[common] = []
        alike.append((id_, job.trace, job.payload))
        key = (queue, where)
        counted[key] = counted.get(key, 0) + 1
        enqueued.append(Enqueued(id_))
    for (queue, where), count in counted.items():
        step.count(queue, where, count)
        step.put[queue] = step.put.get(queue, 0) + count
    await insert_rows(step, _COMMON, _OWN, rows)
    if extras:
        await step.tx.execute_many(_INSERT_EXTRA, extras)
    if stands:
        await step.tx.execute_many(_STAND, stands)
    if marks:
        await step.tx.execute_many(_INSERT_MARK, list(marks.items()))
    for text, mark, id_ in lent:
        if await step.tx.execute(_LEND, (text, mark, id_)):
            await step.tx.execute(_INSERT_MARK, (mark, id_))
    for name, rate in rates.items():
        if not await step.tx.execute("UPDATE dougong_job_rates SET rate = ? WHERE job = ?", (rate, name)):
            await step.tx.execute("INSERT INTO dougong_job_rates (job, rate, free_us) VALUES (?, ?, 0)", (name, rate))
    return enqueued


async def insert_group(
    step: Step, numbers: Numbers, jobs: Sequence[NewJob], then: NewJob
) -> tuple[int, list[Enqueued]]:
    """A group goes by the id of the job that it leads to. Put again with the same key, it is the one that is there."""
    ((head),) = await insert(step, numbers, [then], blocked=bool(jobs))
    if not head.new:
        row = await step.tx.fetch_one("SELECT members FROM dougong_job_groups WHERE id = ?", (head.id,))
        if row is None:
            raise Conflict(f"job {then.job} with this key is there and no group leads to it", code="no_such_group")
        return head.id, [Enqueued(id_, False) for id_ in msgspec.json.decode(cast(str, row[0]), type=list[int])]
    members = await insert(step, numbers, jobs, group=head.id)
    missing = {member.id for member in members}
    old = missing - {member.id for member in members if member.new}
    if old:
        done, elsewhere = await _adopt(step, old, head.id)
        if elsewhere:
            raise Conflict(
                f"job {min(elsewhere)} was there before and belongs to another group; a job has one",
                code="in_another_group",
            )
        missing -= done
    await step.tx.execute(
        "INSERT INTO dougong_job_groups (id, missing, members) VALUES (?, ?, ?)",
        (head.id, len(missing), msgspec.json.encode([member.id for member in members]).decode()),
    )
    if jobs and not missing:
        await release(step, [head.id])
    return head.id, members


async def insert_next(step: Step, numbers: Numbers, then_jobs: bytes, group: int | None) -> bool:
    """What comes next in a chain, now that what came before is done. The chain's group is done with its last job:
    True when that was there (it has a key) and is done already.
    """
    first, *rest = _decode(then_jobs)
    (next_,) = await insert(step, numbers, [msgspec.structs.replace(first, then=tuple(rest))], group=group)
    if next_.new or group is None:
        return False
    done, elsewhere = await _adopt(step, {next_.id}, group)
    if elsewhere:  # nobody is there to be told; the group waits until somebody looks
        _log.warning("job_in_another_group", job=first.job, id=next_.id, group=group)
    return bool(done)


async def release(step: Step, ids: Sequence[int]) -> None:
    """Blocked jobs whose group is done: they wait now, or stand in their line."""
    rows = await fetch_with(
        step.tx,
        "SELECT j.id, j.queue, j.priority, j.due_us, e.line FROM dougong_jobs j "
        "LEFT JOIN dougong_job_extras e ON e.id = j.id WHERE j.state = 2 AND j.id IN ({ids})",
        ids,
    )
    free: list[Waiting] = []
    for id_, queue, priority, due_us, line in cast("list[tuple[int, str, int, int, bytes | None]]", rows):
        if line is None or await join_line(step, line, id_) == 1:
            free.append((id_, queue, priority, max(due_us, step.now_us), 0, 0, ""))
    await wait(step, free, BLOCKED)


async def join_line(step: Step, line: bytes, id_: int) -> int:
    """At its end; the place in it, 1 when it is empty."""
    seq = await _last_of(step, line) + 1
    await step.tx.execute(_STAND, (line, seq, id_))
    await step.tx.execute("UPDATE dougong_job_extras SET seq = ? WHERE id = ?", (seq, id_))
    return seq


Waiting = tuple[int, str, int, int, int, int, str]
"""(id, queue, priority, due_us, attempts, stalls, error) of a job that is to wait. No error: the last one stays."""


async def wait(step: Step, rows: Sequence[Waiting], source: int) -> None:
    """Jobs that were `source` wait for their turn, or for their time."""
    now_us = step.now_us
    ready: list[Sequence[Value]] = []
    later: list[Sequence[Value]] = []
    for id_, queue, priority, due_us, attempts, stalls, error in rows:
        if due_us <= now_us:
            ready.append((place_of(priority, due_us), due_us, attempts, stalls, error, id_))
            step.move(queue, source, WAITING)
        else:
            later.append((due_us, due_us, attempts, stalls, error, id_))
            step.move(queue, source, DELAYED)
    if ready:
        await step.tx.execute_many(_READY, ready)
    if later:
        await step.tx.execute_many(_LATER, later)


def mark_of(kind: str, name: str, text: str) -> bytes:
    """A text as it stands in an index: sixteen bytes on every engine, however long it is."""
    return blake2b(f"{kind}\0{name}\0{text}".encode(), digest_size=16).digest()


def _marks(job: NewJob) -> tuple[bytes | None, bytes | None]:
    key_mark = mark_of("key", job.job, job.key) if job.key is not None else None
    return key_mark, mark_of("unique", job.job, job.unique) if job.unique is not None else None


def _find(taken: dict[bytes, int], key_mark: bytes | None, unique_mark: bytes | None) -> int | None:
    """The job that has one of the marks: a key comes first."""
    if key_mark is not None and key_mark in taken:
        return taken[key_mark]
    return taken.get(unique_mark) if unique_mark is not None else None


async def _there_already(step: Step, jobs: Sequence[NewJob]) -> dict[bytes, int]:
    """Marks of these jobs that are taken, and the jobs that have them."""
    marks = {
        mark
        for job in jobs
        if job.key is not None or job.unique is not None
        for mark in _marks(job)
        if mark is not None
    }
    if not marks:
        return {}
    rows = await fetch_with(step.tx, "SELECT mark, job_id FROM dougong_job_marks WHERE mark IN ({ids})", sorted(marks))
    return dict(cast("list[tuple[bytes, int]]", rows))


async def _adopt(step: Step, ids: set[int], group: int) -> tuple[set[int], set[int]]:
    """Jobs that were there become members; (those that are done, and so are none; those of other groups)."""
    rows = await fetch_with(
        step.tx,
        "SELECT j.id, j.state, e.group_id FROM dougong_jobs j JOIN dougong_job_extras e ON e.id = j.id "
        "WHERE j.id IN ({ids})",
        sorted(ids),
    )
    done: set[int] = set()
    elsewhere: set[int] = set()
    for id_, state, other in cast("list[tuple[int, int, int | None]]", rows):
        if state == DONE:
            done.add(id_)
        elif other is not None and other != group:
            elsewhere.add(id_)
        else:
            await step.tx.execute("UPDATE dougong_job_extras SET group_id = ? WHERE id = ?", (group, id_))
    return done, elsewhere


async def _last_of(step: Step, line: bytes) -> int:
    row = await step.tx.fetch_one("SELECT max(seq) FROM dougong_job_lines WHERE line = ?", (line,))
    return cast("int | None", row[0] if row is not None else None) or 0
