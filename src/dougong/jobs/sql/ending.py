"""Jobs come out: an attempt's end, written by nobody but who holds the job, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from dougong.jobs._protocol import Ended, Outcome
from dougong.jobs.sql.checking import DUE_US_MAX, bounded
from dougong.jobs.sql.numbers import Numbers
from dougong.jobs.sql.putting import Waiting, insert_next, release, wait
from dougong.jobs.sql.step import BLOCKED, CANCELLED, DEAD, DELAYED, DONE, RUNNING, WAITING, Step, by_queue
from dougong.store import Row, Value, execute_with, fetch_with

__all__ = ["JobRow", "cancel_waiting", "end", "finish", "held", "hold_of", "read_rows", "take_back"]

ERROR_CHARS_MAX = 8000
RESULT_BYTES_MAX = 1 << 20

_COLUMNS = (
    "j.id, j.queue, j.state, j.priority, j.delayed_us, j.due_us, j.attempts, j.stalls, e.id, e.unique_mark, e.line, "
    "e.seq, e.group_id, e.then_jobs"
)
_FROM = "FROM dougong_jobs j LEFT JOIN dougong_job_extras e ON e.id = j.id "


class JobRow(NamedTuple):
    """What one has to know of a job to move it."""

    id: int
    queue: str
    state: int
    priority: int
    delayed_us: int | None
    due_us: int
    attempts: int
    stalls: int
    extra: int | None
    """Not None when it has any of what follows, or a key."""
    unique_mark: bytes | None
    line: bytes | None
    seq: int | None
    group: int | None
    then_jobs: bytes | None

    @property
    def where(self) -> int:
        """Where it is counted."""
        return DELAYED if self.state == WAITING and self.delayed_us is not None else self.state


HOLD = f"SELECT {_COLUMNS} {_FROM} WHERE j.term = ? LIMIT ?"
_DONE = "UPDATE dougong_jobs SET state = 4, term = NULL, finished_us = ?, error = NULL WHERE id IN ({ids})"
# By id, as the plus says: for each of them SQLite would else look through the index of all that the term holds.
_HELD = f"SELECT {_COLUMNS} {_FROM} WHERE +j.term = ? AND j.id IN ({{ids}})"
_HELD_ATTEMPTS = "SELECT id, attempts FROM dougong_jobs WHERE +term = ? AND id IN ({ids})"


async def held(step: Step, term: int, ids: Sequence[int]) -> dict[int, JobRow]:
    """Those of the jobs that the term holds: the fence. Whoever lost a job can say nothing of it."""
    return _by_id(await fetch_with(step.tx, _HELD, ids, (term,)))


async def hold_of(step: Step, term: int, limit: int) -> dict[int, JobRow]:
    """What a term holds, the first `limit`."""
    return _by_id(await step.tx.fetch_all(HOLD, (term, limit)))


async def read_rows(step: Step, ids: Sequence[int]) -> dict[int, JobRow]:
    """Jobs there are, by id."""
    return _by_id(await fetch_with(step.tx, f"SELECT {_COLUMNS} {_FROM} WHERE j.id IN ({{ids}})", ids))


async def end(step: Step, numbers: Numbers, term: int, ended: Sequence[Ended], cancels: set[int]) -> list[int]:
    """Write down ends; the ids of those that the term does not hold, or holds for another attempt by now (an end that
    is said again, since nobody answered the first time). What somebody cancelled does not come again.
    """
    alone: dict[int, Ended] = {}
    others: dict[int, list[Ended]] = {}
    for one in ended:
        id_ = one.claimed.id
        plain_end = one.claimed.alone and one.outcome is Outcome.DONE and one.result is None and id_ not in cancels
        if plain_end and id_ not in alone and id_ not in others:
            alone[id_] = one
        else:
            others.setdefault(id_, []).append(one)
    taken = await _end_alone(step, term, alone) if alone else set[int]()
    rows = await held(step, term, list(others)) if others else {}
    ends: dict[int, Ended] = {}
    for id_, row in rows.items():
        one_of = next((one for one in others[id_] if one.claimed.attempt == row.attempts), None)
        if one_of is not None:
            ends[id_] = one_of
    plain: list[int] = []  # done, without a word: one statement for all of them
    rich: list[tuple[bytes, int]] = []
    failed: list[tuple[int, str, int]] = []
    again: list[Waiting] = []
    over: dict[int, list[JobRow]] = {}
    for id_, one in ends.items():
        row = rows[id_]
        outcome = one.outcome
        if id_ in cancels and outcome in (Outcome.RETRY, Outcome.RETURNED):
            outcome = Outcome.CANCELLED
        if outcome is Outcome.DONE:
            if one.result is None:
                plain.append(id_)
            elif len(one.result) <= RESULT_BYTES_MAX:
                rich.append((one.result, id_))
            else:
                failed.append((DONE, f"its result of {len(one.result):,} bytes is too large to be kept", id_))
            over.setdefault(DONE, []).append(row)
        elif outcome is Outcome.DEAD or outcome is Outcome.CANCELLED:
            state = DEAD if outcome is Outcome.DEAD else CANCELLED
            failed.append((state, bounded(one.error, ERROR_CHARS_MAX), id_))
            over.setdefault(state, []).append(row)
        else:
            spent = row.attempts - (outcome is Outcome.RETURNED)
            due_us = min(max(one.due_us or 0, step.now_us), DUE_US_MAX - 1)
            again.append((id_, row.queue, row.priority, due_us, spent, row.stalls, bounded(one.error, ERROR_CHARS_MAX)))
        key = (row.queue, outcome.value)
        step.ended[key] = step.ended.get(key, 0) + 1
    now_us = step.now_us
    if plain:
        await execute_with(
            step.tx,
            _DONE,
            plain,
            (now_us,),
        )
    if rich:
        await step.tx.execute_many(
            f"UPDATE dougong_jobs SET state = 4, term = NULL, finished_us = {now_us:d}, error = NULL, result = ? "  # noqa: S608
            "WHERE id = ?",
            rich,
        )
    if failed:
        await step.tx.execute_many(
            f"UPDATE dougong_jobs SET state = ?, term = NULL, finished_us = {now_us:d}, error = ? WHERE id = ?",  # noqa: S608
            failed,
        )
    if again:
        await wait(step, again, RUNNING)
    for state, those in over.items():
        await follow(step, numbers, those, state)
    gone = cancels.intersection(ends)
    if gone:
        await execute_with(step.tx, "DELETE FROM dougong_job_cancels WHERE job_id IN ({ids})", sorted(gone))
    every = dict.fromkeys(one.claimed.id for one in ended)
    return [id_ for id_ in every if id_ not in ends and id_ not in taken]


async def _end_alone(step: Step, term: int, ends: Mapping[int, Ended]) -> set[int]:
    """By far the most: done, without a word, and nothing follows. So their rows are not even read, the fence apart."""
    found = await fetch_with(step.tx, _HELD_ATTEMPTS, list(ends), (term,))
    ids = [cast(int, id_) for id_, attempt in found if ends[cast(int, id_)].claimed.attempt == attempt]
    if ids:
        await execute_with(step.tx, _DONE, ids, (step.now_us,))
    for queue, count in by_queue(ends[id_].claimed.queue for id_ in ids).items():
        step.move(queue, RUNNING, DONE, count)
        key = (queue, Outcome.DONE.value)
        step.ended[key] = step.ended.get(key, 0) + count
    return set(ids)


async def finish(step: Step, numbers: Numbers, rows: Sequence[JobRow], state: int, error: str) -> None:
    """Jobs are over without an attempt's end: cancelled, or given up."""
    await execute_with(
        step.tx,
        "UPDATE dougong_jobs SET state = ?, term = NULL, place = NULL, delayed_us = NULL, finished_us = ?, "
        "error = COALESCE(NULLIF(?, ''), error) WHERE id IN ({ids})",
        [row.id for row in rows],
        (state, step.now_us, error),
    )
    await follow(step, numbers, rows, state)


