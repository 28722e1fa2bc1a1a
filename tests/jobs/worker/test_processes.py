"""Jobs in processes of their own: kept, replaced, ended, and allowed to crash."""

from __future__ import annotations

import msgspec
import pytest
from tests.jobs.worker import heavy
from tests.jobs.worker.working import finished, until, working

from dougong.jobs import MemoryQueue, State, WorkerSettings, job, needs
from dougong.jobs.worker import AnyJob, Catalog

pytestmark = pytest.mark.processes

SETTINGS = WorkerSettings(concurrency=1, look_s=0.05, report_s=0.02, process_jobs=2)


async def test_processes_are_used_again_and_replaced_and_a_crash_is_the_jobs_own() -> None:
    queue = MemoryQueue()
    jobs: list[AnyJob] = [heavy.where, heavy.crashes, heavy.refuses, heavy.hangs]
    calls = [*(heavy.where.call(n) for n in range(3)), heavy.crashes.call(), heavy.refuses.call(), heavy.hangs.call()]
    put = await queue.put(calls)
    (wrong,) = await queue.put([msgspec.structs.replace(heavy.where.call(1), payload=b'{"n":"x"}')])
    async with working(queue, jobs, SETTINGS):
        *where, crashed, refused, hung, mistaken = await finished(queue, *(one.id for one in put), wrong.id)
    pids, _, numbers = zip(*(msgspec.json.decode(one.result or b"") for one in where), strict=True)
    assert numbers == (0, 1, 2)
    assert pids[0] == pids[1] != pids[2], "replaced after two jobs"
    assert (crashed.state, crashed.attempts) == (State.DEAD, 2)
    assert "job_crashed: the process of job crashes ended by SIGSEGV" in crashed.error
    assert (refused.state, refused.attempts) == (State.DEAD, 1)
    assert refused.error.startswith("Invalid: no_order: no such order\n")
    assert "job_timed_out" in hung.error
    assert "wrong_arguments" in mistaken.error


async def test_cancelling_ends_the_process() -> None:
    queue = MemoryQueue()
    (put,) = await queue.put([heavy.waits_for_cancel.call()])
    async with working(queue, [heavy.waits_for_cancel], SETTINGS):
        await until(lambda: queue._rows[put.id].progress is not None)
        await queue.cancel([put.id])
        (row,) = await finished(queue, put.id)
    assert row.state is State.CANCELLED


def test_what_no_worker_could_run_is_refused_where_it_is_listed() -> None:
    @job(process=True)
    def wants(queue: MemoryQueue = needs(MemoryQueue)) -> None: ...

    with pytest.raises(TypeError, match="runs in a process of its own, where queue cannot be put in"):
        Catalog([wants])

    @job(name="where")
    async def other() -> None: ...

    with pytest.raises(TypeError, match="two jobs are named where"):
        Catalog([heavy.where, other])
