"""An operator's number holds within a second, whatever runs, and nothing that runs is interrupted for it.

In a simulated world, so that a second is the world's own: a loaded machine makes none of them longer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from dougong.jobs import Outcome, QueueSettings, SqlQueue, Worker, WorkerSettings, current_job, job
from dougong.jobs._protocol import Ended, Turn, Want
from dougong.simulation import Process, World
from dougong.simulation.stories.jobs.place import on_the_loop, set_up

FEW, STEPS = 10, (20, 40, 60, 80, 100)
JOBS = 10_000
SETTINGS = WorkerSettings(concurrency=FEW)


class Told(SqlQueue):
    """Remembers which ends were written."""

    outcomes: Counter[Outcome]

    async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
        turn = await super().turn(term, ended, wants)
        self.outcomes.update(one.outcome for one in ended)
        return turn


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("millis", [100, 1000, 60_000], ids=["short jobs", "middling ones", "all busy for long"])
def test_a_queue_is_resized_within_a_second_under_load(millis: int, seed: int) -> None:
    """Two workers; another process says 20, 40 and so on to 100, at any moment between their looks; then 10 again."""
    world = World(seed)
    world.database("jobs").set_up(set_up)
    clock = world.node("clock").clock
    running: Counter[str] = Counter()
    starts: list[tuple[float, str, int]] = []
    queues: list[Told] = []
    interrupted: list[int] = []

    async def open_queue(process: Process) -> Told:
        queue = Told(process.store("jobs"), clock)
        queue.outcomes = Counter()
        await queue.start()
        queues.append(queue)
        return queue

    async def work(process: Process) -> None:
        @job(timeout_s=None)
        async def busy() -> None:
            running[process.name] += 1
            starts.append((world.now_s, process.name, running[process.name]))
            try:
                await asyncio.sleep(millis / 1000)
            except asyncio.CancelledError:
                interrupted.append(current_job().id)
                raise
            finally:
                running[process.name] -= 1

        queue = await open_queue(process)

        async def renewer() -> Told:
            return await open_queue(process)

        worker = Worker(queue, [busy], settings=SETTINGS, clock=process.clock, name=process.name)
        on_the_loop(worker, queue, renewer, SETTINGS.ttl_s, process.clock)
        await worker.run()

    async def operate(limit: int) -> float:
        """Until the setting is written: from then on the second counts."""
        desk = await open_queue(world.node("desk").process or world.node("desk").start(_nothing))
        await desk.configure("default", QueueSettings(concurrency=limit))
        return world.now_s

    async def tell() -> None:
        @job
        async def busy() -> None: ...

        desk = await open_queue(world.node("desk").start(_nothing))
        await desk.put([busy.call()] * JOBS)
        for name in ("worker-1", "worker-2"):
            world.node(name).start(work)
        await asyncio.sleep(3.0)
        assert {level for _, _, level in starts} == set(range(1, FEW + 1))
        for limit in STEPS:
            await asyncio.sleep(world.random.random())
            more_at = await operate(limit)
            await asyncio.sleep(more_at + 1.0 - world.now_s)
            for name in ("worker-1", "worker-2"):
                most = max((level for at_s, of, level in starts if of == name and at_s > more_at), default=0)
                assert most == limit, f"{name} ran {most} a second after it was to run {limit}"
        less_at = await operate(FEW)
        await asyncio.sleep(1.5)
        late = [start for start in starts if start[0] > less_at + 1.0 and start[2] > FEW]
        assert not late, f"started beyond {FEW} later than a second after it was to run {FEW}: {late[:5]}"

    world.run(tell())
    outcomes = sum((queue.outcomes for queue in queues), Counter[Outcome]())
    assert not interrupted
    assert set(outcomes) <= {Outcome.DONE}, outcomes
    retried = world.database("jobs").rows("SELECT count(*) FROM dougong_jobs WHERE attempts > 1 OR stalls > 0")
    assert retried == [(0,)]


async def _nothing(_process: Process) -> None:
    """Lives on."""