async def follow(step: Step, numbers: Numbers, rows: Iterable[JobRow], state: int) -> None:
    """What follows from jobs' being over: others may come now."""
    marks: list[bytes] = []
    lines: list[JobRow] = []
    members: dict[int, int] = {}
    chains: list[JobRow] = []
    moved: dict[tuple[str, int], int] = {}
    for row in rows:
        place = (row.queue, row.where)
        moved[place] = moved.get(place, 0) + 1
        if row.extra is None:
            continue
        if row.unique_mark is not None:
            marks.append(row.unique_mark)
        if row.line is not None and row.seq is not None:
            lines.append(row)
        if state == DONE:
            if row.then_jobs is not None:
                chains.append(row)
            elif row.group is not None:
                members[row.group] = members.get(row.group, 0) + 1
    for (queue, where), count in moved.items():
        step.move(queue, where, state, count)
    if marks:
        await execute_with(step.tx, "DELETE FROM dougong_job_marks WHERE mark IN ({ids})", marks)
    if lines:
        await _leave_lines(step, lines)
    for row in chains:
        assert row.then_jobs is not None
        if await insert_next(step, numbers, row.then_jobs, row.group):
            assert row.group is not None
            members[row.group] = members.get(row.group, 0) + 1
    if members:
        await _count_members(step, members)


