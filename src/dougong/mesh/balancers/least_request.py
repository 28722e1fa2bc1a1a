"""Least request: who has fewer calls in flight. Istio's default."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from dougong.mesh.balancers.schedule import Scheduled
from dougong.mesh.host import Host
from dougong.mesh.p2c import choose

__all__ = ["LeastRequest"]


class LeastRequest(Scheduled):
    """Of two drawn at random the less loaded; where weights differ, in turn by `weight / (in_flight + 1) ** bias`.

    Envoy draws the two with replacement, so of two hosts it takes the fuller one in a quarter of all picks. Here they
    are two different ones.
    """

    def __init__(self, random: Random, *, warmup_s: float = 0.0, bias: float = 1.0) -> None:
        super().__init__(random, warmup_s=warmup_s)
        self._bias = bias
        self._draw = random.random

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        if self._by_weight:
            host = self._scheduled(hosts, now)
            if host is not None:
                return host
        count = len(hosts)
        if count > 1:
            first = int(self._draw() * count)
            second = int(self._draw() * (count - 1))
            second += second >= first
            one, other = hosts[first], hosts[second]
            if not (one.away or other.away) or self._panic:
                return other if other.in_flight < one.in_flight else one
        usable = hosts if self._panic else [host for host in hosts if not host.away]
        return choose(usable, self._random)

    def _weigh(self, host: Host, now: float) -> float:
        weight = super()._weigh(host, now)
        return weight / (host.in_flight + 1) ** self._bias if self._bias else weight
