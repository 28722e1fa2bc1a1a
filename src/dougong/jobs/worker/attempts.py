"""Runs attempts: starts what the intake lets start, ends what is late or cancelled, and says how each ended."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

from dougong.errors import Error, Internal, Invalid
from dougong.jobs._protocol import Claimed, Ended, Outcome
from dougong.jobs.worker import figures
from dougong.jobs.worker.catalog import AnyJob, Catalog
from dougong.jobs.worker.deadlines import Deadlines
from dougong.jobs.worker.deciding import Why, ended_by, failed, result_of, returned
from dougong.jobs.worker.intake import Intake
from dougong.jobs.worker.processes import JobFailed, Processes
from dougong.jobs.worker.queue_time import QueueTime
from dougong.jobs.worker.run import RUN, Desk, JobRun
from dougong.jobs.worker.settings import WorkerSettings
from dougong.jobs.worker.steps import TaskWatch, steps
from dougong.jobs.worker.threads import Threads
from dougong.telemetry import Span, continue_trace, get_logger, span

__all__ = ["Attempt", "Attempts"]

_log = get_logger("dougong.jobs")

HOLD_LOOP_S = 0.001
"""A runner whose jobs end without waiting lets others have the loop after so long."""
WIDTH_MAX = 128
"""Runners that are made at once."""
TASKS_KEPT = 64
UNKNOWN_KEPT = 10_000


class Attempt(JobRun):
    """What the worker knows of an attempt beyond what the job sees."""

    __slots__ = ("job", "settled", "started_at", "task", "tasks", "why")

    def __init__(self, claimed: Claimed, desk: Desk, job: AnyJob, now: float) -> None:
        super().__init__(claimed, desk)
        self.job = job
        self.started_at = self.beat_at = now
        self.why: Why | None = None
        self.task: asyncio.Task[None] | None = None
        """Its runner, where cancelling that cancels the job."""
        self.tasks: list[asyncio.Task[Any]] | None = None
        """Tasks that it started."""
        self.settled = False
        """Its end is decided, though it may still run."""


class Attempts:
    """All attempts of a worker. `end` takes the ends to be written, `drop` the queue of one that will not be."""

    def __init__(
        self,
        catalog: Catalog,
        intake: Intake,
        settings: WorkerSettings,
        clock: QueueTime,
        desk: Desk,
        *,
        random: Callable[[], float],
        end: Callable[[Ended], None],
        drop: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._intake = intake
        self._settings = settings
        self._clock = clock
        self._monotonic = clock.monotonic
        self.desk = desk
        self._random = random
        self._end = end
        self._drop = drop
        self._needs: dict[type, object] = {}
        self._context = contextvars.copy_context()
        self._runners: set[asyncio.Task[None]] = set()
        self._ahead: set[asyncio.Task[None]] = set()
        """Runners that have not waited for anything since they were made: they will come to what is in the intake."""
        self._width = 1
        """How many of these there may be."""
        self._waited: list[Attempt] = []
        """Attempts that began to wait since the last tick: few live so long that they need a deadline."""
        self._deadlines: Deadlines[Attempt] = Deadlines()
        self._threads = Threads()
        self._processes = Processes(jobs_max=settings.process_jobs, idle_s=settings.process_idle_s)
        self._watch = TaskWatch(self._task_started)
        self._left: list[tuple[Attempt, list[asyncio.Task[Any]]]] = []
        self._leaky: set[str] = set()
        self._unknown: dict[int, int] = {}
        self._tallies: dict[str, figures.Tally] = {job.name: figures.Tally(job.name) for job in catalog}
        self._closing = False
        self.running: dict[int, Attempt] = {}
        """By id. One that was given up on but still runs is not here; it holds its place in the intake."""
        self.stepping: object | None = None
        """The attempt that has the loop now."""

    async def start(self, provide: Callable[[type], Awaitable[object]] | None) -> None:
        """Make what jobs need. Raises `Invalid` (`nothing_provides`) when nobody can."""
        for kind in sorted(self._catalog.needs, key=lambda kind: kind.__qualname__):
            if provide is None:
                raise Invalid(
                    f"jobs need a {kind.__name__}, and this worker was given no `provide`", code="nothing_provides"
                )
            self._needs[kind] = await provide(kind)
        with continue_trace(""):  # a job belongs to no trace but that of who enqueued it
            self._context = contextvars.copy_context()
        self._watch.start()

    async def close(self) -> None:
        """Give up on whatever still runs."""
        self._closing = True
        self._watch.stop()
        for runner in self._runners:
            runner.cancel()
        if self._runners:
            await asyncio.wait(self._runners, timeout=self._settings.grace_s)
        if self._processes.started:
            await asyncio.to_thread(self._processes.close)

    def start_waiting(self) -> None:
        """Start what may start now.

        One runner does for any number of jobs that wait for nothing, and so a flood of them costs no tasks, and does
        not hold the loop for a millisecond each. Where jobs wait, twice as many are made each time, until all may run.
        """
        while len(self._ahead) < self._width and (claimed := self._intake.next()) is not None:
            runner = asyncio.get_running_loop().create_task(self._run(claimed), name="dougong-job-runner")
            self._runners.add(runner)
            self._ahead.add(runner)
            runner.add_done_callback(self._runner_ended)

    def _runner_ended(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        if runner in self._ahead:
            self._ahead.discard(runner)
            self._width = 1
        if not self._closing:
            self.start_waiting()

    def stop(self, attempts: Sequence[Attempt], why: Why) -> None:
        """Ask attempts to end. The first reason stands."""
        now = self._monotonic()
        for attempt in attempts:
            if attempt.why is None:
                attempt.why = why
                self._interrupt(attempt, now)

    def tick(self) -> None:
        """Look after the clock; called several times a second."""
        now = self._monotonic()
        waited, self._waited = self._waited, []
        for attempt in waited:
            if attempt.why is None and not attempt.settled:
                self._arm(attempt, now)
        for attempt in self._deadlines.due(now):
            if attempt.why is not None:
                self._give_up(attempt, now)
            elif (late := self._late(attempt, now)) is not None:
                attempt.why = late
                self._interrupt(attempt, now)
            else:
                self._arm(attempt, now)
        left, self._left = self._left, []
        for attempt, tasks in left:
            if alive := [task for task in tasks if not task.done()]:
                self._name_leak(attempt, alive)

    def count(self) -> None:
        """Bring the metrics up to now; called once a turn."""
        for tally in self._tallies.values():
            tally.count()

    def trim(self) -> None:
        """Let idle processes go; takes up to seconds, so it is called in a thread."""
        self._processes.trim()

    # a runner

    async def _run(self, first: Claimed) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        monotonic, intake = self._monotonic, self._intake
        claimed: Claimed | None = first
        since = monotonic()
        while claimed is not None:
            queue = claimed.queue
            try:
                now = await self._attempt(claimed, task)
            finally:
                intake.ended(queue)
            if task.cancelling():
                return  # a cancellation that the job did not take may still be under way, and must not meet the next
            if now - since > HOLD_LOOP_S:
                await asyncio.sleep(0)
                since = monotonic()
            claimed = intake.next()

    async def _attempt(self, claimed: Claimed, task: asyncio.Task[None]) -> float:
        """Run one to its end, whatever that is; when that was."""
        now = self._monotonic()
        job = self._catalog.get(claimed.job)
        if job is None:
            self._end(self._not_known(claimed))
            return now
        name = job.name
        tally = self._tallies[name]
        late_us = self._clock.at_us(now) - claimed.due_us
        tally.pickups_s.append(late_us / 1e6 if late_us > 0 else 0.0)
        attempt = self.running[claimed.id] = Attempt(claimed, self.desk, job, now)
        ended: Ended | None
        try:
            if job.kind == "async":
                attempt.task = task
                context = self._context.copy()
                value = await steps(_call(attempt, self._arguments(job, claimed)), context, attempt, self)
            else:
                self.suspended(attempt)
                value = await self._elsewhere(attempt)
            result, trouble = result_of(value)
            if trouble:
                _log.warning("job_result_not_kept", job=name, job_id=claimed.id, why=trouble)
            ended = Ended(claimed=claimed, outcome=Outcome.DONE, result=result, error=trouble)
        except SystemExit as exit_:
            # What was a script ends so; only a code other than 0 says that something went wrong.
            if not exit_.code:
                ended = Ended(claimed=claimed, outcome=Outcome.DONE)
            else:
                ended = self._failed(attempt, exit_)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if self._closing and isinstance(error, asyncio.CancelledError):
                raise
            ended = self._failed(attempt, error)
        finally:
            if self.running.get(claimed.id) is attempt:
                del self.running[claimed.id]
            self._deadlines.remove(attempt)
        now = self._monotonic()
        tally.durations_s.append(now - attempt.started_at)
        if attempt.tasks is not None:
            self._left.append((attempt, attempt.tasks))
        self._settle(attempt, ended)
        return now

    def suspended(self, attempt: Any) -> None:
        """A job waits for something for the first time: another may start, and this one may be late from now on."""
        runner = asyncio.current_task()
        if runner in self._ahead:
            self._ahead.discard(cast("asyncio.Task[None]", runner))
            self._width = min(self._width * 2, WIDTH_MAX)
            self.start_waiting()
        if attempt.job.timeout_s is not None or attempt.job.heartbeat_s is not None:
            self._waited.append(attempt)

    def _arguments(self, job: AnyJob, claimed: Claimed) -> dict[str, object]:
        arguments = job.arguments(claimed.payload)
        for name, kind in job.needs.items():
            arguments[name] = self._needs[kind]
        return arguments

    def _elsewhere(self, attempt: Attempt) -> Awaitable[object]:
        job = attempt.job
        if job.kind == "process":
            job.arguments(attempt.claimed.payload)  # what is wrong with them is said without starting a process
            work = partial(_in_span, attempt, partial(self._processes.run, attempt, job))
        else:
            work = partial(_in_span, attempt, partial(job.function, **self._arguments(job, attempt.claimed)))
        return self._threads.call(partial(self._context.copy().run, work))

    # how it ends

    def _failed(self, attempt: Attempt, error: BaseException) -> Ended | None:
        """What becomes of an attempt that raised, or was ended."""
        job, claimed = attempt.job, attempt.claimed
        now_us, random = self._clock.now_us(), self._random()
        why = attempt.why
        ours = isinstance(error, asyncio.CancelledError) or (isinstance(error, Error) and error.code == "job_crashed")
        if why is not None and (ours or why in (Why.CANCELLED, Why.LOST)):
            return self._ended_by(attempt, why)
        if isinstance(error, JobFailed):
            kind: type[Error] = Invalid if error.invalid else Internal
            decided = failed(
                claimed,
                kind("", retry_after_s=error.retry_after_s),
                job.retries,
                job.backoff,
                now_us,
                random,
            )
            ended = Ended(claimed=claimed, outcome=decided.outcome, due_us=decided.due_us, error=error.text)
        else:
            ended = failed(claimed, error, job.retries, job.backoff, now_us, random)
        _log.warning(
            "job_failed",
            job=job.name,
            job_id=claimed.id,
            attempt=claimed.attempt,
            outcome=ended.outcome.value,
            error=ended.error,
        )
        return ended

    def _ended_by(self, attempt: Attempt, why: Why) -> Ended | None:
        job = attempt.job
        return ended_by(
            why,
            attempt.claimed,
            timeout_s=job.timeout_s,
            heartbeat_s=job.heartbeat_s,
            retries=job.retries,
            backoff=job.backoff,
            now_us=self._clock.now_us(),
            random=self._random(),
        )

    def _settle(self, attempt: Attempt, ended: Ended | None) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        if ended is None or attempt.why is Why.LOST:
            self._drop(attempt.claimed.queue)
        else:
            counted = self._tallies[attempt.job.name].ended
            counted[ended.outcome] = counted.get(ended.outcome, 0) + 1
            self._end(ended)

    def _not_known(self, claimed: Claimed) -> Ended:
        """A job with a name that is not here: a newer app may have put it, and a newer worker will know it."""
        times = self._unknown.pop(claimed.id, 0) + 1
        if times > self._settings.unknown_returns:
            error = Invalid(f"no worker knows the job {claimed.job[:100]!r}", code="unknown_job")
            return Ended(claimed=claimed, outcome=Outcome.DEAD, error=f"Invalid: {error}")
        if times == 1:
            _log.warning("job_unknown", job=claimed.job, job_id=claimed.id, known=len(self._catalog))
        while len(self._unknown) >= UNKNOWN_KEPT:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[claimed.id] = times
        return returned(claimed, self._clock.now_us() + round(self._settings.unknown_delay_s * 1e6))

    # what is late

    def _arm(self, attempt: Attempt, now: float) -> None:
        job = attempt.job
        ends = [] if job.timeout_s is None else [attempt.started_at + job.timeout_s]
        if job.heartbeat_s is not None:
            ends.append(attempt.beat_at + job.heartbeat_s)
        if ends:
            self._deadlines.add(attempt, min(ends), now)

    def _late(self, attempt: Attempt, now: float) -> Why | None:
        job = attempt.job
        if job.timeout_s is not None and now >= attempt.started_at + job.timeout_s:
            return Why.TIMED_OUT
        if job.heartbeat_s is not None and now >= attempt.beat_at + job.heartbeat_s:
            return Why.STUCK
        return None

    def _interrupt(self, attempt: Attempt, now: float) -> None:
        attempt.cancelled = True
        if attempt.job.kind == "async":
            if attempt.task is not None:
                attempt.task.cancel()
        elif attempt.job.kind == "process":
            self._processes.kill(attempt.id)
        self._deadlines.add(attempt, now + self._settings.grace_s, now)

    def _give_up(self, attempt: Attempt, now: float) -> None:
        """It was asked to end and did not. What becomes of the job is decided now; its place here stays taken until
        it ends, so that what hangs is bounded by the concurrency.
        """
        assert attempt.why is not None, "only what was asked to end is given up on"
        if not attempt.settled:
            figures.STRAYS.inc(1, attempt.job.name)
            _log.error(
                "job_does_not_end",
                job=attempt.job.name,
                job_id=attempt.id,
                why=attempt.why.value,
                remedy="let cancellation through (async), or look at current_job().cancelled (threads)",
            )
            if self.running.get(attempt.id) is attempt:
                del self.running[attempt.id]
            self._settle(attempt, self._ended_by(attempt, attempt.why))
        self._interrupt(attempt, now)

    # what is left

    def _task_started(self, run: JobRun, task: asyncio.Task[Any]) -> None:
        if isinstance(run, Attempt):
            if run.tasks is None:
                run.tasks = []
            elif len(run.tasks) >= TASKS_KEPT:
                run.tasks = [other for other in run.tasks if not other.done()][-TASKS_KEPT:]
            run.tasks.append(task)

    def _name_leak(self, attempt: Attempt, tasks: Sequence[asyncio.Task[Any]]) -> None:
        name = attempt.job.name
        figures.LEAKED.inc(len(tasks), name)
        if name not in self._leaky:
            self._leaky.add(name)
            _log.error(
                "job_leaves_tasks",
                job=name,
                job_id=attempt.id,
                count=len(tasks),
                first=tasks[0].get_name(),
                what=repr(tasks[0].get_coro())[:200],
                remedy="await or cancel what the job starts, e.g. with asyncio.TaskGroup",
            )


def _begin(attempt: Attempt) -> Span:
    """Called in the attempt's own context, which ends with it: nothing has to be put back."""
    RUN.set(attempt)
    claimed, name = attempt.claimed, attempt.job.name
    if claimed.trace:
        continue_trace(claimed.trace).__enter__()
    return span("job " + name, job=name, job_id=claimed.id, attempt=claimed.attempt, queue=claimed.queue)


async def _call(attempt: Attempt, arguments: dict[str, object]) -> object:
    with _begin(attempt):
        return await cast("Callable[..., Awaitable[object]]", attempt.job.function)(**arguments)


def _in_span(attempt: Attempt, work: Callable[[], object]) -> object:
    """The same in a thread."""
    with _begin(attempt):
        return work()
