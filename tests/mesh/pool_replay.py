"""Stories of connections, queues and retries, against a real Envoy and against our core."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from random import Random

import msgspec
from tests.mesh.envoy import ClusterSpec, Envoy
from tests.mesh.pool_vectors import POOL_VECTORS, PoolVector
from tests.mesh.replayed import Replayed
from tests.mesh.upstreams import Answer, Caller, Upstreams

from dougong.errors import Overloaded
from dougong.mesh import Cluster, Limits, Policy
from dougong.registry import Instance
from dougong.rpc import PoolSettings
from dougong.rpc._pool_parts import Check, Link, LinkState, Used
from dougong.rpc.stream_pool import StreamPool

__all__ = ["replay_pools"]

_SETTLE_S = 60.0
_MOMENT_S = 2.0


async def replay_pools(upstreams: Upstreams) -> dict[str, Replayed]:
    """In an Envoy of their own: they ask for statistics all the time, which would keep it from ejecting."""
    envoy = Envoy([_spec(vector, upstreams) for vector in POOL_VECTORS])
    envoy.start()
    try:
        await envoy.ready()
        some = asyncio.Semaphore(4)

        async def one(vector: PoolVector) -> Replayed:
            async with some:
                return await _Pooling(envoy, upstreams, vector, vector.name).run()

        async with asyncio.TaskGroup() as group:
            tasks = {vector.name: group.create_task(one(vector)) for vector in POOL_VECTORS}
        return {name: task.result() for name, task in tasks.items()}
    finally:
        envoy.stop()


def _spec(vector: PoolVector, upstreams: Upstreams) -> ClusterSpec:
    ports = (upstreams.grpc_ports if vector.http2 else upstreams.ports)[: vector.hosts]
    return ClusterSpec(vector.name, ports, None, vector.limits, vector.budget, vector.http2)


class _Pooling:
    """One vector of limits: step by step on both sides, with what there is after each step compared at the end."""

    def __init__(self, envoy: Envoy, upstreams: Upstreams, vector: PoolVector, name: str) -> None:
        self._envoy = envoy
        self._upstreams = upstreams
        self._vector = vector
        self._name = name
        self._tasks: list[asyncio.Task[int]] = []
        self._callers: list[Caller] = []
        upstreams.decide[name] = self._decide
        limits = vector.limits if vector.http2 else msgspec.structs.replace(vector.limits, max_concurrent_streams=1)
        self._ours = Cluster(name, Policy(limits=limits, retry_budget=vector.budget), 0.0)
        hosts = tuple(Instance(service=name, address=f"127.0.0.1:{host}") for host in range(vector.hosts))
        self._ours.update(hosts, 0.0)
        self._pools = [_HostCalls(self._ours.limits) for _ in self._ours.hosts]
        self._live: list[tuple[int, _HostCalls, Link]] = []
        self._retries: set[int] = set()
        self._started = 0
        self._refused = 0

    def _decide(self, host: int, attempt: int, name: str) -> Answer:
        return 503 if "/fail" in name and attempt == 1 else "hold"

    async def run(self) -> Replayed:
        replayed = Replayed({}, {})
        for number, (verb, count) in enumerate(self._vector.steps):
            for _ in range(count):
                if verb == "end":
                    self._end_ours()
                    await self._end()
                else:
                    self._start_ours(verb)
                    await self._start(verb)
            statistics = await self._envoy.statistics(self._name)
            ours = self._ours.statistics()
            for name in self._ours.limits.gauges():
                replayed.envoy[f"{number} {verb} {count}: {name}"] = statistics.get(name, -1)
                replayed.ours[f"{number} {verb} {count}: {name}"] = ours[f"cluster.{self._name}.{name}"]
        replayed.envoy |= await self._envoy.statistics(self._name)
        replayed.envoy["refused"] = sum(task.done() and task.result() == 503 for task in self._tasks)
        replayed.ours |= {
            key.removeprefix(f"cluster.{self._name}."): value for key, value in self._ours.statistics().items()
        }
        replayed.ours["refused"] = self._refused
        await self._drain()
        for caller in self._callers:
            caller.close()
        return replayed

    async def _start(self, verb: str) -> None:
        caller = Caller(self._envoy.port)
        self._callers.append(caller)
        name = f"{self._name}/{verb}{len(self._tasks)}"
        extra = ("x-retry",) if verb == "fail" else ()
        if self._vector.http2:
            call = caller.call_grpc(self._name, name)
        else:
            call = caller.call(self._name, name, *extra)
        self._tasks.append(asyncio.create_task(call))
        await self._settled()

    async def _end(self) -> None:
        """One after the other: those that end together are served together, which counts once."""
        held = self._upstreams.held[self._name]
        done = sum(task.done() for task in self._tasks)
        async with asyncio.timeout(_SETTLE_S):
            while not held:
                await asyncio.sleep(0.002)
            held.popleft().set()
            while sum(task.done() for task in self._tasks) <= done:
                await asyncio.sleep(0.002)
        await self._settled()

    async def _drain(self) -> None:
        """Whatever is left was compared already."""
        held = self._upstreams.held[self._name]
        async with asyncio.timeout(_SETTLE_S):
            while not all(task.done() for task in self._tasks):
                while held:
                    held.popleft().set()
                await asyncio.sleep(0.005)

    async def _settled(self) -> None:
        """Each call is answered, held by a host, or waits in Envoy for an end.

        One may also wait for a connection that is being opened: where we say that fewer wait, that gets a moment.
        """
        began = time.monotonic()
        async with asyncio.timeout(_SETTLE_S):
            while True:
                waiting = (await self._envoy.statistics(self._name)).get("upstream_rq_pending_active", 0)
                done = sum(task.done() for task in self._tasks)
                settled = done + len(self._upstreams.held[self._name]) + waiting == len(self._tasks)
                if settled and (waiting == self._ours.limits.pending or time.monotonic() - began > _MOMENT_S):
                    return
                await asyncio.sleep(0.005)

    def _start_ours(self, verb: str) -> None:
        number = self._started
        self._started += 1
        pool = self._pools[number % len(self._pools)]
        self._arrive(number, pool)
        entry = next((entry for entry in self._live if entry[0] == number), None)
        if verb == "fail" and entry is not None:
            self._live.remove(entry)
            again = self._ours.limits.begin_retry()
            self._take(pool, pool.end(entry[2]))
            if again:
                self._retries.add(number)
                self._arrive(number, pool)
            else:
                self._refused += 1

    def _arrive(self, number: int, pool: _HostCalls) -> None:
        self._take(pool, pool.arrive(number))

    def _take(self, pool: _HostCalls, served: list[tuple[int, Link | None]]) -> None:
        for number, link in served:
            if link is None:
                self._refused += 1
            else:
                self._live.append((number, pool, link))

    def _end_ours(self) -> None:
        number, pool, link = self._live.pop(0)
        if number in self._retries:
            self._ours.limits.end_retry()
        self._take(pool, pool.end(link))


class _HostCalls:
    """The calls to one host: what rpc's pool decides, carried out in no time."""

    def __init__(self, limits: Limits) -> None:
        bounds = PoolSettings(connections=10_000, creations_burst=10_000, max_age_s=0.0, idle_s=0.0)
        self._pool = StreamPool(bounds.within(limits.policy), 0.0, Random(1), limits)
        self._limits = limits
        self._queue: deque[int] = deque()

    def arrive(self, number: int) -> list[tuple[int, Link | None]]:
        """Who goes on which connection now; None for who is refused."""
        try:
            found = self._pool.lease_link(0.0)
        except Overloaded:
            return [(number, None)]
        if isinstance(found, Link):
            return [(number, found)]
        self._queue.append(number)
        if not isinstance(found, Check):
            return []
        self._pool.checked(found.link, 0.0)
        return self._serve()

    def end(self, link: Link) -> list[tuple[int, Link | None]]:
        self._pool.release_link(link, 0.0, Used.ANSWERED)
        return [] if link.state is LinkState.DRAINING else self._serve()

    def _serve(self) -> list[tuple[int, Link | None]]:
        """Those that wait, in order."""
        served: list[tuple[int, Link | None]] = []
        while self._queue:
            try:
                found = self._pool.lease_link(0.0, waiting=True)
            except Overloaded:
                found = None
            if isinstance(found, Check):
                self._pool.checked(found.link, 0.0)
            elif found is None or isinstance(found, Link):
                self._limits.waited()
                served.append((self._queue.popleft(), found))
            else:
                break
        return served
