"""Jobs and schedules under every fault: workers, schedulers and clients on one database, and an operator.

Processes are killed between any two callbacks, stand still and go on, stop in good order; the database is slow, full,
locked or gone, and answers of commits are lost; clocks are wrong and are set, that of the database too. Clients enqueue
in every way there is. Then all heals, and every job must have ended, its effect be there once, and no fire be missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from dougong.jobs import Enqueued, NewJob, Scheduler, SqlQueue, SqlQueueSettings, Worker, WorkerSettings
from dougong.simulation.faults import Chaos
from dougong.simulation.node import Process
from dougong.simulation.stories.jobs.firing import SCHEDULES, SETTINGS, judge_alive, judge_fires
from dougong.simulation.stories.jobs.judging import counts_agree, judge, unfinished
from dougong.simulation.stories.jobs.people import Client, Desk
from dougong.simulation.stories.jobs.place import ShakyStore, WatchedQueue, on_the_loop, set_up
from dougong.simulation.stories.jobs.without import (
    REWRITES,
    SAFEGUARDS,
    weaken_queue,
    weaken_scheduler,
    weaken_worker,
)
from dougong.simulation.stories.jobs.working import JOBS, Bench, Run
from dougong.simulation.story import Story
from dougong.simulation.world import World
from dougong.store import Store

__all__ = ["Tale", "story"]

STORM_S = 10.0
SETTLED_S = 90.0
"""After the storm everything must have ended by then."""
FIRING_S = 5.0
"""So long schedules go on firing after the storm."""
SAID_MAX = 20
QUEUE = SqlQueueSettings(stalls_max=4, poll_s=0.2, poll_max_s=0.5, peek_s=0.2, peek_max_s=0.5)
WORKER = WorkerSettings(
    queues=("default", "other"),
    concurrency=4,
    intake=12,
    ttl_s=3.0,
    look_s=0.5,
    turn_timeout_s=2.0,
    reap_every_s=1.0,
    drain_s=1.0,
    grace_s=0.5,
    report_s=1.0,
    unknown_delay_s=0.5,
    process_idle_s=1e9,
)


class Tale:
    """One telling."""

    def __init__(self, world: World, without: str) -> None:
        self.world = world
        self.without = without
        self.over = False
        self.database = world.database("jobs")
        self.database.set_up(set_up)
        self.clock = world.node("clock", crashes=False).clock
        """The database's, which everybody on it goes by."""
        self.keyed: dict[str, NewJob] = {}
        self.ids: list[int] = []
        self.acknowledged: dict[int, str] = {}
        """Jobs that somebody was told of, and what he had asked for; empty where another was there."""
        self.replayed: set[int] = set()
        """Those that an operator asked to have again."""
        self.cancels: list[tuple[int, int]] = []
        """(job, the last move when its cancellation was acknowledged)."""
        self.pauses: list[tuple[str, int, int]] = []
        """(queue, the last move when its pause was acknowledged, the last before its end was asked for)."""
        self.running: list[Run] = []
        self.ran: set[tuple[int, int]] = set()
        """(job, attempt)."""
        self.said: dict[str, None] = {}
        self._labels = 0
        self._answers = 0
        self._desk: Desk | None = None

    async def tell(self) -> Sequence[str]:
        world = self.world
        for number in (1, 2, 3):
            world.node(f"worker-{number}").start(self._work)
        for number in (1, 2):
            world.node(f"scheduler-{number}").start(self._schedule)
        for number in (1, 2):
            world.node(f"app-{number}").start(self._enqueue)
        world.node("desk", crashes=False).start(self._decide)
        for _ in range(int(STORM_S)):
            await asyncio.sleep(1.0)
            self.say(*counts_agree(self.database))
        self.over = True
        world.heal()
        world.node("worker-3").crash()  # the release that knows every job is everywhere by now
        world.node("worker-3").restart()
        world.node("desk").stop()
        world.node("desk").start(self._tidy)
        await asyncio.sleep(FIRING_S)
        self.say(*judge_alive(self.database, self.clock.now_us()))
        world.node("desk").stop()
        world.node("desk").start(self._end)
        for _ in range(int(SETTLED_S)):
            await asyncio.sleep(1.0)
            if not unfinished(self.database):
                break
        steady = not any(fault.where == "clock" for fault in world.faults.happened)
        return [*self.said, *judge(self, steady=steady), *judge_fires(self.database, steady=steady)]

    # who takes part

    async def _work(self, process: Process) -> None:
        """Workers, one after the other: each stops in good order, if nothing kills it."""
        known = [job for kind, job in JOBS.items() if kind != "newer" or process.name != "worker-3" or self.over]
        while True:
            store = self.store(process)
            queue = await self._queue(store)
            bench = Bench(self, process, store)

            async def renewer(process: Process = process) -> SqlQueue:
                return await self._queue(self.store(process))

            async def provide(_kind: type, bench: Bench = bench) -> Bench:
                return bench

            worker = bench.worker = Worker(
                queue,
                known,
                provide=provide,
                settings=WORKER,
                clock=process.clock,
                name=process.name,
                random=process.random.random,
            )
            on_the_loop(worker, queue, renewer, WORKER.ttl_s, process.clock)
            weaken_worker(worker, self.without)
            stopping = asyncio.create_task(self._stop_later(process, worker))
            await worker.run()
            stopping.cancel()
            await asyncio.sleep(process.random.random())

    async def _stop_later(self, process: Process, worker: Worker) -> None:
        await asyncio.sleep(2.0 + process.random.random() * 12.0)
        if not self.over:
            process.note("stops in good order")
            worker.stop()

    async def _schedule(self, process: Process) -> None:
        while True:
            store = self.store(process)
            queue = await self._queue(store)
            scheduler = Scheduler(
                queue, store, SCHEDULES, clock=self.clock, settings=SETTINGS, name=f"{process.name}/{process.number}"
            )
            weaken_scheduler(scheduler, self.without)
            await scheduler.start()
            work = asyncio.create_task(scheduler.run())
            await asyncio.sleep(1.5 + process.random.random() * 12.0)
            if not self.over:
                process.note("stops in good order")
                scheduler.stop()
            await work

    async def _enqueue(self, process: Process) -> None:
        store = self.store(process)
        queue = await self._queue(store)
        await asyncio.gather(*(Client(self, process, store, queue, number).live() for number in (1, 2)))

    async def _decide(self, process: Process) -> None:
        desk = await self._desk_of(process)
        await asyncio.gather(desk.live(), desk.toggle())

    async def _tidy(self, process: Process) -> None:
        desk = await self._desk_of(process)
        await desk.end()
        await desk.resume_all()

    async def _end(self, process: Process) -> None:
        await (await self._desk_of(process)).pause_all()

    async def _desk_of(self, process: Process) -> Desk:
        store = self.store(process)
        return Desk(self, process, store, await self._queue(store))

    def store(self, process: Process) -> Store:
        """A way to the database."""
        self._answers += 1
        answers = self.world.faults.source(f"answers {self._answers} {process.name}", "jobs")
        return ShakyStore(process.store("jobs"), answers, REWRITES.get(self.without, {}))

    async def _queue(self, store: Store) -> SqlQueue:
        queue = WatchedQueue(store, self.clock, QUEUE, self.say)
        weaken_queue(queue, self.without)
        await queue.start()
        return queue

    # what is seen and told

    def say(self, *violations: str) -> None:
        """Something is wrong."""
        for violation in violations:
            if len(self.said) < SAID_MAX and violation not in self.said:
                self.said[violation] = None
                self.world.note("judge", violation)

    def label(self, kind: str) -> str:
        """A name of its own for what somebody asks for."""
        self._labels += 1
        return f"{kind}{self._labels}"

    def told(self, asked: Sequence[NewJob], enqueued: Sequence[Enqueued]) -> None:
        """A client was told that these are there."""
        for job, one in zip(asked, enqueued, strict=True):
            label = str(msgspec.json.decode(job.payload)["label"]) if one.new or job.key is not None else ""
            self.acknowledged.setdefault(one.id, label)
            self.ids.append(one.id)

    def cancelled(self, ids: Iterable[int]) -> None:
        """An operator was told so."""
        self.cancels += [(id_, self._last_move()) for id_ in sorted(ids)]

    def paused(self, queue: str) -> None:
        self.pauses.append((queue, self._last_move(), 1 << 60))

    def unpausing(self, queue: str) -> None:
        """Whatever was paused of it may go on from now."""
        now = self._last_move()
        self.pauses = [(q, since, min(until, now) if q == queue else until) for q, since, until in self.pauses]

    def valid(self, term: int) -> bool:
        """Whether a worker's term lasts, by the database."""
        sql = "SELECT 1 FROM dougong_job_workers WHERE term = ? AND closed = 0 AND until_us > ?"
        return bool(self.database.rows(sql, (term, self.clock.now_us())))

    def _last_move(self) -> int:
        ((number,),) = self.database.rows_as(tuple[int], "SELECT coalesce(max(number), 0) FROM story_moves")
        return number


async def _tell(world: World, without: str) -> Sequence[str]:
    return await Tale(world, without).tell()


story = Story(
    name="jobs",
    title="jobs and schedules, under every fault",
    tell=_tell,
    safeguards=SAFEGUARDS,
    chaos=Chaos(
        crash_every_s=5.0,
        down_s=0.7,
        still_every_s=7.5,
        still_s=3.0,
        write_slow=0.006,
        disk_full=0.006,
        disk_locked=0.006,
        disk_gone_every_s=12.0,
        disk_gone_s=0.7,
        clock_skew_s=2.0,
        clock_drift=0.001,
        clock_jump_every_s=7.5,
        clock_jump_s=4.0,
    ),
)
