"""The routing table: what one client knows about one service's instances. Plain code, time passed in.

Two things it does that a dictionary would not. It never empties itself on the registry's word alone: an instance that
said goodbye (`terminating`) is dropped at once, but when many vanish in one revision, or the last one does, they stay
as *suspects* until somebody finds out (a probe, a new sign of life, time). And it can say how much it is worth: at
which revision it stands, how old it is, whether it is stale.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dougong.registry._protocol import Change, ChangeKind, Instance, InstanceState, Listing
from dougong.registry.keys import decode_instance, service_prefix

MASS_SHARE = 0.15
"""More than this share gone in one revision is the registry's trouble rather than the instances'."""
MASS_COUNT_MIN = 2
"""One instance is never a mass, however small the table."""
SUSPECT_S = 10.0
"""How long a mass of vanished instances is believed to be alive when nobody probes them."""


class _Entry(msgspec.Struct):
    instance: Instance
    suspect_until: float | None = None


class RoutingTable:
    """Instances of `service` by address, kept in the order of their addresses so that subsets stay put."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.prefix = service_prefix(service)
        self.revision = 0
        self.version = 0
        """Counts changes of `serving`; compare it to learn whether anything is new."""
        self.unreadable = 0
        """How many entries were skipped because they are not this service's instances."""
        self._entries: dict[str, _Entry] = {}
        self._serving: tuple[Instance, ...] = ()
        self._confirmed_at: float | None = None
        self._unreachable = False

    @property
    def serving(self) -> tuple[Instance, ...]:
        """Who takes calls, suspects included, sorted by address."""
        return self._serving

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Everybody known, in any state, suspects included, sorted by address."""
        return tuple(self._entries[address].instance for address in sorted(self._entries))

    @property
    def suspects(self) -> tuple[str, ...]:
        """Addresses the registry no longer knows and that were kept all the same."""
        return tuple(sorted(address for address, entry in self._entries.items() if entry.suspect_until is not None))

    @property
    def stale(self) -> bool:
        """Whether the registry cannot be reached, was never reached, or is not believed."""
        return self._unreachable or self._confirmed_at is None or bool(self.suspects)

    def age_s(self, now: float) -> float | None:
        """Seconds since the registry last spoke; None when it never did."""
        return None if self._confirmed_at is None else now - self._confirmed_at

    def apply_listing(self, listing: Listing, now: float) -> None:
        """Take a complete picture. It always counts, even at a lower revision: the registry may have been replaced."""
        present: dict[str, Instance | None] = {
            item.key.removeprefix(self.prefix): self._read(item.key, item.value) for item in listing.items
        }
        gone = [address for address in self._entries if present.get(address) is None]
        for address, instance in present.items():
            if instance is not None:
                self._entries[address] = _Entry(instance)
        self._vanish(gone, now)
        self.revision = listing.revision
        self._confirm(now)

    def apply_changes(self, changes: Sequence[Change], now: float) -> None:
        """Take all changes of one revision. Revisions already known are skipped, so overlaps do no harm."""
        revision = changes[0].revision
        assert all(change.revision == revision for change in changes), "changes of several revisions at once"
        if revision > self.revision:
            gone: list[str] = []
            for change in changes:
                address = change.key.removeprefix(self.prefix)
                instance = self._read(change.key, change.value) if change.kind is ChangeKind.PUT else None
                if instance is not None:
                    self._entries[address] = _Entry(instance)
                elif address in self._entries:
                    gone.append(address)
            self._vanish(gone, now)
            self.revision = revision
        self._confirm(now)

    def unreachable(self) -> None:
        """The registry does not answer: keep what is known, and say so."""
        self._unreachable = True

    def probe_failed(self, address: str) -> bool:
        """Somebody could not reach `address`. Drops it if it is a suspect; whether it was."""
        entry = self._entries.get(address)
        if entry is None or entry.suspect_until is None:
            return False
        del self._entries[address]
        self._refresh()
        return True

    def settle(self, now: float) -> float | None:
        """Drop suspects whose time is up, unless nobody else is left; when to come back, or None."""
        if any(entry.suspect_until is None and _serves(entry) for entry in self._entries.values()):
            for address, entry in list(self._entries.items()):
                if entry.suspect_until is not None and entry.suspect_until <= now:
                    del self._entries[address]
        self._refresh()
        pending = [e.suspect_until for e in self._entries.values() if e.suspect_until is not None]
        return min((until for until in pending if until > now), default=None)

    def _read(self, key: str, value: bytes) -> Instance | None:
        instance = decode_instance(self.service, value)
        if instance is None or self.prefix + instance.address != key:
            self.unreadable += 1
            return None
        return instance

    def _vanish(self, gone: Sequence[str], now: float) -> None:
        known = sum(entry.suspect_until is None for entry in self._entries.values())
        unannounced: list[_Entry] = []
        for address in gone:
            entry = self._entries[address]
            if not _serves(entry):
                del self._entries[address]  # it was starting or terminating: nobody relies on it
            elif entry.suspect_until is None:
                unannounced.append(entry)
        mass = len(unannounced) >= MASS_COUNT_MIN and len(unannounced) > MASS_SHARE * known
        for entry in unannounced:
            entry.suspect_until = now + SUSPECT_S if mass else now  # settle() keeps even the latter when it is the last

    def _confirm(self, now: float) -> None:
        self._confirmed_at = now
        self._unreachable = False
        self.settle(now)

    def _refresh(self) -> None:
        entries = self._entries
        serving = tuple(entries[address].instance for address in sorted(entries) if _serves(entries[address]))
        if serving != self._serving:
            self._serving = serving
            self.version += 1


def _serves(entry: _Entry) -> bool:
    return entry.instance.state is InstanceState.SERVING
