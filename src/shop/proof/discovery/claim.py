"""The claim about discovery: tables that follow within milliseconds, the dead called by nobody, writers that go on."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import shutil
import threading
import time
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from dougong.evidence import Claim, Engine, EtcdCluster, Figures, Latencies, NotShown, Setting, Threshold, median
from dougong.registry import Instance, KeyValue, Listing, Registry, RoutingTable, instance_key, open_registry
from shop.proof.discovery.crash import crash
from shop.proof.discovery.watchers import Seen
from shop.proof.discovery.writers import COUNT, PATH, EtcdWriter, Writer, ZooKeeperWriter, change, gap_ms
from shop.proof.discovery.zookeeper import ZooKeeperCluster
from shop.proof.tcc.child import Child, child

if TYPE_CHECKING:
    from kazoo.client import KazooClient

__all__ = ["Watched", "connected", "discovery", "table_kib", "watched"]

_MODULE = "shop.proof.discovery"
_WATCHERS = 20
_START_S = 60.0
_RATE = 10.0
_SETTLE_S = 0.5
_LARGE = 1000
_FAST, _USUAL = (20, 200), (100, 1000)
"""Heartbeat and election timeout in ms: as published, and as fast as a machine's own network allows."""
_ATTEMPT_S = 0.1
"""How long a client waits for one endpoint before it asks the next: what was sent to a dead leader is never answered,
so with the usual 0.3 s no write could go on sooner than that, however fast the election."""
_SESSION_S_MAX = 60.0


class Watched(msgspec.Struct, frozen=True):
    """What all watchers saw of a number of changes."""

    changes: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    seen_least: int
    """By the watcher that saw the fewest."""
    cpu_us: float
    """Of one watcher, for one change."""


async def watched(writer: Writer, arguments: Sequence[str], *, watchers: int, seconds: float) -> Watched:
    """Put `COUNT` instances down, start watchers of them, change some, and hear how old each change was."""
    for number in range(COUNT):
        await writer.write(number)
    async with AsyncExitStack() as stack:
        arguments = (*arguments, str(COUNT))
        started = [await stack.enter_async_context(child(_MODULE, *arguments)) for _ in range(watchers)]
        for one in started:
            await one.hear(_START_S)
        await asyncio.sleep(_SETTLE_S)
        await _ask(started)  # what was before is forgotten
        changes = await change(writer, rate=_RATE, seconds=seconds)
        await asyncio.sleep(_SETTLE_S)
        seen = await _ask(started)
    ages = Latencies()
    for one_saw in seen:
        ages.record_each(one_saw.ages_s)
    quantiles = ages.quantiles()
    return Watched(
        changes=changes,
        p50_ms=quantiles.p50_ms,
        p99_ms=quantiles.p99_ms,
        max_ms=quantiles.max_ms,
        seen_least=min(len(one_saw.ages_s) for one_saw in seen),
        cpu_us=sum(one_saw.cpu_s for one_saw in seen) / len(seen) / changes * 1e6,
    )


async def _ask(watchers: Sequence[Child]) -> list[Seen]:
    for one in watchers:
        await one.tell("what have you seen?")
    return [msgspec.json.decode(await one.hear(_START_S), type=Seen) for one in watchers]


def table_kib(count: int = _LARGE) -> float:
    """What a table of so many instances holds, by `tracemalloc`."""
    instances = [
        Instance(
            service="proof.v1.Large",
            address=f"10.2.{number // 250}.{number % 250}:8080",
            app="large",
            id=f"large-{number}",
            version="1.4.2",
            zone=f"zone-{number % 3}",
            metadata={"protocol": "grpc", "host": f"node-{number % 40}"},
        )
        for number in range(count)
    ]
    items = tuple(KeyValue(instance_key(one), msgspec.json.encode(one), 1, 1) for one in instances)
    tracemalloc.start()
    try:
        table = RoutingTable("proof.v1.Large")
        table.apply_listing(Listing(items, 1), 0.0)
        assert len(table.serving) == count
        return tracemalloc.get_traced_memory()[0] / 1024
    finally:
        tracemalloc.stop()


