"""What a scheduler costs that has many schedules: ten thousand that fire now and then, so some every second."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from dougong.clock import SystemClock
from dougong.jobs import Every, Schedule, Scheduler
from shop.proof.jobs.our_jobs import URL, nothing, on_sqlite, queue
from shop.proof.jobs.processes import group, python

__all__ = ["Scheduled", "schedule", "scheduled"]

_EVERY_S = 600.0
_START_S = 120.0


class Scheduled(msgspec.Struct, frozen=True):
    """What it did in a while."""

    share: float
    """Of a core."""
    fires: int
    fires_due: float
    """On average, in so long."""
    memory_mb: float


async def schedule(count: int) -> None:
    """The scheduler, until killed; says when it fires."""
    async with queue(os.environ[URL]) as (store, opened):
        schedules = [
            Schedule(f"schedule-{number}", Every(_EVERY_S, number * _EVERY_S / count), nothing.call(number))
            for number in range(count)
        ]
        scheduler = Scheduler(opened, store, schedules, clock=SystemClock())
        await scheduler.start()
        async with asyncio.TaskGroup() as running:
            running.create_task(scheduler.run())
            while not scheduler.leads:  # noqa: ASYNC110 (it offers nothing to wait for)
                await asyncio.sleep(0.05)
            print("leads", flush=True)  # noqa: T201 (to its parent)


async def scheduled(folder: Path, *, schedules: int, seconds: float) -> Scheduled:
    """Start one, let it settle, and look at it for so long."""
    async with (
        on_sqlite(folder / "schedules.db") as ours,
        group(python("schedule", str(schedules)), ours.environment, folder / "schedules.log", talks=True) as scheduler,
    ):
        await scheduler.hear(_START_S)
        await asyncio.sleep(2.0)
        before, cpu_s = await ours.left(), scheduler.cpu_s()
        await asyncio.sleep(seconds)
        return Scheduled(
            share=(scheduler.cpu_s() - cpu_s) / seconds,
            fires=await ours.left() - before,
            fires_due=schedules / _EVERY_S * seconds,
            memory_mb=scheduler.memory_mb(),
        )
