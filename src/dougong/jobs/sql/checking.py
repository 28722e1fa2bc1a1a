"""Input is bounded before anything is done with it: whoever puts a job hears at once what no worker could take."""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized
from functools import lru_cache

from dougong.errors import Invalid
from dougong.jobs._protocol import PRIORITY_MAX, NewJob
from dougong.jobs.declare import NAME_CHARS_MAX, PAYLOAD_BYTES_MAX

__all__ = ["AT_ONCE_MAX", "DUE_US_MAX", "bounded", "check_batch", "check_job", "check_jobs", "check_queue"]

AT_ONCE_MAX = 10_000
"""Jobs in one call: one transaction must not hold up the others for long."""
THEN_MAX = 100
"""Jobs of one chain."""
DUE_US_MAX = 1 << 52
"""The year 2112."""
RATE_MIN, RATE_MAX = 1e-6, 1e6
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def check_batch(what: str, many: Sized) -> None:
    """`Invalid` (`too_many_at_once`)."""
    if len(many) > AT_ONCE_MAX:
        raise Invalid(f"{len(many):,} {what} in one call; {AT_ONCE_MAX:,} at most", code="too_many_at_once")


@lru_cache(maxsize=4096)
def check_queue(queue: str) -> None:
    """`Invalid` (`bad_queue_name`)."""
    if _QUEUE.fullmatch(queue) is None:
        raise Invalid(
            f"queue name {queue[:200]!r} must be 1 to 100 of the characters A-Z a-z 0-9 _ . -", code="bad_queue_name"
        )


@lru_cache(maxsize=4096)
def _check_name(job: str) -> None:
    if not 0 < len(job) <= NAME_CHARS_MAX or not job.isprintable() or job != job.strip():
        raise Invalid(
            f"job name {job[:200]!r} must be 1 to {NAME_CHARS_MAX} printable characters, no space at its ends",
            code="bad_job_name",
        )


def check_jobs(jobs: Sequence[NewJob]) -> None:
    """All of them: see `check_job`."""
    check_batch("jobs", jobs)
    for job in jobs:
        check_job(job)


def check_job(job: NewJob) -> None:
    """`Invalid`: `bad_queue_name`, `bad_job_name`, `payload_too_large`, `bad_priority`, `bad_due`, `bad_mark`, ..."""
    check_queue(job.queue)
    _check_name(job.job)
    if len(job.payload) > PAYLOAD_BYTES_MAX:
        raise Invalid(
            f"the payload of job {job.job} has {len(job.payload):,} bytes; {PAYLOAD_BYTES_MAX:,} at most: store it and "
            f"pass its id",
            code="payload_too_large",
            job=job.job,
        )
    if not 0 <= job.priority <= PRIORITY_MAX:
        raise Invalid(
            f"priority {job.priority} of job {job.job} must be 0 (first) to {PRIORITY_MAX} (last)", code="bad_priority"
        )
    if job.due_us is not None and job.due_us >= DUE_US_MAX:
        raise Invalid(
            f"job {job.job} is due at {job.due_us} microseconds, after the year 2112; are these nanoseconds?",
            code="bad_due",
        )
    if job.fire_us is not None and not 0 <= job.fire_us < DUE_US_MAX:
        raise Invalid(
            f"job {job.job} is for a fire at {job.fire_us} microseconds, not in the years 1970 to 2112", code="bad_due"
        )
    if job.key is not None:
        _check_text("key", job.key, 200, job)
    if job.unique is not None:
        _check_text("unique mark", job.unique, 200, job)
    if job.order is not None:
        _check_text("order mark", job.order, 200, job)
    if job.schedule is not None:
        _check_text("schedule", job.schedule, 200, job)
    if job.rate is not None and not RATE_MIN <= job.rate <= RATE_MAX:
        raise Invalid(
            f"rate {job.rate} of job {job.job} must be {RATE_MIN} to {RATE_MAX:.0f} a second", code="bad_rate"
        )
    if len(job.trace) > 100 or not job.trace.isascii() or "\0" in job.trace:
        raise Invalid(f"trace {job.trace[:200]!r} of job {job.job} is no traceparent", code="bad_trace")
    if not 0 <= job.index < job.total < 1 << 31:
        raise Invalid(f"shard {job.index} of {job.total} of job {job.job} is none", code="bad_shard")
    if job.group is not None:
        raise Invalid(f"job {job.job} names a group; groups are made by put_group", code="group_given")
    if job.then:
        if len(job.then) > THEN_MAX:
            raise Invalid(
                f"a chain of {len(job.then):,} jobs after {job.job}; {THEN_MAX} at most", code="chain_too_long"
            )
        for after in job.then:
            if after.then:
                raise Invalid(
                    f"job {after.job} in the chain after {job.job} has a chain of its own; write one chain",
                    code="nested_chain",
                )
            check_job(after)


def bounded(text: str, chars_max: int) -> str:
    """A text that every database takes. What a job says of itself must not keep its end from being written."""
    return text[:chars_max].encode("utf-8", "replace").decode().replace("\0", "?")


def _check_text(what: str, text: str, chars_max: int, job: NewJob) -> None:
    if not 0 < len(text) <= chars_max or text != text.strip() or text != bounded(text, chars_max):
        raise Invalid(
            f"{what} {text[:200]!r} of job {job.job} must be 1 to {chars_max} characters, no space at its ends",
            code="bad_mark",
            job=job.job,
        )
