"""A worker that has all it can run asks for nothing, however much waits; nor does one whose queue is paused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.jobs.queues import sql_engine
from tests.jobs.worker.working import until, working

from dougong.jobs import Ended, QueueSettings, Turn, Want, job
from dougong.jobs.worker import WorkerSettings

LOOKS = 4


@pytest.mark.parametrize("how", ["full", "paused"])
async def test_a_worker_that_may_take_nothing_more_rests_between_its_looks(tmp_path: Path, how: str) -> None:
    go = asyncio.Event()

    @job(queue="long")
    async def long() -> None:
        await go.wait()

    @job(queue="idle")
    async def idle() -> None: ...

    async with sql_engine("sqlite", tmp_path) as engine:
        queue, real = engine.queue, engine.queue.turn
        turns = looks = 0
        counting = False

        async def turn(term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
            nonlocal turns
            turns += counting
            return await real(term, ended, wants)

        queue.turn = turn  # type: ignore[method-assign]
        await queue.put([long.call() for _ in range(10)])
        jobs = [long] if how == "full" else [long, idle]  # the idle queue is asked for, and has nothing
        settings = WorkerSettings(concurrency=2, look_s=0.2)
        async with working(queue, jobs, settings, clock=engine.clock) as worker:
            await until(lambda: worker.running() == 2)
            if how == "paused":
                await queue.configure("long", QueueSettings(paused=True))
            await asyncio.sleep(2 * settings.look_s)  # what was on its way has come
            counting = True
            async with asyncio.timeout(60):
                while looks < LOOKS:
                    await asyncio.sleep(settings.look_s)
                    looks += 1
            counting = False
            go.set()
        assert 0 < turns <= 4 * LOOKS, "a few for each look, not as fast as they go"
