"""Closed-loop batching: what arrives while a batch is in flight rides in the next one.

No minimum size, and no timer that holds anything back: an idle system sends a single request at once, a busy one sends
batches as large as its own latency makes them, which is the point where throughput and waiting balance by themselves.

A second batch beside one that is under way is worth it when it is full or large (`WORTHWHILE`): then both sides work at
the same time. A small one only spends on itself what all share, and makes everybody wait longer. And when what is under
way takes longer than usual, it is not waited for, so that nobody is held up by somebody else's slow request.

`BatchQueue` decides (plain code, no clock, no I/O): who is waiting, what the next batch is, whose answer is complete.
`Batcher` is the asyncio shell around it. The unit of bookkeeping is a *share* (the part of one caller's list that one
batch carries), never the item, so that a list of thousands costs one future.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar, cast

from dougong.errors import DeadlineExceeded, Error, Internal, Overloaded, Unavailable
from dougong.rpc._baggage import current_baggage
from dougong.rpc._context import Caller, current_caller, deadline, enter_call
from dougong.rpc.credentials import current_authorization
from dougong.rpc.why import CallRecord, asked
from dougong.telemetry import continue_trace, get_logger, traceparent

__all__ = ["PLAIN", "Batch", "BatchQueue", "Batcher", "Lane", "Waiter"]

Req = TypeVar("Req")
Res = TypeVar("Res")
_log = get_logger("dougong.rpc")

WORTHWHILE = 256
"""So many items are worth a batch of their own. What a batch costs whatever is in it (for the shop's orders about 8 ms
of processor time, all processes together) is little beside them."""
_SLOW = 2.0
"""Times as long as usual."""
_USUAL_S = 0.01
"""Until it is known."""


class Lane(NamedTuple):
    """What calls have to have in common to travel together."""

    caller: Caller | None = None
    baggage: str = ""
    authorization: str = ""


PLAIN = Lane()
"""What most have; their waiters say None, which costs nothing to make and to look up."""


class Waiter(Generic[Req, Res]):
    """One caller's list on its way through the queue."""

    __slots__ = (
        "closed",
        "deadline",
        "future",
        "key",
        "missing",
        "outcomes",
        "record",
        "requests",
        "taken",
        "timer",
        "trace",
    )

    def __init__(
        self, requests: Sequence[Req], *, key: Hashable = None, deadline: float | None = None, trace: str = ""
    ) -> None:
        self.requests = requests
        self.key = key
        self.deadline = deadline
        self.trace = trace
        self.outcomes: list[Res | Error | None] = [None] * len(requests)
        self.missing = len(requests)
        """Items without an outcome yet."""
        self.taken = 0
        """Items handed to batches so far; the rest still waits."""
        self.closed = False
        """Answered, expired or abandoned: what comes later is dropped."""
        self.future: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.record: tuple[CallRecord, float] | None = None
        """What its caller wants to know, and since when it waits."""


class Batch(Generic[Req, Res]):
    """What goes out together. All shares have the same key; `deadline` is the latest of theirs."""

    __slots__ = ("deadline", "key", "requests", "shares")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.requests: list[Req] = []
        self.shares: list[tuple[Waiter[Req, Res], int, int]] = []
        """(waiter, first item, number of items), in the order of `requests`."""
        self.deadline: float | None = None

    def traceparents(self) -> list[str]:
        """One per request, or nothing at all when none of the callers is traced."""
        if not any(waiter.trace for waiter, _, _ in self.shares):
            return []
        return [waiter.trace for waiter, _, count in self.shares for _ in range(count)]


