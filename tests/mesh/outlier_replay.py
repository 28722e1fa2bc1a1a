"""Stories of answers and waits, against a real Envoy and against our core.

Envoy chooses the host and its timer ends the intervals; both are observed and told to our core in the order in which
they happened. So the two see the same events, and must decide, count and log the same.
"""

from __future__ import annotations

import asyncio
import bisect
import functools
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec
from tests.engines import free_port
from tests.mesh.envoy import Access, ClusterSpec, Envoy, Logged
from tests.mesh.metronome import Metronome, metronome_cluster
from tests.mesh.replayed import Replayed
from tests.mesh.upstreams import Answer, Caller, Upstreams
from tests.mesh.vectors import (
    OUTLIER_VECTORS,
    RATE_TICK_S,
    SLOW_TICK_S,
    TICK_S,
    Calls,
    OutlierVector,
)

from dougong.errors import Unavailable
from dougong.mesh.cluster import Cluster
from dougong.mesh.host import Host
from dougong.mesh.outcome import CONNECT_FAILED, RESET, TIMEOUT, Outcome, of_grpc, of_http
from dougong.mesh.policy import Policy
from dougong.mesh.statistics import Action
from dougong.registry import Instance

__all__ = ["replay_outliers"]

_TRIES = 8
"""The later ones are for a machine that is busy with something else."""
_POSTED_S = 0.01
"""Envoy ejects on its main thread and tells the one that picks: a call right behind the error may still go there."""
_NEAR_S = 0.02
"""Nearer to the end of an interval than this, we cannot tell on which side an event was."""


class _Seen(msgspec.Struct, frozen=True):
    """What happened to one vector in Envoy."""

    name: str
    calls: list[_Call]
    accesses: dict[str, Access]
    events: list[Logged]
    beats: list[float]
    statistics: dict[str, int]
    end: float
    """When the statistics were read."""


class _Call(msgspec.Struct, frozen=True):
    began: float
    ended: float
    name: str
    answer: Answer


async def replay_outliers(upstreams: Upstreams, differing: Collection[str]) -> dict[str, Replayed]:
    dead = tuple(free_port() for _ in upstreams.ports)
    metronomes = {period: f"tick-{round(period * 1000)}" for period in (TICK_S, SLOW_TICK_S, RATE_TICK_S)}
    specs = [metronome_cluster(name, period, upstreams.ports[0]) for period, name in metronomes.items()]
    vectors = sorted(OUTLIER_VECTORS, key=lambda vector: not vector.timed)  # their timers start with the metronomes'
    for attempt in range(_TRIES):
        specs += [_spec(vector, f"{vector.name}.{attempt}", upstreams, dead) for vector in vectors]
    envoy = Envoy(specs)
    envoy.start()
    beats: list[asyncio.Task[None]] = []
    try:
        await envoy.ready()
        ticking = {period: Metronome(envoy, upstreams, name, period) for period, name in metronomes.items()}
        beats = [asyncio.create_task(metronome.run()) for metronome in ticking.values()]
        done: dict[str, Replayed] = {}
        left = vectors
        for attempt in range(_TRIES):
            done |= await _Run(envoy, upstreams, ticking, dead, attempt).all(left)
            left = [vector for vector in left if _again(vector, done[vector.name], differing)]
            if not left:
                break
        return done
    finally:
        for beat in beats:
            beat.cancel()
        await asyncio.gather(*beats, return_exceptions=True)
        envoy.stop()


def _again(vector: OutlierVector, replayed: Replayed, differing: Collection[str]) -> bool:
    if vector.name in differing:
        return bool(replayed.void)
    unlike = any(replayed.envoy.get(name) != value for name, value in vector.seen.items())
    unlike |= bool(vector.intervals) and replayed.envoy_intervals != list(vector.intervals)
    return bool(replayed.void) or replayed.differs or unlike


def _spec(vector: OutlierVector, name: str, upstreams: Upstreams, dead: Sequence[int]) -> ClusterSpec:
    return ClusterSpec(name, _ports(vector, upstreams, dead), vector.policy, http2=vector.grpc)


def _ports(vector: OutlierVector, upstreams: Upstreams, dead: Sequence[int]) -> tuple[int, ...]:
    ports = upstreams.grpc_ports if vector.grpc else upstreams.ports
    return tuple(dead[host] if host in vector.dead else ports[host] for host in range(vector.hosts))


