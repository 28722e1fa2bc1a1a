"""Localities: near hosts first, farther ones as far as the near ones are ill, or shares as a policy gives them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from random import Random

from dougong.errors import Unavailable
from dougong.mesh.balancers.balancer import Balancer
from dougong.mesh.balancers.maglev import Maglev
from dougong.mesh.balancers.priorities import Shares, distribution, priorities, shares
from dougong.mesh.balancers.ring_hash import RingHash
from dougong.mesh.host import Host
from dougong.mesh.p2c import no_endpoint
from dougong.mesh.policy import LocalityPolicy

__all__ = ["Localities"]

_CHECK_S = 0.1
"""Ejections that nobody announced are noticed after that long."""


class Localities:
    """A balancer over balancers: one for each locality of each level, or one per level where calls are hashed.

    `pick` chooses from the hosts that `changed` was told of, whatever it is given. `failover` is whether levels exist
    at all: Istio has them only where outlier detection is on, since otherwise nobody would ever be ill.
    """

    def __init__(
        self,
        policy: LocalityPolicy,
        random: Random,
        make: Callable[[], Balancer],
        *,
        locality: str = "",
        labels: Mapping[str, str] | None = None,
        failover: bool = True,
        panic_percent: int = 0,
    ) -> None:
        self._policy = policy
        self._random = random
        self._make = make
        self._locality = locality
        self._labels: Mapping[str, str] = labels if labels is not None else {}
        self._failover = failover and not policy.distribute
        self._panic_percent = panic_percent
        self._hosts: tuple[Host, ...] | None = None
        self._places: list[tuple[Host, int, str]] = []
        """Who is in which level and locality."""
        self._levels: list[_Level] = []
        self._all_panic = False
        self._marks: list[bool] = []
        self._check_at = 0.0
        self._shares = Shares(percent=(100,), panic=(False,))
        self._bounds: list[int] = [100]

    @property
    def shares(self) -> Shares:
        """Who gets how much now."""
        return self._shares

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        if self._hosts is None:
            self.changed(hosts)
        if now >= self._check_at:
            self._check_at = now + _CHECK_S
            if [host.away for host in self._hosts or ()] != self._marks:
                self._weigh()
        if not self._levels:
            raise no_endpoint(0)
        draw = key % 100 + 1 if key is not None else int(self._random.random() * 100) + 1
        try:
            return self._levels[bisect_left(self._bounds, draw)].pick(key, now, self._random)
        except Unavailable:
            self._weigh()  # ejected since: its share is for others now
            return self._levels[bisect_left(self._bounds, draw)].pick(key, now, self._random)

    def changed(self, hosts: Sequence[Host], *, panic: bool = False) -> None:
        self._all_panic = panic
        self._hosts = tuple(hosts)
        levels = priorities(hosts, self._policy, self._locality, self._labels) if self._failover else [0] * len(hosts)
        places = [(host, level, host.locality) for host, level in zip(hosts, levels, strict=True)]
        if places != self._places:
            self._places = places
            self._levels = [
                _Level([host for host, place, _ in places if place == level], self._make)
                for level in sorted(set(levels))
            ]
        self._weigh()

    def _weigh(self) -> None:
        """Shares of levels and localities from who is ejected now."""
        if not self._levels:
            return
        self._marks = [host.away for host in self._hosts or ()]
        health = [(sum(not host.away for host in level.hosts), len(level.hosts)) for level in self._levels]
        # Panic that somebody else declared is panic in every level.
        self._shares = shares(
            [(0, count) for _, count in health] if self._all_panic else health,
            panic_percent=100 if self._all_panic else self._panic_percent,
        )
        self._bounds = list(accumulate(self._shares.percent))
        for level, panic in zip(self._levels, self._shares.panic, strict=True):
            level.changed(self._policy, self._locality, panic=panic)


class _Level:
    """The hosts of one priority, by locality."""

    def __init__(self, hosts: Sequence[Host], make: Callable[[], Balancer]) -> None:
        self.hosts = tuple(hosts)
        by_locality: dict[str, list[Host]] = {}
        for host in hosts:
            by_locality.setdefault(host.locality, []).append(host)
        self._localities = sorted(by_locality, key=lambda locality: locality.split("/"))  # Envoy's order
        self._groups = [by_locality[locality] for locality in self._localities]
        first = make()
        self._ring = first if isinstance(first, RingHash | Maglev) else None
        self._balancers = [first, *(make() for _ in self._groups[1:])]
        self._bounds: list[float] = []
        """Of the groups' weights, added up."""

    def pick(self, key: int | None, now: float, random: Random) -> Host:
        if self._ring is not None:
            return self._ring.pick((), key, now)
        total = self._bounds[-1]
        if total <= 0.0:
            raise no_endpoint(len(self.hosts))
        at = bisect_left(self._bounds, (1.0 - random.random()) * total) if len(self._groups) > 1 else 0
        return self._balancers[at].pick(self._groups[at], key, now)

    def changed(self, policy: LocalityPolicy, locality: str, *, panic: bool) -> None:
        own = [float(sum(host.weight or 1 for host in group)) for group in self._groups]
        weights = distribution(self._localities, own, policy, locality)
        if self._ring is not None:
            self._hash(self._ring, weights, panic=panic)
            return
        for balancer, group in zip(self._balancers, self._groups, strict=True):
            balancer.changed(group, panic=panic)
        # Envoy: a locality gives traffic away once less than 1/1.4 of it is healthy.
        self._bounds = list(
            accumulate(
                weight * (1.0 if panic else min(1.0, 1.4 * sum(not host.away for host in group) / len(group)))
                for weight, group in zip(weights, self._groups, strict=True)
            )
        )

    def _hash(self, ring: RingHash | Maglev, weights: Sequence[float], *, panic: bool) -> None:
        """One ring over all localities, in which each has its weight however many of its hosts are left."""
        hosts: list[Host] = []
        shares_: list[float] = []
        whole = sum(weights)
        for group, weight in zip(self._groups, weights, strict=True):
            usable = [host for host in group if panic or not host.away]
            total = sum(host.weight or 1 for host in usable)
            if weight:
                hosts += usable
                shares_ += [(host.weight or 1) * (weight / whole) / total for host in usable]
        ring.use(hosts, shares_, panic=panic)
