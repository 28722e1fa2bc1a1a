"""What stands in the log: a record is what one `put` put, whole, so that it is there or it is not.

A job that waits in the log has no row, so its id says where it is: which lane (a partition of a topic, numbered in the
database), which record of it, which job of that. Such ids have bit 61 set; the database counts its own from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from dougong.jobs._protocol import NewJob

__all__ = [
    "FIRST_ID",
    "JOBS_MAX",
    "LANES_MAX",
    "RECORD_BYTES_MAX",
    "LogJob",
    "Spot",
    "decode",
    "encode",
    "fits",
    "id_of",
    "log_job",
    "size_of",
    "spot_of",
]

JOBS_MAX = 1 << 10
LANES_MAX = 1 << 11
_OFFSETS_MAX = 1 << 40
FIRST_ID = 1 << 61
"""Of jobs that came by a log."""
RECORD_BYTES_MAX = 900_000
"""Brokers take 1 MiB by default, envelope included."""
_JOB_BYTES = 64


class LogJob(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A job as it stands in a record. Fields are only ever added, at the end."""

    job: str
    payload: bytes
    enqueued_us: int
    priority: int = 5
    trace: str = ""
    index: int = 0
    total: int = 1
    schedule: str | None = None


class Spot(NamedTuple):
    """Where in the log a job is."""

    lane: int
    offset: int
    number: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[LogJob]).decode


def fits(jobs: Sequence[NewJob]) -> bool:
    """Whether a log can hold them in one record: what looks only forward, and at nothing else.

    A key, a line or a group is about other jobs, a chain about later ones, a time about waiting: that needs a table.
    """
    queue = jobs[0].queue if jobs else ""
    size = 0
    for job in jobs:
        if (
            job.queue != queue
            or job.due_us is not None
            or job.key is not None
            or job.unique is not None
            or job.order is not None
            or job.rate is not None
            or job.group is not None
            or job.then
            or job.fire_us is not None
        ):
            return False
        size += size_of(job)
    return 0 < len(jobs) <= JOBS_MAX and size <= RECORD_BYTES_MAX


def size_of(job: NewJob) -> int:
    """At most so many bytes of a record."""
    return len(job.payload) + 4 * (len(job.job) + len(job.trace) + len(job.schedule or "")) + _JOB_BYTES


def log_job(job: NewJob, now_us: int) -> LogJob:
    """As it stands in a record."""
    return LogJob(job.job, job.payload, now_us, job.priority, job.trace, job.index, job.total, job.schedule)


def encode(jobs: Sequence[LogJob]) -> bytes:
    """A record's value."""
    return _encode(jobs)


def decode(value: bytes | None) -> list[LogJob]:
    """The jobs of a record. Raises `ValueError` when it holds none."""
    if value is None or len(value) > 2 * RECORD_BYTES_MAX:
        raise ValueError("no value, or one that is too large")
    try:
        jobs = _decode(value)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if not 0 < len(jobs) <= JOBS_MAX:
        raise ValueError(f"{len(jobs)} jobs in one record")
    return jobs


def id_of(lane: int, offset: int, index: int = 0) -> int:
    """The id of a job there; those of one lane rise with the offset, and over lanes roughly with time."""
    assert 0 <= lane < LANES_MAX and 0 <= offset < _OFFSETS_MAX and 0 <= index < JOBS_MAX, (lane, offset, index)  # noqa: PT018
    return FIRST_ID | ((offset * LANES_MAX + lane) * JOBS_MAX + index)


def spot_of(id_: int) -> Spot | None:
    """Where it is or was in the log; None when it never was in one."""
    if not id_ & FIRST_ID or id_ >= FIRST_ID << 1:
        return None
    rest, index = divmod(id_ ^ FIRST_ID, JOBS_MAX)
    offset, lane = divmod(rest, LANES_MAX)
    return Spot(lane, offset, index)
