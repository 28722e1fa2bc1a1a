"""One transaction in progress: its time, and how many jobs it moves from where to where.

Counts of a queue stand in one row that is changed in the transactions that move its jobs, so that whoever asks reads a
row and nobody counts a million of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from dougong.store import Tx

__all__ = ["BLOCKED", "CANCELLED", "DEAD", "DELAYED", "DONE", "RUNNING", "UNREAD", "WAITING", "Step", "place_of"]

WAITING, BLOCKED, RUNNING, DONE, DEAD, CANCELLED = range(1, 7)
"""States as stored."""
DELAYED = 0
"""Not a state as stored: those waiting whose time has not come are counted apart."""
_ARRIVED = 7
UNREAD = -1
"""In the place of the last term, of a job that was cancelled in a log: until its record is read, and that may be long,
nothing but the row says that it must not run. So such a row is not forgotten.
"""

_ADD = (
    "UPDATE dougong_job_queues SET delayed_jobs = delayed_jobs + ?, waiting = waiting + ?, blocked = blocked + ?, "
    "running = running + ?, done = done + ?, dead = dead + ?, cancelled = cancelled + ?, arrived = arrived + ? "
    "WHERE queue = ?"
)
_INSERT = (
    "INSERT INTO dougong_job_queues (delayed_jobs, waiting, blocked, running, done, dead, cancelled, arrived, queue) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SECTOR = 1 << 52
"""Microseconds of one priority in the order of places: until the year 2112."""


def place_of(priority: int, due_us: int) -> int:
    """Where a job that may be taken stands: the first by priority, then by how long it has been due."""
    return priority * _SECTOR + due_us


def due_of(place: int) -> int:
    """Since when the job at that place has been due."""
    return place % _SECTOR


class Step:
    """Made anew each time a unit runs."""

    def __init__(self, tx: Tx, now_us: int, dialect: str) -> None:
        self.tx = tx
        self.dialect = dialect
        self.now_us = now_us
        self._moved: dict[str, list[int]] = {}
        self.put: dict[str, int] = {}
        """How many new jobs of a queue there are, for metrics."""
        self.ended: dict[tuple[str, str], int] = {}
        """How many attempts of a queue ended how, likewise."""

    def count(self, queue: str, where: int, jobs: int = 1) -> None:
        """So many more (or fewer) of a queue are there. What now waits, or will, has arrived."""
        moved = self._moved.get(queue)
        if moved is None:
            moved = self._moved[queue] = [0] * 8
        moved[where] += jobs
        if jobs > 0 and where in (DELAYED, WAITING):
            moved[_ARRIVED] += jobs

    def move(self, queue: str, source: int, target: int, jobs: int = 1) -> None:
        """So many of a queue are no longer there but here."""
        self.count(queue, source, -jobs)
        self.count(queue, target, jobs)

    def arrived(self, queue: str) -> int:
        """How many jobs this transaction adds to those a worker may take."""
        moved = self._moved.get(queue)
        return moved[_ARRIVED] if moved is not None else 0

    @property
    def brings_jobs(self) -> bool:
        """Whether workers should look once it is committed."""
        return any(moved[_ARRIVED] for moved in self._moved.values())

    async def write_counts(self) -> None:
        """The last thing in a unit."""
        for queue, moved in sorted(self._moved.items()):
            if any(moved) and not await self.tx.execute(_ADD, (*moved, queue)):
                await self.tx.execute(_INSERT, (*moved, queue))


def by_queue(queues: Iterable[str]) -> dict[str, int]:
    """How many of each."""
    counted: dict[str, int] = {}
    for queue in queues:
        counted[queue] = counted.get(queue, 0) + 1
    return counted
