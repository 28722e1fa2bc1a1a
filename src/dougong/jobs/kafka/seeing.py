"""Jobs in the log and jobs in tables, seen as one, for people and tools that look and decide.

A job leaves the log at any moment, and then has a row. So whoever looks at the log asks the tables after it: what was
taken meanwhile is seen, and seen once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dougong.errors import Unavailable
from dougong.jobs._protocol import Filter, QueueCounts, State, Stored
from dougong.jobs.kafka.assignment import Part
from dougong.jobs.kafka.claiming import cancel_in_log
from dougong.jobs.kafka.lanes import Lanes
from dougong.jobs.kafka.looking import Looking
from dougong.jobs.kafka.records import LogJob, Spot, spot_of
from dougong.jobs.kafka.waiting import Waiting
from dougong.jobs.sql import SqlQueue
from dougong.jobs.sql.reaping import Stays
from dougong.store import Store, Tx, fetch_with
from dougong.telemetry import get_logger

__all__ = ["Seeing"]

_log = get_logger("dougong.jobs")
_NOWHERE = Part("", -1)

LOOKED_AT = 1000
"""Records of each partition that are read to show or count what waits."""


class Seeing:
    """Methods are those of `KafkaQueue`, which says what each does."""

    def __init__(self, store: Store, rows: SqlQueue, lanes: Lanes, looking: Looking) -> None:
        self._store = store
        self._rows = rows
        self._lanes = lanes
        self._looking = looking

    async def find(self, ids: Sequence[int]) -> list[Stored | None]:
        found = await self._rows.find(ids)
        missing = [id_ for id_, each in zip(ids, found, strict=True) if each is None and spot_of(id_) is not None]
        if not missing:
            return found
        waiting = {each.id: each.stored() for each in await self._in_log(missing)}
        # What was taken while we looked has a row by now.
        return [
            again if again is not None else waiting.get(id_)
            for id_, again in zip(ids, await self._rows.find(ids), strict=True)
        ]

    async def page(self, which: Filter, after: int | None, limit: int) -> list[Stored]:
        spot = spot_of(after) if after is not None else None
        waiting: list[Waiting] = []
        if (
            which.state in (None, State.WAITING)
            and which.key is None
            and which.error is None
            and (after is None or spot is not None)  # what waits in the log has higher ids than all others
        ):
            lanes = await self.lanes_of(which.queue)
            below = {} if spot is None else dict.fromkeys(lanes, spot.offset + 1)
            tails = await self._looking.tails(lanes, below, LOOKED_AT)
            waiting = [each for each in tails if (after is None or each.id < after) and each.matches(which)]
        # In this order, what is taken meanwhile is there once.
        there = await self._with_rows([each.id for each in waiting])
        merged = {each.id: each.stored() for each in waiting if each.id not in there}
        merged.update((stored.id, stored) for stored in await self._rows.page(which, after=after, limit=limit))
        return sorted(merged.values(), key=lambda stored: -stored.id)[:limit]

    async def counts(self) -> list[QueueCounts]:
        heads = await self._looking.heads(await self.lanes_of(None), LOOKED_AT)
        in_log = [each.id for _, waiting in heads.values() for each in waiting]

        # The log first, then one look at the database: a job that is taken meanwhile is counted, and counted once.
        async def unit(tx: Tx) -> tuple[list[QueueCounts], set[int]]:
            return await self._rows.counts(tx), await self._with_rows(in_log, tx)

        of_rows, there = await self._store.read(unit)
        counts = {each.queue: each for each in of_rows}
        for part, (depth, waiting) in heads.items():
            left = [each for each in waiting if each.id not in there]
            jobs = len(left)
            if depth.records > LOOKED_AT and left and left[-1] is waiting[-1]:
                jobs += round((depth.records - LOOKED_AT) * len(waiting) / LOOKED_AT)
            old = counts.get(part.queue, QueueCounts(queue=part.queue))
            due = [each.job.enqueued_us for each in left]
            if old.oldest_due_us is not None:
                due.append(old.oldest_due_us)
            counts[part.queue] = QueueCounts(
                queue=part.queue,
                waiting=old.waiting + jobs,
                delayed=old.delayed,
                blocked=old.blocked,
                running=old.running,
                done=old.done,
                dead=old.dead,
                cancelled=old.cancelled,
                oldest_due_us=min(due, default=None),
            )
        return [counts[queue] for queue in sorted(counts)]

    async def unfinished(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        async def unit(tx: Tx) -> tuple[set[int], set[int]]:
            found = await self._rows.unfinished(ids, tx)
            rest = [id_ for id_ in ids if id_ not in found and spot_of(id_) is not None]
            return found, set(rest) - await self._with_rows(rest, tx)

        found, rest = await (unit(tx) if tx is not None else self._store.read(unit))
        if tx is not None or not rest:
            return found | rest
        waiting = {each.id for each in await self._in_log(sorted(rest))}
        return found | waiting | await self._rows.unfinished(sorted(rest - waiting))  # taken while we looked

    async def cancel(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        found = await self._rows.cancel(ids, tx)
        rest = [id_ for id_ in ids if id_ not in found and spot_of(id_) is not None]
        if not rest:
            return found
        if tx is None:
            waiting = await self._in_log(rest)
        else:
            waiting = [Waiting(id_, part.queue, LogJob("", b"", 0)) for part, id_ in self._spots(rest)]
        cancelled = await self._rows._write(lambda step: cancel_in_log(step, waiting), tx)
        found |= cancelled
        started = [id_ for id_ in rest if id_ not in cancelled]  # while we looked
        return found | await self._rows.cancel(started, tx) if started else found

    async def stays(self) -> Stays:
        """Of a job that came by the log nothing says that it ran but its row, until the group has committed that its
        record is settled. Who forgot the row before that would have it run again: others of its record may wait for
        days, and so may all of them after a crash, in a queue that is paused. When nobody can tell, it stays.
        """
        try:
            await self._lanes.all_queues()
            depths = await self._looking.depths(self._lanes.parts.keys())
        except Unavailable as error:
            _log.warning("job_rows_kept", reason=str(error))
            return lambda id_: spot_of(id_) is not None

        def stays(id_: int) -> bool:
            spot = spot_of(id_)
            depth = depths.get(self._lanes.part_of(spot.lane) or _NOWHERE) if spot is not None else None
            return spot is not None and depth is not None and depth.needs_row(spot.offset)

        return stays

    def _spots(self, ids: Sequence[int]) -> list[tuple[Part, int]]:
        found: list[tuple[Part, int]] = []
        for id_ in ids:
            spot = spot_of(id_)
            part = self._lanes.part_of(spot.lane) if spot is not None else None
            if part is not None:
                found.append((part, id_))
        return found

    async def _in_log(self, ids: Sequence[int]) -> list[Waiting]:
        """Those of the jobs that wait in the log."""
        if not any(spot_of(id_) is not None for id_ in ids):
            return []
        await self._lanes.all_queues()
        return await self._looking.at([(part, cast(Spot, spot_of(id_))) for part, id_ in self._spots(ids)])

    async def lanes_of(self, queue: str | None) -> dict[Part, int]:
        await self._lanes.all_queues()
        return {part: lane for part, lane in self._lanes.parts.items() if queue is None or part.queue == queue}

    async def _with_rows(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        """Those that the database knows."""
        if not ids:
            return set()

        async def unit(tx: Tx) -> set[int]:
            rows = await fetch_with(tx, "SELECT id FROM dougong_jobs WHERE id IN ({ids})", ids)
            return {cast(int, row[0]) for row in rows}

        return await (unit(tx) if tx is not None else self._store.read(unit))
