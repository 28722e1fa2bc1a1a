"""Round robin: one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from dougong.mesh.balancers.schedule import Scheduled
from dougong.mesh.host import Host
from dougong.mesh.p2c import no_endpoint

__all__ = ["RoundRobin"]


class RoundRobin(Scheduled):
    """In turn from a random start; where weights differ, each as often as its weight says, evenly spread."""

    def __init__(self, random: Random, *, warmup_s: float = 0.0) -> None:
        super().__init__(random, warmup_s=warmup_s)
        self._next = int(random.random() * (1 << 30))

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        if self._by_weight:
            host = self._scheduled(hosts, now)
            if host is not None:
                return host
        count = len(hosts)
        for _ in range(count):
            host = hosts[self._next % count]
            self._next += 1
            if not host.away or self._panic:
                return host
        raise no_endpoint(count)
