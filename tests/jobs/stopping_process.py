"""A worker process for Ctrl-C: `python -m tests.jobs.stopping_process LOOP URL`, LOOP of asyncio, uvloop.

Says `running` once its first job runs; a job `gate` ends when there is a row in `opened`, one `for_ever` does not.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from dougong.clock import SystemClock
from dougong.jobs import SqlQueue, Worker, WorkerSettings, job
from dougong.store import Store, open_store

__all__ = ["for_ever", "gate"]

_stores: list[Store] = []


@job
async def gate() -> str:
    os.write(1, b"running\n")
    while await _stores[0].fetch_one("SELECT 1 FROM opened") is None:
        await asyncio.sleep(0.02)
    return "whole"


@job
async def for_ever() -> None:
    os.write(1, b"running\n")
    await asyncio.sleep(3600)


async def main(url: str) -> None:
    store = await open_store(url)
    _stores.append(store)
    queue = SqlQueue(store, SystemClock(), reopen=lambda: open_store(url))
    await queue.start()
    # It would drain for longer than any test waits; and a second job is taken, and waits here for the first to end.
    settings = WorkerSettings(concurrency=1, look_s=0.05, drain_s=600.0)
    try:
        await Worker(queue, [gate, for_ever], settings=settings).run()
    finally:
        await queue.close()
        await store.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if sys.argv[1] == "uvloop" else None) as runner:
        runner.run(main(sys.argv[2]))
