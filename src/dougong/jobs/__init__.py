"""Jobs: functions that run later, elsewhere, and again until they are done.

For work that a request should not wait for, and for what a crontab did. The one idea: **a job is a row written in the
transaction that made it necessary, and its end is a row written before anybody believes it.** So no crash loses one,
and an effect recorded beside it happens once, however often the function is called.

    @job(retries=5, timeout_s=30)
    async def send_receipt(order: int, mailer: Mailer = needs(Mailer)) -> None: ...

    async def place(tx: Tx) -> None:
        await tx.execute("INSERT INTO orders (id, sku) VALUES (?, ?)", (7, "lamp"))
        await jobs.enqueue(send_receipt.call(7), tx=tx)

    await store.write(place)                                    # both or neither
"""

from typing import TYPE_CHECKING

from dougong.jobs._protocol import (
    Claimed,
    Ended,
    Enqueued,
    Filter,
    NewJob,
    Outcome,
    Progress,
    Queue,
    QueueCounts,
    QueueSettings,
    State,
    Stored,
    Turn,
    Want,
    WorkerInfo,
)
from dougong.jobs.client import Group, Jobs
from dougong.jobs.command import CommandResult, run_command
from dougong.jobs.crontab import Crontab, CrontabLine, LineKind, read_crontab
from dougong.jobs.declare import Job, job, needs
from dougong.jobs.effects import Effects
from dougong.jobs.memory import MemoryQueue
from dougong.jobs.opening import open_queue
from dougong.jobs.retrying import Backoff
from dougong.jobs.schedules import (
    At,
    Backfilled,
    Cron,
    Dst,
    Every,
    FireCause,
    FireDecision,
    Misfire,
    Occurrence,
    Overlap,
    Schedule,
    Scheduler,
    SchedulerSettings,
    Schedules,
    ScheduleStatus,
    ScheduleView,
    Upcoming,
    When,
)
from dougong.jobs.schedules_service import SchedulesService
from dougong.jobs.schedules_wire import (
    AddSchedule,
    BackfilledSchedule,
    BackfillSchedule,
    GetSchedules,
    ListOccurrences,
    NameSchedule,
    OccurrenceInfo,
    OccurrencePage,
    RemovedSchedule,
    ScheduleInfo,
    ScheduleList,
    UpcomingFire,
)
from dougong.jobs.service import JobsService
from dougong.jobs.sql import SqlQueue, SqlQueueSettings
from dougong.jobs.wire import (
    ChangedJobs,
    ChangeJobs,
    DeclaredJob,
    DeclaredJobs,
    EnqueuedJob,
    EnqueueJob,
    GetDeclared,
    GetJob,
    GetQueues,
    JobFilter,
    JobInfo,
    JobPage,
    JobState,
    ListJobs,
    NameQueue,
    QueueInfo,
    QueueList,
    ResizeQueue,
)
from dougong.jobs.worker import AnyJob, Catalog, JobRun, Renewer, Worker, WorkerSettings, current_job

if TYPE_CHECKING:
    from dougong.jobs.kafka import KafkaQueue, KafkaQueueSettings

__all__ = [
    "AddSchedule",
    "AnyJob",
    "At",
    "BackfillSchedule",
    "Backfilled",
    "BackfilledSchedule",
    "Backoff",
    "Catalog",
    "ChangeJobs",
    "ChangedJobs",
    "Claimed",
    "CommandResult",
    "Cron",
    "Crontab",
    "CrontabLine",
    "DeclaredJob",
    "DeclaredJobs",
    "Dst",
    "Effects",
    "Ended",
    "EnqueueJob",
    "Enqueued",
    "EnqueuedJob",
    "Every",
    "Filter",
    "FireCause",
    "FireDecision",
    "GetDeclared",
    "GetJob",
    "GetQueues",
    "GetSchedules",
    "Group",
    "Job",
    "JobFilter",
    "JobInfo",
    "JobPage",
    "JobRun",
    "JobState",
    "Jobs",
    "JobsService",
    "KafkaQueue",
    "KafkaQueueSettings",
    "LineKind",
    "ListJobs",
    "ListOccurrences",
    "MemoryQueue",
    "Misfire",
    "NameQueue",
    "NameSchedule",
    "NewJob",
    "Occurrence",
    "OccurrenceInfo",
    "OccurrencePage",
    "Outcome",
    "Overlap",
    "Progress",
    "Queue",
    "QueueCounts",
    "QueueInfo",
    "QueueList",
    "QueueSettings",
    "RemovedSchedule",
    "Renewer",
    "ResizeQueue",
    "Schedule",
    "ScheduleInfo",
    "ScheduleList",
    "ScheduleStatus",
    "ScheduleView",
    "Scheduler",
    "SchedulerSettings",
    "Schedules",
    "SchedulesService",
    "SqlQueue",
    "SqlQueueSettings",
    "State",
    "Stored",
    "Turn",
    "Upcoming",
    "UpcomingFire",
    "Want",
    "When",
    "Worker",
    "WorkerInfo",
    "WorkerSettings",
    "current_job",
    "job",
    "needs",
    "open_queue",
    "read_crontab",
    "run_command",
]


def __getattr__(name: str) -> object:
    """What is on Kafka needs the extra `kafka`: it is imported when asked for."""
    if name in ("KafkaQueue", "KafkaQueueSettings"):
        from dougong.jobs import kafka

        return getattr(kafka, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
