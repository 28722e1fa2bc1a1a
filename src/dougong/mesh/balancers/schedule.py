"""Earliest deadline first: shares by weight, spread evenly instead of in bursts.

Each host has a deadline; the earliest is picked and its next deadline lies 1/weight later. Of weights 5, 1, 1 the picks
read `aabacaa` rather than `aaaaabc`. The same as Envoy's scheduler, a random start included: a fleet of clients that
start together does not walk over the hosts in step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from random import Random

from dougong.mesh.host import Host

__all__ = ["Schedule", "Scheduled", "warm_share"]

_MIN_WARM_SHARE = 0.1
"""Envoy's slow start: a tenth of its weight at first, or a new host would not see a call for a long time."""


def warm_share(host: Host, now: float, warmup_s: float) -> float:
    """How much of its weight a host has: rises with time since `joined_at`, from a tenth to 1."""
    age_s = now - host.joined_at
    return 1.0 if age_s >= warmup_s else max(age_s / warmup_s, _MIN_WARM_SHARE)


class Schedule:
    """The queue of one set of hosts. A host's weight may change: its new one counts from its next pick."""

    __slots__ = ("_heap", "_parked", "_time", "_weigh")

    def __init__(
        self, hosts: Sequence[Host], weigh: Callable[[Host, float], float], random: Random, now: float
    ) -> None:
        self._weigh = weigh
        self._parked: list[tuple[int, Host]] = []
        """Met while ejected: out of the queue until they are back."""
        weights = [weigh(host, now) for host in hosts]
        # As if some rounds had been picked before, up to anywhere in one. All but a few of the picks are arithmetic.
        total = sum(weights)
        picks = int(random.random() * 1000 * total / min(weights)) if weights else 0
        begun = [int(picks * weight / total) for weight in weights]
        self._heap = [
            ((turns + 1) / weight, index, host)  # equal deadlines in the order of hosts: one cycle, begun anywhere
            for index, (turns, weight, host) in enumerate(zip(begun, weights, hosts, strict=True))
        ]
        heapify(self._heap)
        self._time = 0.0
        for _ in range(picks - sum(begun)):
            self.pick(now, panic=True)

    def pick(self, now: float, *, panic: bool = False) -> Host | None:
        """Whose turn it is; None when all are ejected."""
        heap = self._heap
        if self._parked:
            self._unpark(now)
        while heap:
            deadline, index, host = heap[0]
            if host.away and not panic:
                self._parked.append(heappop(heap)[1:])
                continue
            self._time = deadline
            heapreplace(heap, (deadline + 1.0 / self._weigh(host, now), index, host))
            return host
        return None

    def _unpark(self, now: float) -> None:
        back = [entry for entry in self._parked if not entry[1].away]
        if back:
            self._parked = [entry for entry in self._parked if entry[1].away]
        for index, host in back:
            heappush(self._heap, (self._time + 1.0 / self._weigh(host, now), index, host))


class Scheduled:
    """For balancers that keep a schedule only where weights differ, or while a host warms up; as Envoy does.

    Envoy keeps the schedule of a warm-up until hosts change again; here it ends with the warm-up.
    """

    def __init__(self, random: Random, *, warmup_s: float = 0.0) -> None:
        self._random = random
        self._warmup_s = warmup_s
        self._hosts: tuple[Host, ...] | None = None
        self._by_weight = True
        """Whether a pick has to ask `_scheduled`."""
        self._differ = False
        self._warm_at = 0.0
        self._panic = False
        self._schedule: Schedule | None = None

    def changed(self, hosts: Sequence[Host], *, panic: bool = False) -> None:
        self._hosts = tuple(hosts)
        self._panic = panic
        self._differ = any(host.weight != hosts[0].weight for host in hosts)
        self._warm_at = max((host.joined_at for host in hosts), default=0.0) + self._warmup_s if self._warmup_s else 0.0
        self._schedule = None
        self._by_weight = self._differ or self._warmup_s > 0.0

    def _scheduled(self, hosts: Sequence[Host], now: float) -> Host | None:
        """Whose turn it is by weight; None where weights play no part."""
        if self._hosts is None:
            self.changed(hosts)
        assert self._hosts is not None
        if not self._differ and now >= self._warm_at:
            self._by_weight = False
            self._schedule = None
            return None
        if self._schedule is None:
            self._schedule = Schedule(self._hosts, self._weigh, self._random, now)
        return self._schedule.pick(now, panic=self._panic)

    def _weigh(self, host: Host, now: float) -> float:
        """The share of a host, above 0."""
        weight = float(host.weight or 1)
        return weight * warm_share(host, now, self._warmup_s) if self._warmup_s else weight
