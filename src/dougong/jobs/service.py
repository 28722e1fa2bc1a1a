"""The contract of jobs: what operators and tools ask and decide, over gRPC and HTTP.

    POST /v1/enqueue/send_receipt    {"order": 7}    Idempotency-Key: order-7

The body is the job's arguments and nothing else, so that whoever can call a function can enqueue it.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import msgspec

from dougong.contract import Service, rpc
from dougong.errors import Error, Invalid, NotFound
from dougong.jobs._protocol import Filter, QueueCounts, QueueSettings, State, Stored
from dougong.jobs.client import Jobs
from dougong.jobs.declare import Job
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

__all__ = ["OPERATOR", "JobsService", "faults_in"]

OPERATOR = ("operator",)


class JobsService(Service, package="dougong.jobs.v1", name="dougong.jobs.v1.Jobs"):
    """Jobs of one app, for operators."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @rpc(http="POST /v1/enqueue/{job}", roles=OPERATOR)
    async def enqueue(self, request: EnqueueJob) -> EnqueuedJob:
        """Enqueue a job by name."""
        with faults_in("body"):
            enqueued = await self._jobs.enqueue_named(
                request.job,
                request.arguments or b"{}",
                delay_s=request.delay_s or None,
                key=request.key or None,
                priority=request.priority,
                queue=request.queue or None,
            )
        return EnqueuedJob(id=str(enqueued.id), new=enqueued.new)

    @rpc(http="GET /v1/declared-jobs", roles=OPERATOR)
    async def declared(self, request: GetDeclared) -> DeclaredJobs:
        """Jobs that can be enqueued by name."""
        return DeclaredJobs(items=[_declared(job) for job in sorted(self._jobs.declared, key=lambda job: job.name)])

    @rpc(http="GET /v1/jobs/{id}", roles=OPERATOR)
    async def get(self, request: GetJob) -> JobInfo:
        """One job."""
        with faults_in("path"):
            return _info(await self._jobs.show(int(request.id)))

    @rpc(http="GET /v1/jobs", roles=OPERATOR)
    async def list(self, request: ListJobs) -> JobPage:
        """Jobs, newest first."""
        after = int(request.after) if request.after else None
        found = await self._jobs.ls(_filter(request), after=after, limit=request.limit)
        more = str(found[-1].id) if len(found) == request.limit else ""
        return JobPage(items=[_info(job) for job in found], next=more)

    @rpc(http="POST /v1/jobs/cancel", roles=OPERATOR, idempotent=True, timeout_s=30)
    async def cancel(self, request: ChangeJobs) -> ChangedJobs:
        """Waiting ones never run, running ones are asked to end."""
        where, ids = _chosen(request)
        return _changed(await (self._jobs.cancel_all(where) if where is not None else self._jobs.cancel(*ids)))

    @rpc(http="POST /v1/jobs/retry", roles=OPERATOR, timeout_s=30)
    async def retry(self, request: ChangeJobs) -> ChangedJobs:
        """Dead and cancelled ones run again, with all their attempts."""
        where, ids = _chosen(request)
        return _changed(await (self._jobs.retry_all(where) if where is not None else self._jobs.retry(*ids)))

    @rpc(http="GET /v1/queues", roles=OPERATOR)
    async def queues(self, request: GetQueues) -> QueueList:
        """All queues."""
        return QueueList(items=await _queues(self._jobs))

    @rpc(http="POST /v1/queues/{queue}/pause", roles=OPERATOR, idempotent=True)
    async def pause(self, request: NameQueue) -> QueueInfo:
        """Nothing more of it is taken; what runs ends as it would."""
        with faults_in("path"):
            await self._jobs.pause(request.queue)
        return await self._queue(request.queue)

    @rpc(http="POST /v1/queues/{queue}/resume", roles=OPERATOR, idempotent=True)
    async def resume(self, request: NameQueue) -> QueueInfo:
        """It is taken again."""
        with faults_in("path"):
            await self._jobs.resume(request.queue)
        return await self._queue(request.queue)

    @rpc(http="PUT /v1/queues/{queue}/concurrency", roles=OPERATOR)
    async def resize(self, request: ResizeQueue) -> QueueInfo:
        """Set how many run at once; workers follow within a second."""
        with faults_in("path"):
            await self._jobs.resize(request.queue, request.concurrency)
        return await self._queue(request.queue)

    async def _queue(self, name: str) -> QueueInfo:
        return next(queue for queue in await _queues(self._jobs) if queue.queue == name)


