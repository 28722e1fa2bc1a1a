"""The contract of schedules: look, pause, run now, make up for the past, over gRPC and HTTP."""

from __future__ import annotations

import datetime as dt

from dougong.contract import Service, rpc
from dougong.errors import Invalid
from dougong.jobs.client import Jobs
from dougong.jobs.schedules import At, Cron, Every, Occurrence, Schedule, Schedules, ScheduleView, When
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
from dougong.jobs.service import OPERATOR, faults_in

__all__ = ["SchedulesService"]


class SchedulesService(Service, package="dougong.jobs.v1", name="dougong.jobs.v1.Schedules"):
    """Schedules of one app, for operators."""

    def __init__(self, schedules: Schedules, jobs: Jobs) -> None:
        self._schedules = schedules
        self._jobs = jobs

    @rpc(http="GET /v1/schedules", roles=OPERATOR)
    async def list(self, request: GetSchedules) -> ScheduleList:
        """All schedules."""
        return ScheduleList(items=[_info(shown) for shown in await self._schedules.all()])

    @rpc(http="GET /v1/schedules/{schedule}", roles=OPERATOR)
    async def get(self, request: NameSchedule) -> ScheduleInfo:
        """One, with its next fires and why then."""
        with faults_in("path"):
            return _info(await self._schedules.show(request.schedule))

    @rpc(http="GET /v1/schedules/{schedule}/occurrences", roles=OPERATOR)
    async def occurrences(self, request: ListOccurrences) -> OccurrencePage:
        """What became of its fires, latest first."""
        with faults_in("path"):
            await self._schedules.show(request.schedule)
        before = {} if request.before_us is None else {"before_us": request.before_us}
        found = await self._schedules.occurrences(request.schedule, limit=request.limit, **before)
        next_us = found[-1].fire_us if len(found) == request.limit else None
        return OccurrencePage(items=[_occurrence(one) for one in found], next_us=next_us)

    @rpc(http="POST /v1/schedules", roles=OPERATOR)
    async def add(self, request: AddSchedule) -> ScheduleInfo:
        """Add one that no code declares; it stays until it is removed."""
        with faults_in("body"):
            call = self._jobs.job(request.job).call_with(request.arguments.encode())
            schedule = Schedule(
                request.name,
                _when_of(request),
                call,
                misfire=request.misfire,
                overlap=request.overlap,
                note=request.note,
            )
            return _info(await self._schedules.add(schedule))

    @rpc(http="DELETE /v1/schedules/{schedule}", roles=OPERATOR)
    async def remove(self, request: NameSchedule) -> RemovedSchedule:
        """Remove one that no code declares."""
        with faults_in("path"):
            await self._schedules.remove(request.schedule)
        return RemovedSchedule()

    @rpc(http="POST /v1/schedules/{schedule}/pause", roles=OPERATOR, idempotent=True)
    async def pause(self, request: NameSchedule) -> ScheduleInfo:
        """No fire until it is resumed, also not by a new release."""
        with faults_in("path"):
            return _info(await self._schedules.pause(request.schedule))

    @rpc(http="POST /v1/schedules/{schedule}/resume", roles=OPERATOR, idempotent=True)
    async def resume(self, request: NameSchedule) -> ScheduleInfo:
        """Fire again from now on."""
        with faults_in("path"):
            return _info(await self._schedules.resume(request.schedule))

    @rpc(http="POST /v1/schedules/{schedule}/run", roles=OPERATOR)
    async def run(self, request: NameSchedule) -> OccurrenceInfo:
        """Fire once, now, whatever its state."""
        with faults_in("path"):
            return _occurrence(await self._schedules.run_now(request.schedule))

    @rpc(http="POST /v1/schedules/{schedule}/backfill", roles=OPERATOR, idempotent=True, timeout_s=60)
    async def backfill(self, request: BackfillSchedule) -> BackfilledSchedule:
        """Fire for every time of a past period that has not run. After an error, the same call goes on from there."""
        with faults_in("body"):
            done = await self._schedules.backfill(request.schedule, request.from_us, request.until_us)
        return BackfilledSchedule(fired=done.fired, already=done.already)


def _when_of(request: AddSchedule) -> When:
    said = [bool(request.cron), bool(request.every_s), request.at_us is not None]
    if sum(said) != 1:
        raise Invalid("say when: one of cron, every_s and at_us", code="bad_schedule", field="cron")
    if request.cron:
        return Cron(request.cron, request.zone, request.dst)
    return Every(request.every_s) if request.at_us is None else At(request.at_us)


def _info(shown: ScheduleView) -> ScheduleInfo:
    schedule = shown.schedule
    return ScheduleInfo(
        name=shown.name,
        status=shown.status.value,
        when=_when(schedule.when) if schedule is not None else "",
        job=schedule.call.job if schedule is not None else "",
        arguments=schedule.call.payload.decode("utf-8", "replace") if schedule is not None else "",
        misfire=schedule.misfire.value if schedule is not None else "",
        overlap=schedule.overlap.value if schedule is not None else "",
        declared=shown.declared,
        next_fire_us=shown.next_fire_us,
        last_fire_us=shown.last_fire_us,
        paused_us=shown.paused_us,
        fault=shown.fault,
        note=schedule.note if schedule is not None else "",
        upcoming=[UpcomingFire(fire_us=one.fire_us, why=one.why) for one in shown.upcoming],
    )


def _when(when: When) -> str:
    if isinstance(when, Cron):
        return f"{when.text} {when.zone}"
    if isinstance(when, At):
        return f"once at {dt.datetime.fromtimestamp(when.at_us / 1e6, dt.UTC):%Y-%m-%d %H:%M:%S}"
    return f"every {when.seconds:g} s"


def _occurrence(one: Occurrence) -> OccurrenceInfo:
    return OccurrenceInfo(
        fire_us=one.fire_us,
        since_us=one.since_us,
        fires=one.fires,
        cause=one.cause.value,
        decision=one.decision.value,
        jobs=[str(id_) for id_ in one.jobs],
        decided_us=one.decided_us,
    )
