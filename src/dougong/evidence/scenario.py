"""A rush: one scenario of load on one running system, from options to figures and a check of the books.

The scenario knows the system (how to find it, what to send, how to check it); this module knows when to send and how to
measure. Scenarios are found by the entry point group `dougong.rushes`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from dougong.errors import Error, Invalid
from dougong.evidence.load import Journal, Load, LoadReport, Target, run_closed, run_open
from dougong.evidence.schedule import fixed, poisson

__all__ = ["Discrepancy", "OpenScenario", "RushOptions", "RushResult", "Scenario", "rush"]

Request = TypeVar("Request")
Reply = TypeVar("Reply")

_PROGRESS_S = 0.25


class RushOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to load a system. The flags of `dougong rush`."""

    rate: float = 1000.0
    """Requests a second; of no effect with the closed schedule."""
    seconds: float = 10.0
    connections: int = 16
    """HTTP connections; with the closed schedule, how many batches are under way at once."""
    batch: int = 200
    """At most so many travel together over gRPC; HTTP sends one by one."""
    transport: Literal["grpc", "http"] = "grpc"
    schedule: Literal["poisson", "fixed", "closed"] = "poisson"
    """`closed` waits for answers before it sends more: finds what a system carries, says nothing about waiting."""
    zipf_s: float = 1.0
    """How uneven the demand is: 0 for all things alike."""
    seed: int = 1
    orders_file: str = ""
    """Requests from a file instead of made up ones, each sent once."""
    keys: bool = False
    """Send an idempotency key with every request."""
    retry: bool = False
    """Send again, under the same key, what has no known outcome, until it has one."""
    check: bool = False
    """Compare the system's books with what the generator saw."""
    data: str = "var"
    """The running system's data directory."""
    http_url: str = ""
    """Of the system's front; empty: found in its registry."""
    journal: str = ""
    """File to keep the journal of outcomes in; empty: not kept."""
    outstanding_max: int = 20_000

    def __post_init__(self) -> None:
        for name in ("rate", "seconds", "connections", "batch", "outstanding_max"):
            if not 0 < getattr(self, name) <= 1e9:
                raise Invalid(f"{name} must be positive, not {getattr(self, name)}", code="invalid_option", option=name)
        if not 0 <= self.zipf_s <= 10:
            raise Invalid(f"zipf_s must be 0 to 10, not {self.zipf_s}", code="invalid_option", option="zipf_s")


class Discrepancy(msgspec.Struct, frozen=True):
    """Something that must not be."""

    kind: str
    """For machines: `lost_order`, `stock_sum`."""
    what: str
    """For people, with the numbers."""


class OpenScenario(Protocol[Request, Reply]):
    """A scenario connected to its system."""

    @property
    def target(self) -> Target[Request, Reply]:
        """Where requests go."""

    def make(self, count: int) -> Sequence[Request]:
        """The next `count` requests; fewer or none when they run out."""

    def is_unknown(self, error: Error) -> bool:
        """Whether an error leaves open what became of its request."""

    async def check(self, journal: Journal[Request, Reply]) -> Sequence[Discrepancy]:
        """Wait until the system has settled, then compare its books with the journal."""


class Scenario(Protocol[Request, Reply]):
    """One kind of load on one kind of system."""

    def open(self, options: RushOptions) -> AbstractAsyncContextManager[OpenScenario[Request, Reply]]:
        """Connect. Raises an `Error` that says what is missing when the system is not up."""


class RushResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a rush came to."""

    options: RushOptions
    report: LoadReport
    unknown: int
    """Requests whose outcome was never learnt."""
    discrepancies: tuple[Discrepancy, ...] | None
    """None: not checked."""
    check_s: float = 0.0
    """How long settling and checking took."""
    ended_us: int = 0
    """When the last answer came, UTC microseconds."""
    histogram: str = ""
    """All latencies, in HdrHistogram's V2 format."""

    @property
    def clean(self) -> bool:
        """Nothing found that must not be, and a run that counts."""
        return not self.discrepancies and not self.report.void

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


async def rush(
    scenario: Scenario[Request, Reply],
    options: RushOptions,
    *,
    progress: Callable[[LoadReport], None] = lambda _: None,
) -> RushResult:
    """Load the system as `options` say. `progress` gets the figures so far four times a second."""
    async with scenario.open(options) as opened:
        load: Load[Request, Reply] = Load(Journal(opened.is_unknown))
        await _Running(opened, options, load, progress).run()
        ended_us = time.time_ns() // 1000
        progress(load.report())
        if options.journal:
            await asyncio.to_thread(load.journal.save, Path(options.journal))
        discrepancies: tuple[Discrepancy, ...] | None = None
        start = time.monotonic()
        if options.check:
            discrepancies = tuple(await opened.check(load.journal))
        return RushResult(
            options=options,
            report=load.report(),
            unknown=len(load.journal.unknown),
            discrepancies=discrepancies,
            ended_us=ended_us,
            histogram=load.latency.encode(),
            check_s=round(time.monotonic() - start, 3) if options.check else 0.0,
        )


class _Running(Generic[Request, Reply]):
    """A rush under way, and who looks at it."""

    def __init__(
        self,
        opened: OpenScenario[Request, Reply],
        options: RushOptions,
        load: Load[Request, Reply],
        progress: Callable[[LoadReport], None],
    ) -> None:
        self._opened = opened
        self._options = options
        self._load = load
        self._progress = progress

    async def run(self) -> None:
        watching = asyncio.create_task(self._watch(), name="rush-progress")
        try:
            await self._drive()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _drive(self) -> None:
        options, opened = self._options, self._opened
        batch = options.batch if options.transport == "grpc" else 1
        if options.schedule == "closed":
            await run_closed(
                opened.target,
                opened.make,
                seconds=options.seconds,
                batch=batch,
                in_flight=options.connections,
                load=self._load,
            )
            return
        await run_open(
            opened.target,
            self._due(),
            opened.make,
            batch=batch,
            outstanding_max=options.outstanding_max,
            load=self._load,
        )

    def _due(self) -> Iterator[float]:
        options = self._options
        if options.schedule == "fixed":
            return fixed(options.rate, options.seconds)
        return poisson(options.rate, options.seconds, random.Random(options.seed))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            self._progress(self._load.report())
