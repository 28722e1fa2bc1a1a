"""The schedules of the story, and what must be true of their fires, counted anew by plain arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dougong.jobs import Cron, Every, Misfire, Overlap, Schedule, SchedulerSettings
from dougong.simulation.disk import Database
from dougong.simulation.stories.jobs.working import JOBS

__all__ = ["SCHEDULES", "SETTINGS", "judge_fires"]

SECOND_US = 1_000_000
LATE_S = 3.0
CATCH_UP_S = 6.0
SLOW_US = 15 * SECOND_US
"""From plan to commit, at most: a slow disk, several times."""
SETTINGS = SchedulerSettings(
    interval_s=0.5, lease_ttl_s=2.0, late_s=LATE_S, rows_at_once=3, jobs_at_once=4, retry_s=2.0, back_s=1.0
)
_fired = JOBS["fired"]
SCHEDULES = (
    Schedule("window", Every(4.0), _fired.call("s"), catch_up_s=CATCH_UP_S),
    Schedule("all", Every(3.0, 1.0), _fired.call("s"), misfire=Misfire.ALL, overlap=Overlap.PARALLEL),
    Schedule("skip", Every(2.5), _fired.call("s", 750), misfire=Misfire.SKIP, overlap=Overlap.SKIP),
    Schedule("once", Every(2.0, 0.5), _fired.call("s"), misfire=Misfire.ONCE),
    Schedule("replace", Every(5.0), _fired.call("s", 1500), misfire=Misfire.ALL, overlap=Overlap.REPLACE),
    Schedule("minute", Cron("* * * * *"), _fired.call("s"), misfire=Misfire.ALL, overlap=Overlap.PARALLEL, shards=3),
)
_TIMES_US = {
    "window": (4 * SECOND_US, 0),
    "all": (3 * SECOND_US, SECOND_US),
    "skip": (2_500_000, 0),
    "once": (2 * SECOND_US, 500_000),
    "replace": (5 * SECOND_US, 0),
    "minute": (60 * SECOND_US, 0),
}
_BY_NAME = {schedule.name: schedule for schedule in SCHEDULES}


class _Occurred(msgspec.Struct, array_like=True):
    schedule: str
    fire_us: int
    since_us: int
    cause: str
    decision: str
    decided_us: int
    term: int
    lease: int
    paused: int


class _Planned(msgspec.Struct, array_like=True):
    name: str
    revision: int
    changed: int
    """By an operator or a start, and not by a fire."""
    paused: int
    was_us: int | None
    next_us: int | None
    changed_us: int


def judge_fires(database: Database, *, steady: bool) -> Iterator[str]:
    """What is wrong. `steady`: the clock was never set, so that how late a fire was can be told from its times."""
    fired = set(database.rows_as(tuple[str, int, int], "SELECT schedule, fire_us, shard FROM story_fires"))
    occurred = database.rows_as(
        _Occurred,
        "SELECT schedule, fire_us, since_us, cause, decision, decided_us, term, lease, paused FROM story_occurred "
        "ORDER BY number",
    )
    twice = "SELECT schedule, fire_us, count(*) FROM story_fires GROUP BY schedule, fire_us, shard HAVING count(*) > 1"
    for name, fire_us, count in database.rows(twice):
        yield f"schedule {name!s} fired {count!s} times for {fire_us!s}"
    decided = {(name, fire_us): 0 for name, fire_us, _ in fired}
    for one in occurred:
        yield from _judge_decision(one, steady=steady)
        if one.decision in ("missed", "overlapped"):
            for fire_us in _times(one.schedule, one.since_us, one.fire_us + 1):
                decided[one.schedule, fire_us] = one.decided_us
        else:
            decided[one.schedule, one.fire_us] = one.decided_us
    plans = database.rows_as(
        _Planned,
        "SELECT name, revision, changed, paused, was_us, next_us, changed_us FROM story_plans ORDER BY number",
    )
    for plan in plans:
        yield from _judge_plan(plan, decided, {(name, fire_us) for name, fire_us, _ in fired})


def judge_alive(database: Database, now_us: int) -> Iterator[str]:
    """Once all is well, and nobody paused them, they go on."""
    rows = database.rows_as(tuple[str, int | None], "SELECT name, next_fire_us FROM dougong_job_schedules")
    for name, next_us in rows:
        if next_us is None or next_us < now_us - 2 * SECOND_US:
            yield f"schedule {name} stands at {next_us}, and it is {now_us}"
    if len(rows) != len(SCHEDULES):
        yield f"{len(rows)} schedules are stored, of {len(SCHEDULES)}"


def _judge_decision(one: _Occurred, *, steady: bool) -> Iterator[str]:
    schedule = _BY_NAME[one.schedule]
    what = f"schedule {one.schedule}: {one.fire_us} {one.decision} at {one.decided_us}"
    if one.cause != "schedule":
        return
    if one.fire_us not in _times(one.schedule, one.fire_us, one.fire_us + 1):
        yield f"{what}, which is no time of it"
    if one.term != one.lease:
        yield f"{what} under the term {one.term}, while {one.lease} was the last that was given"
    if one.paused:
        yield f"{what}, though it is paused"
    late_us = one.decided_us - one.fire_us
    if one.decision == "missed":
        if schedule.misfire is Misfire.ALL:
            yield f"{what}, though all run"
        window_us = int((CATCH_UP_S if schedule.misfire is Misfire.CATCH_UP else LATE_S) * SECOND_US)
        if steady and late_us <= window_us:
            yield f"{what}, only {late_us} us late"
    elif one.decision == "overlapped":
        if not schedule.overlap.asks:
            yield f"{what}, though it may overlap"
    elif steady:
        if late_us < 0:
            yield f"{what}, too early"
        if schedule.misfire is Misfire.SKIP and late_us > LATE_S * SECOND_US + SLOW_US:
            yield f"{what}, {late_us} us late"
        if schedule.misfire is Misfire.CATCH_UP and late_us > CATCH_UP_S * SECOND_US + SLOW_US:
            yield f"{what}, {late_us} us late"


def _judge_plan(plan: _Planned, decided: dict[tuple[str, int], int], fired: set[tuple[str, int]]) -> Iterator[str]:
    if plan.changed:
        expected = None if plan.paused else _first(plan.name, plan.changed_us)
        if plan.next_us != expected:
            yield f"schedule {plan.name} was planned for {plan.next_us} at {plan.changed_us}, not for {expected}"
        return
    if plan.was_us is None or plan.next_us is None:
        yield f"schedule {plan.name} went from {plan.was_us} to {plan.next_us}"
    elif plan.next_us > plan.was_us:
        fires = list(_times(plan.name, plan.was_us, plan.next_us))
        for fire_us in fires:
            if (plan.name, fire_us) not in decided:
                yield f"schedule {plan.name} never fired for {fire_us}, nor was it said why"
        if _BY_NAME[plan.name].misfire is Misfire.ONCE and fires:
            last = (plan.name, fires[-1])
            if last not in fired and decided.get(last, plan.next_us) < plan.next_us:
                yield f"schedule {plan.name}: none ran for those until {fires[-1]}"


def _times(name: str, from_us: int, until_us: int) -> range:
    return range(_first(name, from_us - 1), until_us, _TIMES_US[name][0])


def _first(name: str, after_us: int) -> int:
    """The first later than that."""
    every_us, offset_us = _TIMES_US[name]
    return after_us - (after_us - offset_us) % every_us + every_us
