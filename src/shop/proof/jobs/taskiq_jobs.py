"""taskiq on a Redis stream, the one of its Redis brokers that acknowledges: when a job is done, as it comes."""

from __future__ import annotations

import asyncio
import os

from taskiq_redis import RedisStreamBroker

from shop.proof.jobs.tally import tally

__all__ = ["broker", "put"]

broker = RedisStreamBroker(
    os.environ["SHOP_PROOF_URL"],
    consumer_id="0",
    idle_timeout=5_000,
    unacknowledged_lock_timeout=5.0,
    xread_count=100,
    max_connection_pool_size=400,
)


@broker.task(task_name="nothing")
async def nothing(number: int) -> None:
    tally().note(number)


@broker.task(task_name="pause")
async def pause(number: int) -> None:
    await asyncio.sleep(0.001)
    tally().note(number)


_TASKS = {"nothing": nothing, "pause": pause}


async def put(job: str, numbers: range) -> None:
    """Enqueue them, one by one."""
    for number in numbers:
        await _TASKS[job].kiq(number)
