"""Those who call: processes with a routing table, policy, and callers that want something all the time."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from random import Random

from dougong.contract import Service
from dougong.errors import Error
from dougong.mesh import Cluster, EjectionEvent, Mesh
from dougong.mesh.istio import Policies, read_policies
from dougong.registry import Discovery, Resolver, Snapshot
from dougong.rpc import client
from dougong.simulation.calls import TWICE
from dougong.simulation.history import Call, Outcome
from dougong.simulation.node import Process
from dougong.simulation.stories.network.judging import Heard, Judge
from dougong.simulation.stories.network.listening import HeardRegistry, Listening, NetworkProbe
from dougong.simulation.stories.network.retries import Retries
from dougong.simulation.stories.network.serving import SERVICE, Asked, Done, Till
from dougong.simulation.stories.network.without import (
    registry_without,
    weaken_cluster,
    weaken_resolver,
)

__all__ = ["Client", "Settings"]

_RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: till}
spec:
  host: till
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 1s, maxEjectionPercent: PERCENT}
    retryBudget: {percent: 20, minRetryConcurrency: 1}
    connectionPool: {http: {http2MaxRequests: REQUESTS}}
"""
_ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: till}
spec:
  hosts: [till]
  http:
  - route: [{destination: {host: till}}]
    retries: {attempts: 2, retryOn: "connect-failure,refused-stream,unavailable,reset"}
