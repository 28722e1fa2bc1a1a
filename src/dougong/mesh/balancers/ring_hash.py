"""Ring hash: a key belongs to the next host clockwise, so a host that goes takes only its own keys with it.

Karger et al., Consistent Hashing and Random Trees (1997). The ring is built as Envoy builds it (after ketama): each
host stands at `hash("address_0")`, `hash("address_1")`, ... as often as its weight says, the lightest one a whole
number of times. With v points per host the load of a host varies by about 1/sqrt(v): of 1,024 points 10 hosts have 103
each, hence a tenth more or less. The ring keeps its size: when a host goes, the others get more points, and so about as
many keys move again as it had. Where that matters, Maglev moves fewer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil
from random import Random

from dougong.mesh.balancers.hashing import hash64
from dougong.mesh.host import Host
from dougong.mesh.p2c import no_endpoint

__all__ = ["RingHash"]

_RING_SIZE_MAX = 8 * 1024 * 1024
"""Envoy's; bounds memory where weights lie far apart."""


class RingHash:
    """Without a key: any host."""

    def __init__(self, random: Random, *, ring_size_min: int = 1024) -> None:
        self._random = random
        self._ring_size_min = ring_size_min
        self._points: list[int] = []
        self._owners: list[Host] = []
        self._panic = False

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        if not self._points:
            self.changed(hosts)
        if key is None:
            key = self._random.getrandbits(64)
        at = bisect_left(self._points, key)
        owners = self._owners
        for place in range(at - len(owners), at):  # counts from the end: once around, with no modulo
            host = owners[place]
            if not host.away or self._panic:
                return host
        if all(host.away for host in hosts):
            raise no_endpoint(len(hosts))
        self.changed(hosts)  # all on the ring are ejected, and others are back
        return self.pick(hosts, key, now)

    def changed(self, hosts: Sequence[Host], *, panic: bool = False) -> None:
        usable = [host for host in hosts if panic or not host.away]
        total = sum(host.weight or 1 for host in usable)
        self.use(usable, [(host.weight or 1) / total for host in usable], panic=panic)

    def use(self, hosts: Sequence[Host], shares: Sequence[float], *, panic: bool = False) -> None:
        """Builds the ring over exactly these.

        The arithmetic is Envoy's, operation by operation: a sum that is rounded another way is another point on the
        ring, and some keys that lie elsewhere.
        """
        self._panic = panic
        self._points, self._owners = [], []
        if not hosts:
            return
        lightest = min(shares)
        scale = min(ceil(lightest * self._ring_size_min) / lightest, _RING_SIZE_MAX)
        ring: list[tuple[int, int]] = []
        target = 0.0
        for index, (host, share) in enumerate(zip(hosts, shares, strict=True)):
            target += scale * share
            turn = 0
            while len(ring) < target:
                ring.append((hash64(f"{host.address}_{turn}"), index))
                turn += 1
        ring.sort()
        self._points = [point for point, _ in ring]
        self._owners = [hosts[index] for _, index in ring]
