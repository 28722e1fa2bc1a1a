"""What a worker asks for and what it starts next: two decisions; the time is passed in.

Claimed jobs wait here in memory, the first by priority ahead, until their queue's concurrency lets them start. Two
bounds hold: all queues together never hold more than `bound` jobs (waiting, running, or ended and not yet written), and
a queue is not asked for more than it will soon start, since a job that waits here is one that no other worker can take,
and one that a more urgent job cannot overtake in the queue. What can start at once is always asked for; beyond that, as
much as would end while a turn is on its way, by the rate of the last turns, doubled. So a queue of long jobs holds none
that wait, and one of short jobs grows within a few turns to whole batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from dougong.jobs._protocol import Claimed, Want

__all__ = ["Intake"]


class _Line:
    """One queue's jobs here."""

    __slots__ = ("ahead", "ended", "held", "limit", "paused", "queue", "running", "waiting")

    def __init__(self, queue: str, limit: int) -> None:
        self.queue = queue
        self.limit = limit
        self.paused = False
        self.waiting: list[tuple[int, int, Claimed]] = []
        """A heap by priority, then by the order of coming."""
        self.running = 0
        self.held = 0
        """Waiting, running, or ended and not yet written."""
        self.ended = 0
        """Since it was last asked for."""
        self.ahead = 0.0
        """How many would end while a turn is on its way."""

    def lacks(self) -> int:
        if self.paused:
            return 0
        return max(0, self.limit - self.running) + int(2 * self.ahead) - len(self.waiting)


class Intake:
    """Jobs that are claimed. `next` starts one, `ended` ends one, `written` forgets it."""

    def __init__(self, limits: Mapping[str, int], bound: int) -> None:
        self.bound = bound
        self.held = 0
        self._lines = {queue: _Line(queue, limit) for queue, limit in limits.items()}
        self._order = list(self._lines.values())
        self._came = 0
        self._asked_at = float("-inf")
        self._flight_s = 0.0

    def add(self, jobs: Iterable[Claimed]) -> None:
        """What was claimed."""
        for job in jobs:
            line = self._lines[job.queue]
            self._came += 1
            heappush(line.waiting, (job.priority, self._came, job))
            line.held += 1
            self.held += 1

    def next(self) -> Claimed | None:
        """The job to start now, if any may; it counts as running."""
        order = self._order
        for place, line in enumerate(order):
            if line.waiting and line.running < line.limit and not line.paused:
                line.running += 1
                if place:  # the queue that had its turn goes to the end, so that none starves another
                    order.append(order.pop(place))
                elif len(order) > 1:
                    order.append(order.pop(0))
                return heappop(line.waiting)[2]
        return None

    def ended(self, queue: str) -> None:
        """One of its running jobs runs no longer."""
        line = self._lines[queue]
        line.running -= 1
        line.ended += 1
        assert line.running >= 0, f"more jobs of {queue} ended than started"

    def written(self, queue: str, count: int = 1) -> None:
        """So many of its jobs are held no longer."""
        line = self._lines[queue]
        line.held -= count
        self.held -= count
        assert line.held >= len(line.waiting), f"{queue} gave away jobs that wait here"

    def wants(self, writing: int = 0) -> list[Want]:
        """What could be taken now, by a turn that also writes the end of `writing` jobs. With several queues each may
        have its share of the room, and then what others leave of theirs.
        """
        room = self.bound - self.held + writing
        if room <= 0:
            return []
        lacks = {line.queue: lack for line in self._order if (lack := line.lacks()) > 0}
        share = max(1, room // len(lacks)) if lacks else 0
        grants: dict[str, int] = {}
        for most in (share, room):
            for queue, lack in lacks.items():
                more = min(most, lack - grants.get(queue, 0), room)
                if more > 0:
                    grants[queue] = grants.get(queue, 0) + more
                    room -= more
        return [Want(queue, count) for queue, count in grants.items()]

    def asked(self, now: float) -> None:
        """A turn sets out. What ended since the one before set out is the rate."""
        cycle_s = max(now - self._asked_at, 1e-6)
        for line in self._order:
            would = line.ended * min(1.0, self._flight_s / cycle_s)
            line.ahead = max(would, line.ahead / 2)
            line.ended = 0
        self._asked_at = now

    def answered(self, now: float) -> None:
        """It is back."""
        self._flight_s = now - self._asked_at

    def configure(self, queue: str, limit: int, *, paused: bool = False) -> list[Claimed]:
        """Follow an operator; what is running goes on. A queue that is paused gives back what waits here."""
        line = self._lines[queue]
        line.limit = limit
        line.paused = paused
        return self._empty(line) if paused else []

    def take_out(self, ids: set[int]) -> list[Claimed]:
        """Waiting jobs with these ids, which will not start."""
        out: list[Claimed] = []
        for line in self._order:
            found = [entry for entry in line.waiting if entry[2].id in ids]
            if found:
                line.waiting = [entry for entry in line.waiting if entry[2].id not in ids]
                heapify(line.waiting)
                out += [entry[2] for entry in found]
        return out

    def take_all(self) -> list[Claimed]:
        """All that wait, when nothing is to start any more."""
        return [job for line in self._order for job in self._empty(line)]

    def _empty(self, line: _Line) -> list[Claimed]:
        out = [job for _, _, job in sorted(line.waiting, key=lambda entry: entry[:2])]
        line.waiting = []
        return out

    @property
    def queues(self) -> Sequence[str]:
        return tuple(self._lines)

    def limit(self, queue: str) -> int:
        return self._lines[queue].limit

    def paused(self, queue: str) -> bool:
        return self._lines[queue].paused

    def waiting_jobs(self) -> list[Claimed]:
        """All that wait, in no order."""
        return [job for line in self._order for _, _, job in line.waiting]

    def running(self, queue: str) -> int:
        return self._lines[queue].running

    def waiting(self, queue: str) -> int:
        return len(self._lines[queue].waiting)