class BatchQueue(Generic[Req, Res]):
    """The decisions: bounds, order, fairness, who gets which outcome.

    Waiters with the same key are served first come, first served; different keys take turns batch by batch, so that
    one caller's long list does not starve the others.
    """

    def __init__(self, *, max_batch: int, max_pending: int) -> None:
        self.max_batch = max_batch
        self.max_pending = max_pending
        self.pending = 0
        """Items waiting to be taken into a batch."""
        self._lines: OrderedDict[Hashable, deque[Waiter[Req, Res]]] = OrderedDict()

    def add(self, waiter: Waiter[Req, Res]) -> bool:
        """Queue it, or False when the queue is full.

        An empty queue takes a list of any length: its memory is the caller's already, and it could never be sent else.
        """
        count = len(waiter.requests)
        if self.pending and self.pending + count > self.max_pending:
            return False
        line = self._lines.get(waiter.key)
        if line is None:
            line = self._lines[waiter.key] = deque()
        line.append(waiter)
        self.pending += count
        return True

    def take(self) -> Batch[Req, Res] | None:
        """The next batch, or None when nobody waits."""
        while self._lines:
            key, line = next(iter(self._lines.items()))
            batch: Batch[Req, Res] = Batch(key)
            room = self.max_batch
            latest: float | None = 0.0
            while line and room:
                waiter = line[0]
                if waiter.closed:  # gave up while waiting; `close` has already counted it out
                    line.popleft()
                    continue
                start = waiter.taken
                count = min(room, len(waiter.requests) - start)
                if not start and count == len(waiter.requests):
                    batch.requests.extend(waiter.requests)
                else:
                    batch.requests.extend(waiter.requests[start : start + count])
                batch.shares.append((waiter, start, count))
                waiter.taken = start + count
                room -= count
                if waiter.taken == len(waiter.requests):
                    line.popleft()
                latest = None if latest is None or waiter.deadline is None else max(latest, waiter.deadline)
            if line:
                self._lines.move_to_end(key)
            else:
                del self._lines[key]
            if batch.shares:
                batch.deadline = latest
                self.pending -= len(batch.requests)
                return batch
        return None

    def settle(self, batch: Batch[Req, Res], outcomes: Sequence[Res | Error]) -> list[Waiter[Req, Res]]:
        """Hand out a batch's outcomes (one per request, in order); the waiters that are now complete."""
        complete: list[Waiter[Req, Res]] = []
        at = 0
        for waiter, start, count in batch.shares:
            if not waiter.closed:
                waiter.outcomes[start : start + count] = outcomes[at : at + count]
                waiter.missing -= count
                if not waiter.missing:
                    waiter.closed = True
                    complete.append(waiter)
            at += count
        return complete

    def close(self, waiter: Waiter[Req, Res], error: Error | None = None) -> None:
        """Stop waiting for it: items without an outcome get `error` (None: nobody will look)."""
        if waiter.closed:
            return
        waiter.closed = True
        self.pending -= len(waiter.requests) - waiter.taken
        if error is not None:
            waiter.outcomes = [error if outcome is None else outcome for outcome in waiter.outcomes]
            waiter.missing = 0

    def waiting(self) -> list[Waiter[Req, Res]]:
        """Everybody not yet wholly taken."""
        return [waiter for line in self._lines.values() for waiter in line if not waiter.closed]