class _Experiment:
    """Each side's servers run while it is measured, and at no other time: two cores are few."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._watchers = 6 if setting.quick else _WATCHERS
        self._seconds = 2.0 if setting.quick else 5.0
        self._kills = 3
        self._session_s = 4.0 if setting.quick else 10.0
        self._numbers = itertools.count(1)
        self._problems: list[str] = []

    async def ours(self, pair: int) -> Figures:
        say = self._setting.say
        async with self._etcd(*_USUAL) as (cluster, registry):
            say(f"{self._watchers} watchers on etcd")
            writer = EtcdWriter(registry)
            arguments = ("watch", cluster.url())
            seen = await watched(writer, arguments, watchers=self._watchers, seconds=self._seconds)
            if seen.seen_least != seen.changes:
                self._problems.append(f"of {seen.changes} changes a watcher saw {seen.seen_least}")
            memory_mb = _memory_mb(cluster.members)
            say("an instance is killed")
            dead = await crash(registry, cluster.url())
            say("the leader is killed, 100/1000")
            usual = [await self._etcd_gap(cluster, writer) for _ in range(1 if self._setting.quick else 2)]
        async with self._etcd(*_FAST, query=f"attempt_s={_ATTEMPT_S}") as (cluster, registry):
            say("the leader is killed, 20/200")
            gaps = [await self._etcd_gap(cluster, EtcdWriter(registry)) for _ in range(self._kills)]
        return {
            "change_p50_ms": seen.p50_ms,
            "change_p99_ms": seen.p99_ms,
            "change_max_ms": seen.max_ms,
            "watcher_us_per_change": seen.cpu_us,
            "crash_out_s": dead.out_s,
            "crash_attempts": dead.attempts,
            "crash_failed_calls": dead.failed,
            "writes_resume_ms": median(gaps),
            "writes_resume_worst_ms": max(gaps),
            "writes_resume_usual_ms": median(usual),
            "memory_mb": memory_mb,
            "table_kib": table_kib(),
        }

    async def baseline(self, pair: int) -> Figures:
        if importlib.util.find_spec("kazoo") is None:
            raise NotShown("kazoo is missing; pip install 'dougong[prove]'")
        say = self._setting.say
        say("starting ZooKeeper")
        async with self._zookeeper() as cluster, connected(cluster.hosts) as client:
            held = "/services/held/one"
            async with child(_MODULE, "hold", cluster.hosts, held, str(self._session_s)) as holder:
                await holder.hear(_START_S)
                await holder.kill()
                gone = asyncio.create_task(asyncio.to_thread(_gone, client, held))
                say(f"{self._watchers} watchers on ZooKeeper")
                writer = ZooKeeperWriter(client)
                seen = await watched(
                    writer, ("watch-zookeeper", cluster.hosts, PATH), watchers=self._watchers, seconds=self._seconds
                )
                out_s = await gone
            memory_mb = _memory_mb(cluster.members)
            say("ZooKeeper's leader is killed")
            leader = await asyncio.to_thread(cluster.leader)
            gap = await gap_ms(lambda: writer.write(0), leader.kill)
        return {
            "change_p50_ms": seen.p50_ms,
            "change_p99_ms": seen.p99_ms,
            "change_max_ms": seen.max_ms,
            "changes_seen_share": seen.seen_least / seen.changes,
            "watcher_us_per_change": seen.cpu_us,
            "crash_out_s": out_s,
            "writes_resume_ms": gap,
            "memory_mb": memory_mb,
        }

    async def verify(self) -> Sequence[str]:
        return self._problems

    async def _etcd_gap(self, cluster: EtcdCluster, writer: Writer) -> float:
        leader = await asyncio.to_thread(cluster.leader)
        gap = await gap_ms(lambda: writer.write(0), leader.kill)
        await asyncio.to_thread(leader.start)
        return gap

    @asynccontextmanager
    async def _etcd(
        self, heartbeat_ms: int, election_ms: int, *, query: str = ""
    ) -> AsyncGenerator[tuple[EtcdCluster, Registry]]:
        folder = self._folder("etcd")
        cluster: EtcdCluster | None = None
        try:
            cluster = await asyncio.to_thread(EtcdCluster, folder, heartbeat_ms=heartbeat_ms, election_ms=election_ms)
            registry = await open_registry(cluster.url(query))
            try:
                yield cluster, registry
            finally:
                await registry.close()
        finally:
            await _end(cluster.kill if cluster is not None else None, folder)

    @asynccontextmanager
    async def _zookeeper(self) -> AsyncGenerator[ZooKeeperCluster]:
        folder = self._folder("zookeeper")
        cluster: ZooKeeperCluster | None = None
        try:
            cluster = await asyncio.to_thread(ZooKeeperCluster, folder)
            yield cluster
        finally:
            await _end(cluster.kill if cluster is not None else None, folder)

    def _folder(self, name: str) -> Path:
        return self._setting.workdir.absolute() / f"{name}-{next(self._numbers)}"


async def _end(kill: Callable[[], None] | None, folder: Path) -> None:
    if kill is not None:
        await asyncio.to_thread(kill)
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@asynccontextmanager
async def connected(hosts: str) -> AsyncGenerator[KazooClient]:
    from kazoo.client import KazooClient

    client = KazooClient(hosts=hosts)
    await asyncio.to_thread(client.start)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.stop)
        client.close()


def _gone(client: KazooClient, path: str) -> float:
    """Wait until a session that is over is known to be: seconds."""
    started, gone = time.monotonic(), threading.Event()
    if client.exists(path, watch=lambda _: gone.set()) is not None:
        gone.wait(_SESSION_S_MAX)
    return time.monotonic() - started


def _memory_mb(members: Sequence[Engine]) -> float:
    """Resident, of a node in the middle."""
    return median([psutil.Process(member.pid).memory_info().rss / 1e6 for member in members])


@asynccontextmanager
async def _side_by_side(setting: Setting) -> AsyncGenerator[_Experiment]:
    yield _Experiment(setting)


discovery = Claim(
    name="discovery",
    title="Everybody knows within milliseconds",
    situation=(
        "Instances are ephemeral nodes in ZooKeeper; clients keep a table by kazoo's ChildrenWatch and DataWatch. Who "
        "crashes stays in it until its session ends, and all of it is read again whenever something changes."
    ),
    task=(
        f"Tables of {COUNT} instances in {_WATCHERS} processes that have 99 of 100 changes within 20 ms; a crashed "
        "instance that nobody calls after a second; writers that go on within 400 ms of the leader's end; a table of "
        f"{_LARGE:,} instances within 2 MiB."
    ),
    action=(
        "Three nodes of etcd, then three of ZooKeeper, the same changes on the same schedule; the age of a change is "
        "taken when a table has it, from before it was written. `kill -9` on a server with a lease of 30 s while it is "
        "called (a failed call and one failed probe take it out), on the holder of a session of kazoo's usual 10 s "
        "(4 s in a quick run, the least that ZooKeeper's usual settings allow), and on the leader, at etcd's usual "
        "heartbeat of 100 ms and election timeout of 1000, where all of the above is measured, and at 20 and 200 "
        "(there clients ask the next node after 100 ms). Of several kills the one in the middle counts; the "
        "worst stands in the table."
    ),
    result=(
        "Changes in the tables after P99 {ours[change_p99_ms]:.1f} ms; the dead called by nobody after "
        "{ours[crash_out_s]:.2f} s, {ours[crash_failed_calls]:.0f} calls failed; writes go on after "
        "{ours[writes_resume_ms]:.0f} ms ({ours[writes_resume_usual_ms]:,.0f} at 100/1000); {ours[memory_mb]:.0f} MB a "
        "node; {ours[table_kib]:,.0f} KiB for a thousand instances."
    ),
    table=(
        "| | ours on etcd | kazoo on ZooKeeper |\n| --- | ---: | ---: |\n"
        "| a change in the table, P50 ms | {ours[change_p50_ms]:.1f} | {baseline[change_p50_ms]:.1f} |\n"
        "| P99 ms | {ours[change_p99_ms]:.1f} | {baseline[change_p99_ms]:.1f} |\n"
        "| a watcher's CPU for a change, µs | {ours[watcher_us_per_change]:,.0f} | "
        "{baseline[watcher_us_per_change]:,.0f} |\n"
        "| the dead out of the tables, s | {ours[crash_out_s]:.2f} | {baseline[crash_out_s]:.1f} |\n"
        "| writes go on, ms | {ours[writes_resume_ms]:,.0f} | {baseline[writes_resume_ms]:,.0f} |\n"
        "| the worst kill, ms | {ours[writes_resume_worst_ms]:,.0f} | |\n"
        "| at 100/1000, ms | {ours[writes_resume_usual_ms]:,.0f} | |\n"
        "| memory of a node, MB | {ours[memory_mb]:.0f} | {baseline[memory_mb]:.0f} |"
    ),
    experiment=_side_by_side,
    thresholds=(
        Threshold("ours.change_p99_ms", at_most=20),
        Threshold("ours.crash_out_s", at_most=1),
        Threshold("ours.writes_resume_ms", at_most=400),
        Threshold("ours.table_kib", at_most=2048),
    ),
    pairs_quick=1,
)
