"""The load generator: sends what is due, never waits for answers before sending more, and keeps a journal.

Latency counts from the moment a request was *due*, so a generator or a system that falls behind shows in the figures.
What is due together is handed to the scenario together, up to `batch` at a time; `batch` 1 sends one by one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from dougong.errors import Error
from dougong.evidence.latency import Latencies, Quantiles

__all__ = ["Journal", "Load", "LoadReport", "Target", "leaves_open", "run_closed", "run_open"]

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Req_contra = TypeVar("Req_contra", contravariant=True)
Rep_co = TypeVar("Rep_co", covariant=True)

_TICK_S = 0.002
_LAG_MAX_S = 0.05
"""A generator that sends this much later than due on average is not measuring the system any more."""


class Target(Protocol[Req_contra, Rep_co]):
    """What is under load: answers a list of requests with one outcome each."""

    async def send(self, requests: Sequence[Req_contra]) -> Sequence[Rep_co | Error]:
        """Never raises for a single request's fate: an `Error` is an outcome."""


def leaves_open(error: Error) -> bool:
    """Whether this kind of error usually leaves open what became of the request: connection lost, deadline, crash."""
    return error.family in {"unavailable", "deadline_exceeded", "internal"}


class Journal(Generic[Request, Reply]):
    """What the generator saw: acknowledged, refused, and outcomes it never learnt.

    `is_unknown` tells errors that leave the outcome open from those that decide it.
    """

    def __init__(self, is_unknown: Callable[[Error], bool] = leaves_open) -> None:
        self._is_unknown = is_unknown
        self.acknowledged: list[tuple[Request, Reply]] = []
        self.unknown: list[Request] = []
        """Sent, and no answer that says what became of it (connection lost, deadline): may or may not have happened."""
        self.refused: Counter[str] = Counter()

    def record(self, requests: Sequence[Request], outcomes: Sequence[Reply | Error]) -> int:
        """Note the outcomes; how many were acknowledged."""
        before = len(self.acknowledged)
        for request, outcome in zip(requests, outcomes, strict=True):
            if not isinstance(outcome, Error):
                self.acknowledged.append((request, outcome))
                continue
            self.refused[outcome.code] += 1
            if self._is_unknown(outcome):
                self.unknown.append(request)
        return len(self.acknowledged) - before

    def save(self, path: Path) -> None:
        """Write it to a file, for `load` in another process."""
        path.write_bytes(msgspec.msgpack.encode((self.acknowledged, self.unknown, self.refused)))

    @classmethod
    def load(cls, path: Path, request: type[Request], reply: type[Reply]) -> Journal[Request, Reply]:
        """Read what `save` wrote."""
        kind: Any = tuple[list[tuple[request, reply]], list[request], dict[str, int]]  # type: ignore[valid-type]
        journal = cls()
        journal.acknowledged, journal.unknown, refused = msgspec.msgpack.decode(path.read_bytes(), type=kind)
        journal.refused.update(refused)
        return journal

    def add(self, other: Journal[Request, Reply]) -> None:
        """Take over all of another's entries."""
        self.acknowledged += other.acknowledged
        self.unknown += other.unknown
        self.refused += other.refused


class LoadReport(msgspec.Struct, frozen=True):
    """What a run came to."""

    offered: int
    acknowledged: int
    refused: dict[str, int]
    dropped: int
    """Due, and not sent because too many were outstanding."""
    outstanding: int
    """Sent, and not answered yet: 0 at the end."""
    seconds: float
    """From the first due time to the last answer."""
    acknowledged_per_s: float
    latency: Quantiles
    """From the intended send time to the answer, acknowledged requests only."""
    service: Quantiles
    """From the actual send time."""
    lag_ms: float
    """Mean delay from due to sent: the generator's own."""
    void: str = ""
    """Why this run proves nothing; empty when it counts."""


