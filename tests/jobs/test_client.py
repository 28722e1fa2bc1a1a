"""What people mean by enqueueing, and what they decide about jobs, on a queue in memory with a worker on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from dougong.clock import ManualClock, SystemClock
from dougong.errors import Conflict, DeadlineExceeded, Error, Invalid, NotFound
from dougong.jobs import Backoff, Filter, Jobs, MemoryQueue, NewJob, State, Worker, current_job, job

PATIENCE_S = 60.0


@job
async def note(text: str) -> str:
    run = current_job()
    return f"{text} {run.index}/{run.total}"


@job(unique=True, queue="sums")
async def add(a: int, b: int = 1) -> int:
    return a + b


@job(retries=0, backoff=Backoff(first_s=0.01))
async def fail(why: str) -> None:
    raise RuntimeError(why)


JOBS = (note, add, fail)


@asynccontextmanager
async def working(jobs: Jobs) -> AsyncGenerator[None]:
    """A worker until the block ends."""
    worker = Worker(jobs.queue, JOBS)
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        async with asyncio.timeout(PATIENCE_S):
            await task


@pytest.fixture
def jobs() -> Jobs:
    return Jobs(MemoryQueue(), JOBS)


async def test_a_job_runs_and_its_result_is_waited_for(jobs: Jobs) -> None:
    async with working(jobs):
        enqueued = await jobs.enqueue(add.call(2, b=3))
        ended = await jobs.wait(enqueued.id, PATIENCE_S)
    assert (ended.state, ended.result) == (State.DONE, b"5")


async def test_waiting_has_an_end(jobs: Jobs) -> None:
    enqueued = await jobs.enqueue(add.call(1))
    with pytest.raises(DeadlineExceeded, match="did not end within"):
        await jobs.wait(enqueued.id, 0.01)


async def test_what_is_said_at_the_call_goes_with_it() -> None:
    clock = ManualClock(now_us=1_000_000)
    jobs = Jobs(MemoryQueue(clock=clock), JOBS, clock=clock)
    delayed = await jobs.enqueue(note.call("a"), delay_s=2.5, priority=0, queue="letters")
    later = await jobs.enqueue(note.call("b"), at_us=9_000_000, key="b")
    again = await jobs.enqueue(note.call("b"), key="b")
    assert (again.id, again.new) == (later.id, False)
    found = await jobs.show(delayed.id)
    assert (found.due_us, found.priority, found.queue) == (3_500_000, 0, "letters")
    assert (await jobs.show(later.id)).due_us == 9_000_000


async def test_a_chain_runs_in_order_and_a_group_before_what_follows_it(jobs: Jobs) -> None:
    async with working(jobs):
        await jobs.chain(note.call("1"), note.call("2"), note.call("3"))
        await jobs.group([note.call("a"), note.call("b")], then=note.call("after"))
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await jobs.ls(Filter(state=State.DONE))) < 6:
                await asyncio.sleep(0.01)
    ended = {one.payload.decode()[9:-2]: one for one in found}
    assert ended["1"].id < ended["2"].id < ended["3"].id  # each was put when the one before was done
    assert (ended["after"].started_us or 0) >= max(ended["a"].finished_us or 0, ended["b"].finished_us or 0)


async def test_shards_know_which_they_are_even_of_a_unique_job(jobs: Jobs) -> None:
    unique = await jobs.broadcast(add.call(1), 3)
    assert len({one.id for one in unique}) == 3
    async with working(jobs):
        shards = await jobs.broadcast(note.call("s"), 3)
        ended = [await jobs.wait(one.id, PATIENCE_S) for one in shards]
    assert [one.result for one in ended] == [b'"s 0/3"', b'"s 1/3"', b'"s 2/3"']


async def test_dead_ones_are_found_by_what_they_failed_of_and_run_again(jobs: Jobs) -> None:
    async with working(jobs):
        lost = [await jobs.enqueue(fail.call(f"no paper {i}")) for i in range(3)]
        other = await jobs.enqueue(fail.call("no ink"))
        for one in (*lost, other):
            assert (await jobs.wait(one.id, PATIENCE_S)).state is State.DEAD
    assert {one.id for one in await jobs.dead(Filter(error="paper"))} == {one.id for one in lost}
    assert await jobs.retry(other.id, 10**9) == {other.id}
    assert await jobs.retry_all(Filter(error="paper")) == {one.id for one in lost}
    assert [one.state for one in await jobs.ls()] == [State.WAITING] * 4
    assert await jobs.cancel_all(Filter(job="fail")) == {one.id for one in (*lost, other)}
    assert await jobs.retry_all(Filter(job="fail")) == set()  # cancelled on purpose: only when asked for by state
    assert len(await jobs.retry_all(Filter(job="fail", state=State.CANCELLED))) == 4
    with pytest.raises(Conflict, match="that are done cannot"):
        await jobs.retry_all(Filter(state=State.DONE))


async def test_more_than_a_page_is_changed(jobs: Jobs) -> None:
    await jobs.enqueue_many([note.call(str(i)) for i in range(1500)])
    assert len(await jobs.cancel_all(Filter(job="note"))) == 1500


async def test_queues_are_paused_and_resized_one_setting_beside_the_other(jobs: Jobs) -> None:
    await jobs.pause("sums")
    await jobs.resize("sums", 100)
    await jobs.enqueue(add.call(1))
    async with working(jobs):
        await jobs.wait((await jobs.enqueue(note.call("x"))).id, PATIENCE_S)
        assert (await jobs.ls(Filter(job="add")))[0].state is State.WAITING
        await jobs.resume("sums")
        assert (await jobs.wait((await jobs.ls(Filter(job="add")))[0].id, PATIENCE_S)).result == b"2"
    assert (await jobs.settings())["sums"].concurrency == 100


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (lambda jobs: jobs.enqueue(note.call("a"), delay_s=1, at_us=1), Invalid, "not both"),
        (lambda jobs: jobs.enqueue(note.call("a"), delay_s=-1), Invalid, "delay_s must be 0 or more"),
        (lambda jobs: jobs.enqueue(note.call("a"), priority=10), Invalid, "priority must be 0"),
        (lambda jobs: jobs.enqueue_named("ad", b"{}"), NotFound, "did you mean add"),
        (lambda jobs: jobs.enqueue_named("add", b'{"a":"x"}'), Invalid, "Expected `int`"),
        (lambda jobs: jobs.chain(), Invalid, "a chain of no jobs"),
        (lambda jobs: jobs.group([], then=note.call("a")), Invalid, "a group of no jobs"),
        (lambda jobs: jobs.broadcast(note.call("a"), 0), Invalid, "1 to 10,000 shards"),
        (lambda jobs: jobs.show(77), NotFound, "no job with the id 77"),
        (lambda jobs: jobs.ls(limit=0), Invalid, "limit must be 1 to 1,000"),
        (lambda jobs: jobs.resize("sums", 0), Invalid, "to stop a queue, pause it"),
        (lambda jobs: jobs.pause("sum"), NotFound, "did you mean sums"),
    ],
)
async def test_what_cannot_be_done_is_named(
    jobs: Jobs, wrong: Callable[[Jobs], asyncio.Future[object]], kind: type[Error], said: str
) -> None:
    with pytest.raises(kind, match=said):
        await wrong(jobs)


async def test_wrong_arguments_name_the_argument() -> None:
    faults = {
        b'{"a":"x"}': "a",
        b"{}": "a",
        b'{"a":1,"c":2}': "c",
        b"[]": None,
        b"{": None,
    }
    for payload, field in faults.items():
        with pytest.raises(Invalid) as caught:
            add.call_with(payload)
        assert caught.value.code == "wrong_arguments"
        assert caught.value.fields.get("field") == field


def test_a_call_is_plain_data() -> None:
    assert add.call(1) == NewJob(job="add", payload=b'{"a":1}', queue="sums", unique="[1,1]", trace=add.call(1).trace)
    assert SystemClock().now_us() > 0
