"""Who enqueues, who works and what is between them, on the same cores; started, measured, killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from dougong.evidence import Latencies, Quantiles
from shop.proof.jobs.enqueuing import Enqueued, Order
from shop.proof.jobs.processes import Group, group, python
from shop.proof.jobs.systems import JobName
from shop.proof.jobs.tally import TALLY, Tally

__all__ = ["Carried", "Crashed", "Queued", "Stand", "stand"]

WINDOW = 300
_START_S = 60.0
_STALL_S = 60.0
_ANSWER_S = 60.0
_SETTLE_S = 5.0
_LOOK_S = 0.005
_TRICKLE_S = 0.5


class Queued(Protocol):
    """A library, and where its jobs wait."""

    @property
    def name(self) -> str: ...
    @property
    def environment(self) -> Mapping[str, str]: ...

    def command(self, job: JobName) -> Sequence[str]:
        """Of a worker."""
        ...

    async def left(self) -> int:
        """How many jobs nobody has acknowledged as done."""
        ...


class Carried(msgspec.Struct, frozen=True):
    """Jobs enqueued, run and acknowledged."""

    jobs: int
    seconds: float
    """From before the first was enqueued until nothing was left to be done."""
    lost: int
    doubled: int
    enqueue_us: float
    """CPU of who enqueues, for a job."""
    work_us: float
    """CPU of who works, for a job."""
    memory_mb: float
    """Of the worker's processes, at the end."""

    @property
    def jobs_per_s(self) -> float:
        return (self.jobs - self.lost) / self.seconds


class Crashed(msgspec.Struct, frozen=True):
    """What became of jobs whose worker was killed among them."""

    jobs: int
    lost: int
    doubled: int
    recovered_s: float
    """From the end of the worker to the last job that ran of those enqueued before."""


