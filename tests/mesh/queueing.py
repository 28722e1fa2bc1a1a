"""A queueing system in virtual time: hosts with workers, calls that arrive by chance, a balancer between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

from dougong.mesh.balancers import Balancer, observe
from dougong.mesh.host import Host


def latencies(
    balancer: Balancer,
    hosts: list[Host],
    service_s: Callable[[Host, Random], float],
    *,
    calls: int,
    per_s: float,
    seed: int,
) -> list[float]:
    """How long each call took, in order of arrival. One worker per host, first come first served."""
    random = Random(seed)
    took = [0.0] * calls
    waiting: dict[Host, deque[int]] = {host: deque() for host in hosts}
    begun = [0.0] * calls
    ends: list[tuple[float, int, Host]] = []
    balancer.changed(hosts)
    now, arrived = 0.0, 0
    next_arrival = random.expovariate(per_s)
    while arrived < calls or ends:
        if arrived < calls and (not ends or next_arrival <= ends[0][0]):
            now = next_arrival
            host = balancer.pick(hosts, None, now)
            host.in_flight += 1
            begun[arrived] = now
            waiting[host].append(arrived)
            if len(waiting[host]) == 1:
                heappush(ends, (now + service_s(host, random), arrived, host))
            arrived += 1
            next_arrival = now + random.expovariate(per_s)
        else:
            now, call, host = heappop(ends)
            waiting[host].popleft()
            host.in_flight -= 1
            took[call] = now - begun[call]
            observe(host, took[call], now)
            if waiting[host]:
                heappush(ends, (now + service_s(host, random), waiting[host][0], host))
    return took


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]
