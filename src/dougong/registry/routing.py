"""The routing table: what one client knows about one service's instances. Plain code, time passed in.

Two things it does that a dictionary would not. It never empties itself on the registry's word alone: an instance that
said goodbye (`terminating`) is dropped at once, but when many vanish in one revision, or the last one does, they stay
as *suspects* until somebody finds out (a probe, a new sign of life, time). And it can say how much it is worth: at
which revision it stands, how old it is, whether it is stale, and of each instance why it is called or not.

A change costs what it changes: a place in a sorted list. The tuple of those who serve is made when it is next read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from dougong.errors import Invalid
from dougong.registry._fencing import Fences
from dougong.registry._protocol import Change, ChangeKind, Instance, InstanceState, Listing
from dougong.registry.explaining import InvalidEntry, Source
from dougong.registry.keys import read_instance, service_prefix

MASS_SHARE = 0.15
"""More than this share gone in one revision is the registry's trouble rather than the instances'."""
MASS_COUNT_MIN = 2
"""One instance is never a mass, however small the table."""
SUSPECT_S = 10.0
"""How long a mass of vanished instances is believed to be alive when nobody probes them."""
INVALID_MAX = 100
"""So many unreadable entries are kept by name; more are only counted."""


class News:
    """What a table learned, for the shell around it."""

    __slots__ = ("arrived", "invalid", "met", "suspected")

    def __init__(self) -> None:
        self.arrived: list[str] = []
        """Addresses under which somebody registered anew: whatever was held against them is over."""
        self.met: list[str] = []
        """Addresses that were there when the table was made."""
        self.suspected: list[str] = []
        """Addresses that vanished without a goodbye and were kept."""
        self.invalid: list[InvalidEntry] = []

    def __bool__(self) -> bool:
        return bool(self.arrived or self.met or self.suspected or self.invalid)


class Entry:
    """One instance in a table."""

    __slots__ = ("called", "dead", "instance", "revision", "suspect_until")

    def __init__(self, instance: Instance, revision: int) -> None:
        self.instance = instance
        self.revision = revision
        self.suspect_until: float | None = None
        self.dead = False
        self.called = False


class RoutingTable:
    """Instances of `service` by address, kept in the order of their addresses so that subsets stay put."""

    def __init__(self, service: str, *, suspect_s: float | None = None) -> None:
        self.service = service
        self.prefix = service_prefix(service)
        self.revision = 0
        self.source = Source.NOTHING
        self.version = 0
        """Counts changes of `serving`; compare it to learn whether anything is new."""
        self.contents = 0
        """Counts changes of `instances`: of anything that is known, served or not."""
        self.unreadable = 0
        """How many entries were skipped because they are not this service's instances."""
        self.invalid: dict[str, str] = {}
        """Those of them that are still there: key → what is wrong."""
        self.fences = Fences()
        self._suspect_s = suspect_s
        self._entries: dict[str, Entry] = {}
        self._order: list[str] = []
        self._called: list[str] = []
        self._suspects: dict[str, Entry] = {}
        self._dead = 0
        self._serving: tuple[Instance, ...] | None = ()
        self._confirmed_at: float | None = None
        self._unreachable = False
        self._news = News()

    # ------------------------------------------------------------------------------------------------ what is known

    @property
    def serving(self) -> tuple[Instance, ...]:
        """Who takes calls, suspects included, sorted by address.

        When all that could take calls are dead, those whom the registry still has are called all the same: then the
        network or we are the more likely culprit, and whoever comes back first is found.
        """
        if self._serving is None:
            entries = self._entries
            addresses = self._called or self._last_hope()
            self._serving = tuple([entries[address].instance for address in addresses])
        return self._serving

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Everybody known, in any state, suspects included, sorted by address."""
        return tuple([self._entries[address].instance for address in self._order])

    @property
    def entries(self) -> Iterable[Entry]:
        """The same with what is known about each."""
        return (self._entries[address] for address in self._order)

    @property
    def suspects(self) -> tuple[str, ...]:
        """Addresses the registry no longer knows and that were kept all the same."""
        return tuple(sorted(self._suspects))

    @property
    def size(self) -> int:
        return len(self._entries)

    @property
    def suspected(self) -> int:
        """How many those are."""
        return len(self._suspects)

    @property
    def dead(self) -> int:
        """How many answer no probe."""
        return self._dead

    @property
    def stale(self) -> bool:
        """Whether the registry cannot be reached, was never reached, or is not believed."""
        return self._unreachable or self._confirmed_at is None or bool(self._suspects)

    def __contains__(self, address: str) -> bool:
        return address in self._entries

    def entry(self, address: str) -> Entry | None:
        return self._entries.get(address)

    def age_s(self, now: float) -> float | None:
        """Seconds since the registry last spoke; None when it never did."""
        return None if self._confirmed_at is None else now - self._confirmed_at

    def take_news(self) -> News:
        """What was learned since this was last asked."""
        news, self._news = self._news, News()
        return news

    # ------------------------------------------------------------------------------------------- what the registry says

    def apply_listing(self, listing: Listing, now: float) -> None:
        """Take a complete picture. It always counts, even at a lower revision: the registry may have been replaced."""
        present: set[str] = set()
        for item in listing.items:
            if self._read(item.key, item.value, item.mod_revision):
                present.add(item.key.removeprefix(self.prefix))
        keys = {item.key for item in listing.items}
        for key in [key for key in self.invalid if key not in keys]:
            del self.invalid[key]
        self._vanish([address for address in self._order if address not in present], now)
        self.revision = listing.revision
        self._confirm(now)

    def apply_changes(self, changes: Sequence[Change], now: float) -> None:
        """Take all changes of one revision. Revisions already known are skipped, so overlaps do no harm."""
        revision = changes[0].revision
        assert all(change.revision == revision for change in changes), "changes of several revisions at once"
        if revision > self.revision:
            gone: list[str] = []
            for change in changes:
                there = change.kind is ChangeKind.PUT and self._read(change.key, change.value, revision)
                if change.kind is ChangeKind.DELETE:
                    self.invalid.pop(change.key, None)
                address = change.key.removeprefix(self.prefix)
                if not there and address in self._entries:
                    gone.append(address)
            self._vanish(gone, now)
            self.revision = revision
        self._confirm(now)

    def restore(self, instances: Sequence[Instance], revision: int) -> None:
        """Start from what was known in an earlier life, until the registry speaks: stale, and nothing is confirmed."""
        if self.source is not Source.NOTHING:
            return
        for instance in instances:
            self._put(instance, revision)
        self.revision = revision
        self.source = Source.SNAPSHOT

    def unreachable(self) -> None:
        """The registry does not answer: keep what is known, and say so."""
        self._unreachable = True

    # ---------------------------------------------------------------------------------------------- what was found out

    def probe_failed(self, address: str) -> bool:
        """Somebody could not reach `address`. Drops it if it is a suspect; whether it was."""
        if address not in self._suspects:
            return False
        self._drop(address)
        return True

    def set_dead(self, address: str, dead: bool) -> None:
        """It does not answer, or does again. A suspect that does not answer either is dropped: that is the proof."""
        entry = self._entries.get(address)
        if entry is None:
            return
        if dead and entry.suspect_until is not None:
            self._drop(address)
        else:
            self._dead += dead - entry.dead
            entry.dead = dead
            self._judge(address, entry)

    def settle(self, now: float) -> float | None:
        """Drop suspects whose time is up, unless nobody else is left; when to come back, or None."""
        if not self._suspects:
            return None
        if len(self._called) > sum(entry.called for entry in self._suspects.values()):
            for address, entry in list(self._suspects.items()):
                if _until(entry) <= now:
                    self._drop(address)
        return min((until for entry in self._suspects.values() if (until := _until(entry)) > now), default=None)

    # ---------------------------------------------------------------------------------------------------------- inside

    def _read(self, key: str, value: bytes, revision: int) -> bool:
        """Take up what is written under a key; whether it was an instance."""
        try:
            instance = read_instance(key, value)
        except Invalid as error:
            self.unreadable += 1
            if self.invalid.get(key) != error.message and (key in self.invalid or len(self.invalid) < INVALID_MAX):
                self.invalid[key] = error.message
                self._news.invalid.append(InvalidEntry(key, error.message))
            return False
        self.invalid.pop(key, None)
        self._put(instance, revision)
        return True

    def _put(self, instance: Instance, revision: int) -> None:
        address = instance.address
        entry = self._entries.get(address)
        if entry is None:
            entry = self._entries[address] = Entry(instance, revision)
            self._order.insert(bisect_left(self._order, address), address)
            self.contents += 1
            (self._news.met if self.source is Source.NOTHING else self._news.arrived).append(address)
        elif entry.suspect_until is None and self.fences.over(entry.instance, instance):
            return  # written late by an earlier holder of this address; who holds it now is not disturbed
        else:
            if entry.suspect_until is not None:
                entry.suspect_until = None
                del self._suspects[address]
                self._news.arrived.append(address)
            elif entry.instance.id != instance.id:
                self._news.arrived.append(address)
            if entry.instance != instance:
                self.fences.removed(entry.instance)
                if entry.called or entry.dead:
                    self._changed()
                entry.instance = instance
                self.contents += 1
            entry.revision = revision
        for other in self.fences.seen(instance):
            beaten = self._entries[other]
            self._judge(other, beaten)
            if beaten.dead:
                self._changed()
        self._judge(address, entry)

    def _vanish(self, gone: Sequence[str], now: float) -> None:
        known = len(self._entries) - len(self._suspects)
        unannounced: list[Entry] = []
        for address in gone:
            entry = self._entries[address]
            if not entry.called and not entry.dead:
                self._drop(address)  # starting, terminating, fenced: nobody relies on it
            elif entry.suspect_until is None:
                unannounced.append(entry)
        mass = len(unannounced) >= MASS_COUNT_MIN and len(unannounced) > MASS_SHARE * known
        suspect_s = SUSPECT_S if self._suspect_s is None else self._suspect_s
        for entry in unannounced:
            address = entry.instance.address
            if entry.dead:
                self._drop(address)  # the registry and the probe agree
                continue
            entry.suspect_until = now + suspect_s if mass else now  # settle() keeps even the latter when it is the last
            self._suspects[address] = entry
            self._news.suspected.append(address)

    def _confirm(self, now: float) -> None:
        self._confirmed_at = now
        self._unreachable = False
        self.source = Source.REGISTRY
        self.settle(now)

    def _drop(self, address: str) -> None:
        entry = self._entries.pop(address)
        self.contents += 1
        self._suspects.pop(address, None)
        self._dead -= entry.dead
        self.fences.removed(entry.instance)
        del self._order[bisect_left(self._order, address)]
        if entry.called:
            del self._called[bisect_left(self._called, address)]
        if entry.called or entry.dead:
            self._changed()

    def _judge(self, address: str, entry: Entry) -> None:
        called = serves(entry.instance) and not entry.dead and not self.fences.fenced(entry.instance)
        if called != entry.called:
            entry.called = called
            place = bisect_left(self._called, address)
            if called:
                self._called.insert(place, address)
            else:
                del self._called[place]
            self._changed()

    def _changed(self) -> None:
        self._serving = None
        self.version += 1

    def _last_hope(self) -> list[str]:
        return [
            address
            for address in self._order
            if (entry := self._entries[address]).dead
            and serves(entry.instance)
            and not self.fences.fenced(entry.instance)
        ]


def serves(instance: Instance) -> bool:
    """Whether an instance says of itself that it takes calls."""
    return instance.state is InstanceState.SERVING and instance.weight > 0


def _until(entry: Entry) -> float:
    assert entry.suspect_until is not None, "only suspects are asked"
    return entry.suspect_until
