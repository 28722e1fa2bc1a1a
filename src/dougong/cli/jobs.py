"""`dougong jobs`: look at the jobs of a running system, enqueue some, and do something about those that failed.

Asks the apps themselves, through the same contract as anybody, so that it works with any queue engine and from any
machine that reaches the registry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import cyclopts
import msgspec
from rich.table import Table

from dougong.cli.choosing import ALL, Which
from dougong.cli.desks import DESKS, DesksAt, desk_with, opened_desks, with_job, with_queue
from dougong.cli.job_crontab import import_crontab
from dougong.cli.job_schedules import schedules
from dougong.cli.output import shown
from dougong.cli.parameters import Json, Name
from dougong.cli.showing import check_limit, console, print_document, some, when
from dougong.cli.telling import plain, plain_queue, progress, tell_job, tell_queue, tell_queues
from dougong.errors import DeadlineExceeded, Invalid
from dougong.jobs import (
    ChangedJobs,
    ChangeJobs,
    EnqueuedJob,
    EnqueueJob,
    GetJob,
    GetQueues,
    JobFilter,
    JobInfo,
    JobsService,
    JobState,
    ListJobs,
    NameQueue,
    ResizeQueue,
)

__all__ = ["jobs"]

jobs = cyclopts.App(name="jobs", help="Look at jobs, enqueue them, and retry, cancel, pause or resize.")
jobs.command(schedules)
jobs.command(import_crontab)

_ROWS_MAX = 1000
_ENDED = (JobState.DONE, JobState.DEAD, JobState.CANCELLED)
_LOOK_S = 0.1
_ID_CHARS_MAX = 18


@jobs.default
async def ls(*, which: Which = ALL, after: str = "", limit: int = 50, at: DesksAt = DESKS, json: Json = False) -> None:
    """Jobs, newest first.

    Parameters
    ----------
    after
        Only ids below this one: the next page.
    limit
        At most so many of each app, 1 to 1,000.
    """
    check_limit(limit, _ROWS_MAX)
    asked = ListJobs(**msgspec.structs.asdict(which.filter()), after=after, limit=limit)
    async with opened_desks(at) as desks:
        found = [(app, job) for app, desk in desks.items() for job in (await desk.list(asked)).items]
    if json:
        print_document([plain(app, job) for app, job in found])
        return
    table = Table("app", "id", "job", "queue", "state", "attempts", "enqueued", "progress", "error", box=None)
    for app, job in found:
        cells = (job.id, job.job, job.queue, job.state.value, str(job.attempts), when(job.enqueued_us))
        table.add_row(*map(shown, (app, *cells, progress(job), job.error)))
    console().print(table if found else "no such jobs")


jobs.command(ls, name="ls")


@jobs.command
async def show(id: str, *, at: DesksAt = DESKS, json: Json = False) -> None:  # noqa: A002 (what it is)
    """One job, with its arguments, progress, result and error.

    Parameters
    ----------
    id
        Its id.
    """
    async with opened_desks(at) as desks:
        app, job = await desk_with(desks, f"a job {id}", _getter(id))
    tell_job(app, job, json)


@jobs.command
async def run(
    job: str,
    arguments: str = "{}",
    *,
    key: str = "",
    delay_s: float = 0.0,
    priority: int | None = None,
    queue: str = "",
    wait: float = 0.0,
    at: DesksAt = DESKS,
    json: Json = False,
) -> int:
    """Enqueue a job by name: `dougong jobs run send_receipt '{"order": 7}'`. Exit code 1 when it was waited for and
    died.

    Parameters
    ----------
    job
        Its name.
    arguments
        A JSON object.
    key
        Idempotency key: repeated, it finds the job that is there.
    delay_s
        Not before so many seconds.
    priority
        0 (first) to 9 (last).
    queue
        Another than the job's own.
    wait
        Wait so many seconds for its end, and show it.
    """
    if priority is not None and not 0 <= priority <= 9:
        raise Invalid(f"--priority must be 0 (first) to 9 (last), not {priority}", code="bad_priority")
    asked = EnqueueJob(job=job, arguments=arguments.encode(), key=key, delay_s=delay_s, priority=priority, queue=queue)
    async with opened_desks(at) as desks:
        app = await with_job(desks, job)
        enqueued = await desks[app].enqueue(asked)
        if wait:
            ended = await _ended(desks[app], enqueued, wait)
            tell_job(app, ended, json)
            return int(ended.state is not JobState.DONE)
    if json:
        print_document({"app": app, "id": enqueued.id, "new": enqueued.new})
    else:
        console().print(f"{'enqueued' if enqueued.new else 'was there'}: {app} {enqueued.id}")
    return 0


@jobs.command
async def retry(*ids: str, which: Which = ALL, at: DesksAt = DESKS, json: Json = False) -> int:
    """Dead and cancelled jobs run again, with all their attempts: those named, or the dead ones of a filter. Exit code
    1 when one named is neither.

    Parameters
    ----------
    ids
        Their ids.
    """
    return await _change("retry", ids, which, at, json)


@jobs.command
async def cancel(*ids: str, which: Which = ALL, at: DesksAt = DESKS, json: Json = False) -> int:
    """Waiting jobs never run, running ones are asked to end: those named, or those of a filter. Exit code 1 when one
    named is finished.

    Parameters
    ----------
    ids
        Their ids.
    """
    return await _change("cancel", ids, which, at, json)


@jobs.command
async def dead(
    *, which: Which = ALL, after: str = "", limit: int = 50, at: DesksAt = DESKS, json: Json = False
) -> None:
    """Jobs that failed for good, and of what.

    Parameters
    ----------
    after
        Only ids below this one: the next page.
    limit
        At most so many of each app, 1 to 1,000.
    """
    if which.state:
        raise Invalid("dead letters are in the state dead; leave --state out", code="bad_state")
    await ls(which=Which(**{**which.__dict__, "state": "dead"}), after=after, limit=limit, at=at, json=json)


@jobs.command
async def queues(*, at: DesksAt = DESKS, json: Json = False) -> None:
    """How many jobs of each queue are where, and what was set for it."""
    async with opened_desks(at) as desks:
        found = [(app, queue) for app, desk in desks.items() for queue in (await desk.queues(GetQueues())).items]
    if json:
        print_document([plain_queue(app, queue) for app, queue in found])
    else:
        tell_queues(found)


@jobs.command
async def pause(queue: Name, *, at: DesksAt = DESKS, json: Json = False) -> None:
    """Take nothing more from a queue; what runs ends as it would."""
    async with _with_queue(at, queue) as (app, desk):
        tell_queue(app, await desk.pause(NameQueue(queue=queue)), json)


@jobs.command
async def resume(queue: Name, *, at: DesksAt = DESKS, json: Json = False) -> None:
    """Take from a queue again."""
    async with _with_queue(at, queue) as (app, desk):
        tell_queue(app, await desk.resume(NameQueue(queue=queue)), json)


@jobs.command
async def resize(
    queue: Name,
    concurrency: int | None = None,
    *,
    at: DesksAt = DESKS,
    json: Json = False,
) -> None:
    """Run so many jobs of a queue at once in each worker process; it takes effect within a second.

    Parameters
    ----------
    concurrency
        1 to 10,000; left out, what the workers are configured with.
    """
    if concurrency is not None and not 1 <= concurrency <= 10_000:
        raise Invalid(
            f"concurrency must be 1 to 10,000, not {concurrency}; to stop a queue: dougong jobs pause {queue}",
            code="bad_concurrency",
        )
    async with _with_queue(at, queue) as (app, desk):
        tell_queue(app, await desk.resize(ResizeQueue(queue=queue, concurrency=concurrency)), json)


@asynccontextmanager
async def _with_queue(at: DesksAt, name: str) -> AsyncGenerator[tuple[str, JobsService]]:
    """The one app that has it, and whom to ask there."""
    async with opened_desks(at) as desks:
        app = await with_queue(desks, name)
        yield app, desks[app]


async def _change(verb: str, ids: Sequence[str], which: Which, at: DesksAt, json: bool) -> int:
    where = which.filter()
    if bool(ids) == (where != JobFilter()):
        raise Invalid(f"say which jobs to {verb}: ids, or a filter such as --state or --job", code="which_jobs")
    changed: list[tuple[str, str]] = []
    async with opened_desks(at) as desks:
        requests = await _by_app(desks, ids) if ids else dict.fromkeys(desks, ChangeJobs(where=where))
        for app, request in requests.items():
            answer: ChangedJobs = await (desks[app].retry if verb == "retry" else desks[app].cancel)(request)
            changed += [(app, id_) for id_ in answer.ids]
    done = {id_ for _, id_ in changed}
    left = [id_ for id_ in ids if id_ not in done]
    if json:
        print_document({"changed": [{"app": app, "id": id_} for app, id_ in changed], "left": left})
    else:
        word = "wait to run again" if verb == "retry" else "cancelled, or asked to end"
        console().print(f"{len(changed)} {word}" + (f": {some(sorted(done, key=int))}" if changed else ""))
        if left:
            state = "neither dead nor cancelled" if verb == "retry" else "finished already"
            console().print(f"{len(left)} {state}, left alone: {some(left)}")
    return int(bool(left))


async def _by_app(desks: Mapping[str, JobsService], ids: Sequence[str]) -> dict[str, ChangeJobs]:
    """All are looked up before any is touched."""
    owners: dict[str, list[str]] = {}
    for id_ in ids:
        app, _ = await desk_with(desks, f"a job {id_}", _getter(id_))
        owners.setdefault(app, []).append(id_)
    return {app: ChangeJobs(ids=tuple(owned)) for app, owned in owners.items()}


def _getter(id_: str) -> Callable[[JobsService], Awaitable[JobInfo]]:
    request = GetJob(id=_checked_id(id_))
    return lambda desk: desk.get(request)


async def _ended(desk: JobsService, enqueued: EnqueuedJob, wait_s: float) -> JobInfo:
    end = time.monotonic() + wait_s
    while (job := await desk.get(GetJob(id=enqueued.id))).state not in _ENDED:
        if time.monotonic() >= end:
            raise DeadlineExceeded(
                f"job {enqueued.id} did not end within {wait_s:g} s; see: dougong jobs show {enqueued.id}",
                code="job_unfinished",
            )
        await asyncio.sleep(_LOOK_S)
    return job


def _checked_id(text: str) -> str:
    if not text.isascii() or not text.isdecimal() or len(text) > _ID_CHARS_MAX:
        raise Invalid(f"{text!r} is no id of a job; ids are numbers: see dougong jobs ls", code="bad_id")
    return text
