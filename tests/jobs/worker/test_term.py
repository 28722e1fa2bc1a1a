"""A worker's hold on its jobs: kept from a thread, lost only when it must be, and then nothing is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from tests.jobs.worker.working import finished, stored, until, working

from dougong.errors import Conflict
from dougong.jobs import Ended, MemoryQueue, State, Turn, Want, WorkerSettings, current_job, job
from dougong.jobs.worker.term import Keeper

BLOCKED_S = 3.2
SHORT = WorkerSettings(ttl_s=1.5, look_s=0.05, grace_s=0.3, reap_every_s=3600)


async def run_a_job_that_blocks() -> tuple[int, int]:
    """Terms begun, and attempts of the job, when it holds up the loop for longer than a term lasts."""

    @job(retries=0)
    async def blocks() -> None:
        time.sleep(BLOCKED_S)

    queue = MemoryQueue()
    (put,) = await queue.put([blocks.call()])
    async with working(queue, [blocks], SHORT) as worker:
        await until(lambda: queue._rows[put.id].attempts)
        await until(lambda: worker.term > 1 or queue._rows[put.id].finished_us)
        await queue.reap()
        return worker.term, (await stored(queue, put.id)).stalls


async def test_a_job_that_blocks_the_loop_keeps_its_term() -> None:
    assert await run_a_job_that_blocks() == (1, 0)


async def test_without_renewal_off_the_loop_it_loses_its_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: the same, renewing by a task of the loop that is blocked."""

    async def start(self: Any) -> None:
        self._task = asyncio.create_task(self._keep())

    async def close(self: Any) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    monkeypatch.setattr(Keeper, "start", start)
    monkeypatch.setattr(Keeper, "close", close)
    term, stalls = await run_a_job_that_blocks()
    assert term > 1
    assert stalls > 0


async def test_when_the_term_is_lost_its_jobs_are_cancelled_and_a_new_one_is_begun() -> None:
    ends: list[str] = []
    gate = asyncio.Event()

    @job
    async def waits() -> None:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        ends.append("done")

    queue = MemoryQueue()
    put = await queue.put([waits.call()] * 2)
    async with working(queue, [waits], SHORT) as worker:
        await until(lambda: worker.running() == 2)
        queue._terms[1].until_us = 0  # somebody else may have its jobs by now
        await queue.reap()
        await until(lambda: worker.term == 2)
        gate.set()
        rows = await finished(queue, *(one.id for one in put))
    assert ends == ["cancelled"] * 2 + ["done"] * 2
    assert [(row.state, row.attempts, row.stalls) for row in rows] == [(State.DONE, 2, 1)] * 2


async def test_what_waits_in_a_worker_does_not_start_once_its_term_is_lost() -> None:
    """Its queue does not answer just then, so no new term is begun."""

    class Hangs(MemoryQueue):
        def __init__(self) -> None:
            super().__init__()
            self.answers = asyncio.Event()
            self.first = True

        async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
            if self.first:
                self.first = False
                return await super().turn(term, ended, [Want("default", 3)])  # more than it runs at once
            await self.answers.wait()
            return await super().turn(term, ended, wants)

    started: list[int] = []

    @job
    async def waits() -> None:
        started.append(current_job().attempt)
        await queue.answers.wait()

    queue = Hangs()
    put = await queue.put([waits.call()] * 3)
    one_at_once = WorkerSettings(concurrency=1, ttl_s=1.5, look_s=0.05, grace_s=0.3, reap_every_s=3600)
    async with working(queue, [waits], one_at_once) as worker:
        await until(lambda: worker.running() == 1)
        queue._terms[1].until_us = 0
        await queue.reap()
        await until(lambda: worker.running() == 0)
        assert started == [1]
        queue.answers.set()
        await finished(queue, *(one.id for one in put))


async def test_a_conflict_in_a_turn_is_no_end_of_the_worker() -> None:
    class Quarrels(MemoryQueue):
        turns = 0

        async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
            self.turns += 1
            if self.turns == 2:
                raise Conflict("a row was there", code="duplicate")
            return await super().turn(term, ended, wants)

    @job
    async def short() -> None: ...

    queue = Quarrels()
    async with working(queue, [short], SHORT):
        await until(lambda: queue.turns > 2)
        (put,) = await queue.put([short.call()])
        assert (await finished(queue, put.id))[0].state is State.DONE


async def test_silence_of_the_queue_for_so_long_is_a_loss() -> None:
    class Silent(MemoryQueue):
        silent = False

        async def renew(self, term: int, ttl_s: float) -> bool:
            if self.silent:
                raise ConnectionError("away")
            return await super().renew(term, ttl_s)

    @job
    async def waits() -> None:
        await asyncio.sleep(3600)

    queue = Silent()
    await queue.put([waits.call()])
    async with working(queue, [waits], SHORT) as worker:
        await until(lambda: worker.running() == 1)
        queue.silent = True
        await until(lambda: worker.term > 1)
        queue.silent = False
        worker.stop()


async def test_the_thread_may_have_a_queue_of_its_own() -> None:
    opened: list[asyncio.AbstractEventLoop] = []
    renewed: list[asyncio.AbstractEventLoop] = []

    class Own(MemoryQueue):
        closed = False

        async def renew(self, term: int, ttl_s: float) -> bool:
            renewed.append(asyncio.get_running_loop())
            return await queue.renew(term, ttl_s)

        async def close(self) -> None:
            Own.closed = True

    async def renewer() -> MemoryQueue:
        opened.append(asyncio.get_running_loop())
        return Own()

    @job
    async def short() -> None: ...

    queue = MemoryQueue()
    async with working(queue, [short], SHORT, renewer=renewer):
        await until(lambda: renewed)
    assert opened[0] is renewed[0] is not asyncio.get_running_loop()
    assert Own.closed

    async def broken() -> MemoryQueue:
        raise ConnectionError("no such host")

    with pytest.raises(ConnectionError):
        async with working(queue, [short], SHORT, renewer=broken):
            pass
