"""Callers in a process of their own: as many orders under way on each side, in a closed loop or on schedule."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from random import Random
from typing import Literal, Protocol

import msgspec

from dougong.errors import Error
from dougong.evidence import Latencies, Quantiles, poisson, run_open
from dougong.rpc import PoolSettings, client, close_client, pool_stats
from shop.proof.rpc_pool.placing import Count, Placing, expected, order
from shop.proof.rpc_pool.plain import Plain
from shop.proof.rpc_pool.unsteady import UnsteadyTransport

__all__ = ["LoadOptions", "LoadResult", "Side", "load"]

_WARM_UP_S = 0.3


Side = Literal["ours", "streams", "our_lists", "lists", "unary"]
"""`ours` and `streams`: a call per order, batched underneath; the lists: callers have lists; `unary`: neither."""


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    side: Side
    seconds: float
    addresses: list[str] = []
    in_flight: int = 512
    """Orders under way, the same for all."""
    batch: int = 64
    """Of the baseline's streams, and of all lists."""
    rate: float = 0.0
    """Orders a second, on schedule whatever comes back; 0 for a closed loop."""
    seed: int = 1
    fail_share: float = 0.0
    """Of connections made by ours."""
    max_requests: int = 0
    """Batches until ours replaces a connection; 0 for no limit."""


class LoadResult(msgspec.Struct, frozen=True):
    orders: int
    """Answered as they must be."""
    wrong: int
    """Answered otherwise."""
    failures: dict[str, int]
    seconds: float
    latency: Quantiles
    cpu_s: float
    """Of the callers' process."""
    made: int
    """Connections and streams made."""
    reused: int
    """Batches that found theirs."""
    counted: int
    """What a lone server has entered since."""
    sent: int
    """Warm-up included."""
    void: str = ""

    @property
    def orders_per_s(self) -> float:
        return self.orders / self.seconds

    @property
    def reuse_share(self) -> float:
        return self.reused / (self.reused + self.made) if self.reused + self.made else 0.0


Place = Callable[[Sequence[int]], Awaitable[Sequence["int | Error"]]]


class _Way(Protocol):
    @property
    def place(self) -> Place: ...
    @property
    def per_call(self) -> int: ...
    async def count(self) -> int: ...
    def reuse(self) -> tuple[int, int]: ...
    async def close(self) -> None: ...


class _Ours:
    def __init__(self, options: LoadOptions) -> None:
        transport = UnsteadyTransport(options.fail_share, Random(options.seed)) if options.fail_share else None
        settings = PoolSettings(max_requests=options.max_requests)
        self._client = client(Placing, options.addresses, transport=transport, pool=settings)
        self.place = self._many if options.side == "our_lists" else self._one
        self.per_call = options.batch if options.side == "our_lists" else 1

    async def _one(self, numbers: Sequence[int]) -> Sequence[int | Error]:
        try:
            return ((await self._client.place(order(numbers[0]))).total_minor,)
        except Error as error:
            return (error,)

    async def _many(self, numbers: Sequence[int]) -> Sequence[int | Error]:
        outcomes = await self._client.place.many([order(number) for number in numbers])
        return [outcome if isinstance(outcome, Error) else outcome.total_minor for outcome in outcomes]

    async def count(self) -> int:
        return (await self._client.count(Count())).orders

    def reuse(self) -> tuple[int, int]:
        stats = pool_stats(self._client).values()
        made = sum(one.connections_created + one.streams_created for one in stats)
        return made, sum(one.reused for one in stats)

    async def close(self) -> None:
        await close_client(self._client)


