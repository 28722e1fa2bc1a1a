"""Peak EWMA: of two hosts drawn at random the one with less expected waiting, by its latency and what it has to do.

From Finagle. An average of latency that jumps up to a peak at once and comes down only as time passes, times the calls
in flight and the one more: a host that gets slow loses its calls within a few of them, long before it fails.

`observe` is told how long each call took. A failed call counts as at least its time-out: otherwise a host that refuses
everything at once looks like the fastest of all and draws every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from random import Random

from dougong.mesh.balancers.schedule import warm_share
from dougong.mesh.host import Host
from dougong.mesh.p2c import choose

__all__ = ["Latency", "PeakEwma", "observe"]

_UNKNOWN = 1e12
"""Load of a host whose first call is still out: nobody is sent after it until it is known."""


class Latency:
    """What is kept about one host, in `Host.ewma`."""

    __slots__ = ("_decay_s", "cost_s", "stamp")

    def __init__(self, decay_s: float) -> None:
        self._decay_s = decay_s
        self.cost_s = 0.0
        self.stamp = 0.0

    def observe(self, latency_s: float, now: float) -> None:
        if latency_s > self.cost_s * exp((self.stamp - now) / self._decay_s):
            self.cost_s = latency_s
        else:
            # Time between observations counts, not their number: a busy host forgets no faster than an idle one.
            kept = exp((self.stamp - now) / self._decay_s)
            self.cost_s = self.cost_s * kept + latency_s * (1.0 - kept)
        self.stamp = now


def observe(host: Host, latency_s: float, now: float) -> None:
    """A call to `host` took so long. Nothing is kept where nobody asks for it."""
    if isinstance(host.ewma, Latency):
        host.ewma.observe(latency_s, now)


class PeakEwma:
    """Two draws, the smaller load wins. Weights divide the load."""

    def __init__(self, random: Random, *, decay_s: float = 10.0, warmup_s: float = 0.0) -> None:
        self._random = random
        self._decay_s = decay_s
        self._warmup_s = warmup_s
        self._panic = False

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        random = self._random.random
        count = len(hosts)
        if count > 1:
            first = int(random() * count)
            second = int(random() * (count - 1))
            second += second >= first
            one, other = hosts[first], hosts[second]
            if self._panic or not (one.away or other.away):
                return other if self.load(other, now) < self.load(one, now) else one
        usable = hosts if self._panic else [host for host in hosts if not host.away]
        return choose(usable, self._random, lambda host: self.load(host, now))

    def changed(self, hosts: Sequence[Host], *, panic: bool = False) -> None:
        self._panic = panic
        for host in hosts:
            if not isinstance(host.ewma, Latency):
                host.ewma = Latency(self._decay_s)

    def load(self, host: Host, now: float) -> float:
        """Expected wait for one more call, up to a factor."""
        latency = host.ewma
        if not isinstance(latency, Latency):
            latency = host.ewma = Latency(self._decay_s)
        cost = latency.cost_s
        if cost == 0.0:
            return _UNKNOWN + host.in_flight if host.in_flight else 0.0
        load = cost * exp((latency.stamp - now) / self._decay_s) * (host.in_flight + 1) / (host.weight or 1)
        return load / warm_share(host, now, self._warmup_s) if self._warmup_s else load