"""
METHODS = ("look", "look", "pay", "pay", "look_many", "pay_many")
TIMEOUT_S = 1.5
HURRY_S = 0.2
NOT_DONE = frozenset(
    ["connect_failed", "no_instance", "not_sent", "draining", "no_healthy_host", "max_requests", "max_pending"]
)
"""Errors that say that nothing was done."""


class Settings:
    """How the clients of one world are set up."""

    def __init__(self, draw: Random) -> None:
        self.callers = draw.choice((2, 4, 8))
        """Of each client."""
        self.pause_s = draw.choice((0.2, 0.4, 0.8)) * self.callers
        self.percent = draw.choice((10, 34, 50, 67, 100))
        self.requests = draw.choice((2, 1000, 1000))
        self.hurried = False
        """Callers do not pause for long any more."""
        self.routed = draw.random() < 0.4
        self.snapshots = draw.random() < 0.5

    @property
    def policies(self) -> Policies:
        return _policies(self.percent, self.requests, self.routed)


@lru_cache
def _policies(percent: int, requests: int, routed: bool) -> Policies:
    rule = _RULE.replace("PERCENT", str(percent)).replace("REQUESTS", str(requests))
    files = {"rule.yaml": rule} | ({"route.yaml": _ROUTE} if routed else {})
    return read_policies(files, hosts={SERVICE: "till"})


class Snapshots:
    """On a disk that outlives processes."""

    def __init__(self) -> None:
        self._kept: dict[str, Snapshot] = {}
        self.heard: Heard | None = None
        """Of the process that runs."""

    async def load(self, service: str) -> Snapshot | None:
        await asyncio.sleep(0.01)
        snapshot = self._kept.get(service)
        if snapshot is not None and self.heard is not None:
            self.heard.restored(snapshot.instances)
        return snapshot

    async def save(self, snapshot: Snapshot) -> None:
        await asyncio.sleep(0.01)
        self._kept[snapshot.service] = snapshot


class _Mesh(Mesh):
    """Tells the judge of ejections, cluster by cluster."""

    def __init__(self, owner: Client, policies: Policies, random: Random) -> None:
        super().__init__(policies, random=random, sink=self._told)
        self._owner = owner
        self.cluster_made: Cluster | None = None

    def cluster(self, host: str, now: float, *, subset: str = "", port: int = 0) -> Cluster:
        made = self.cluster_made = super().cluster(host, now, subset=subset, port=port)
        weaken_cluster(self._owner.without, made)
        return made

    def ejected(self, address: str) -> bool:
        """Whether the client is not to call it."""
        cluster = self.cluster_made
        assert cluster is not None
        return not cluster.panic and any(host.ejected for host in cluster.hosts if host.address == address)

    def _told(self, event: EjectionEvent) -> None:
        assert self.cluster_made is not None
        self._owner.judge.ejects(self._owner.name, event, self.cluster_made)


class Client:
    """A node that calls, one process after the other."""

    def __init__(self, judge: Judge, name: str, settings: Settings, without: str) -> None:
        self.judge = judge
        self.name = name
        self.without = without
        self._settings = settings
        self._snapshots = Snapshots() if settings.snapshots else None
        first = (int(name[-1]) + 1) * 1_000_000
        self._numbers = iter(range(first, first + 1_000_000))
        self.resolver: Resolver | None = None
        self.reached: set[str] = set()
        """Addresses that answered since this was last emptied."""

    def calls(self) -> set[str]:
        """Whom its table has it call."""
        return set() if self.resolver is None else {instance.address for instance in self.resolver.instances()}

    async def main(self, process: Process) -> None:
        """What the node runs."""
        settings, random = self._settings, process.random
        heard = Heard(self.judge, self.name)
        if self._snapshots is not None:
            self._snapshots.heard = heard
        discovery = Discovery(
            registry_without(self.without, HeardRegistry(process, heard)),
            clock=process.clock,
            random=random,
            probe=NetworkProbe(process, heard),
            snapshots=self._snapshots,
        )
        resolver = discovery.resolver(SERVICE)
        weaken_resolver(self.without, resolver)
        heard.follow(resolver)
        self.resolver = resolver
        mesh = _Mesh(self, settings.policies, random)
        policy = settings.policies.for_service("till")
        retries = Retries(self.judge, heard, policy.retry_budget, settings.callers)
        transport = Listening(process.transport, heard, retries, mesh.ejected, self.without)
        till = client(
            Till, resolver, transport=transport, mesh=mesh, random=random, patience_s=random.choice((0.2, 2.0))
        )
        async with asyncio.TaskGroup() as callers:
            for _ in range(settings.callers):
                callers.create_task(self._call(process, till))

    async def _call(self, process: Process, till: Service) -> None:
        draw, history = process.random, self.judge.world.history
        while True:
            await asyncio.sleep(draw.random() * (HURRY_S if self._settings.hurried else self._settings.pause_s))
            number, method = next(self._numbers), draw.choice(METHODS)
            call = history.invoke(self.name, method, number)
            try:
                done: Done = await getattr(till, method)(Asked(number=number))
            except Error as error:
                history.unknown(call, error.code)
            else:
                history.ok(call, done.by)
                self.reached.add(done.by.rpartition("@")[2])
                if done.number != number:
                    self.judge.wrong(self.name, f"asked {number} and was answered {done.number}")
            took_s = self.judge.world.now_s - call.began_s
            if took_s > TIMEOUT_S + 0.01:
                self.judge.wrong(self.name, f"waited {took_s:.3f} s for {method}, which has {TIMEOUT_S} s")


def judge_calls(judge: Judge, calls: list[Call], *, calm: bool) -> list[str]:
    """What the callers were told, against what was done."""
    found: list[str] = []
    # The network may carry out such a request again, long after it was refused where it came first.
    copied = any(fault.what.startswith(TWICE) for fault in judge.world.faults.happened)
    for call in calls:
        number = call.key
        assert isinstance(number, int)
        done = judge.executed[number]
        judge.seen[f"{call.what} {call.outcome.value}"] += 1
        if call.outcome is Outcome.OK:
            if call.result not in judge.by.get(number, ()):
                found.append(f"{call.what} {number} was answered by {call.result}, which did not do it")
        elif call.ended_s is not None:
            judge.seen[str(call.result)] += 1
            if done and call.result in NOT_DONE and not (copied and call.what == "look"):
                found.append(f"{call.what} {number} was done, and its caller was told {call.result}")
            if calm and call.result != "max_requests":
                found.append(f"{call.what} {number} failed at {call.ended_s:.3f} s without a fault: {call.result}")
        if done > 1 and call.what.startswith("pay"):
            found.append(f"{call.what} {number} was done {done} times")
    return found
