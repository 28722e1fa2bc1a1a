"""`dougong jobs schedules`: what fires when, and pausing, running now, making up for the past."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import cyclopts
import msgspec
from rich.table import Table

from dougong.cli.choosing import moment_us
from dougong.cli.desks import DESKS, DesksAt, desk_with, opened_schedules
from dougong.cli.finding import near
from dougong.cli.output import shown
from dougong.cli.parameters import Json, Name
from dougong.cli.showing import check_limit, console, print_document, print_fields, some, when
from dougong.errors import Invalid, NotFound
from dougong.jobs import (
    BackfillSchedule,
    GetSchedules,
    ListOccurrences,
    NameSchedule,
    ScheduleInfo,
    SchedulesService,
)

__all__ = ["schedules"]

schedules = cyclopts.App(name="schedules", help="Look at schedules, and pause, run or backfill them.")


@schedules.default
async def ls(*, at: DesksAt = DESKS, json: Json = False) -> None:
    """All schedules, and when they fire next."""
    async with opened_schedules(at) as desks:
        found = [(app, one) for app, desk in desks.items() for one in (await desk.list(GetSchedules())).items]
    if json:
        print_document([{"app": app, **msgspec.to_builtins(one)} for app, one in found])
        return
    table = Table("app", "schedule", "status", "when", "job", "next", "last", "fault", box=None)
    for app, one in found:
        times = (_time(one.next_fire_us), _time(one.last_fire_us))
        table.add_row(*map(shown, (app, one.name, one.status, one.when, one.job, *times, one.fault)))
    console().print(table if found else "no schedules")


schedules.command(ls, name="ls")


@schedules.command
async def show(schedule: Name, *, limit: int = 10, at: DesksAt = DESKS, json: Json = False) -> None:
    """One schedule: its next fires and why then, and what became of the last ones.

    Parameters
    ----------
    limit
        At most so many of the last fires, 1 to 1,000.
    """
    check_limit(limit, 1000)
    async with _with_schedule(at, schedule) as (app, desk, one):
        page = await desk.occurrences(ListOccurrences(schedule=schedule, limit=limit))
    if json:
        document = {"app": app, **msgspec.to_builtins(one), "occurrences": msgspec.to_builtins(page.items)}
        print_document(document)
        return
    _tell(app, one)
    if page.items:
        table = Table("fired for", "decision", "cause", "fires", "jobs", box=None)
        for fired in page.items:
            cells = (when(fired.fire_us), fired.decision, fired.cause, str(fired.fires), some(fired.jobs))
            table.add_row(*map(shown, cells))
        console().print(table)


@schedules.command
async def pause(schedule: Name, *, at: DesksAt = DESKS, json: Json = False) -> None:
    """No fire until it is resumed, also not by a new release."""
    async with _with_schedule(at, schedule) as (app, desk, _):
        _answer(app, await desk.pause(NameSchedule(schedule=schedule)), json)


@schedules.command
async def resume(schedule: Name, *, at: DesksAt = DESKS, json: Json = False) -> None:
    """Fire again from now on; what did not fire meanwhile is made up for by backfill."""
    async with _with_schedule(at, schedule) as (app, desk, _):
        _answer(app, await desk.resume(NameSchedule(schedule=schedule)), json)


@schedules.command
async def remove(schedule: Name, *, at: DesksAt = DESKS, json: Json = False) -> None:
    """Remove one that no code declares, e.g. of a crontab."""
    async with _with_schedule(at, schedule) as (app, desk, _):
        await desk.remove(NameSchedule(schedule=schedule))
    if json:
        print_document({"app": app, "removed": schedule})
    else:
        console().print(shown(f"removed: {app} {schedule}"))


@schedules.command
async def run(schedule: Name, *, at: DesksAt = DESKS, json: Json = False) -> None:
    """Fire once, now, whatever its state."""
    async with _with_schedule(at, schedule) as (app, desk, _):
        fired = await desk.run(NameSchedule(schedule=schedule))
    if json:
        print_document({"app": app, **msgspec.to_builtins(fired)})
    else:
        console().print(shown(f"{fired.decision}: {app} {some(fired.jobs)}"))


@schedules.command
async def backfill(schedule: Name, *, since: str, until: str, at: DesksAt = DESKS, json: Json = False) -> None:
    """Fire for every time of a past period that has not run. After an error, the same command goes on from there.

    Parameters
    ----------
    since
        2026-01-31, 2026-01-31T12:00 (UTC), or so long ago: 90s, 15m, 6h, 2d.
    until
        The same; this time itself is not of the period.
    """
    from_us, until_us = moment_us(since, "--since"), moment_us(until, "--until")
    if from_us is None or until_us is None:
        raise Invalid("a period has a beginning and an end: --since and --until", code="bad_period")
    async with _with_schedule(at, schedule) as (app, desk, _):
        done = await desk.backfill(BackfillSchedule(schedule=schedule, from_us=from_us, until_us=until_us))
    if json:
        print_document({"app": app, **msgspec.to_builtins(done)})
    else:
        console().print(f"{done.fired} fired, {done.already} had run")


@asynccontextmanager
async def _with_schedule(at: DesksAt, name: str) -> AsyncGenerator[tuple[str, SchedulesService, ScheduleInfo]]:
    """The one app that has it, whom to ask there, and what it says. Raises `NotFound` with the nearest names."""
    asked = NameSchedule(schedule=name)
    async with opened_schedules(at) as desks:
        try:
            app, one = await desk_with(desks, f"a schedule {name!r}", lambda desk: desk.get(asked))
        except NotFound as error:
            known = [one.name for desk in desks.values() for one in (await desk.list(GetSchedules())).items]
            raise NotFound(f"there is no schedule {name!r}: {near(name, known)}", code=error.code) from None
        yield app, desks[app], one


def _answer(app: str, one: ScheduleInfo, json: bool) -> None:
    if json:
        print_document({"app": app, **msgspec.to_builtins(one)})
    else:
        _tell(app, one)


def _tell(app: str, one: ScheduleInfo) -> None:
    upcoming = "\n".join(f"{when(fire.fire_us)}  {fire.why}" for fire in one.upcoming)
    print_fields({"app": app, **msgspec.structs.asdict(one), "upcoming": upcoming})


def _time(us: int | None) -> str:
    return when(us) if us is not None else "–"
