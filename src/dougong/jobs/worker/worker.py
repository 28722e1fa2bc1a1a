"""The worker: takes jobs, runs them, writes down how they ended.

One loop talks to the queue, and each of its turns is one transaction: what ended since the last is written, and what is
due is taken. While a turn is being synced jobs go on ending, and ride together in the next: closed loop, no timer. So a
lone job is written at once, and a flood of short ones costs a transaction per batch.
"""

from __future__ import annotations

import asyncio
import os
import random as _random
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from dougong.clock import Clock, SystemClock
from dougong.errors import Conflict
from dougong.jobs._protocol import Claimed, Ended, Outcome, Progress, Queue, Turn, Want, WorkerInfo
from dougong.jobs.worker import figures
from dougong.jobs.worker.attempts import Attempt, Attempts
from dougong.jobs.worker.catalog import AnyJob, Catalog
from dougong.jobs.worker.deciding import Why, returned
from dougong.jobs.worker.intake import Intake
from dougong.jobs.worker.queue_time import QueueTime
from dougong.jobs.worker.run import Desk
from dougong.jobs.worker.settings import INTAKE_MAX, WorkerSettings
from dougong.jobs.worker.term import Keeper, Renewer
from dougong.jobs.worker.watchdog import Watchdog
from dougong.telemetry import before_render, get_logger

__all__ = ["Worker"]

_log = get_logger("dougong.jobs")
TICK_S = 0.1
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
EARLY_S = 0.02
"""How often a worker looks for what is due by its own clock and not by the queue's, which is behind."""


@runtime_checkable
class _Recounts(Protocol):
    """A queue that can say what a term holds, for a worker that does not know what came of a turn. With one that
    cannot, such a worker begins a new term.
    """

    async def held(self, term: int) -> Sequence[Claimed]: ...


