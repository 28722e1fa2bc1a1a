"""How quickly etcd tells of a change, and how long writes and watches stand still when its leader dies or hangs.

    PYTHONPATH=src python scripts/etcd_latency.py            # with etcd's default timings and with 20/200

Each figure is a median (and the worst) of the rounds told, on a cluster of three members on this machine.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dougong.errors import Unavailable
from dougong.evidence.etcd_cluster import EtcdCluster, EtcdMember
from dougong.registry import Change, Registry, open_registry

CHANGES = 300
ROUNDS = 7


async def latency(cluster: EtcdCluster) -> list[float]:
    """From before a put to the change at a watcher of another registry."""
    writer, watcher = await open_registry(cluster.url()), await open_registry(cluster.url())
    watch = watcher.watch("/latency/", (await watcher.list("/latency/")).revision + 1)
    taken: list[float] = []
    for number in range(CHANGES):
        began = time.perf_counter()
        seen = asyncio.ensure_future(_next(watch))
        await writer.put("/latency/a", b"%d" % number)
        await seen
        taken.append(time.perf_counter() - began)
    await writer.close()
    await watcher.close()
    return taken


async def _next(watch: object) -> Sequence[Change]:
    return await anext(watch)  # type: ignore[no-any-return, call-overload]


async def outage(cluster: EtcdCluster, how: str) -> tuple[float, float]:
    """From the leader's end to the next write that is acknowledged, and to a watcher seeing it."""
    writer, watcher = await open_registry(cluster.url()), await open_registry(cluster.url())
    watch = watcher.watch("/outage/", (await watcher.list("/outage/")).revision + 1)
    await writer.put("/outage/a", b"before")
    await _next(watch)
    leader: EtcdMember = cluster.leader()
    getattr(leader, how)()
    began = time.perf_counter()
    seen = asyncio.ensure_future(_next(watch))
    await _put(writer)
    written = time.perf_counter() - began
    await seen
    told = time.perf_counter() - began
    await writer.close()
    await watcher.close()
    cluster.heal()
    return written, told


async def _put(registry: Registry) -> None:
    while True:
        try:
            await registry.put("/outage/a", b"after")
        except Unavailable:
            continue
        return


def said(name: str, seconds: list[float]) -> str:
    return f"  {name:38} {statistics.median(seconds) * 1000:8.1f} ms   (worst {max(seconds) * 1000:8.1f} ms)"


def main() -> None:
    for heartbeat_ms, election_ms in ((100, 1000), (20, 200)):
        folder = Path(tempfile.mkdtemp(prefix="dougong-etcd-"))
        cluster = EtcdCluster(folder, heartbeat_ms=heartbeat_ms, election_ms=election_ms)
        try:
            print(f"heartbeat {heartbeat_ms} ms, election timeout {election_ms} ms:")
            print(said(f"change to watch, {CHANGES} changes", asyncio.run(latency(cluster))))
            for how in ("kill", "pause"):
                outages = [asyncio.run(outage(cluster, how)) for _ in range(ROUNDS)]
                print(said(f"{how} leader: next write, {ROUNDS} rounds", [written for written, _ in outages]))
                print(said(f"{how} leader: next change seen", [told for _, told in outages]))
        finally:
            cluster.remove()


if __name__ == "__main__":
    main()
