"""For people and tools: what is where. No statement here looks at more rows than its bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from dougong.errors import Invalid
from dougong.jobs._protocol import Filter, Progress, QueueCounts, QueueSettings, State, Stored
from dougong.jobs.sql.step import due_of
from dougong.store import Row, Store, Tx, Value, fetch_with

__all__ = ["Reading"]

PAGE_MAX = 1000
ROWS_AT_ONCE = 20_000
"""Looked at in one read: on SQLite that holds the loop."""

_NUMBERS = {state: number for number, state in enumerate(State, 1)}
_STATES = dict(enumerate(State, 1))
_SELECT = (
    "SELECT j.id, j.queue, j.job, j.state, j.priority, j.payload, j.attempts, j.stalls, j.enqueued_us, j.due_us, "
    "j.started_us, j.finished_us, e.job_key, j.trace, j.shard_index, j.shard_total, j.schedule, e.group_id, w.name, "
    "j.progress_done, j.progress_total, j.progress_note, j.result, j.error FROM dougong_jobs j "
    "LEFT JOIN dougong_job_extras e ON e.id = j.id LEFT JOIN dougong_job_workers w ON w.term = j.last_term "
)
HEAD = "SELECT min(place) FROM dougong_jobs WHERE lane = ? AND place IS NOT NULL"
PAGE = _SELECT + "WHERE {conditions} AND j.id < ? ORDER BY j.id DESC LIMIT ?"
_PART_OF = {"postgresql": "strpos(j.error, ?) > 0"}
_DEAD = {"mysql": "j.dead = 1"}


class Reading:
    """Reads of one queue's tables."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._part_of = _PART_OF.get(store.dialect, "instr(j.error, ?) > 0")
        self._dead = _DEAD.get(store.dialect, "j.state = 5")

    async def find(self, ids: Sequence[int]) -> list[Stored | None]:
        """In the order asked."""
        rows = await self._store.read(lambda tx: fetch_with(tx, _SELECT + "WHERE j.id IN ({ids})", list(ids)))
        found = {cast(int, row[0]): _stored(row) for row in rows}
        return [found.get(id_) for id_ in ids]

    async def page(self, which: Filter, after: int | None, limit: int) -> list[Stored]:
        """Newest id first."""
        if not 1 <= limit <= PAGE_MAX:
            raise Invalid(f"a page of {limit} jobs; give 1 to {PAGE_MAX}", code="bad_limit")
        conditions, values = self._conditions(which)
        below = after if after is not None else 1 << 62
        if which.key is not None or which.state is State.DEAD:  # few, and found by an index
            rows = await self._store.fetch_all(PAGE.format(conditions=conditions), (*values, below, limit))
            return [_stored(row) for row in rows]
        found: list[Stored] = []
        while len(found) < limit:
            more = limit - len(found)
            rows, lowest = await self._store.read(
                lambda tx, below=below, more=more: self._window(tx, conditions, values, below, more)  # type: ignore[misc]
            )
            found += map(_stored, rows)
            if lowest is None:
                break
            below = lowest
        return found

    async def counts(self, tx: Tx | None = None) -> list[QueueCounts]:
        """By name."""

        async def unit(tx: Tx) -> list[QueueCounts]:
            rows = await tx.fetch_all(
                "SELECT queue, waiting, delayed_jobs, blocked, running, done, dead, cancelled FROM dougong_job_queues "
                "ORDER BY queue"
            )
            rated = [cast(str, row[0]) for row in await tx.fetch_all("SELECT job FROM dougong_job_rates")]
            counted: list[QueueCounts] = []
            for row in rows:
                queue, waiting, delayed, blocked, running, done, dead, cancelled = cast(
                    "tuple[str, int, int, int, int, int, int, int]", row
                )
                head = await self._head(tx, queue, rated) if waiting else None
                counted.append(
                    QueueCounts(
                        queue=queue,
                        waiting=waiting + delayed,
                        delayed=delayed,
                        blocked=blocked,
                        running=running,
                        done=done,
                        dead=dead,
                        cancelled=cancelled,
                        oldest_due_us=due_of(head) if head is not None else None,
                    )
                )
            return counted

        return await (unit(tx) if tx is not None else self._store.read(unit))

    async def settings(self) -> Mapping[str, QueueSettings]:
        """Of all queues for which something was set."""
        rows = await self._store.fetch_all(
            "SELECT queue, concurrency, paused FROM dougong_job_queues WHERE configured = 1 ORDER BY queue"
        )
        return {
            queue: QueueSettings(concurrency=concurrency, paused=bool(paused))
            for queue, concurrency, paused in cast("list[tuple[str, int | None, int]]", rows)
        }

    async def _head(self, tx: Tx, queue: str, rated: Sequence[str]) -> int | None:
        places: list[int] = []
        for lane in (queue, *(f"{queue}/{job}" for job in rated)):
            row = await tx.fetch_one(HEAD, (lane,))
            if row is not None and row[0] is not None:
                places.append(cast(int, row[0]))
        return min(places, default=None)

    async def _window(
        self, tx: Tx, conditions: str, values: Sequence[Value], below: int, limit: int
    ) -> tuple[list[Row], int | None]:
        """What is found in the next stretch downwards, and where that ends; None at the end of the table."""
        row = await tx.fetch_one(
            "SELECT id FROM dougong_jobs WHERE id < ? ORDER BY id DESC LIMIT 1 OFFSET ?", (below, ROWS_AT_ONCE)
        )
        lowest = cast(int, row[0]) if row is not None else None
        rows = await tx.fetch_all(
            f"{_SELECT}WHERE {conditions} AND j.id < ? AND j.id >= ? ORDER BY j.id DESC LIMIT ?",
            (*values, below, lowest if lowest is not None else 0, limit),
        )
        return rows, lowest

    def _conditions(self, which: Filter) -> tuple[str, list[Value]]:
        conditions, values = ["1 = 1"], list[Value]()
        for condition, value in (
            ("j.queue = ?", which.queue),
            ("j.job = ?", which.job),
            ("j.schedule = ?", which.schedule),
            ("e.job_key = ?", which.key),
            (self._part_of, which.error),
            ("j.enqueued_us >= ?", which.since_us),
            ("j.enqueued_us < ?", which.until_us),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if which.state is State.DEAD:
            conditions.append(self._dead)
        elif which.state is not None:
            conditions.append(f"j.state = {_NUMBERS[which.state]}")
        return " AND ".join(conditions), values


def _stored(row: Row) -> Stored:
    done, total, note = row[19:22]
    return Stored(
        id=row[0],  # type: ignore[arg-type]
        queue=row[1],  # type: ignore[arg-type]
        job=row[2],  # type: ignore[arg-type]
        state=_STATES[cast(int, row[3])],
        priority=row[4],  # type: ignore[arg-type]
        payload=row[5],  # type: ignore[arg-type]
        attempts=row[6],  # type: ignore[arg-type]
        stalls=row[7],  # type: ignore[arg-type]
        enqueued_us=row[8],  # type: ignore[arg-type]
        due_us=row[9],  # type: ignore[arg-type]
        started_us=row[10],  # type: ignore[arg-type]
        finished_us=row[11],  # type: ignore[arg-type]
        key=row[12],  # type: ignore[arg-type]
        trace=row[13],  # type: ignore[arg-type]
        index=row[14],  # type: ignore[arg-type]
        total=row[15],  # type: ignore[arg-type]
        schedule=row[16],  # type: ignore[arg-type]
        group=row[17],  # type: ignore[arg-type]
        worker=cast("str | None", row[18]) or "",
        progress=Progress(row[0], done, total, note or "") if done is not None else None,  # type: ignore[arg-type]
        result=row[22],  # type: ignore[arg-type]
        error=cast("str | None", row[23]) or "",
    )