class Worker:
    """Runs jobs of a queue until it is stopped.

    - `jobs`: what it knows; one with another name goes back, for a worker that is newer.
    - `provide`: makes what jobs ask for with `needs(Kind)`, once per kind, before the first job.
    - `renewer`: opens the queue a second time, for the thread that keeps the worker's hold on its jobs while the event
      loop is busy. Without it that thread calls `queue.renew`.
    - `source`: names the queue in the marks that `JobRun.first` leaves, where jobs of several queues have their effects
      in one database.
    - `name`: for people; app, machine and process by default.

    `run` returns after `stop`, whose first call lets running jobs end (`drain_s`), and whose second does not.
    Cancelling `run`, as Ctrl-C does, is a call of `stop`.
    """

    def __init__(
        self,
        queue: Queue,
        jobs: Iterable[AnyJob],
        *,
        provide: Callable[[type], Awaitable[object]] | None = None,
        settings: WorkerSettings | None = None,
        clock: Clock | None = None,
        name: str = "",
        renewer: Renewer | None = None,
        source: str = "",
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._queue = queue
        self._catalog = catalog = Catalog(jobs)
        self._settings = settings = settings if settings is not None else WorkerSettings()
        self._clock = clock = clock if clock is not None else SystemClock()
        self._time = QueueTime(clock)
        self._provide = provide
        self._random = random
        self._queues = settings.queues or catalog.queues or ("default",)
        self._info = WorkerInfo(name=name or f"{socket.gethostname()}:{os.getpid()}", queues=self._queues)
        self._limits = {queue: settings.concurrency_of.get(queue, settings.concurrency) for queue in self._queues}
        self._intake = Intake(self._limits, settings.intake)
        self._attempts = Attempts(
            catalog,
            self._intake,
            settings,
            self._time,
            Desk(clock, source),
            random=random,
            end=self._end,
            drop=self._intake.written,
        )
        self._keeper = Keeper(queue, renewer, settings.ttl_s, self._keeper_lost, monotonic=clock.monotonic)
        self._watchdog = Watchdog(settings.blocked_s, self._blocked)
        self._ended: list[Ended] = []
        self._writing: Sequence[Ended] = ()
        self._term = 0
        self._lost_term = 0
        self._hungry = True
        """The queue may have more than was last taken."""
        self._unsure = False
        """A turn failed, and may have been written all the same."""
        self._next_due_us: int | None = None
        self._wake = asyncio.Event()
        self._curious = asyncio.Event()
        self._moved = asyncio.Event()
        """Something ended, was written, or is to stop: who drains looks again."""
        self._stops = 0
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def term(self) -> int:
        """Its current hold on jobs."""
        return self._term

    def running(self) -> int:
        """How many jobs run now."""
        return len(self._attempts.running)

    def configure(self, concurrency: int, concurrency_of: Mapping[str, int]) -> None:
        """As in `WorkerSettings`, from the next turn on; what an operator set still outranks it."""
        for queue in self._queues:
            self._limits[queue] = concurrency_of.get(queue, concurrency)
        self._hungry = True
        self._wake.set()

    def stop(self) -> None:
        """Take no more, let what runs end, give back the rest, and let `run` return. Called again: at once."""
        self._stops += 1
        self._stop.set()
        self._moved.set()

    async def run(self) -> None:
        """Work until stopped. Raises what `provide` raises."""
        assert self._loop is None, "a worker runs once"
        self._loop = asyncio.get_running_loop()
        life = asyncio.create_task(self._live(), name="dougong-worker")
        cancelled = False
        while not life.done():
            try:
                await asyncio.wait([life])
            except asyncio.CancelledError:
                cancelled = True
                self.stop()
        error = life.exception()
        if cancelled:
            if error is not None:
                _log.error("worker_failed", worker=self.name, error=repr(error))
            raise asyncio.CancelledError
        if error is not None:
            raise error

    async def _live(self) -> None:
        undo = before_render(self._refresh)
        loops: list[asyncio.Task[None]] = []
        try:
            await self._attempts.start(self._provide)
            await self._keeper.start()
            self._watchdog.start()
            loops += [
                asyncio.create_task(work(), name=f"dougong-worker{work.__name__}")
                for work in (self._turns, self._listen, self._tick, self._report, self._reap)
            ]
            stopped = asyncio.create_task(self._stop.wait())
            try:
                done, _ = await asyncio.wait([stopped, *loops], return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopped.cancel()
            for task in done - {stopped}:
                task.result()  # none of them returns: this raises
            await self._drain()
        finally:
            undo()
            for task in loops:
                task.cancel()
            if loops:
                await asyncio.wait(loops)
            self._watchdog.stop()
            await self._attempts.close()
            self._attempts.count()
            await self._detach()
            await self._keeper.close()

    async def _drain(self) -> None:
        settings, attempts = self._settings, self._attempts
        for claimed in self._intake.take_all():
            self._end(returned(claimed))
        await self._until(lambda: not attempts.running or self._stops > 1, settings.drain_s)
        attempts.stop(list(attempts.running.values()), Why.STOPPING)
        await self._until(lambda: not attempts.running, settings.grace_s + 3 * TICK_S)
        if not await self._until(lambda: not self._ended and not self._writing, settings.grace_s):
            _log.error("worker_leaves_ends_unwritten", worker=self.name, count=len(self._ended) + len(self._writing))

    async def _until(self, true: Callable[[], bool], most_s: float) -> bool:
        try:
            async with asyncio.timeout(most_s):
                while not true():
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass
        return true()

    # turns

    async def _turns(self) -> None:
        failures = 0
        while True:
            if self._lost_term == self._term:
                await self._begin_term()
            await self._worth_a_turn()
            if self._lost_term == self._term:
                continue
            try:
                if self._unsure:
                    await self._recount()
                if self._lost_term != self._term:
                    await self._turn()
            except Exception as error:  # noqa: BLE001 (whatever it is, what ended must still be written)
                if isinstance(error, Conflict) and error.code == "term_over":
                    self._lose()
                    continue
                self._unsure = True
                failures += 1
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures, 10)) * (0.5 + self._random() / 2)
                why = str(error) or repr(error)
                _log.warning("job_turn_failed", worker=self.name, error=why, again_in_s=round(pause_s, 2))
                await asyncio.sleep(pause_s)
            else:
                failures = 0

    async def _worth_a_turn(self) -> None:
        """Wait until there is something to write, something to take, or time to look."""
        wait_s = self._settings.look_s
        if self._next_due_us is not None:
            left_s = (self._next_due_us - self._time.now_us()) / 1e6
            wait_s = min(wait_s, max(left_s, 0.001) if left_s > 0 else EARLY_S)
        self._wake.clear()
        if self._ended or self._unsure or (self._hungry and not self._stops and self._intake.wants()):
            # What else is ready goes first, so that what ends in this moment rides along.
            await asyncio.sleep(0)
            return
        if not self._hungry and self._intake.wants():  # who is full need not hear that there is more
            self._curious.set()
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            self._hungry = True

    async def _turn(self) -> None:
        term = self._term
        self._intake.asked(self._clock.monotonic())
        self._writing = batch = self._ended[:INTAKE_MAX]
        del self._ended[:INTAKE_MAX]
        wants = [] if self._stops else self._intake.wants(len(batch))
        self._curious.clear()
        try:
            async with asyncio.timeout(self._settings.turn_timeout_s):
                turn = await self._queue.turn(term, batch, wants)
        except BaseException:
            self._ended[:0] = batch
            raise
        finally:
            self._writing = ()
            self._intake.answered(self._clock.monotonic())
        self._written(batch)
        if self._lost_term == term:
            return
        self._follow(turn, wants)

    def _follow(self, turn: Turn, wants: Sequence[Want]) -> None:
        """Do what came of a turn."""
        if turn.lost:
            figures.LOST.inc(len(turn.lost))
            _log.warning("job_ends_lost", worker=self.name, ids=list(turn.lost[:20]), count=len(turn.lost))
        asked = sum(want.count for want in wants)
        self._hungry = bool(asked) and len(turn.claimed) * 2 >= asked
        self._next_due_us = turn.next_due_us
        self._time.heard(turn.now_us)
        for queue in self._queues:
            setting = turn.settings.get(queue)
            limit = self._limits[queue] if setting is None or setting.concurrency is None else setting.concurrency
            paused = setting is not None and setting.paused
            if limit != self._intake.limit(queue) or paused != self._intake.paused(queue):
                _log.info("jobs_resized", queue=queue, concurrency=limit, paused=paused)
                self._hungry = True
                for claimed in self._intake.configure(queue, limit, paused=paused):
                    self._end(returned(claimed))
        self._intake.add(turn.claimed)
        if turn.cancel:
            ids = set(turn.cancel)
            for claimed in self._intake.take_out(ids):
                self._end(Ended(claimed=claimed, outcome=Outcome.CANCELLED))
            running = self._attempts.running
            self._attempts.stop([running[id_] for id_ in ids if id_ in running], Why.CANCELLED)
        if self._stops:
            for claimed in self._intake.take_all():
                self._end(returned(claimed))
        self._attempts.start_waiting()

    async def _recount(self) -> None:
        """After a turn of which nobody knows whether it was written: what was claimed by it is ours, and would wait
        for ever.
        """
        queue = self._queue
        if not isinstance(queue, _Recounts):
            _log.warning("job_term_renounced", worker=self.name, term=self._term, why="a turn's outcome is unknown")
            self._lose()
            await self._detach()
            return
        async with asyncio.timeout(self._settings.turn_timeout_s):
            held = await queue.held(self._term)
        if self._lost_term == self._term:
            return
        # By attempt: the turn may have written an end, which the queue will not take for the next attempt's.
        here = [*(run.claimed for run in self._attempts.running.values()), *self._intake.waiting_jobs()]
        known = {(claimed.id, claimed.attempt) for claimed in (*here, *(ended.claimed for ended in self._ended))}
        self._intake.add(claimed for claimed in held if (claimed.id, claimed.attempt) not in known)
        self._unsure = False

    def _end(self, ended: Ended) -> None:
        if not self._ended:  # else it is awake already
            self._wake.set()
        self._ended.append(ended)
        if self._stops:
            self._moved.set()

    def _written(self, batch: Sequence[Ended]) -> None:
        counts: dict[str, int] = {}
        for ended in batch:
            queue = ended.claimed.queue
            counts[queue] = counts.get(queue, 0) + 1
        for queue, count in counts.items():
            self._intake.written(queue, count)
        self._attempts.count()
        self._moved.set()

    # the term

    async def _begin_term(self) -> None:
        """Forget what the last term held, and begin another."""
        for claimed in self._intake.take_all():
            self._intake.written(claimed.queue)
        dropped, self._ended = self._ended, []
        self._written(dropped)
        self._unsure = False
        pause_s = FIRST_PAUSE_S
        while True:
            heard_at = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._settings.turn_timeout_s):
                    self._term = await self._queue.attach(self._info, self._settings.ttl_s)
                break
            except Exception as error:  # noqa: BLE001 (a worker waits for its queue, however it is away)
                _log.warning("job_worker_cannot_attach", worker=self.name, error=str(error) or repr(error))
                await asyncio.sleep(pause_s * (0.5 + self._random() / 2))
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        self._hungry = True
        self._keeper.keep(self._term, heard_at)

    def _keeper_lost(self, term: int) -> None:
        """Called in the keeper's thread."""
        assert self._loop is not None, "the keeper starts with the worker"
        try:
            self._loop.call_soon_threadsafe(self._lose, term)
        except RuntimeError:
            pass  # the loop is closed

    def _lose(self, term: int | None = None) -> None:
        """The term is over: its jobs are others' by now."""
        if self._lost_term == self._term or (term is not None and term != self._term):
            return
        self._lost_term = self._term
        self._keeper.let_go()
        figures.TERMS.inc()
        running = list(self._attempts.running.values())
        _log.error("job_term_lost", worker=self.name, term=self._term, running=len(running))
        for claimed in self._intake.take_all():  # else those that are stopped make room for them
            self._intake.written(claimed.queue)
        self._attempts.stop(running, Why.LOST)
        self._wake.set()

    async def _detach(self) -> None:
        if self._term <= 0:
            return
        self._keeper.let_go()
        try:
            async with asyncio.timeout(self._settings.grace_s):
                await self._queue.detach(self._term)
        except Exception as error:  # noqa: BLE001 (its jobs come back when the term's time is up)
            _log.warning("job_worker_cannot_detach", worker=self.name, error=str(error) or repr(error))

    # beside it

    async def _listen(self) -> None:
        """Hear of new jobs, while the worker has nothing to take."""
        while True:
            await self._curious.wait()
            try:
                async with asyncio.timeout(self._settings.look_s + self._settings.turn_timeout_s):
                    await self._queue.news(self._settings.look_s)
            except Exception:  # noqa: BLE001 (then the look every `look_s` has to do)
                await asyncio.sleep(self._settings.look_s)
            self._curious.clear()
            self._hungry = True
            self._wake.set()

    async def _tick(self) -> None:
        trimmed_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            self._attempts.tick()
            self._moved.set()
            if (now := self._clock.monotonic()) - trimmed_at > self._settings.process_idle_s:
                trimmed_at = now
                await asyncio.to_thread(self._attempts.trim)

    async def _report(self) -> None:
        reports = self._attempts.desk.reports
        while True:
            await asyncio.sleep(self._settings.report_s)
            batch: list[Progress] = []
            while reports:
                batch.append(reports.popitem()[1])  # one by one: threads put more in meanwhile
            if batch and self._lost_term != self._term:
                try:
                    async with asyncio.timeout(self._settings.turn_timeout_s):
                        await self._queue.report(self._term, batch)
                except Exception as error:  # noqa: BLE001 (the next report says more)
                    _log.warning("job_progress_not_written", worker=self.name, error=str(error) or repr(error))

    async def _reap(self) -> None:
        every_s = self._settings.reap_every_s
        while True:
            await asyncio.sleep(every_s * (0.5 + self._random()))  # so that workers started together come apart
            try:
                async with asyncio.timeout(self._settings.turn_timeout_s):
                    if await self._queue.reap():
                        self._hungry = True
                        self._wake.set()
            except Exception as error:  # noqa: BLE001 (there is a next time)
                _log.warning("jobs_not_reaped", worker=self.name, error=str(error) or repr(error))

    def _blocked(self, late_s: float, stack: str) -> None:
        """Called in the watchdog's thread."""
        attempt = self._attempts.stepping
        if isinstance(attempt, Attempt):
            figures.BLOCKED.inc(1, attempt.job.name)
            _log.error(
                "job_blocks_the_loop",
                job=attempt.job.name,
                job_id=attempt.id,
                seconds=round(late_s, 2),
                stack=stack,
                remedy="make it a plain `def` (a thread), or `process=True`",
            )
        else:
            figures.BLOCKED.inc(1, "")
            _log.error("loop_blocked", seconds=round(late_s, 2), stack=stack)

    def _refresh(self) -> None:
        self._attempts.count()
        for queue in self._queues:
            figures.RUNNING.set(self._intake.running(queue), queue)
            figures.INTAKE.set(self._intake.waiting(queue), queue)
            figures.LIMIT.set(self._intake.limit(queue), queue)
