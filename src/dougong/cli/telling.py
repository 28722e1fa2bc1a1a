"""Jobs and queues as people read them, and as documents."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.table import Table

from dougong.cli.output import shown
from dougong.cli.showing import cell, console, print_document, print_fields, when
from dougong.jobs import JobInfo, QueueInfo

__all__ = ["plain", "plain_queue", "progress", "tell_job", "tell_queue", "tell_queues"]


def plain(app: str, job: JobInfo) -> dict[str, object]:
    return {"app": app, **msgspec.structs.asdict(job), "state": job.state.value}


def plain_queue(app: str, queue: QueueInfo) -> dict[str, object]:
    return {"app": app, **msgspec.structs.asdict(queue)}


def tell_job(app: str, job: JobInfo, json: bool) -> None:
    if json:
        print_document(plain(app, job))
    else:
        print_fields(plain(app, job))


def tell_queue(app: str, queue: QueueInfo, json: bool) -> None:
    if json:
        print_document(plain_queue(app, queue))
    else:
        tell_queues([(app, queue)])


def tell_queues(found: Sequence[tuple[str, QueueInfo]]) -> None:
    counted = ("waiting", "delayed", "blocked", "running", "done", "dead", "cancelled")
    table = Table("app", "queue", *counted, "waits since", "concurrency", "", box=None)
    for app, q in found:
        counts = [str(getattr(q, name)) for name in counted]
        since = when(q.oldest_due_us) if q.oldest_due_us is not None else "–"
        table.add_row(*map(shown, (app, q.queue, *counts, since, cell(q.concurrency), "paused" if q.paused else "")))
    console().print(table if found else "no queues")


def progress(job: JobInfo) -> str:
    if job.progress_done is None:
        return ""
    of = f"/{job.progress_total}" if job.progress_total else ""
    return f"{job.progress_done}{of} {job.progress_note}".rstrip()
