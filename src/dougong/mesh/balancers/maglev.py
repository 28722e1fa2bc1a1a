"""Maglev: a table that spreads keys almost perfectly evenly, and moves few more than it must when a host goes.

Eisenbud et al., Maglev (NSDI 2016). Every host has its own order of all places in the table (offset and step from two
hashes); in turn each takes the first place in its order that is still free. A lookup is one modulo. Evener than a ring;
what it gives up is that a few keys of hosts that stayed move as well.

A table of 65,537 places takes some 60 ms to fill, in which nothing else would happen on the loop. So a new one is
filled a slice with each pick, while the old one answers, less those who have gone.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from random import Random

from dougong.errors import Invalid
from dougong.mesh.balancers.hashing import hash64
from dougong.mesh.host import Host
from dougong.mesh.p2c import no_endpoint

__all__ = ["Maglev"]

_SLICE = 1024
"""Places filled per pick: about a millisecond."""


class Maglev:
    """Without a key: any host."""

    def __init__(self, random: Random, *, table_size: int = 65_537) -> None:
        if not _is_prime(table_size):
            raise Invalid(
                f"the size of a Maglev table is a prime, {table_size} is none: take 65537, or 251 for tests",
                code="maglev_table_size",
                table_size=table_size,
            )
        self._random = random
        self._size = table_size
        self._table: list[Host] = []
        self._entries: tuple[tuple[Host, float], ...] = ()
        """What the table is of, or will be once it is filled."""
        self._filling: Generator[None, None, list[Host]] | None = None
        self._present: frozenset[Host] = frozenset()
        self._panic = False

    def pick(self, hosts: Sequence[Host], key: int | None, now: float) -> Host:
        if not self._table:
            self.changed(hosts)
        if key is None:
            key = self._random.getrandbits(64)
        if self._table:
            if self._filling is not None:
                self._fill_on(self._filling)
            at = key % self._size
            host = self._table[at]
            if self._filling is None and (not host.away or self._panic):
                return host
            for place in range(at - self._size, at):  # counts from the end: once around, with no modulo
                host = self._table[place]
                if (not host.away or self._panic) and host in self._present:
                    return host
        if all(host.away for host in hosts):
            raise no_endpoint(len(hosts))
        self.changed(hosts)  # all in the table are ejected, and others are back
        return self.pick(hosts, key, now)

    def changed(self, hosts: Sequence[Host], *, panic: bool = False) -> None:
        usable = [host for host in hosts if panic or not host.away]
        total = sum(host.weight or 1 for host in usable)
        self.use(usable, [(host.weight or 1) / total for host in usable], panic=panic)

    def use(self, hosts: Sequence[Host], shares: Sequence[float], *, panic: bool = False) -> None:
        """A table over exactly these, unless it is the one there is."""
        self._panic = panic
        # Sorted by address: in another order the same hosts would fight for other places.
        entries = tuple(sorted(zip(hosts, shares, strict=True), key=lambda entry: entry[0].address))
        if entries == self._entries:
            return
        stay = self._present.intersection(hosts)
        self._entries = entries
        self._present = frozenset(hosts)
        self._filling = _fill(entries, self._size)
        if not stay:
            self._table = []  # nobody in it is there any more
            while self._fill_on(self._filling):
                pass

    def _fill_on(self, filling: Generator[None, None, list[Host]]) -> bool:
        """Whether there is more to do."""
        try:
            next(filling)
        except StopIteration as done:
            self._table = done.value
            self._filling = None
            return False
        return True


def _fill(entries: Sequence[tuple[Host, float]], size: int) -> Generator[None, None, list[Host]]:
    """Yields after every slice, and returns the table."""
    if not entries:
        return []
    heaviest = max(share for _, share in entries)
    steps = [hash64(host.address, 1) % (size - 1) + 1 for host, _ in entries]
    places = [hash64(host.address) % size for host, _ in entries]
    targets = [0.0] * len(entries)
    owners = [-1] * size
    left, iteration = size, 0
    while left:
        iteration += 1
        for turn, (_, share) in enumerate(entries):
            # A host of a third of the heaviest share takes a place in every third round.
            if iteration * share < targets[turn]:
                continue
            targets[turn] += heaviest
            place, step = places[turn], steps[turn]
            while owners[place] >= 0:
                place += step
                if place >= size:
                    place -= size
            owners[place] = turn
            places[turn] = place
            left -= 1
            if not left:
                break
            if left % _SLICE == 0:
                yield
    return [entries[owner][0] for owner in owners]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
