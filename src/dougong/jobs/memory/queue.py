"""A queue in one process's memory: for tests, of ours and of whoever writes jobs, and to see what a queue must do.

It keeps every rule of `Queue` but one: nothing is on a disk, so `tx` is not looked at and a process that ends forgets.
Everything happens between two awaits, so no lock is needed on the loop; `renew` may come from another thread and does
one step that cannot be divided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from dougong.clock import Clock, SystemClock
from dougong.errors import Conflict, Invalid
from dougong.jobs._protocol import (
    Claimed,
    Ended,
    Enqueued,
    Filter,
    NewJob,
    Progress,
    QueueCounts,
    QueueSettings,
    State,
    Stored,
    Turn,
    Want,
    WorkerInfo,
)
from dougong.jobs.memory.rows import FINISHED, PAGE_MAX, Term, check_count, check_job, claimed_of, fits, stored_of
from dougong.jobs.memory.table import Table
from dougong.store import Tx

__all__ = ["MemoryQueue"]


class MemoryQueue:
    """A `Queue` without a database. `stalls_max`: a job whose workers went silent so often is dead."""

    def __init__(self, clock: Clock | None = None, *, stalls_max: int = 3) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._stalls_max = stalls_max
        self._settings: dict[str, QueueSettings] = {}
        self._terms: dict[int, Term] = {}
        self._last_term = 0
        self._news = asyncio.Event()
        self._table = Table(self._clock, self._news.set)
        self._rows = self._table.rows

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    # who enqueues

    async def put(self, jobs: Sequence[NewJob], tx: Tx | None = None) -> list[Enqueued]:
        check_count(jobs)
        for job in jobs:
            check_job(job)
        return [self._table.put(job, None) for job in jobs]

    async def put_group(self, jobs: Sequence[NewJob], then: NewJob, tx: Tx | None = None) -> tuple[int, list[Enqueued]]:
        check_count(jobs)
        for job in (*jobs, then):
            check_job(job)
        return self._table.put_group(jobs, then)

    # who works

    async def attach(self, worker: WorkerInfo, ttl_s: float) -> int:
        if not ttl_s > 0:
            raise Invalid(f"a term of {ttl_s} s is none", code="bad_term")
        self._last_term += 1
        self._terms[self._last_term] = Term(worker.name, self._clock.now_us() + int(ttl_s * 1e6))
        return self._last_term

    async def renew(self, term: int, ttl_s: float) -> bool:
        held = self._terms.get(term)
        now_us = self._clock.now_us()
        if held is None or held.until_us <= now_us:
            return False
        held.until_us = now_us + int(ttl_s * 1e6)
        return True

    async def detach(self, term: int) -> None:
        held = self._terms.pop(term, None)
        for row in list(held.held.values()) if held is not None else ():
            self._table.come_back(row)

    async def held(self, term: int) -> Sequence[Claimed]:
        """What the term holds, for a worker that does not know what came of its last turn."""
        return [claimed_of(row) for row in self._living(term).held.values()]

    async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
        held = self._living(term)
        now_us = self._clock.now_us()
        check_count(ended)
        check_count(range(sum(max(want.count, 0) for want in wants)))
        lost: list[int] = []
        for end in {end.claimed.id: end for end in reversed(ended)}.values():
            row = held.held.get(end.claimed.id)
            if row is None or row.attempts != end.claimed.attempt:
                lost.append(end.claimed.id)
            else:
                del held.held[row.id]
                self._table.end(row, end, now_us)
        self._table.move_due(now_us)
        claimed: list[Claimed] = []
        for want in wants:
            setting = self._settings.get(want.queue)
            if setting is None or not setting.paused:
                claimed += [claimed_of(row) for row in self._table.take(held, term, want, now_us)]
        if len(claimed) < sum(want.count for want in wants):
            self._news.clear()
        return Turn(
            claimed=claimed,
            lost=lost,
            cancel=[row.id for row in held.held.values() if row.cancel],
            settings=self._settings,
            next_due_us=self._table.next_due_us(),
            now_us=now_us,
        )

    def _living(self, term: int) -> Term:
        held = self._terms.get(term)
        if held is None or held.until_us <= self._clock.now_us():
            raise Conflict(f"term {term} is over: its jobs are others' by now", code="term_over")
        return held

    async def report(self, term: int, progress: Sequence[Progress]) -> None:
        held = self._living(term).held
        for one in progress:
            if one.id in held:
                held[one.id].progress = one

    async def news(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            pass  # none, and that is said in time

    async def reap(self) -> int:
        now_us = self._clock.now_us()
        count = 0
        for term in [number for number, held in self._terms.items() if held.until_us <= now_us]:
            for row in list(self._terms.pop(term).held.values()):
                row.stalls += 1
                if row.cancel:
                    self._table.finish(row, State.CANCELLED, now_us)
                elif row.stalls >= self._stalls_max:
                    row.error = (
                        f"stalled {row.stalls} times: its workers died or fell silent, the last was {row.worker}"
                    )
                    self._table.finish(row, State.DEAD, now_us)
                else:
                    self._table.wait(row)
                    count += 1
        return count

    # who looks and decides

    async def find(self, ids: Sequence[int]) -> list[Stored | None]:
        check_count(ids)
        return [stored_of(row) if (row := self._rows.get(id_)) is not None else None for id_ in ids]

    async def page(self, which: Filter, *, after: int | None = None, limit: int = 50) -> list[Stored]:
        if not 1 <= limit <= PAGE_MAX:
            raise Invalid(f"a page of {limit} jobs: give 1 to {PAGE_MAX:,}", code="bad_limit")
        newest = (row for id_, row in reversed(self._rows.items()) if after is None or id_ < after)
        found: list[Stored] = []
        for row in newest:
            if len(found) >= limit:
                break
            if fits(row, which):
                found.append(stored_of(row))
        return found

    async def counts(self) -> list[QueueCounts]:
        now_us = self._clock.now_us()
        by_queue: dict[str, dict[str, int]] = {queue: {} for queue in self._settings}
        heads: dict[str, tuple[int, int]] = {}
        for row in self._rows.values():
            queue = row.new.queue
            numbers = by_queue.setdefault(queue, {})
            numbers[row.state.value] = numbers.get(row.state.value, 0) + 1
            if row.state is State.WAITING:
                if row.due_us > now_us:
                    numbers["delayed"] = numbers.get("delayed", 0) + 1
                else:
                    place = (row.new.priority, row.due_us)
                    heads[queue] = min(heads.get(queue, place), place)
        return [
            QueueCounts(queue=queue, oldest_due_us=heads[queue][1] if queue in heads else None, **numbers)
            for queue, numbers in sorted(by_queue.items())
        ]

    async def unfinished(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        check_count(ids)
        return {id_ for id_ in ids if id_ in self._rows and self._rows[id_].state not in FINISHED}

    async def cancel(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        found = await self.unfinished(ids)
        for id_ in found:
            row = self._rows[id_]
            if row.state is State.RUNNING:
                row.cancel = True
            else:
                self._table.finish(row, State.CANCELLED, self._clock.now_us())
        return found

    async def replay(self, ids: Sequence[int]) -> set[int]:
        check_count(ids)
        found: set[int] = set()
        for id_ in ids:
            row = self._rows.get(id_)
            if row is None or row.state not in (State.DEAD, State.CANCELLED):
                continue
            if self._table.again(row):
                found.add(id_)
        return found

    async def forget(self, ids: Sequence[int]) -> set[int]:
        check_count(ids)
        found = {id_ for id_ in ids if id_ in self._rows and self._rows[id_].state in FINISHED}
        for id_ in found:
            self._table.forget(id_)
        return found

    async def settings(self) -> Mapping[str, QueueSettings]:
        return dict(self._settings)

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        if settings.concurrency is not None and settings.concurrency < 0:
            raise Invalid(f"concurrency {settings.concurrency} of queue {queue} must be 0 or more", code="bad_settings")
        self._settings = {**self._settings, queue: settings}
        self._news.set()
