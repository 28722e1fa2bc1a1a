"""A process that fires every second: `python -m tests.jobs.schedules.firing_process URL NAME`."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from tests.jobs.schedules.world import FakeQueue, call

from dougong.jobs import Queue
from dougong.jobs.schedules import Every, Misfire, Overlap, Schedule, Scheduler, SchedulerSettings
from dougong.store import open_store

SETTINGS = SchedulerSettings(interval_s=0.1, lease_ttl_s=1.0)
SCHEDULE = Schedule("secondly", Every(1), call(), Misfire.ALL, overlap=Overlap.PARALLEL)


async def main(url: str, name: str) -> None:
    store = await open_store(url)
    scheduler = Scheduler(cast(Queue, FakeQueue(store)), store, [SCHEDULE], settings=SETTINGS, name=name)
    await scheduler.start()
    await scheduler.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