class Stand:
    """One library. Its jobs are numbered, from one measurement to the next."""

    def __init__(
        self, queued: Queued, job: JobName, tally: Tally, callers: Group, start: Callable[[], Awaitable[Group]]
    ) -> None:
        self.tally = tally
        self._queued = queued
        self._job: JobName = job
        self._callers = callers
        self._start = start
        self._worker: Group | None = None
        self._next = 0

    @property
    def next(self) -> int:
        """The number of the job that is enqueued next."""
        return self._next

    async def work(self) -> None:
        """Start the worker, and wait until it does."""
        self._worker = await self._start()
        first = self._next
        await self.enqueue(count=1)
        await self._ran(first, self._next, _START_S)

    async def warm_up(self, jobs: int = 600) -> None:
        """Have all connections made."""
        first = self._next
        await self.enqueue(count=jobs)
        await self._ran(first, self._next, _STALL_S)

    async def kill(self) -> None:
        """`kill -9` to the worker and all its processes."""
        if self._worker is not None:
            await self._worker.kill()

    async def enqueue(
        self,
        *,
        count: int,
        seconds: float = 600.0,
        rate: float = 0.0,
        batch: int = 1,
        window: int = WINDOW,
        ahead: int = 0,
    ) -> Enqueued:
        """Enqueue at most so many, and so long; see `Order`."""
        order = Order(
            job=self._job,
            first=self._next,
            count=min(count, self.tally.room - self._next),
            seconds=seconds,
            rate=rate,
            batch=batch,
            window=window,
            ahead=ahead,
        )
        await self._callers.tell(msgspec.json.encode(order).decode())
        enqueued = msgspec.json.decode(await self._callers.hear(seconds + _ANSWER_S), type=Enqueued)
        self._next += enqueued.count
        return enqueued

    async def carry(self, *, seconds: float, batch: int = 1, window: int = WINDOW) -> Carried:
        """As many as they carry, end to end."""
        first = self._next
        cpu_s = self._cpu_s()
        enqueued = await self.enqueue(count=self.tally.room, seconds=seconds, batch=batch, window=window)
        lost = enqueued.count - await self._ran(first, self._next, _STALL_S)
        ended = await self._settled()
        return Carried(
            jobs=enqueued.count,
            seconds=ended - enqueued.began,
            lost=lost,
            doubled=self.tally.doubled(self._next, first),
            enqueue_us=enqueued.cpu_s / enqueued.count * 1e6,
            work_us=(self._cpu_s() - cpu_s) / enqueued.count * 1e6,
            memory_mb=self.memory_mb(),
        )

    async def steady(self, *, seconds: float, batch: int, window: int, ahead: int = 0) -> float:
        """Jobs a second, while as many are enqueued as run; `ahead` wait already, with the numbers before."""
        before, began = self.tally.ran(self._next), time.monotonic()
        await self.enqueue(count=self.tally.room, seconds=seconds, batch=batch, window=window, ahead=ahead)
        return (self.tally.ran(self._next) - before) / (time.monotonic() - began)

    async def pick_up(self, *, rate: float, seconds: float) -> Quantiles:
        """From when a job was to be enqueued, on schedule, until it ran."""
        first = self._next
        await self.enqueue(count=int(rate * seconds), rate=rate)
        await self._ran(first, self._next, _STALL_S)
        latencies = Latencies()
        latencies.record_each(self.tally.picked_up_s(self._next, first))
        # A worker that is ended now would leave the last of them to the next, which would run them again.
        await self._settled()
        return latencies.quantiles()

    async def crash(self, *, jobs: int, patience_s: float) -> Crashed:
        """Kill the worker when a third of the jobs ran, start another, and wait until all ran, or so long.

        Now and then another job is enqueued: some libraries look for what was left only when they have found some.
        """
        first = self._next
        enqueuing = asyncio.create_task(self.enqueue(count=jobs, window=jobs))
        await self._ran(first, first + jobs, _STALL_S, enough=jobs // 3)
        await self.kill()
        killed = last = time.monotonic()
        await enqueuing
        stop = self._next
        self._worker = await self._start()
        ran = self.tally.ran(stop, first)
        while ran < jobs and time.monotonic() < killed + patience_s:
            await self.enqueue(count=1)
            await asyncio.sleep(_TRICKLE_S)
            if ran != (ran := self.tally.ran(stop, first)):
                last = time.monotonic()
        await self._settled()
        return Crashed(jobs, jobs - self.tally.ran(stop, first), self.tally.doubled(stop, first), last - killed)

    async def finish(self, first: int) -> int:
        """Wait until all jobs from that number on ran and are acknowledged, or nothing more happens; how many did not
        run.
        """
        ran = await self._ran(first, self._next, _STALL_S)
        await self._settled()
        return self._next - first - ran

    def memory_mb(self) -> float:
        """Resident, of the worker's processes."""
        return self._worker.memory_mb() if self._worker is not None else 0.0

    async def _ran(self, first: int, stop: int, stall_s: float, *, enough: int | None = None) -> int:
        """How many of these ran, once enough (all) did, or nothing more did for so long."""
        ran, moved = -1, time.monotonic()
        while ran < (enough if enough is not None else stop - first):
            if ran != (ran := self.tally.ran(stop, first)):
                moved = time.monotonic()
            elif time.monotonic() > moved + stall_s:
                return ran
            await asyncio.sleep(_LOOK_S)
        return ran

    async def _settled(self) -> float:
        """When nothing was left to be acknowledged, or nothing more was."""
        left, moved = await self._queued.left(), time.monotonic()
        while left and time.monotonic() < moved + _SETTLE_S:
            await asyncio.sleep(_LOOK_S)
            if left != (left := await self._queued.left()):
                moved = time.monotonic()
        return moved

    def _cpu_s(self) -> float:
        return self._worker.cpu_s() if self._worker is not None else 0.0


@asynccontextmanager
async def stand(queued: Queued, job: JobName, folder: Path, *, room: int) -> AsyncGenerator[Stand]:
    """Its caller and its worker, ended with the block; `room` is how many jobs it can tell apart in all."""
    tally = Tally.create(folder / "tally", room)
    environment = {**queued.environment, TALLY: str(tally.path)}
    log = folder / f"{queued.name}.log"
    try:
        async with AsyncExitStack() as stack:

            async def start() -> Group:
                return await stack.enter_async_context(group(queued.command(job), environment, log))

            made = Stand(
                queued,
                job,
                tally,
                await stack.enter_async_context(group(python("enqueue", queued.name), environment, log, talks=True)),
                start,
            )
            await made.work()
            yield made
    finally:
        tally.close()
        tally.path.unlink()
