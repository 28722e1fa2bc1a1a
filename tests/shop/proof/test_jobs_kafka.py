"""The claim about jobs on Kafka: both carry the same jobs on a real broker, and a slow one holds up who should be."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests import engines

from shop.proof.jobs.kafka_jobs import on_kafka
from shop.proof.jobs.our_jobs import SLOW_S, is_slow
from shop.proof.jobs.plain_consumer import make_topic
from shop.proof.jobs.stand import Queued, stand


@asynccontextmanager
async def _queued(who: str, folder: Path) -> AsyncGenerator[Queued]:
    broker, name = engines.kafka().address, secrets.token_hex(4)
    if who == "ours":
        async with on_kafka(broker, f"{name}.", folder) as ours:
            yield ours
    else:
        yield await make_topic(broker, name)


@pytest.mark.processes
@pytest.mark.parametrize("who", ["ours", "plain"])
async def test_each_carries_the_jobs_and_only_plain_consumers_wait_for_a_slow_one(tmp_path: Path, who: str) -> None:
    async with _queued(who, tmp_path) as queued, stand(queued, "uneven", tmp_path, room=5_000) as started:
        for batch in (1, 20):
            carried = await started.carry(seconds=0.1, batch=batch, window=100)
            assert carried.jobs >= batch
            assert (carried.lost, carried.doubled) == (0, 0)
            assert await queued.left() == 0
        first = started._next
        slow = next(number for number in range(first, first + 1_000) if is_slow(number))
        await started.enqueue(count=slow - first + 9, window=5_000)
        assert await started._ran(first, started._next, 60.0) == slow - first + 9
        behind, at = slow + 4, started.tally._read  # of the same partition
        waited_s = at(started.tally._started, behind) - at(started.tally._started, slow)
        # Theirs cannot but wait. Ours may be held up by a busy machine, not by the job.
        assert waited_s >= SLOW_S if who == "plain" else waited_s < SLOW_S