class _Run:
    """One attempt at some vectors, all at once."""

    def __init__(
        self,
        envoy: Envoy,
        upstreams: Upstreams,
        metronomes: dict[float, Metronome],
        dead: Sequence[int],
        attempt: int,
    ) -> None:
        self._envoy = envoy
        self._upstreams = upstreams
        self._metronomes = metronomes
        self._dead = dead
        self._attempt = attempt
        self._posted_s = _POSTED_S * 2 ** min(attempt, 3)

    async def all(self, vectors: Sequence[OutlierVector]) -> dict[str, Replayed]:
        some = asyncio.Semaphore(12)  # calls by the thousand at once would delay those that are timed

        async def one(vector: OutlierVector) -> list[_Call]:
            if vector.timed:
                return await self._outlier(vector)
            async with some:
                return await self._outlier(vector)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(vector)) for vector in vectors]
        while not all(metronome.quiet for metronome in self._metronomes.values()):
            await asyncio.sleep(0.01)
        statistics, end = await self._envoy.all_statistics(), time.time()
        await asyncio.sleep(0.2)  # logs are flushed every 20 ms
        accesses, events = self._envoy.accesses(), self._envoy.events()
        done: dict[str, Replayed] = {}
        for vector, task in zip(vectors, tasks, strict=True):
            name = f"{vector.name}.{self._attempt}"
            beat = self._metronomes.get(vector.policy.interval_s)
            seen = _Seen(
                name=name,
                calls=task.result(),
                accesses=accesses,
                events=[event for event in events if event.cluster == name and event.at <= end],
                beats=[e.at for e in events if beat is not None and e.cluster == beat.name and e.action == "UNEJECT"],
                statistics=statistics.get(name, {}),
                end=end,
            )
            done[vector.name] = self._against_ours(vector, seen)
            done[vector.name].once_more = functools.partial(self._against_ours, vector, seen)
        return done

    async def _outlier(self, vector: OutlierVector) -> list[_Call]:
        name = f"{vector.name}.{self._attempt}"
        metronome = self._metronomes.get(vector.policy.interval_s)
        caller = Caller(self._envoy.port)
        calls: list[_Call] = []
        told: dict[int, Iterator[Answer]] = {}
        answers: dict[str, Answer] = {}

        def decide(host: int, attempt: int, name: str) -> Answer:
            answers[name] = next(told[host], 200) if host in told else 200
            return answers[name]

        self._upstreams.decide[name] = decide
        if metronome is not None:
            await metronome.wait(1)
            await asyncio.sleep(vector.policy.interval_s / 5)
        try:
            for step in vector.steps:
                if not isinstance(step, Calls):
                    assert metronome is not None, f"{vector.name} waits for intervals that nobody measures"
                    await metronome.wait(step.count)
                    await asyncio.sleep(vector.policy.interval_s / 5 if step.count else 0)
                    continue
                told.update((host, iter(said)) for host, said in step.answers.items())
                for _ in range(step.count):
                    key = f"{name}/{len(calls)}"
                    began = time.time()
                    status = await self._call(caller, vector, name, key, short=step.short)
                    calls.append(_Call(began, time.time(), key, answers.get(key, 200)))
                    if status >= 500 and not vector.rates:
                        await asyncio.sleep(self._posted_s)
        finally:
            caller.close()
        return calls

    async def _call(self, caller: Caller, vector: OutlierVector, name: str, key: str, *, short: bool) -> int:
        if not vector.grpc:
            return await caller.call(name, key, *(("x-short",) if short else ()))
        return await caller.call_grpc(name, key)

    def _against_ours(self, vector: OutlierVector, seen: _Seen) -> Replayed:
        name = seen.name
        ports = _ports(vector, self._upstreams, self._dead)
        replayed = Replayed(seen.statistics, {})
        own = [event.at for event in seen.events if event.action == "UNEJECT"]
        ticks = _own_ticks(seen.beats, own, vector.policy.interval_s)
        begin = seen.calls[0].began - 1.0
        balancer = _AsTold()
        cluster = Cluster(name, Policy(outlier=vector.policy), begin, balancer=balancer)
        cluster.update(tuple(Instance(service=name, address=f"127.0.0.1:{port}") for port in ports), begin)
        by_port = dict(zip(ports, cluster.hosts, strict=True))
        cluster.due = math.inf  # its intervals end when Envoy's do
        coming = deque(tick for tick in ticks if begin < tick <= seen.end)

        def pass_time(until: float) -> None:
            while coming and coming[0] <= until:
                cluster.due = coming.popleft()
                cluster.tick(cluster.due)
                cluster.due = math.inf

        for call in seen.calls:
            pass_time(call.ended)
            if vector.timed and _near(ticks, call.began, call.ended):
                replayed.void = f"{call.name} came near to the end of an interval"
            access = seen.accesses[call.name]
            balancer.told = by_port.get(access.port)
            try:
                host = cluster.pick(call.ended)
            except Unavailable:
                if balancer.told is None:
                    continue
                replayed.wrong_picks.append(f"{call.name}: {access.port}, and we: nobody")
                host = balancer.told
            else:
                if balancer.told is None or balancer.wrong:
                    replayed.wrong_picks.append(f"{call.name}: {access.port or 'nobody'}")
            outcome = _outcome(access, call.answer)
            if outcome is CONNECT_FAILED:
                cluster.report(host, outcome, call.ended)
            else:
                cluster.begin(host)
                cluster.sent(host)
                cluster.ended(host, outcome, call.ended)
        pass_time(seen.end)
        if vector.rates and any(seen.calls[0].began < tick < seen.calls[-1].ended for tick in ticks):
            replayed.void = "the calls of one interval took longer than that"
        if vector.timed and _near(ticks, seen.end, seen.end):
            replayed.void = "statistics were read near to the end of an interval"
        replayed.ours = {key.removeprefix(f"cluster.{name}."): value for key, value in cluster.statistics().items()}
        replayed.envoy_log = _lines(
            (event.action, event.kind, event.enforced, str(event.port), event.num_ejections) for event in seen.events
        )
        replayed.our_log = _lines(
            (str(e.action), str(e.type), e.enforced, e.upstream.rpartition(":")[2], e.num_ejections)
            for e in cluster.log.events
        )
        period = vector.policy.interval_s
        replayed.envoy_intervals = _intervals(((e.action, str(e.port), e.at) for e in seen.events), period)
        ours = ((str(e.action), e.upstream, e.time) for e in cluster.log.events)
        replayed.our_intervals = _intervals(ours, period)
        return replayed