class _Plain:
    def __init__(self, options: LoadOptions) -> None:
        streams = options.in_flight // options.batch
        self._client = Plain(options.addresses[0], batch=options.batch, streams=streams)
        self.place: Place = {"streams": self._one, "unary": self._alone, "lists": self._many}[options.side]
        self.per_call = options.batch if options.side == "lists" else 1
        self._batches = 0

    async def _one(self, numbers: Sequence[int]) -> Sequence[int | Error]:
        return (await self._client.place(msgspec.structs.asdict(order(numbers[0]))),)

    async def _alone(self, numbers: Sequence[int]) -> Sequence[int | Error]:
        return (await self._client.place_alone(msgspec.structs.asdict(order(numbers[0]))),)

    async def _many(self, numbers: Sequence[int]) -> Sequence[int | Error]:
        return await self._client.place_list([msgspec.structs.asdict(order(number)) for number in numbers])

    async def count(self) -> int:
        return await self._client.count()

    def reuse(self) -> tuple[int, int]:
        # The channel's connection is found again by each batch but the first, its stream by none.
        return 1 + self._client.opened, max(0, self._client.opened - 1)

    async def close(self) -> None:
        await self._client.close()


class _Callers:
    """Who calls, and what became of it."""

    def __init__(self, side: _Way) -> None:
        self._side = side
        self._numbers: Iterator[int] = itertools.count()
        self.latencies = Latencies()
        self.orders = self.wrong = self.sent = 0
        self.failures: dict[str, int] = {}

    def begin(self) -> None:
        """What was before was to warm up."""
        self.latencies = Latencies()
        self.orders = 0

    def judge(self, numbers: Sequence[int], outcomes: Sequence[int | Error]) -> None:
        for number, outcome in zip(numbers, outcomes, strict=True):
            if isinstance(outcome, Error):
                self.failures[outcome.code] = self.failures.get(outcome.code, 0) + 1
            elif outcome == expected(number):
                self.orders += 1
            else:
                self.wrong += 1

    async def closed(self, in_flight: int, seconds: float) -> float:
        """Keep so many orders under way; how long it took."""
        place, per_call, now = self._side.place, self._side.per_call, time.perf_counter
        started = now()
        until = started + seconds

        async def caller() -> None:
            while (begun := now()) < until:
                numbers = tuple(itertools.islice(self._numbers, per_call))
                self.sent += per_call
                outcomes = await place(numbers)
                took = now() - begun
                self.judge(numbers, outcomes)
                self.latencies.record(took, per_call)

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight // per_call):
                group.create_task(caller())
        return now() - started

    async def open(self, rate: float, seconds: float, seed: int) -> tuple[float, str]:
        """Orders when they are due; how long it took, and why it counts for nothing if it does not."""
        load = await run_open(self, poisson(rate, seconds, Random(seed)), self._make)
        report = load.report()
        self.latencies = load.latency
        return report.seconds, report.void or ("orders were dropped" if report.dropped else "")

    def _make(self, count: int) -> Sequence[int]:
        return tuple(itertools.islice(self._numbers, count))

    async def send(self, requests: Sequence[int]) -> Sequence[int | Error]:
        """As a target of `run_open`."""
        self.sent += len(requests)
        outcomes = await self._side.place(requests)
        self.judge(requests, outcomes)
        return outcomes


async def load(options: LoadOptions, begun: Callable[[], None]) -> LoadResult:
    """Warm up, say that it has `begun`, call, and ask the servers what they have in their books."""
    side: _Way = _Ours(options) if options.side in {"ours", "our_lists"} else _Plain(options)
    callers = _Callers(side)
    alone = len(options.addresses) == 1
    try:
        before = await side.count() if alone else 0
        await callers.closed(options.in_flight, _WARM_UP_S)
        callers.begin()
        begun()
        cpu = time.process_time()
        void = ""
        if options.rate:
            took_s, void = await callers.open(options.rate, options.seconds, options.seed)
        else:
            took_s = await callers.closed(options.in_flight, options.seconds)
        cpu = time.process_time() - cpu
        made, reused = side.reuse()
        counted = await side.count() - before if alone else 0
    finally:
        await side.close()
    return LoadResult(
        orders=callers.orders,
        wrong=callers.wrong,
        failures=callers.failures,
        seconds=took_s,
        latency=callers.latencies.quantiles(),
        cpu_s=cpu,
        made=made,
        reused=reused,
        counted=counted,
        sent=callers.sent,
        void=void,
    )
