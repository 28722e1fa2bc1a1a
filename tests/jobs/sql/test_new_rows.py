"""Rows written together are those that were given, however few or many have how much in common."""

from __future__ import annotations

import pathlib
import random

import pytest
from tests.jobs.queues import attach, ids, new, sql_engine

from dougong.jobs import Filter, NewJob, Want


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 200])
async def test_each_job_keeps_what_is_its_own(count: int, dialect: str, tmp_path: pathlib.Path) -> None:
    draw = random.Random(count)
    jobs = [
        NewJob(
            job=draw.choice(["resize", "publish"]),
            payload=b'{"number": %d}' % number,
            priority=draw.choice([0, 5, 9]),
            trace=f"00-{number:032x}-{number:016x}-01",
            index=number % 3,
            total=3,
            schedule=draw.choice([None, "nightly"]),
        )
        for number in range(count)
    ]
    async with sql_engine(dialect, tmp_path) as engine:
        put = ids(await engine.queue.put(jobs))
        stored = await engine.queue.find(put)
        found = [
            NewJob(
                job=one.job,
                payload=one.payload,
                priority=one.priority,
                trace=one.trace,
                index=one.index,
                total=one.total,
                schedule=one.schedule,
            )
            for one in stored
            if one is not None
        ]
        assert found == jobs
        term = await attach(engine.queue)
        turn = await engine.queue.turn(term, [], [Want("default", count)])
        assert sorted(claimed.id for claimed in turn.claimed) == sorted(put)
        assert [claimed.priority for claimed in turn.claimed] == sorted(job.priority for job in jobs)


async def test_those_that_wait_for_their_time_lie_beside_those_that_do_not(
    dialect: str, tmp_path: pathlib.Path
) -> None:
    async with sql_engine(dialect, tmp_path) as engine:
        soon_us, late_us = engine.now_us() + 5_000_000, engine.now_us() + 60_000_000
        put = ids(await engine.queue.put([new(due_us=due_us) for due_us in (soon_us, None, late_us, None, soon_us)]))
        term = await attach(engine.queue)
        first = await engine.queue.turn(term, [], [Want("default", 10)])
        engine.pass_s(6.0)
        second = await engine.queue.turn(term, [], [Want("default", 10)])
        assert [claimed.id for claimed in first.claimed] == [put[1], put[3]]
        assert sorted(claimed.id for claimed in second.claimed) == [put[0], put[4]]
        assert second.next_due_us == late_us
        assert len(await engine.queue.page(Filter(), limit=10)) == 5
