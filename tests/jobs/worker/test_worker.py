"""A worker on a queue in memory: what runs, how it ends, what is written."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import structlog
from tests.jobs.worker.working import QUICK, finished, stored, until, working

from dougong.clock import ManualClock
from dougong.errors import Invalid, Overloaded, Unavailable
from dougong.jobs import (
    Backoff,
    Claimed,
    Ended,
    Job,
    MemoryQueue,
    NewJob,
    QueueSettings,
    State,
    Turn,
    Want,
    WorkerSettings,
    job,
    needs,
)
from dougong.jobs.worker import JobRun, Worker, current_job
from dougong.telemetry import configure_logging, counter, current_trace, get_logger, recorder, span, traceparent

SOON = Backoff(first_s=0.01, max_s=0.01)


async def test_async_and_plain_functions_get_their_arguments_and_their_results_are_kept() -> None:
    threads: list[str] = []

    @job
    async def add(a: int, b: int = 1) -> int:
        threads.append(threading.current_thread().name)
        return a + b

    @job
    def multiply(a: int, b: int) -> int:
        threads.append(threading.current_thread().name)
        return a * b

    queue = MemoryQueue()
    put = await queue.put([add.call(2), add.call(2, b=3), multiply.call(4, 5)])
    async with working(queue, [add, multiply]):
        done = await finished(queue, *(one.id for one in put))
    assert [(one.state, one.result) for one in done] == [(State.DONE, b"3"), (State.DONE, b"5"), (State.DONE, b"20")]
    assert threads.count("MainThread") == 2
    assert len(set(threads)) == 2


async def test_failures_come_again_and_then_are_dead_with_what_and_where() -> None:
    attempts: list[int] = []

    @job(retries=2, backoff=SOON)
    async def fails() -> None:
        attempts.append(current_job().attempt)
        raise ValueError("no stock")

    @job(retries=2, backoff=SOON)
    async def refuses() -> None:
        raise Invalid("no such order")

    queue = MemoryQueue()
    put = await queue.put([fails.call(), refuses.call()])
    async with working(queue, [fails, refuses]):
        one, other = await finished(queue, *(one.id for one in put))
    assert attempts == [1, 2, 3]
    assert (one.state, one.attempts) == (State.DEAD, 3)
    assert one.error.startswith("ValueError: no stock\n")
    assert "in fails: raise ValueError" in one.error
    assert (other.state, other.attempts) == (State.DEAD, 1)


async def test_wrong_arguments_are_dead_at_once_and_unknown_jobs_go_back_for_a_while() -> None:
    @job
    async def known(n: int) -> None: ...

    queue = MemoryQueue()
    put = await queue.put([NewJob(job="known", payload=b'{"n":"x"}'), NewJob(job="newer", payload=b"{}")])
    settings = WorkerSettings(look_s=0.05, unknown_delay_s=0.01, unknown_returns=3)
    async with working(queue, [known], settings):
        wrong, newer = await finished(queue, *(one.id for one in put))
    assert (wrong.state, wrong.attempts) == (State.DEAD, 1)
    assert "wrong_arguments" in wrong.error
    assert (newer.state, newer.attempts) == (State.DEAD, 1), "going back spends no attempt"
    assert "no worker knows the job 'newer'" in newer.error


async def test_a_retry_waits_outside_the_intake() -> None:
    """Poison jobs that wait for their next attempt take no place from others."""

    @job(retries=5)
    async def poison() -> None:
        raise Overloaded("full", retry_after_s=3600)

    @job
    async def healthy() -> None: ...

    queue = MemoryQueue()
    await queue.put([poison.call()] * 50)
    put = await queue.put([healthy.call()] * 50)
    async with working(queue, [poison, healthy], WorkerSettings(intake=2, concurrency=1, look_s=0.05)):
        assert {one.state for one in await finished(queue, *(one.id for one in put))} == {State.DONE}
    assert (await queue.counts())[0].delayed == 50


class Shelf:
    made = 0

    def __init__(self) -> None:
        Shelf.made += 1


async def test_needs_are_provided_once_per_worker() -> None:
    seen: list[object] = []

    @job
    async def one(n: int, shelf: Shelf = needs(Shelf)) -> None:
        seen.append(shelf)

    @job
    def two(shelf: Shelf = needs(Shelf)) -> None:
        seen.append(shelf)

    async def provide(kind: type) -> object:
        return kind()

    queue = MemoryQueue()
    Shelf.made = 0
    put = await queue.put([one.call(1), two.call(), one.call(2)])
    async with working(queue, [one, two], provide=provide):
        await finished(queue, *(entry.id for entry in put))
    assert Shelf.made == 1
    assert len(seen) == 3
    with pytest.raises(Invalid, match="given no `provide`"):
        await Worker(queue, [one]).run()


class Synced(MemoryQueue):
    """Its turns take as long as a disk."""

    turns = 0
    most_held = 0

    async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
        await asyncio.sleep(0.005)
        self.turns += 1
        answer = await super().turn(term, ended, wants)
        self.most_held = max(self.most_held, len(self._terms[term].held))
        return answer


class TestLimits:
    async def test_the_limit_follows_the_operator_and_interrupts_nothing(self) -> None:
        running, most, gate = 0, 0, asyncio.Event()
        interrupted = 0

        @job
        async def waits() -> None:
            nonlocal running, most, interrupted
            running += 1
            most = max(most, running)
            try:
                await gate.wait()
            except asyncio.CancelledError:
                interrupted += 1
                raise
            finally:
                running -= 1

        queue = MemoryQueue()
        put = await queue.put([waits.call()] * 150)
        async with working(queue, [waits]) as worker:
            await until(lambda: running == 10)
            await queue.configure("default", QueueSettings(concurrency=100))
            await until(lambda: running == 100)
            await queue.configure("default", QueueSettings(concurrency=1))
            await until(lambda: worker._intake.limit("default") == 1)
            assert running == 100
            most = 0
            gate.set()
            await finished(queue, *(one.id for one in put))
        assert interrupted == 0
        assert most == 1, "what came after the shrinking ran alone"

    async def test_the_intake_is_bounded_whatever_waits(self) -> None:
        assert await self.most_held(WorkerSettings(intake=25, concurrency=10, look_s=0.05)) == 25

    async def test_without_the_bound_it_holds_more(self) -> None:
        """Ablation: the same run with a bound that is none."""
        assert await self.most_held(WorkerSettings(intake=10_000, concurrency=10, look_s=0.05)) > 100

    async def most_held(self, settings: WorkerSettings) -> int:
        """How many jobs a worker had in its hands at most while short jobs flooded it."""

        @job
        async def short() -> None: ...

        queue = Synced()
        put = await queue.put([short.call()] * 2000)
        async with working(queue, [short], settings):
            await finished(queue, *(one.id for one in put))
        return queue.most_held

    async def test_a_paused_queue_starts_nothing_until_it_is_resumed(self) -> None:
        @job
        async def short() -> None: ...

        queue = MemoryQueue()
        await queue.configure("default", QueueSettings(paused=True))
        (put,) = await queue.put([short.call()])
        async with working(queue, [short]) as worker:
            await until(lambda: worker._intake.paused("default"))
            assert (await stored(queue, put.id)).state is State.WAITING
            await queue.configure("default", QueueSettings(paused=False))
            await finished(queue, put.id)

    async def test_priorities_hold_across_turns(self) -> None:
        order: list[int] = []
        gate = asyncio.Event()

        @job
        async def noted(n: int) -> None:
            if not order:
                order.append(n)
                await gate.wait()
            else:
                order.append(n)

        queue = MemoryQueue()
        settings = WorkerSettings(concurrency=1, look_s=0.05)
        later = [Job(noted.function, name="noted", priority=9).call(n) for n in (1, 2)]
        await queue.put(later)
        async with working(queue, [noted], settings):
            await until(lambda: order == [1])
            await queue.put([Job(noted.function, name="noted", priority=0).call(3)])
            gate.set()
            await until(lambda: len(order) == 3)
        assert order == [1, 3, 2]


class TestEnding:
    async def test_timeouts_end_async_jobs_and_flag_those_in_threads(self) -> None:
        flagged = threading.Event()

        @job(timeout_s=0.1, retries=0)
        async def slow() -> None:
            await asyncio.sleep(3600)

        @job(timeout_s=0.1, retries=0)
        def in_thread() -> None:
            run = current_job()
            until_ = time.monotonic() + 60
            while not run.cancelled and time.monotonic() < until_:
                time.sleep(0.005)
            flagged.set()
            raise asyncio.CancelledError

        queue = MemoryQueue()
        put = await queue.put([slow.call(), in_thread.call()])
        async with working(queue, [slow, in_thread]):
            done = await finished(queue, *(one.id for one in put))
        assert flagged.is_set()
        assert [one.state for one in done] == [State.DEAD] * 2
        assert all("job_timed_out: took longer than its timeout_s of 0.1" in one.error for one in done)

    async def test_who_does_not_end_is_given_up_on_and_keeps_its_place(self) -> None:
        gate = threading.Event()
        others: list[int] = []

        @job(timeout_s=0.05, retries=0)
        def hangs() -> None:
            gate.wait(60)

        @job
        def other() -> None:
            others.append(1)

        queue = Synced()
        settings = WorkerSettings(concurrency=1, look_s=0.05, grace_s=0.1)
        (put,) = await queue.put([hangs.call()])
        with structlog.testing.capture_logs() as logs:
            async with working(queue, [hangs, other], settings):
                (dead,) = await finished(queue, put.id)
                assert dead.state is State.DEAD
                (next_,) = await queue.put([other.call()])
                looks = queue.turns
                await until(lambda: queue.turns > looks + 3)
                assert others == [], "the thread that hangs still has the only place"
                gate.set()
                await finished(queue, next_.id)
        assert [line["job"] for line in logs if line["event"] == "job_does_not_end"][:1] == ["hangs"]

    async def test_a_heartbeat_keeps_a_long_job_alive_and_silence_ends_it(self) -> None:
        clock = ManualClock()

        @job(heartbeat_s=1.0, retries=0)
        async def beats() -> None:
            for _ in range(12):
                clock.advance(0.9)
                current_job().heartbeat()
                await asyncio.sleep(0.05)

        @job(heartbeat_s=1.0, retries=0)
        async def silent() -> None:
            await asyncio.sleep(3600)

        queue = MemoryQueue()
        put = await queue.put([beats.call(), silent.call()])
        async with working(queue, [beats, silent], clock=clock):
            alive, stuck = await finished(queue, *(one.id for one in put))
        assert alive.state is State.DONE
        assert "job_stuck: no heartbeat for 1.0 s" in stuck.error

    async def test_cancelling_ends_running_and_waiting_jobs(self) -> None:
        started = asyncio.Event()

        @job
        async def waits() -> None:
            started.set()
            await asyncio.sleep(3600)

        queue = MemoryQueue()
        put = await queue.put([waits.call()] * 3)
        ids = [one.id for one in put]
        async with working(queue, [waits], WorkerSettings(concurrency=1, look_s=0.05)):
            await started.wait()
            await queue.cancel(ids)
            assert {one.state for one in await finished(queue, *ids)} == {State.CANCELLED}

    async def test_time_limits_and_groups_inside_a_job_work_as_everywhere(self) -> None:
        """A runner task runs many jobs; none may see what another left in it."""
        seen: list[object] = []
        mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark", default=0)

        @job(retries=0)
        async def inside(n: int) -> None:
            seen.append(mark.get())
            mark.set(n)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(3600)
            assert mark.get() == n

            async def child() -> int:
                return mark.get()

            async with asyncio.TaskGroup() as group:
                task = group.create_task(child())
            seen.append(task.result() == n)

        @job(retries=0)
        async def cancels_itself() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

        queue = MemoryQueue()
        put = await queue.put([inside.call(1), cancels_itself.call(), inside.call(2), inside.call(3)])
        async with working(queue, [inside, cancels_itself], WorkerSettings(concurrency=1, look_s=0.05)):
            done = await finished(queue, *(one.id for one in put))
        assert [one.error for one in done] == [""] * 4
        assert seen == [0, True] * 3

    async def test_sys_exit_ends_the_job_and_nothing_else(self) -> None:
        @job(retries=0)
        async def well() -> None:
            raise SystemExit(0)

        @job(retries=0)
        def badly() -> None:
            raise SystemExit(3)

        queue = MemoryQueue()
        put = await queue.put([well.call(), badly.call()])
        async with working(queue, [well, badly]):
            one, other = await finished(queue, *(one.id for one in put))
        assert one.state is State.DONE
        assert other.error.startswith("SystemExit: 3")


class TestStopping:
    async def test_running_jobs_may_end_and_the_rest_goes_back_unspent(self) -> None:
        gate = asyncio.Event()

        @job
        async def waits() -> None:
            await gate.wait()

        @job
        async def short() -> None:
            await asyncio.sleep(0)

        queue = Synced()
        put = await queue.put([waits.call(), *([short.call()] * 3000)])
        async with working(queue, [waits, short]) as worker:
            await until(lambda: worker._intake.waiting("default") > 20)
            worker.stop()
            await until(lambda: worker._intake.waiting("default") == 0 and worker.running() == 1)
            gate.set()
            await until(lambda: worker.running() == 0)  # a second stop, at the end of the block, would end it
        rows = [await stored(queue, one.id) for one in put]
        assert rows[0].state is State.DONE
        assert {(row.state, row.attempts) for row in rows} == {(State.DONE, 1), (State.WAITING, 0)}

    async def test_the_second_stop_is_at_once_and_spends_no_attempt(self) -> None:
        @job
        async def waits() -> None:
            await asyncio.sleep(3600)

        queue = MemoryQueue()
        (put,) = await queue.put([waits.call()])
        async with working(queue, [waits]) as worker:
            await until(lambda: worker.running() == 1)
            worker.stop()
        row = await stored(queue, put.id)
        assert (row.state, row.attempts) == (State.WAITING, 0)

    async def test_ctrl_c_is_a_stop(self) -> None:
        """`asyncio.run` cancels the main task."""
        gate = asyncio.Event()

        @job
        async def waits() -> None:
            await gate.wait()

        queue = MemoryQueue()
        (put,) = await queue.put([waits.call()])
        worker = Worker(queue, [waits], settings=QUICK)
        running = asyncio.create_task(worker.run())
        await until(lambda: worker.running() == 1)
        running.cancel()
        await until(lambda: worker._stops == 1)
        gate.set()
        await asyncio.wait([running])
        assert running.cancelled()
        assert (await stored(queue, put.id)).state is State.DONE


class TestFaults:
    async def test_a_turn_whose_outcome_is_unknown_loses_no_job(self) -> None:
        """The queue writes the turn and the answer is lost: what was claimed would wait in this worker's name for
        ever."""

        class Lossy(MemoryQueue):
            turns = 0

            async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
                answer = await super().turn(term, ended, wants)
                self.turns += 1
                if self.turns % 3 == 1:
                    raise Unavailable("connection lost", code="connection_lost")
                return answer

        @job
        async def short() -> None: ...

        queue = Lossy()
        put = await queue.put([short.call()] * 30)
        async with working(queue, [short], WorkerSettings(look_s=0.02, concurrency=5)) as worker:
            rows = await finished(queue, *(one.id for one in put))
            assert worker.term == 1
        assert {(row.state, row.attempts) for row in rows} == {(State.DONE, 1)}

    async def test_an_end_that_was_written_is_not_taken_for_that_of_the_next_attempt(self) -> None:
        """One turn writes that it comes again and claims it again, and its answer is lost: the end is not sent anew."""

        class Lossy(MemoryQueue):
            async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
                await asyncio.sleep(0.02)  # the next attempt is due
                answer = await super().turn(term, ended, wants)
                if ended and ended[0].claimed.attempt == 1 and answer.claimed:
                    raise Unavailable("connection lost", code="connection_lost")
                return answer

        @job(backoff=SOON)
        async def fails_once() -> int:
            if current_job().attempt == 1:
                raise ValueError("no")
            return current_job().attempt

        queue = Lossy()
        (put,) = await queue.put([fails_once.call()])
        async with working(queue, [fails_once]) as worker:
            (row,) = await finished(queue, put.id)
            assert worker._intake.held == 0
        assert (row.state, row.attempts, row.result) == (State.DONE, 2, b"2")

    async def test_with_a_queue_that_cannot_recount_a_new_term_is_begun(self) -> None:
        class Lossy:
            def __init__(self) -> None:
                self.inner = MemoryQueue()
                self.failed = False

            def __getattr__(self, name: str) -> Any:
                if name == "held":
                    raise AttributeError(name)
                return getattr(self.inner, name)

            async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
                answer = await self.inner.turn(term, ended, wants)
                if not self.failed:
                    self.failed = True
                    raise Unavailable("connection lost", code="connection_lost")
                return answer

        @job
        async def short() -> None: ...

        queue = Lossy()
        put = await queue.inner.put([short.call()] * 3)
        async with working(queue, [short]) as worker:
            rows = await finished(queue.inner, *(one.id for one in put))
            assert worker.term == 2
        assert {(row.state, row.attempts) for row in rows} == {(State.DONE, 1)}

    async def test_who_is_ahead_of_the_queues_clock_does_not_ask_without_end(self) -> None:
        """A job that is due by the worker's clock and not by the queue's is looked for, and nobody is kept busy."""

        @job
        async def short() -> None: ...

        class Counting(MemoryQueue):
            turns = 0

            async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
                self.turns += 1
                return await super().turn(term, ended, wants)

        clock = ManualClock()
        queue = Counting(clock)
        (put,) = await queue.put([msgspec.structs.replace(short.call(), due_us=clock.now_us() + 1_000_000)])
        ahead = ManualClock(now_us=clock.now_us() + 3_600_000_000)
        async with working(queue, [short], WorkerSettings(look_s=0.5, reap_every_s=3600), clock=ahead):
            await until(lambda: queue.turns)
            await asyncio.sleep(0.5)  # a slow machine only asks less often
            assert queue.turns < 60
            clock.advance(1)
            await finished(queue, put.id)

    async def test_a_job_that_blocks_the_loop_is_named(self) -> None:
        @job
        async def blocks() -> None:
            time.sleep(1.0)

        queue = MemoryQueue()
        (put,) = await queue.put([blocks.call()])
        blocked = counter("dougong_jobs_loop_blocked_total", "", labels=("job",))
        before = blocked.value("blocks")
        with structlog.testing.capture_logs() as logs:
            async with working(queue, [blocks], WorkerSettings(look_s=0.05, blocked_s=0.1)):
                await finished(queue, put.id)
        (line,) = [line for line in logs if line["event"] == "job_blocks_the_loop"]
        assert line["job"] == "blocks"
        assert "time.sleep(1.0)" in line["stack"]
        assert blocked.value("blocks") == before + 1

    async def test_a_job_that_leaves_tasks_is_named(self) -> None:
        kept: list[asyncio.Task[Any]] = []

        @job
        async def leaves() -> None:
            kept.append(asyncio.create_task(asyncio.sleep(3600)))
            kept.append(asyncio.create_task(asyncio.sleep(3600), context=contextvars.Context()))  # not its own
            await asyncio.create_task(asyncio.sleep(0))

        queue = MemoryQueue()
        await queue.put([leaves.call()])
        with structlog.testing.capture_logs() as logs:
            async with working(queue, [leaves]):
                await until(lambda: any(line["event"] == "job_leaves_tasks" for line in logs))
        (line,) = [line for line in logs if line["event"] == "job_leaves_tasks"]
        assert (line["job"], line["count"]) == ("leaves", 1)
        for task in kept:
            task.cancel()
        assert asyncio.get_running_loop().get_task_factory() is None


async def test_one_trace_shows_who_asked_and_what_the_job_did() -> None:
    inner: list[JobRun] = []

    @job
    async def traced() -> None:
        inner.append(current_job())
        with span("its own work"):
            pass

    @job
    def in_thread() -> None:
        assert current_trace() is not None

    with span("POST /orders") as trigger:
        asked = traceparent()
        calls = [traced.call(), in_thread.call()]
    assert calls[0].trace == asked
    queue = MemoryQueue()
    put = await queue.put(calls)
    async with working(queue, [traced, in_thread]):
        await finished(queue, *(one.id for one in put))
    spans = {one.name: one for one in recorder().spans(trigger.trace_id)}
    attempt = spans["job traced"]
    assert attempt.parent_id == trigger.span_id
    assert spans["its own work"].parent_id == attempt.span_id
    assert spans["job in_thread"].parent_id == trigger.span_id
    assert attempt.attributes == {"job": "traced", "job_id": put[0].id, "attempt": 1, "queue": "default"}
    with pytest.raises(Invalid, match="no job is running"):
        current_job()


async def test_progress_is_written_in_batches_and_the_last_word_counts() -> None:
    reports = 0

    class Counting(MemoryQueue):
        async def report(self, term: int, progress: Sequence[Any]) -> None:
            nonlocal reports
            reports += 1
            await super().report(term, progress)

    gate = asyncio.Event()

    @job
    async def steps() -> None:
        for n in range(1000):
            current_job().progress(n + 1, 1000, "x" * 1000)
        await gate.wait()

    queue = Counting()
    (put,) = await queue.put([steps.call()])
    async with working(queue, [steps]):
        await until(lambda: queue._rows[put.id].progress is not None)
        progress = (await stored(queue, put.id)).progress
        gate.set()
    assert progress is not None
    assert (progress.done, progress.total, len(progress.note)) == (1000, 1000, 200)
    assert reports == 1


async def test_one_task_runs_all_that_wait_for_nothing_and_those_that_wait_have_one_each() -> None:
    runners: set[asyncio.Task[Any] | None] = set()
    both: list[int] = []
    gate = asyncio.Event()

    @job
    async def short(number: int) -> None:
        runners.add(asyncio.current_task())

    @job
    async def waits(number: int) -> None:
        both.append(number)
        await gate.wait()

    queue = MemoryQueue()
    put = await queue.put([short.call(number) for number in range(50)])
    async with working(queue, [short, waits], WorkerSettings(look_s=0.05, concurrency=8)):
        await finished(queue, *(one.id for one in put))
        assert len(runners) < 10, "a task for each costs more than the jobs"
        put = await queue.put([waits.call(number) for number in range(20)])
        await until(lambda: len(both) == 8)
        await asyncio.sleep(0.05)
        assert both == list(range(8)), "as many as may run at once, and no more"
        gate.set()
        await finished(queue, *(one.id for one in put))
    assert sorted(both) == list(range(20))


async def test_a_short_job_does_not_wait_behind_those_that_wait() -> None:
    gate = asyncio.Event()
    ran: list[str] = []

    @job
    async def waits() -> None:
        await gate.wait()

    @job
    async def short() -> None:
        ran.append("short")

    queue = MemoryQueue()
    put = await queue.put([waits.call(), waits.call(), short.call(), waits.call(), short.call()])
    async with working(queue, [waits, short]):
        await until(lambda: len(ran) == 2)
        gate.set()
        await finished(queue, *(one.id for one in put))


def test_a_claim_keeps_its_priority() -> None:
    assert Claimed(id=1, queue="a", job="j", payload=b"", attempt=1, enqueued_us=0, due_us=0).priority == 5


@pytest.mark.usefixtures("logging_restored")
async def test_a_line_logged_in_a_job_says_which_job() -> None:
    out = io.StringIO()
    configure_logging("orders", json=True, stream=out)
    log = get_logger("orders")

    @job
    async def logs() -> None:
        log.info("on the loop")

    @job
    def logs_in_thread() -> None:
        log.info("in a thread", job="of its own")

    queue = MemoryQueue()
    put = await queue.put([logs.call(), logs_in_thread.call()])
    async with working(queue, [logs, logs_in_thread]):
        await finished(queue, *(one.id for one in put))
    log.info("outside")
    lines = {line["event"]: line for line in map(json.loads, out.getvalue().splitlines())}
    assert (lines["on the loop"]["job"], lines["on the loop"]["job_id"]) == ("logs", put[0].id)
    assert (lines["in a thread"]["job"], lines["in a thread"]["job_id"]) == ("of its own", put[1].id)
    assert "job_id" not in lines["outside"]
