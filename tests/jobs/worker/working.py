"""What these tests share: a worker that runs for the length of a block, and patience."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from dougong.jobs import MemoryQueue, Stored
from dougong.jobs.worker import AnyJob, Worker, WorkerSettings

PATIENCE_S = 60.0
QUICK = WorkerSettings(look_s=0.05, report_s=0.02, reap_every_s=0.05, grace_s=0.3, drain_s=30.0)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def working(
    queue: Any, jobs: Iterable[AnyJob], settings: WorkerSettings = QUICK, **options: Any
) -> AsyncGenerator[Worker]:
    worker = Worker(queue, jobs, settings=settings, name="w", **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        async with asyncio.timeout(PATIENCE_S):
            await running


async def stored(queue: MemoryQueue, id_: int) -> Stored:
    (found,) = await queue.find([id_])
    assert found is not None
    return found


async def finished(queue: MemoryQueue, *ids: int) -> list[Stored]:
    """The jobs, once none of them is unfinished."""
    async with asyncio.timeout(PATIENCE_S):
        while await queue.unfinished(ids):
            await asyncio.sleep(0.005)
    return [await stored(queue, id_) for id_ in ids]