async def take_back(step: Step, rows: Iterable[JobRow], *, stalled: bool) -> None:
    """Jobs that were held wait again, at once: with one stall more, or with the attempt not spent."""
    await wait(
        step,
        [
            (
                row.id,
                row.queue,
                row.priority,
                step.now_us,
                row.attempts if stalled else row.attempts - 1,
                row.stalls + stalled,
                "",
            )
            for row in rows
        ],
        RUNNING,
    )


async def cancel_waiting(step: Step, numbers: Numbers, rows: Sequence[JobRow]) -> None:
    """Jobs that nobody runs are cancelled."""
    if rows:
        await finish(step, numbers, rows, CANCELLED, "")


async def _leave_lines(step: Step, rows: Sequence[JobRow]) -> None:
    """The next of each line may come."""
    await step.tx.execute_many(
        "DELETE FROM dougong_job_lines WHERE line = ? AND seq = ?",
        [cast("Sequence[Value]", (row.line, row.seq)) for row in rows],
    )
    for line in sorted({row.line for row in rows if row.line is not None}):
        first = await step.tx.fetch_one(
            "SELECT j.id, j.queue, j.state, j.priority, j.due_us FROM dougong_job_lines l "
            "JOIN dougong_jobs j ON j.id = l.job_id WHERE l.line = ? ORDER BY l.seq LIMIT 1",
            (line,),
        )
        if first is not None and first[2] == BLOCKED:
            id_, queue, _, priority, due_us = cast("tuple[int, str, int, int, int]", first)
            await wait(step, [(id_, queue, priority, max(due_us, step.now_us), 0, 0, "")], BLOCKED)


async def _count_members(step: Step, members: dict[int, int]) -> None:
    await step.tx.execute_many(
        "UPDATE dougong_job_groups SET missing = missing - ? WHERE id = ?",
        [(count, group) for group, count in members.items()],
    )
    complete = await fetch_with(
        step.tx, "SELECT id FROM dougong_job_groups WHERE missing <= 0 AND id IN ({ids})", sorted(members)
    )
    if complete:
        await release(step, [cast(int, row[0]) for row in complete])


def _by_id(rows: Iterable[Row]) -> dict[int, JobRow]:
    return {cast(int, row[0]): JobRow._make(row) for row in rows}
