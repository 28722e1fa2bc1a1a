"""What jobs say on the wire. Ids are texts: they are wider than what JavaScript keeps of a number."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from dougong.contract import Header, Message, RawBody
from dougong.jobs._protocol import PRIORITY_MAX
from dougong.jobs.client import CONCURRENCY_MAX, PAGE_MAX
from dougong.jobs.declare import NAME_CHARS_MAX

__all__ = [
    "ChangeJobs",
    "ChangedJobs",
    "DeclaredJob",
    "DeclaredJobs",
    "EnqueueJob",
    "EnqueuedJob",
    "GetDeclared",
    "GetJob",
    "GetQueues",
    "JobFilter",
    "JobInfo",
    "JobPage",
    "JobState",
    "ListJobs",
    "NameQueue",
    "QueueInfo",
    "QueueList",
    "ResizeQueue",
]

JobId = Annotated[str, Meta(pattern=r"^([0-9]{1,18}|[1-4][0-9]{18})$(?!\n)")]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Priority = Annotated[int, Meta(ge=0, le=PRIORITY_MAX)]
Concurrency = Annotated[int, Meta(ge=1, le=CONCURRENCY_MAX)]
Part = Annotated[str, Meta(max_length=200)]


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    BLOCKED = "blocked"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


class EnqueueJob(Message):
    """A job by name. What is not said is as the job was declared."""

    job: Name
    arguments: RawBody = b""
    """A JSON object; nothing is no arguments."""
    key: Annotated[str, Header("Idempotency-Key"), Meta(max_length=200)] = ""
    delay_s: Annotated[float, Header("X-Dougong-Delay-S"), Meta(ge=0, lt=1e9)] = 0.0
    priority: Annotated[Priority | None, Header("X-Dougong-Priority")] = None
    queue: Annotated[str, Header("X-Dougong-Queue"), Meta(max_length=100)] = ""


class EnqueuedJob(Message):
    """It is on the disk. `new` is false when its key, or its uniqueness, led to one that was there."""

    id: str
    new: bool


class GetJob(Message):
    """Which."""

    id: JobId


class JobInfo(Message):
    """A job as stored. Times are UTC microseconds, and absent while they are not."""

    id: str
    queue: str
    job: str
    state: JobState
    priority: int
    arguments: str
    """JSON."""
    attempts: int
    stalls: int
    enqueued_us: int
    due_us: int | None
    started_us: int | None
    finished_us: int | None
    key: str
    trace: str
    index: int
    total: int
    schedule: str
    worker: str
    progress_done: int | None
    progress_total: int | None
    progress_note: str
    result: str
    """JSON; empty for none."""
    error: str


class GetDeclared(Message):
    """What can be enqueued by name."""


class DeclaredJob(Message):
    """A job as declared."""

    name: str
    doc: str
    arguments: list[str]
    """Their names."""
    queue: str
    priority: int
    retries: int
    timeout_s: float | None


class DeclaredJobs(Message):
    """By name."""

    items: list[DeclaredJob]


class JobFilter(Message):
    """Which jobs; what is empty is not asked."""

    queue: Part = ""
    job: Part = ""
    state: JobState | None = None
    schedule: Part = ""
    key: Part = ""
    error: Part = ""
    since_us: int | None = None
    until_us: int | None = None


class ListJobs(JobFilter):
    """A page of jobs, newest first."""

    after: Annotated[str, Meta(pattern=r"^([0-9]{0,18}|[1-4][0-9]{18})$(?!\n)")] = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 50


class JobPage(Message):
    """`next` goes into `after` for the next page; empty on the last."""

    items: list[JobInfo]
    next: str = ""


class ChangeJobs(Message):
    """Those with these ids, or all of a filter (10,000 at most: ask again until none is changed)."""

    ids: Annotated[tuple[JobId, ...], Meta(max_length=10_000)] = ()
    where: JobFilter | None = None


class ChangedJobs(Message):
    """Those that could be changed so."""

    ids: list[str]


class GetQueues(Message):
    """All queues."""


class QueueInfo(Message):
    """How many of its jobs are where, and what was set for it."""

    queue: str
    waiting: int
    delayed: int
    blocked: int
    running: int
    done: int
    dead: int
    cancelled: int
    oldest_due_us: int | None
    concurrency: int | None
    paused: bool


class QueueList(Message):
    """By name."""

    items: list[QueueInfo]


class NameQueue(Message):
    """Which."""

    queue: Name


class ResizeQueue(Message):
    """How many jobs of it each worker process runs at once; absent is what it was configured with."""

    queue: Name
    concurrency: Concurrency | None = None