class Batcher(Generic[Req, Res]):
    """Merge concurrent calls into calls of `many`, which takes a list and returns one outcome per item in order.

    At most `max_in_flight` calls of `many` run at once, each with at most `max_batch` items, and more than `eager`
    (all, if left out) only when that is worth it; over `max_pending` waiting items a call is answered `Overloaded`.
    Every request gets exactly one outcome: what `many` said, or the error that stopped it. A caller that gives up, or
    runs out of time (its `deadline()`, and at most `timeout_s`), harms nobody else: its share of a running batch is
    carried through and dropped. A batch runs with the latest deadline of its members and continues the first one's
    trace. With `by_caller`, calls by different callers are never mixed and
    `current_caller()` holds inside `many`; else all are mixed and it is None there. Calls with different baggage, or
    with credentials of their own, are never mixed.
    """

    def __init__(
        self,
        many: Callable[[Sequence[Req]], Awaitable[Sequence[Res | Error]]],
        *,
        max_batch: int = 1000,
        max_in_flight: int = 4,
        eager: int | None = None,
        max_pending: int = 100_000,
        timeout_s: float | None = None,
        by_caller: bool = False,
        name: str = "batch",
    ) -> None:
        self._many = many
        self._by_caller = by_caller
        self._name = name
        self._timeout_s = timeout_s
        self._queue: BatchQueue[Req, Res] = BatchQueue(max_batch=max_batch, max_pending=max_pending)
        self._workers: set[asyncio.Task[None]] = set()
        self._active = 0
        """Workers that may still take a batch; unlike `_workers` it is exact at every moment."""
        self._idle = 0
        """Workers started that have not taken their first batch yet."""
        self._closed = False
        self._begun: dict[int, float] = {}
        """When each batch under way was begun, the oldest first."""
        self._number = 0
        self._usual_s = _USUAL_S
        self._nudge: asyncio.TimerHandle | None = None
        self.max_in_flight = max_in_flight
        """May be changed at any time, e.g. when an instance joins; so may `eager`."""
        self.eager = max_in_flight if eager is None else eager

    @property
    def pending(self) -> int:
        """Items waiting for a batch."""
        return self._queue.pending

    async def one(self, request: Req) -> Res:
        """One request; its outcome, raised if it is an error."""
        outcome = (await self.many((request,)))[0]
        if isinstance(outcome, Error):
            raise outcome
        return outcome

    async def many(self, requests: Sequence[Req]) -> list[Res | Error]:
        """One outcome per request, in order. Never raises an `Error`: errors are values here."""
        if not requests:
            return []
        if self._closed:
            return [Unavailable(f"{self._name} is closed", code="closed")] * len(requests)
        loop = asyncio.get_running_loop()
        end = deadline()
        if self._timeout_s is not None:
            latest = loop.time() + self._timeout_s
            end = latest if end is None or latest < end else end
        caller = current_caller() if self._by_caller else None
        carried, authorization = current_baggage(), current_authorization()
        lane = Lane(caller, carried, authorization) if caller is not None or carried or authorization else None
        waiter: Waiter[Req, Res] = Waiter(requests, key=lane, deadline=end, trace=traceparent())
        record = asked()
        if record is not None:
            waiter.record = record, loop.time()
        if not self._queue.add(waiter):
            return [self._overloaded()] * len(requests)
        future = waiter.future = loop.create_future()
        if end is not None:
            waiter.timer = loop.call_at(end, self._expire, waiter)
        self._start_workers(loop)
        try:
            await future
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()
            self._queue.close(waiter)  # no effect unless this caller was cancelled
        return cast("list[Res | Error]", waiter.outcomes)

    async def close(self) -> None:
        """Stop at once: running calls are cancelled, everybody waiting is answered `Unavailable`."""
        self._closed = True
        if self._nudge is not None:
            self._nudge.cancel()
        for waiter in self._queue.waiting():
            self._finish(waiter, Unavailable(f"{self._name} was closed before this was sent", code="closed"))
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def run(self, batch: Batch[Req, Res]) -> Sequence[Res | Error]:
        """Carry out one batch; what subclasses with more than a list to say (a client's frames) override."""
        async with asyncio.timeout_at(batch.deadline):
            if trace := batch.shares[0][0].trace:
                with continue_trace(trace):
                    return await self._many(batch.requests)
            return await self._many(batch.requests)

    def _start_workers(self, loop: asyncio.AbstractEventLoop) -> None:
        """As many as the queue has batches for and are worth it."""
        while self._idle * self._queue.max_batch < self._queue.pending and self._active < self._wanted(loop.time()):
            # An empty context: a worker serves many callers and must not inherit the first one's identity or trace. It
            # takes its first batch when it gets to run, so that calls made in the same breath ride together.
            worker = loop.create_task(self._work(), context=contextvars.Context())
            self._idle += 1
            self._active += 1
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        if self._queue.pending and not self._idle and self._begun and self._active < self.max_in_flight:
            self._look_again(loop)

    def _wanted(self, now: float) -> int:
        """How many batches should be under way now."""
        if self._queue.pending >= min(WORTHWHILE, self._queue.max_batch) or self.eager >= self.max_in_flight:
            return self.max_in_flight
        wanted = self.eager
        for begun in self._begun.values():
            if now - begun < _SLOW * self._usual_s:
                break
            wanted += 1
        return min(wanted, self.max_in_flight)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """When the next of those under way is slow, unless somebody looks before."""
        if self._nudge is None and not self._closed:
            now, slow_s = loop.time(), _SLOW * self._usual_s
            at = next((begun + slow_s for begun in self._begun.values() if begun + slow_s > now), now + slow_s)
            self._nudge = loop.call_at(at, self._nudged, loop)

    def _nudged(self, loop: asyncio.AbstractEventLoop) -> None:
        self._nudge = None
        self._start_workers(loop)

    async def _work(self) -> None:
        self._idle -= 1
        try:
            while self._active <= self._wanted(_now()) and (batch := self._queue.take()) is not None:
                lane = cast("Lane | None", batch.key) or PLAIN
                enter_call(lane.caller, batch.deadline, baggage=lane.baggage)
                number = self._number = self._number + 1
                self._begun[number] = _now()
                try:
                    await self._serve(batch)
                finally:
                    took_s = _now() - self._begun.pop(number)
                    self._usual_s += 0.2 * (min(took_s, _SLOW * self._usual_s) - self._usual_s)
        finally:
            self._active -= 1

    async def _serve(self, batch: Batch[Req, Res]) -> None:
        count = len(batch.requests)
        outcomes: Sequence[Res | Error]
        try:
            outcomes = await self.run(batch)
            if len(outcomes) != count:
                raise Internal(f"{self._name} answered {len(outcomes)} outcomes to {count} requests", code="bad_batch")
        except asyncio.CancelledError:
            lost = Unavailable(f"{self._name} was closed while this was in flight: outcome unknown", code="closed")
            self._settle(batch, [lost] * count)
            raise
        except TimeoutError:
            outcomes = [_too_late(self._name, sent=True)] * count
        except Error as error:
            outcomes = [error] * count
        except Exception as error:  # noqa: BLE001 (a batch must be answered, whatever happened to it)
            _log.exception("batch_failed", name=self._name, items=count)
            fault = Internal(f"{self._name} failed; the log has the reason", code="internal")
            fault.__cause__ = error
            outcomes = [fault] * count
        self._settle(batch, outcomes)

    def _settle(self, batch: Batch[Req, Res], outcomes: Sequence[Res | Error]) -> None:
        for waiter in self._queue.settle(batch, outcomes):
            if waiter.future is not None and not waiter.future.done():
                waiter.future.set_result(None)

    def _expire(self, waiter: Waiter[Req, Res]) -> None:
        self._finish(waiter, _too_late(self._name, sent=waiter.taken > 0))

    def _finish(self, waiter: Waiter[Req, Res], error: Error) -> None:
        self._queue.close(waiter, error)
        if waiter.future is not None and not waiter.future.done():
            waiter.future.set_result(None)

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"{self._queue.pending} requests wait for {self._name} already (limit {self._queue.max_pending}): back off",
            code="queue_full",
            retry_after_s=0.1,
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _too_late(name: str, *, sent: bool) -> DeadlineExceeded:
    if sent:
        return DeadlineExceeded(f"{name} did not answer in time: outcome unknown", code="deadline_exceeded")
    return DeadlineExceeded(f"time ran out before this could be sent to {name}: nothing was done", code="not_sent")
