"""Schedules on the queue in the database: what waits, what is replaced, and what a worker finds."""

from __future__ import annotations

import pytest
from tests.jobs.schedules.test_scheduler import MINUTELY
from tests.jobs.schedules.world import BEGIN_US, SECOND, World, drive, replaced

from dougong.jobs import SqlQueue, State, Want, WorkerInfo
from dougong.jobs.database_time import DatabaseTime
from dougong.jobs.schedules import Misfire, Overlap


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        (Overlap.QUEUE, [State.RUNNING, State.BLOCKED, State.BLOCKED]),
        (Overlap.PARALLEL, [State.RUNNING, State.WAITING, State.WAITING]),
        (Overlap.SKIP, [State.RUNNING, State.BLOCKED]),
        (Overlap.REPLACE, [State.RUNNING, State.BLOCKED, State.BLOCKED]),
    ],
)
async def test_overlap_on_the_queue_in_the_database(world: World, policy: Overlap, states: list[State]) -> None:
    queue = SqlQueue(world.store, world.clock)
    vars(queue)["_time"] = DatabaseTime("by hand", world.clock)
    await queue.start()
    world.use(queue)
    scheduler = await world.scheduler(replaced(MINUTELY, overlap=policy, misfire=Misfire.ALL))
    world.clock.advance(60)
    await drive(scheduler)
    term = await queue.attach(WorkerInfo(name="worker"), 3600)
    turn = await queue.turn(term, [], [Want("default", 10)])
    assert [(job.schedule, job.due_us) for job in turn.claimed] == [("minutely", BEGIN_US + 60 * SECOND)]
    world.clock.advance(60)
    await drive(scheduler)
    world.clock.advance(1)
    await world.operate.run_now("minutely")  # it waits its turn where the policy has turns
    ids = [id_ for one in reversed(await world.operate.occurrences("minutely")) for id_ in one.jobs]
    assert [one.state for one in await queue.find(ids) if one is not None] == states
    turn = await queue.turn(term, [], [Want("default", 10)])
    assert len(turn.claimed) == (2 if policy is Overlap.PARALLEL else 0)
    assert list(turn.cancel) == (ids[:1] if policy is Overlap.REPLACE else [])
    await queue.close()