class _AsTold:
    """Picks what Envoy picked, and notes whether it was among those that may be."""

    def __init__(self) -> None:
        self.told: Host | None = None
        self.wrong = False
        self._panic = False

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        if self.told is None:
            return hosts[0]
        self.wrong = self.told.ejected and not self._panic
        return self.told

    def changed(self, hosts: Sequence[Host], *, panic: bool = False) -> None:
        self._panic = panic


def _near(ticks: Sequence[float], began: float, ended: float) -> bool:
    return bisect.bisect(ticks, ended + _NEAR_S) != bisect.bisect(ticks, began - _NEAR_S)


def _outcome(access: Access, answer: Answer) -> Outcome:
    flags = access.flags.split(",")
    if "UF" in flags:
        return CONNECT_FAILED
    if "UT" in flags:
        return TIMEOUT
    if "UC" in flags or "UR" in flags:
        return RESET
    if isinstance(answer, str) and answer.startswith("grpc"):
        return of_grpc(int(answer[5:]), in_trailers=answer[4] == ":")
    return of_http(access.status)


def _own_ticks(beats: Sequence[float], own: Sequence[float], period: float) -> list[float]:
    """The cluster's timer was set a moment before or after the metronome's; its own un-ejections say by how much."""
    if not beats:
        return []
    offsets = [min((at - beat for beat in beats), key=abs) for at in own]
    offset = sorted(offsets)[len(offsets) // 2] if offsets else 0.0
    ticks: list[float] = []
    for beat in sorted(beats):  # a timer may be late, and is never early
        ticks.append(max(beat + offset, ticks[-1] + period) if ticks else beat + offset)
    return ticks


def _lines(events: Iterable[tuple[str, str, bool, str, int]]) -> list[str]:
    """Who comes back at the end of the same interval comes in any order: Envoy keeps hosts in a hash table."""
    lines: list[str] = []
    back: list[str] = []
    for action, kind, enforced, port, count in events:
        if action == Action.UNEJECT:
            back.append(f"UNEJECT {port} {count}")
            continue
        lines += [*sorted(back), f"EJECT {kind} {'enforced' if enforced else 'noticed'} {port} {count}"]
        back.clear()
    return [*lines, *sorted(back)]


def _intervals(events: Iterable[tuple[str, str, float]], period: float) -> list[int]:
    since: dict[str, float] = {}
    made: list[tuple[float, str, int]] = []
    for action, host, at in events:
        if action == Action.EJECT:
            since[host] = at
        else:
            made.append((round(at / period), host, math.ceil((at - since.pop(host)) / period)))
    return [count for *_, count in sorted(made)]
