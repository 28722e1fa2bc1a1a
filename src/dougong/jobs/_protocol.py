"""What a job is as stored and handed around, and the seam between who enqueues, who works, and where jobs wait.

A job is a name and arguments. Everything else here answers: what state is it in, who holds it, what became of it. All
times are UTC microseconds (`_us`), all waits seconds (`_s`). Everything takes batches: a transaction costs as much for
one job as for a hundred.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from dougong.store import Tx

__all__ = [
    "PRIORITY_MAX",
    "Claimed",
    "Ended",
    "Enqueued",
    "Filter",
    "NewJob",
    "Outcome",
    "Progress",
    "Queue",
    "QueueCounts",
    "QueueSettings",
    "State",
    "Stored",
    "Turn",
    "Want",
    "WorkerInfo",
]

PRIORITY_MAX = 9
"""The last to be taken; 0 is the first."""


class State(enum.StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    """To be taken, now or when it is due."""
    BLOCKED = "blocked"
    """Waits for others: the ones before it in a chain, or all of a group."""
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    """Failed for good; kept until somebody replays or deletes it."""
    CANCELLED = "cancelled"


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be put into a queue."""

    job: str
    """The name of its definition."""
    payload: bytes
    """Its arguments: a JSON object."""
    queue: str = "default"
    priority: int = 5
    """0 (first) to 9 (last)."""
    due_us: int | None = None
    """Not before then; None is now."""
    key: str | None = None
    """Idempotency: while a job of that name and key is kept, finished or not, putting it again gives that one."""
    unique: str | None = None
    """At most one *unfinished* job of that name and mark; putting another gives the one that is there."""
    order: str | None = None
    """Jobs of one queue with the same mark run one after the other, in the order they were put."""
    rate: float | None = None
    """Of that name, so many may start in a second, over all workers."""
    trace: str = ""
    """W3C `traceparent` of who enqueued it."""
    index: int = 0
    total: int = 1
    """Which of how many shards of a broadcast."""
    then: tuple[NewJob, ...] = ()
    """Put, in this order of a chain, when it is done: the first of them, which carries the rest on."""
    group: int | None = None
    """The fan-in it belongs to (see `Queue.put_group`)."""
    schedule: str | None = None
    """The schedule that fired it."""
    fire_us: int | None = None
    """The time in that schedule, which is what the job is about: `due_us` is later by jitter and retries."""


class Enqueued(msgspec.Struct, frozen=True):
    """What became of a `NewJob`."""

    id: int
    new: bool = True
    """False when its key or its uniqueness led to a job that was there."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A job in the hands of a worker."""

    id: int
    queue: str
    job: str
    payload: bytes
    attempt: int
    """1 at the first time."""
    priority: int = 5
    """So that jobs claimed at different times start in the right order."""
    stalls: int = 0
    """How many of these attempts ended with the death or silence of their worker."""
    enqueued_us: int
    due_us: int
    key: str | None = None
    trace: str = ""
    index: int = 0
    total: int = 1
    schedule: str | None = None
    fire_us: int | None = None
    alone: bool = False
    """The engine knows that nothing follows from its end: no key, mark, order, group or chain."""
    place: tuple[int, int] | None = None
    """Partition and offset, where the engine is a log."""


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    DONE = "done"
    RETRY = "retry"
    """Comes again at `Ended.due_us`; the attempt is spent."""
    RETURNED = "returned"
    """Interrupted by no fault of its own (its worker stops, or does not know it): comes again at once, or at
    `Ended.due_us`, and the attempt is not spent."""
    DEAD = "dead"
    CANCELLED = "cancelled"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's end, to be written down. Only the worker that holds the job may say so: see `Turn.lost`."""

    claimed: Claimed
    outcome: Outcome
    due_us: int | None = None
    """When it comes again (`RETRY`; `RETURNED`, where None is at once)."""
    result: bytes | None = None
    """JSON of what the function returned; None when it returned nothing."""
    error: str = ""
    """`kind: message` of what it raised; for people, bounded by who makes it."""


class Want(msgspec.Struct, frozen=True):
    """What a worker could take of one queue."""

    queue: str
    count: int


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator set for a queue; None is what the worker was configured with."""

    concurrency: int | None = None
    """Jobs that each worker process runs at once."""
    paused: bool = False


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a worker's turn."""

    claimed: Sequence[Claimed] = ()
    lost: Sequence[int] = ()
    """Ids whose end was not written: they are held by another by now, or were cancelled. Nothing of them is kept."""
    cancel: Sequence[int] = ()
    """Running jobs of this worker that somebody asked to cancel."""
    settings: Mapping[str, QueueSettings] = {}
    next_due_us: int | None = None
    """When the next job that waits for its time is due; None when none does."""
    now_us: int | None = None
    """What the time is there, so that a worker need not trust its own clock."""


