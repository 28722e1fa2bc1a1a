"""The coordinator's side: a closed loop of runs, and what came of them."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec
import psutil

from dougong.evidence import Latencies
from dougong.rpc import client, close_client
from dougong.store import IdBlocks, Store, open_store
from dougong.tcc import Coordinator, CoordinatorSettings, NewTransaction, participant_service
from shop.proof.tcc.shelf import SKUS, Shelf, Take

__all__ = ["LoadOptions", "LoadResult", "load"]

_WARM_UP_S = 0.5
_SETTLED_S = 120.0


class LoadOptions(msgspec.Struct, frozen=True):
    """How to load a shelf."""

    database: str
    """Of the coordinator's log."""
    shelf: str
    """Address of the participant."""
    shelf_pid: int
    seconds: float = 4.0
    batch: int = 250
    """Transactions in a run."""
    runs: int = 4
    """Under way at once."""
    skus: int = SKUS
    """1 for all on one."""
    group_max: int = 512
    """Units that share a commit; 1 for none."""
    retention_s: float = 3600.0


class LoadResult(msgspec.Struct, frozen=True):
    """What a load came to."""

    warm_up: int
    """Acknowledged before anything was measured."""
    acknowledged: int
    refused: int
    seconds: float
    """Until the last acknowledgement."""
    settled_s: float
    """Until the last confirmation was in the log."""
    p50_ms: float
    p99_ms: float
    """Of a run, from its call to its return."""
    memory_mb: list[float]
    """Of both processes together, once a second."""

    @property
    def acknowledged_per_s(self) -> float:
        return self.acknowledged / self.seconds


async def load(options: LoadOptions) -> LoadResult:
    """Run transactions until the time is over, then wait until all are settled."""
    store = await open_store(options.database, name="log", group_max=options.group_max)
    shelf = client(participant_service(Shelf), options.shelf)
    coordinator = Coordinator(
        store,
        initiator=f"proof-{os.getpid()}",  # another load is another initiator: its ids begin at 1 again
        participants={Shelf.service: shelf},
        settings=CoordinatorSettings(
            retention_s=options.retention_s, forget_every_s=min(60.0, options.retention_s / 4)
        ),
    )
    await coordinator.start()
    try:
        return await _Loading(options, store, coordinator).run()
    finally:
        await coordinator.stop()
        await close_client(shelf)
        await store.close()


class _Loading:
    def __init__(self, options: LoadOptions, store: Store, coordinator: Coordinator) -> None:
        self._options = options
        self._store = store
        self._coordinator = coordinator
        self._ids = IdBlocks(store, "proof", 1_000_000)
        self._latencies = Latencies()
        self._acknowledged = 0
        self._refused = 0
        self._last = 0.0

    async def run(self) -> LoadResult:
        await self._for(_WARM_UP_S)
        warm_up = self._acknowledged
        self._latencies, self._acknowledged, self._refused = Latencies(), 0, 0
        memory: list[float] = []
        watching = asyncio.create_task(self._watch(memory))
        start = time.perf_counter()
        await self._for(self._options.seconds)
        await self._settled()
        settled_s = time.perf_counter() - start
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        quantiles = self._latencies.quantiles()
        return LoadResult(
            warm_up=warm_up,
            acknowledged=self._acknowledged,
            refused=self._refused,
            seconds=self._last - start,
            settled_s=settled_s,
            p50_ms=quantiles.p50_ms,
            p99_ms=quantiles.p99_ms,
            memory_mb=memory,
        )

    async def _for(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(self._options.runs):
                group.create_task(self._loop(until))

    async def _loop(self, until: float) -> None:
        skus, batch = self._options.skus, self._options.batch
        name = Shelf.service
        takes = [{name: Take(sku, 1)} for sku in range(skus)]
        while True:
            start = time.perf_counter()
            if start >= until:
                return
            ids = await self._ids.take(batch)
            outcomes = await self._coordinator.run([NewTransaction(i, takes[i * 7919 % skus]) for i in ids])
            self._last = time.perf_counter()
            self._latencies.record(self._last - start, batch)
            accepted = sum(outcome.accepted for outcome in outcomes)
            self._acknowledged += accepted
            self._refused += batch - accepted

    async def _settled(self) -> None:
        async with asyncio.timeout(_SETTLED_S):
            while await self._store.fetch_one("SELECT 1 FROM dougong_transactions WHERE due_us IS NOT NULL LIMIT 1"):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)

    async def _watch(self, memory: list[float]) -> None:
        both = (psutil.Process(), psutil.Process(self._options.shelf_pid))
        while True:
            await asyncio.sleep(1.0)
            memory.append(round(sum(p.memory_info().rss for p in both) / 1e6, 1))
