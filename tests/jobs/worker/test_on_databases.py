"""A worker on the SQL queue, on every database: faults, effects once, and nothing left over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.jobs.queues import sql_engine
from tests.jobs.worker.working import QUICK, working

from dougong.errors import Unavailable
from dougong.jobs import Backoff, Effects, Ended, QueueCounts, Turn, Want, Worker, job
from dougong.jobs.worker import current_job
from dougong.store import Migration, Tx

PATIENCE_S = 60.0


async def test_every_job_is_done_and_its_effect_is_made_once(dialect: str, tmp_path: Path) -> None:
    """Each job fails once after its effect is written, and now and then a turn is written and its answer lost."""
    count = 60
    async with sql_engine(dialect, tmp_path) as engine:
        store, queue = engine.store, engine.queue
        await Effects(store, engine.clock).start()
        await store.migrate("test", [Migration(1, "made", "CREATE TABLE made (n INTEGER NOT NULL)")])
        calls = turns = 0

        @job(retries=1, backoff=Backoff(first_s=0.001, max_s=0.001))
        async def make(n: int) -> None:
            nonlocal calls
            calls += 1
            run = current_job()

            async def unit(tx: Tx) -> None:
                if await run.first(tx):
                    await tx.execute("INSERT INTO made (n) VALUES (?)", (n,))

            await store.write(unit)
            if run.attempt == 1:
                raise ValueError("after its effect")

        real = queue.turn

        async def turn(term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
            nonlocal turns
            turns += 1
            engine.pass_s(0.01)
            answer = await real(term, ended, wants)
            if turns % 4 == 2:
                raise Unavailable("the answer is lost", code="connection_lost")
            return answer

        queue.turn = turn  # type: ignore[method-assign]
        await queue.put([make.call(n) for n in range(count)])
        async with working(queue, [make], QUICK, clock=engine.clock) as worker:
            async with asyncio.timeout(PATIENCE_S):
                while await queue.counts() != [QueueCounts(queue="default", done=count)]:
                    await asyncio.sleep(0.01)
            assert isinstance(worker, Worker)
            terms = worker.term
        made = [row[0] for row in await store.fetch_all("SELECT n FROM made ORDER BY n")]
        assert made == list(range(count))
        assert calls == 2 * count
        assert terms == 1, "what a lost answer had claimed was found again"
