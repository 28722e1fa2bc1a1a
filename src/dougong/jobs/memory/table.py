"""The table behind a queue in memory: each move a job can make, between two awaits.

What waits stands where it will be found (a heap per queue, one of those delayed, a line per order); what is over lets
go of its unique mark, lets the next of its line come, and brings what follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush

import msgspec

from dougong.clock import Clock
from dougong.errors import Conflict
from dougong.jobs._protocol import Ended, Enqueued, NewJob, Outcome, State, Want
from dougong.jobs.memory.rows import AFTER, Group, Row, Term

__all__ = ["Table"]


class Table:
    """Jobs, and where each stands. `news` is called when one may be taken, or will be."""

    def __init__(self, clock: Clock, news: Callable[[], None]) -> None:
        self._clock = clock
        self._news = news
        self.rows: dict[int, Row] = {}
        self._ready: dict[str, list[tuple[int, int, int]]] = {}
        """Per queue: priority, due, id; may name jobs that are elsewhere by now."""
        self._delayed: list[tuple[int, int]] = []
        self._keys: dict[tuple[str, str], int] = {}
        self._uniques: dict[tuple[str, str], int] = {}
        self._orders: dict[tuple[str, str], list[int]] = {}
        """Per queue and mark: unfinished ids; the first may run."""
        self._rates: dict[str, float] = {}
        """Per job: when the next may start, in microseconds."""
        self._groups: dict[int, Group] = {}
        self._last_id = 0

    def _there(self, job: NewJob) -> int | None:
        """The job that this one would be."""
        for marks, mark in ((self._keys, job.key), (self._uniques, job.unique)):
            if mark is not None and (there := marks.get((job.job, mark))) is not None:
                return there
        return None

    def put(self, job: NewJob, group: int | None, *, wait: bool = True) -> Enqueued:
        """See `Queue.put`. Without `wait` it is blocked until its group is done."""
        there = self._there(job)
        if there is not None:
            return Enqueued(there, new=False)
        self._last_id += 1
        row = self.rows[self._last_id] = Row(self._last_id, job, self._clock.now_us(), group)
        if job.key is not None:
            self._keys[job.job, job.key] = row.id
        if job.unique is not None:
            self._uniques[job.job, job.unique] = row.id
        if wait:
            self.wait(row)
        else:
            row.state = State.BLOCKED
        return Enqueued(row.id)

    def put_group(self, jobs: Sequence[NewJob], then: NewJob) -> tuple[int, list[Enqueued]]:
        """See `Queue.put_group`. Nothing is put when one of them belongs to another (`Conflict`)."""
        for job in jobs:
            there = self._there(job)
            if there is not None and self.rows[there].group not in (None, self._there(then)):
                raise Conflict(f"job {there} belongs to another group", code="other_group")
        last = self.put(then, None, wait=False)
        if not last.new:
            return last.id, [Enqueued(id_, new=False) for id_ in self._groups[last.id].members]
        put = [self.put(job, last.id) for job in jobs]
        members = [one.id for one in put]
        left = {id_ for id_ in members if self.rows[id_].state is not State.DONE}
        for id_ in left:
            self.rows[id_].group = last.id
        self._groups[last.id] = Group(members, left)
        self._close_group(last.id)
        return last.id, put

    def wait(self, row: Row) -> None:
        """Let it stand where it will be found."""
        row.state, row.term, row.cancel = State.WAITING, 0, False
        if row.new.order is not None:
            line = self._orders.setdefault((row.new.queue, row.new.order), [])
            if row.id not in line:
                line.append(row.id)
            if line[0] != row.id:
                row.state = State.BLOCKED
                return
        if row.due_us > self._clock.now_us():
            heappush(self._delayed, (row.due_us, row.id))
        else:
            heappush(self._ready.setdefault(row.new.queue, []), (row.new.priority, row.due_us, row.id))
        self._news()

    def move_due(self, now_us: int) -> None:
        """Those whose time has come may be taken."""
        while self._delayed and self._delayed[0][0] <= now_us:
            row = self.rows.get(heappop(self._delayed)[1])
            if row is not None and row.state is State.WAITING and row.due_us <= now_us:
                heappush(self._ready.setdefault(row.new.queue, []), (row.new.priority, row.due_us, row.id))

    def next_due_us(self) -> int | None:
        """When the next of those that are delayed is due."""
        return self._delayed[0][0] if self._delayed else None

    def take(self, held: Term, term: int, want: Want, now_us: int) -> Iterable[Row]:
        """Up to so many of a queue's that may start, the first by priority and time; they run, held by the term."""
        ready = self._ready.get(want.queue)
        left = want.count
        while ready and left > 0:
            _, due_us, id_ = heappop(ready)
            row = self.rows.get(id_)
            if row is None or row.state is not State.WAITING or row.due_us != due_us:
                continue
            if row.new.rate is not None:
                next_us = self._rates.get(row.new.job, 0.0)
                if next_us > now_us:
                    row.due_us = math.ceil(next_us)
                    heappush(self._delayed, (row.due_us, row.id))
                    continue
                self._rates[row.new.job] = max(next_us, now_us) + 1e6 / row.new.rate
            row.state, row.term, row.worker = State.RUNNING, term, held.worker
            row.attempts += 1
            row.started_us = now_us
            held.held[id_] = row
            left -= 1
            yield row

    def end(self, row: Row, end: Ended, now_us: int) -> None:
        """An attempt's end: the job is over, or comes again."""
        if end.outcome in (Outcome.RETRY, Outcome.RETURNED):
            row.error = end.error or row.error
            if end.outcome is Outcome.RETURNED:
                row.attempts -= 1
            if row.cancel:
                self.finish(row, State.CANCELLED, now_us)
            else:
                row.due_us = end.due_us if end.due_us is not None else row.due_us
                self.wait(row)
            return
        row.result, row.error = end.result, end.error
        self.finish(row, AFTER[end.outcome], now_us)

    def finish(self, row: Row, state: State, now_us: int) -> None:
        """It is over, and what follows from that comes."""
        row.state, row.finished_us, row.term, row.cancel = state, now_us, 0, False
        new = row.new
        if new.unique is not None and self._uniques.get((new.job, new.unique)) == row.id:
            del self._uniques[new.job, new.unique]
        if new.order is not None:
            self._leave_order(row)
        if state is State.DONE:
            group = self._groups.get(row.group) if row.group is not None else None
            if new.then:
                first, *rest = new.then
                following = self.put(msgspec.structs.replace(first, then=(*first.then, *rest)), row.group)
                if group is not None and following.new:
                    group.left.add(following.id)
            if group is not None:
                group.left.discard(row.id)
                self._close_group(row.group)

    def _leave_order(self, row: Row) -> None:
        assert row.new.order is not None, "only jobs with an order stand in one"
        mark = (row.new.queue, row.new.order)
        line = self._orders.get(mark, [])
        if row.id in line:
            line.remove(row.id)
        if not line:
            self._orders.pop(mark, None)
        elif (following := self.rows[line[0]]).state is State.BLOCKED:
            self.wait(following)

    def _close_group(self, group: int | None) -> None:
        if group is not None and not self._groups[group].left:
            last = self.rows[group]
            if last.state is State.BLOCKED:
                last.due_us = max(last.due_us, self._clock.now_us())
                self.wait(last)

    def come_back(self, row: Row) -> None:
        """Its worker is gone, and said so: nothing is spent."""
        row.attempts -= 1
        if row.cancel:
            self.finish(row, State.CANCELLED, self._clock.now_us())
        else:
            self.wait(row)

    def again(self, row: Row) -> bool:
        """One that is over waits as if it were new; not while another of its mark is unfinished."""
        mark = (row.new.job, row.new.unique) if row.new.unique is not None else None
        if mark is not None:
            if mark in self._uniques:
                return False
            self._uniques[mark] = row.id
        row.attempts = row.stalls = 0
        row.error, row.finished_us, row.progress = "", None, None
        row.due_us = self._clock.now_us()
        if row.id in self._groups and self._groups[row.id].left:
            row.state = State.BLOCKED
        else:
            self.wait(row)
        return True

    def forget(self, id_: int) -> None:
        """One that is over is no longer there, and its key is free."""
        new = self.rows.pop(id_).new
        if new.key is not None and self._keys.get((new.job, new.key)) == id_:
            del self._keys[new.job, new.key]
