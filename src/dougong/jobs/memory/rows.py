"""What a queue in memory keeps of jobs, terms and groups, and how these are shown."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.errors import Invalid
from dougong.jobs._protocol import PRIORITY_MAX, Claimed, Filter, NewJob, Outcome, Progress, State, Stored

__all__ = [
    "AFTER", "AT_ONCE_MAX", "FINISHED", "PAGE_MAX", "Group", "Row", "Term", "check_count", "check_job", "claimed_of",
    "fits", "stored_of",
]  # fmt: skip

AT_ONCE_MAX = 10_000
PAGE_MAX = 1000
FINISHED = frozenset((State.DONE, State.DEAD, State.CANCELLED))
AFTER = {Outcome.DONE: State.DONE, Outcome.DEAD: State.DEAD, Outcome.CANCELLED: State.CANCELLED}


class Row:
    """A job."""

    __slots__ = (
        "attempts", "cancel", "due_us", "enqueued_us", "error", "finished_us", "group", "id", "new", "progress",
        "result", "stalls", "started_us", "state", "term", "worker",
    )  # fmt: skip

    def __init__(self, id_: int, new: NewJob, now_us: int, group: int | None) -> None:
        self.id = id_
        self.new = new
        self.state = State.WAITING
        self.attempts = 0
        self.stalls = 0
        self.enqueued_us = now_us
        self.due_us = now_us if new.due_us is None else max(new.due_us, now_us)
        self.started_us: int | None = None
        self.finished_us: int | None = None
        self.group = group if group is not None else new.group
        self.term = 0
        self.worker = ""
        self.cancel = False
        self.progress: Progress | None = None
        self.result: bytes | None = None
        self.error = ""


class Term:
    __slots__ = ("held", "until_us", "worker")

    def __init__(self, worker: str, until_us: int) -> None:
        self.worker = worker
        self.until_us = until_us
        self.held: dict[int, Row] = {}


class Group:
    """Jobs that must be done before another; that one's id is the group's."""

    __slots__ = ("left", "members")

    def __init__(self, members: list[int], left: set[int]) -> None:
        self.members = members
        self.left = left


def check_count(items: Sequence[object]) -> None:
    if len(items) > AT_ONCE_MAX:
        raise Invalid(f"{len(items):,} at once; {AT_ONCE_MAX:,} at most", code="too_many_at_once")


def check_job(job: NewJob) -> None:
    if not job.job or not job.queue or not 0 <= job.priority <= PRIORITY_MAX:
        raise Invalid(
            f"job {job.job!r} in queue {job.queue!r} with priority {job.priority}: it needs a name, a queue, and a "
            f"priority of 0 to {PRIORITY_MAX}",
            code="bad_job",
        )


def claimed_of(row: Row) -> Claimed:
    new = row.new
    return Claimed(
        id=row.id,
        queue=new.queue,
        job=new.job,
        payload=new.payload,
        attempt=row.attempts,
        priority=new.priority,
        stalls=row.stalls,
        enqueued_us=row.enqueued_us,
        due_us=row.due_us,
        key=new.key,
        trace=new.trace,
        index=new.index,
        total=new.total,
        schedule=new.schedule,
        fire_us=new.fire_us,
    )


def stored_of(row: Row) -> Stored:
    new = row.new
    return Stored(
        id=row.id,
        queue=new.queue,
        job=new.job,
        state=row.state,
        priority=new.priority,
        payload=new.payload,
        attempts=row.attempts,
        stalls=row.stalls,
        enqueued_us=row.enqueued_us,
        due_us=row.due_us if row.state is State.WAITING else None,
        started_us=row.started_us,
        finished_us=row.finished_us,
        key=new.key,
        trace=new.trace,
        index=new.index,
        total=new.total,
        schedule=new.schedule,
        group=row.group,
        worker=row.worker,
        progress=row.progress,
        result=row.result,
        error=row.error,
    )


def fits(row: Row, which: Filter) -> bool:
    new = row.new
    return (
        which.queue in (None, new.queue)
        and which.job in (None, new.job)
        and which.state in (None, row.state)
        and which.schedule in (None, new.schedule)
        and which.key in (None, new.key)
        and (which.error is None or which.error in row.error)
        and (which.since_us is None or row.enqueued_us >= which.since_us)
        and (which.until_us is None or row.enqueued_us < which.until_us)
    )