class Progress(msgspec.Struct, frozen=True):
    """How far a job is, by its own word. `total` 0 is unknown."""

    id: int
    done: int
    total: int
    note: str = ""


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who works."""

    name: str
    """For people: app, machine, process."""
    queues: tuple[str, ...] = ("default",)


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A job as stored, for people and tools to look at."""

    id: int
    queue: str
    job: str
    state: State
    priority: int
    payload: bytes
    attempts: int
    stalls: int
    enqueued_us: int
    due_us: int | None = None
    started_us: int | None = None
    finished_us: int | None = None
    key: str | None = None
    trace: str = ""
    index: int = 0
    total: int = 1
    schedule: str | None = None
    group: int | None = None
    worker: str = ""
    """Who holds it, or held it last."""
    progress: Progress | None = None
    result: bytes | None = None
    error: str = ""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs; what is None is not asked."""

    queue: str | None = None
    job: str | None = None
    state: State | None = None
    schedule: str | None = None
    key: str | None = None
    error: str | None = None
    """A part of the error's text."""
    since_us: int | None = None
    """Enqueued then or later."""
    until_us: int | None = None


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a queue are where. `done` counts what is still kept."""

    queue: str
    waiting: int = 0
    delayed: int = 0
    """Of those waiting, those whose time has not come."""
    blocked: int = 0
    running: int = 0
    done: int = 0
    dead: int = 0
    cancelled: int = 0
    oldest_due_us: int | None = None
    """Since when the one at the head has been due."""


class Queue(Protocol):
    """Where jobs wait, in which state they are, and who holds them. `sql` and `kafka` are the engines.

    Whatever returned is on the disk. A *term* is a worker's hold on its jobs: a number that is never given out twice,
    good until its time is up; a worker whose term is over can write nothing more about a job.
    """

    async def start(self) -> None:
        """Create or check what is needed."""

    async def close(self) -> None:
        """Let go; what is held stays held until its term is over."""

    # who enqueues

    async def put(self, jobs: Sequence[NewJob], tx: Tx | None = None) -> list[Enqueued]:
        """Enqueue, all or nothing. With `tx`, in the caller's own transaction on the same database: they exist if, and
        only if, it commits. Raises `Invalid` for what no worker could ever take; `Unavailable` when not written.
        """

    async def put_group(self, jobs: Sequence[NewJob], then: NewJob, tx: Tx | None = None) -> tuple[int, list[Enqueued]]:
        """Enqueue a group, and what comes once all of it is done: the group's id, and its jobs."""

    # who works

    async def attach(self, worker: WorkerInfo, ttl_s: float) -> int:
        """Begin to work: a new term."""

    async def renew(self, term: int, ttl_s: float) -> bool:
        """Prolong it; False when it is over. May be called from another event loop than the rest."""

    async def detach(self, term: int) -> None:
        """End a term: what it still holds goes back at once, without spending an attempt."""

    async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
        """In one transaction: write down what ended, take what is due. Raises `Conflict` (`term_over`) when the term
        is over, and then nothing is written.
        """

    async def report(self, term: int, progress: Sequence[Progress]) -> None:
        """Write down how far running jobs are; what this term does not hold is passed over."""

    async def news(self, timeout_s: float) -> None:
        """Wait until jobs may have come, at most so long."""

    async def reap(self) -> int:
        """Take back the jobs of terms that are over (attempt spent, one stall more; dead after too many), forget
        finished ones that were kept long enough; how many came back."""

    # who looks and decides

    async def find(self, ids: Sequence[int]) -> list[Stored | None]:
        """In the order asked."""

    async def page(self, which: Filter, *, after: int | None = None, limit: int = 50) -> list[Stored]:
        """Newest id first; `after` is the last id of the page before."""

    async def counts(self) -> list[QueueCounts]:
        """Of all queues that ever had a job or a setting, by name."""

    async def unfinished(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        """Which of them are still to be done."""

    async def cancel(self, ids: Sequence[int], tx: Tx | None = None) -> set[int]:
        """Waiting ones are cancelled, running ones are asked to end; those that it found unfinished."""

    async def replay(self, ids: Sequence[int]) -> set[int]:
        """Dead or cancelled ones wait again, as new: attempts 0, key and trace kept; those that it found."""

    async def forget(self, ids: Sequence[int]) -> set[int]:
        """Delete finished ones, dead ones included; those that it found."""

    async def settings(self) -> Mapping[str, QueueSettings]:
        """Of all queues for which something was set."""

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        """Set them; workers follow within a second."""
