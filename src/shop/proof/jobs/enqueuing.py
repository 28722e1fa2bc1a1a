"""Who enqueues, in a process of its own: callers side by side, each waiting until its job is acknowledged.

As fast as it goes, but with only so many jobs enqueued that have not run; or on schedule, whatever happens.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import msgspec

from shop.proof.jobs.systems import JobName
from shop.proof.jobs.tally import Tally, tally

__all__ = ["Enqueue", "Enqueued", "Order", "enqueuer"]

_THREADS = 16
_CALLERS = 256
_LOOK_S = 0.002
_STEP = 1_000
_PATIENCE_S = 10.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to enqueue."""

    job: JobName = "nothing"
    first: int = 0
    """The first job's number; the others follow."""
    count: int
    """At most."""
    seconds: float = 600.0
    """At most."""
    rate: float = 0.0
    """A second, on schedule; 0 is as fast as it goes."""
    batch: int = 1
    """Jobs that a caller enqueues at once; ours only, nobody else can."""
    window: int
    """As fast as it goes, but not more than these enqueued and not yet run."""
    ahead: int = 0
    """Jobs with the numbers before, that wait already; as many wait all the time."""


class Enqueued(msgspec.Struct, frozen=True):
    """What was acknowledged."""

    count: int
    began: float
    """By the monotonic clock, which is one for all processes of a machine."""
    ended: float
    cpu_s: float


Enqueue = Callable[[Order], Awaitable[Enqueued]]


@asynccontextmanager
async def enqueuer(system: str) -> AsyncGenerator[Enqueue]:
    """Who carries out orders, on connections that stay."""
    if system in {"celery", "dramatiq", "huey"}:
        put = _put_of(system)
        yield lambda order: _by_threads(order.job, put, _Pace(order, tally()))
        return
    async with _put_soon(system) as put_soon:
        yield lambda order: _by_tasks(order.job, put_soon, _Pace(order, tally()))


class _Pace:
    """Which job is next, and when."""

    def __init__(self, order: Order, ran: Tally) -> None:
        self.order = order
        self._tally = ran
        self._next = itertools.count(order.first, order.batch)  # threads may take of it at once
        self._end = order.first + order.count
        self._low = order.first - order.ahead
        self._most = order.window + order.ahead
        self._taken = order.first
        self._room_to = self._low + self._most
        self._began = time.monotonic()
        self._cpu_s = time.process_time()
        self._counts: list[int] = []

    @property
    def callers(self) -> int:
        """Side by side; who enqueues many at once leaves room for others."""
        return max(4, min(_CALLERS, self.order.window // self.order.batch // 2))

    def take(self) -> range | None:
        """The next numbers; None when there are no more. Who has taken some enqueues them."""
        if time.monotonic() - self._began >= self.order.seconds:
            return None
        first = next(self._next)
        if first >= self._end:
            return None
        numbers = range(first, min(first + self.order.batch, self._end))
        self._counts.append(len(numbers))
        self._taken = max(self._taken, numbers.stop)
        return numbers

    def due_in_s(self, numbers: range) -> float:
        """How long until they are due, when there is a schedule."""
        due = self._began + (numbers.start - self.order.first) / self.order.rate
        for number in numbers:
            self._tally.due(number, due)
        return max(0.0, due - time.monotonic())

    def full(self, numbers: range) -> bool:
        """Whether they have to wait until more ran; not for ever, should nothing run any more."""
        return numbers.stop > self._room_to and time.monotonic() - self._began < self.order.seconds + _PATIENCE_S

    def look(self) -> None:
        """At what ran."""
        stop = self._taken
        while self._low + _STEP <= stop and self._tally.ran(self._low + _STEP, self._low) == _STEP:
            self._low += _STEP
        self._room_to = self._low + self._tally.ran(stop, self._low) + self._most

    def enqueued(self) -> Enqueued:
        return Enqueued(sum(self._counts), self._began, time.monotonic(), time.process_time() - self._cpu_s)


async def _by_tasks(job: JobName, put: Callable[[str, range], Awaitable[None]], pace: _Pace) -> Enqueued:
    looked = asyncio.Event()

    async def look() -> None:
        nonlocal looked
        while True:
            await asyncio.sleep(_LOOK_S)
            pace.look()
            looked.set()
            looked = asyncio.Event()

    async def caller() -> None:
        while (numbers := pace.take()) is not None:
            if pace.order.rate:
                await asyncio.sleep(pace.due_in_s(numbers))
            else:
                while pace.full(numbers):
                    await looked.wait()
            await put(job, numbers)

    looking = asyncio.create_task(look())
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(pace.callers):
                group.create_task(caller())
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    return pace.enqueued()


async def _by_threads(job: JobName, put: Callable[[str, int], None], pace: _Pace) -> Enqueued:
    def caller() -> None:
        while (numbers := pace.take()) is not None:
            if pace.order.rate:
                time.sleep(pace.due_in_s(numbers))
            else:
                while pace.full(numbers):
                    time.sleep(_LOOK_S)
                    pace.look()
            for number in numbers:
                put(job, number)

    with ThreadPoolExecutor(_THREADS) as threads:
        await asyncio.gather(*[asyncio.wrap_future(threads.submit(caller)) for _ in range(_THREADS)])
    return pace.enqueued()


def _put_of(system: str) -> Callable[[str, int], None]:
    match system:
        case "celery":
            from shop.proof.jobs import celery_jobs

            return celery_jobs.put
        case "dramatiq":
            from shop.proof.jobs import dramatiq_jobs

            return dramatiq_jobs.put
        case _:
            from shop.proof.jobs import huey_jobs

            return huey_jobs.put


@asynccontextmanager
async def _put_soon(system: str) -> AsyncGenerator[Callable[[str, range], Awaitable[None]]]:
    match system:
        case "ours":
            from shop.proof.jobs import our_jobs

            async with our_jobs.putter() as put:
                yield put
        case "kafka":
            from shop.proof.jobs import kafka_jobs

            async with kafka_jobs.putter() as put:
                yield put
        case "plain":
            from shop.proof.jobs import plain_consumer

            async with plain_consumer.putter() as put:
                yield put
        case "arq":
            from shop.proof.jobs import arq_jobs

            await arq_jobs.start()
            try:
                yield arq_jobs.put
            finally:
                await arq_jobs.close()
        case _:
            from shop.proof.jobs import taskiq_jobs

            await taskiq_jobs.broker.startup()
            try:
                yield taskiq_jobs.put
            finally:
                await taskiq_jobs.broker.shutdown()
