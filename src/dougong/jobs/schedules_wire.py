"""What schedules say on the wire. Times are UTC microseconds, and absent while they are not."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dougong.contract import Message
from dougong.jobs.schedules import Dst, Misfire, Overlap

__all__ = [
    "AddSchedule",
    "BackfillSchedule",
    "BackfilledSchedule",
    "GetSchedules",
    "ListOccurrences",
    "NameSchedule",
    "OccurrenceInfo",
    "OccurrencePage",
    "RemovedSchedule",
    "ScheduleInfo",
    "ScheduleList",
    "UpcomingFire",
]

ScheduleName = Annotated[str, Meta(min_length=1, max_length=100)]


class GetSchedules(Message):
    """All schedules."""


class NameSchedule(Message):
    """Which."""

    schedule: ScheduleName


class AddSchedule(Message):
    """One that no code declares: `cron`, or `every_s`, or `at_us`."""

    name: ScheduleName
    cron: Annotated[str, Meta(max_length=200)] = ""
    zone: Annotated[str, Meta(max_length=100)] = "UTC"
    dst: Dst = Dst.ONCE
    every_s: Annotated[float, Meta(ge=0, le=3e9)] = 0.0
    at_us: int | None = None
    job: ScheduleName
    arguments: Annotated[str, Meta(max_length=65_536)] = "{}"
    """A JSON object."""
    misfire: Misfire = Misfire.CATCH_UP
    overlap: Overlap = Overlap.QUEUE
    note: Annotated[str, Meta(max_length=500)] = ""


class RemovedSchedule(Message):
    """It is gone, and what became of its fires with it."""


class UpcomingFire(Message):
    """When it fires next, and why then."""

    fire_us: int
    why: str


class ScheduleInfo(Message):
    """A schedule as stored."""

    name: str
    status: str
    """active, paused, disabled, over or faulty."""
    when: str
    job: str
    arguments: str
    """JSON."""
    misfire: str
    overlap: str
    declared: bool
    """In code; else an operator added it."""
    next_fire_us: int | None
    last_fire_us: int | None
    paused_us: int | None
    fault: str
    note: str
    upcoming: list[UpcomingFire]


class ScheduleList(Message):
    """By name."""

    items: list[ScheduleInfo]


class ListOccurrences(Message):
    """What became of its fires, latest first, before that time."""

    schedule: ScheduleName
    before_us: int | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class OccurrenceInfo(Message):
    """What became of a fire, or of `fires` of them from `since_us` to `fire_us`, when they did not run."""

    fire_us: int
    since_us: int
    fires: int
    cause: str
    decision: str
    jobs: list[str]
    decided_us: int


class OccurrencePage(Message):
    """`next_us` goes into `before_us` for the next page; absent on the last."""

    items: list[OccurrenceInfo]
    next_us: int | None = None


class BackfillSchedule(Message):
    """Every fire of a period, its end not included, that has not run."""

    schedule: ScheduleName
    from_us: int
    until_us: int


class BackfilledSchedule(Message):
    """How many ran now, and how many had run before."""

    fired: int
    already: int
