"""arq: a job stays in its queue until it is done. It reads the queue every `poll_delay`, half a second by default."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from urllib.parse import unquote

from arq.connections import (  # pyright: ignore[reportMissingImports] (it has a folder of its own)
    ArqRedis,
    RedisSettings,
    create_pool,
)

from shop.proof.jobs.tally import tally

__all__ = ["WorkerSettings", "close", "put", "start"]

_settings = RedisSettings.from_dsn(os.environ["SHOP_PROOF_URL"])
_settings.password = unquote(_settings.password or "")  # it takes it as it stands in the URL
_pool: list[ArqRedis] = []


async def nothing(_: Mapping[str, object], number: int) -> None:
    tally().note(number)


async def pause(_: Mapping[str, object], number: int) -> None:
    await asyncio.sleep(0.001)
    tally().note(number)


class WorkerSettings:
    functions = (nothing, pause)
    redis_settings = _settings
    max_jobs = 100
    poll_delay = 0.01
    job_timeout = 1
    """A killed worker's jobs are out of sight for ten seconds more than that."""
    keep_result = 0
    log_results = False


async def start() -> None:
    _pool.append(await create_pool(_settings))


async def put(job: str, numbers: range) -> None:
    """Enqueue them, one by one."""
    for number in numbers:
        await _pool[0].enqueue_job(job, number)


async def close() -> None:
    while _pool:
        await _pool.pop().aclose()