class Load(Generic[Request, Reply]):
    """The state of a run, readable while it goes on."""

    def __init__(self, journal: Journal[Request, Reply] | None = None) -> None:
        self.journal: Journal[Request, Reply] = journal if journal is not None else Journal()
        self.latency = Latencies()
        self.service = Latencies()
        self.offered = 0
        self.dropped = 0
        self.outstanding = 0
        self._lag_s = 0.0
        self._sent = 0
        self._last_s = 0.0

    def sent(self, count: int, lag_s: float) -> None:
        """`count` requests left, `lag_s` after they were due on average."""
        self._sent += count
        self._lag_s += lag_s * count

    def answered(
        self,
        requests: Sequence[Request],
        outcomes: Sequence[Reply | Error],
        due: Sequence[float],
        sent: float,
        now: float,
    ) -> None:
        """Outcomes came at `now` for requests that were due at `due` and left at `sent`, all in seconds of the run."""
        acknowledged = self.journal.record(requests, outcomes)
        if acknowledged:
            self.latency.record_each(
                now - at for at, outcome in zip(due, outcomes, strict=True) if not isinstance(outcome, Error)
            )
            self.service.record(now - sent, acknowledged)
        self._last_s = now

    def report(self) -> LoadReport:
        """The figures so far."""
        acknowledged = len(self.journal.acknowledged)
        lag_s = self._lag_s / self._sent if self._sent else 0.0
        void = ""
        if lag_s > _LAG_MAX_S:
            void = f"the generator sent {lag_s * 1000:.0f} ms late on average: this machine cannot offer that rate"
        return LoadReport(
            offered=self.offered,
            acknowledged=acknowledged,
            refused=dict(self.journal.refused),
            dropped=self.dropped,
            outstanding=self.outstanding,
            seconds=round(self._last_s, 3),
            acknowledged_per_s=round(acknowledged / self._last_s, 1) if self._last_s else 0.0,
            latency=self.latency.quantiles(),
            service=self.service.quantiles(),
            lag_ms=round(lag_s * 1000, 3),
            void=void,
        )


async def run_open(
    target: Target[Request, Reply],
    schedule: Iterator[float],
    make: Callable[[int], Sequence[Request]],
    *,
    batch: int = 1,
    outstanding_max: int = 20_000,
    load: Load[Request, Reply] | None = None,
) -> Load[Request, Reply]:
    """Send `make(n)` requests as `schedule` says, until it ends or there are no more requests to make.

    What is due while `outstanding_max` are under way is dropped and counted.
    Returns when everything sent has its outcome.
    """
    load = load if load is not None else Load()
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def send(requests: Sequence[Request], due: Sequence[float]) -> None:
        sent = loop.time() - start
        load.sent(len(due), sent - sum(due) / len(due))
        try:
            outcomes = await target.send(requests)
            load.answered(requests, outcomes, due, sent, loop.time() - start)
        finally:
            load.outstanding -= len(due)

    async with asyncio.TaskGroup() as group:
        for due in _due_together(schedule, batch, lambda: loop.time() - start):
            if not due:
                await asyncio.sleep(_TICK_S)
                continue
            room = max(outstanding_max - load.outstanding, 0)
            dropped = len(due) - len(due[:room])
            load.offered += dropped
            load.dropped += dropped
            if not (due := due[:room]):
                await asyncio.sleep(0)
                continue
            requests = make(len(due))
            if not requests:
                break
            load.offered += len(requests)
            load.outstanding += len(requests)
            group.create_task(send(requests, due[: len(requests)]))
            await asyncio.sleep(0)
    return load


async def run_closed(
    target: Target[Request, Reply],
    make: Callable[[int], Sequence[Request]],
    *,
    seconds: float,
    batch: int,
    in_flight: int,
    load: Load[Request, Reply] | None = None,
) -> Load[Request, Reply]:
    """Keep `in_flight` batches under way for `seconds`: finds what a system can carry, says nothing about waiting."""
    load = load if load is not None else Load()
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def customer() -> None:
        while (sent := loop.time() - start) < seconds:
            requests = make(batch)
            if not requests:
                break
            load.offered += len(requests)
            load.outstanding += len(requests)
            load.sent(len(requests), 0.0)
            outcomes = await target.send(requests)
            load.outstanding -= len(requests)
            load.answered(requests, outcomes, [sent] * len(requests), sent, loop.time() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(customer())
    return load


def _due_together(schedule: Iterator[float], batch: int, now: Callable[[], float]) -> Iterator[Sequence[float]]:
    """Groups of arrivals that are due; an empty one when the next is still to come."""
    waiting = next(schedule, None)
    while waiting is not None:
        due: list[float] = []
        moment = now()
        while waiting is not None and waiting <= moment and len(due) < batch:
            due.append(waiting)
            waiting = next(schedule, None)
        yield due
