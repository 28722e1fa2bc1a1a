"""A job knows for which time it was fired, however late it runs, and however often."""

from __future__ import annotations

import asyncio

from tests.jobs.schedules.world import BEGIN_US, SECOND, World, drive
from tests.jobs.worker.working import QUICK, until, working

from dougong.jobs import Backoff, Every, Misfire, Schedule, SqlQueue, current_job, job
from dougong.jobs.database_time import DatabaseTime


async def test_a_job_knows_the_time_of_its_fire(world: World) -> None:
    """By schedule, late and jittered; made up for in a backfill; by hand; in a second attempt as in the first."""
    seen: list[tuple[str | None, int | None, int]] = []

    @job(retries=1, backoff=Backoff(first_s=0.001, max_s=0.001))
    async def report() -> None:
        run = current_job()
        seen.append((run.schedule, run.fire_us, run.attempt))
        if run.attempt == 1:
            raise ConnectionError("the printer is off")

    queue = SqlQueue(world.store, world.clock)
    vars(queue)["_time"] = DatabaseTime("by hand", world.clock)
    await queue.start()
    world.use(queue)
    minutely = Schedule("minutely", Every(60.0), report.call(), misfire=Misfire.ONCE, jitter_s=30.0)
    scheduler = await world.scheduler(minutely)
    world.clock.advance(200)  # the fires at 60, 120 and 180 are late: one runs for them
    await drive(scheduler)
    world.clock.advance(40)
    by_hand_us = world.clock.now_us()
    await world.operate.run_now("minutely")
    done = await world.operate.backfill("minutely", BEGIN_US + 60 * SECOND, BEGIN_US + 180 * SECOND)
    assert done.fired == 2
    await queue.put([report.call()])
    fires = [BEGIN_US + 180 * SECOND, by_hand_us, BEGIN_US + 60 * SECOND, BEGIN_US + 120 * SECOND]
    expected = {("minutely", fire_us, attempt) for fire_us in fires for attempt in (1, 2)}
    async with working(queue, [report], QUICK, clock=world.clock):
        moving = asyncio.create_task(_pass_time(world))
        await until(lambda: len(seen) == 10)
        moving.cancel()
    assert len(seen) == len(set(seen))
    assert set(seen) == expected | {(None, None, 1), (None, None, 2)}
    await queue.close()


async def _pass_time(world: World) -> None:
    """Back-offs end by the clock of this world."""
    while True:
        world.clock.advance(0.01)
        await asyncio.sleep(0.005)