@contextmanager
def faults_in(source: str) -> Generator[None]:
    """Errors name the field; over HTTP it also matters where that stands. What is not found was named in the path."""
    try:
        yield
    except Error as error:
        error.fields.setdefault("source", "path" if isinstance(error, NotFound) else source)
        raise


async def _queues(jobs: Jobs) -> list[QueueInfo]:
    counts = {count.queue: count for count in await jobs.counts()}
    settings = await jobs.settings()
    declared = {job.queue for job in jobs.declared}  # also those in which nothing ever was
    return [
        _info_of_queue(counts.get(name, QueueCounts(queue=name)), settings.get(name, QueueSettings()))
        for name in sorted(declared | counts.keys() | settings.keys())
    ]


def _declared(job: Job[..., object]) -> DeclaredJob:
    return DeclaredJob(
        name=job.name,
        doc=inspect.cleandoc(job.__doc__ or ""),
        arguments=list(job.argument_names),
        queue=job.queue,
        priority=job.priority,
        retries=job.retries,
        timeout_s=job.timeout_s,
    )


def _filter(asked: JobFilter) -> Filter:
    return Filter(
        queue=asked.queue or None,
        job=asked.job or None,
        state=State(asked.state) if asked.state is not None else None,
        schedule=asked.schedule or None,
        key=asked.key or None,
        error=asked.error or None,
        since_us=asked.since_us,
        until_us=asked.until_us,
    )


def _chosen(request: ChangeJobs) -> tuple[Filter | None, list[int]]:
    """A filter or ids. Neither would be all jobs there are, which somebody may not have meant."""
    if bool(request.ids) == (request.where is not None):
        raise Invalid(
            "say which jobs: either ids, or where with at least one condition",
            code="which_jobs",
            field="ids" if request.ids else "where",
            source="body",
        )
    if request.where == JobFilter():
        raise Invalid("where has no condition: name at least one", code="which_jobs", field="where", source="body")
    return (_filter(request.where) if request.where is not None else None), [int(id_) for id_ in request.ids]


def _changed(ids: Iterable[int]) -> ChangedJobs:
    return ChangedJobs(ids=[str(id_) for id_ in sorted(ids)])


def _info_of_queue(count: QueueCounts, settings: QueueSettings) -> QueueInfo:
    return QueueInfo(**msgspec.structs.asdict(count), concurrency=settings.concurrency, paused=settings.paused)


def _info(job: Stored) -> JobInfo:
    progress = job.progress
    return JobInfo(
        id=str(job.id),
        queue=job.queue,
        job=job.job,
        state=JobState(job.state),
        priority=job.priority,
        arguments=job.payload.decode("utf-8", "replace"),
        attempts=job.attempts,
        stalls=job.stalls,
        enqueued_us=job.enqueued_us,
        due_us=job.due_us,
        started_us=job.started_us,
        finished_us=job.finished_us,
        key=job.key or "",
        trace=job.trace,
        index=job.index,
        total=job.total,
        schedule=job.schedule or "",
        worker=job.worker,
        progress_done=progress.done if progress is not None else None,
        progress_total=progress.total if progress is not None else None,
        progress_note=progress.note if progress is not None else "",
        result=(job.result or b"").decode("utf-8", "replace"),
        error=job.error,
    )
