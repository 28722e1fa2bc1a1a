"""The rules of a registry as plain code: no I/O, time passed in.

`MemoryRegistry` is this core with a loop around it, and the tests hold the registry on disk against it step by step.
Everything that changes a revision stands here: a change takes the next one, an expired lease takes one for all its
keys, and what changes nothing (deleting a key that is not there, ending a lease without keys) takes none.
"""

from __future__ import annotations

from collections.abc import Sequence

from dougong.errors import Conflict, Invalid, NotFound
from dougong.registry._protocol import Change, ChangeKind, Compacted, KeyValue, Lease, Listing

HISTORY_REVISIONS_MAX = 10_000
"""History longer than this is halved. A watcher that lags further behind lists again: cheaper than remembering."""


class _Held:
    """A lease and the keys that hang on it."""

    __slots__ = ("deadline", "keys", "ttl_s")

    def __init__(self, ttl_s: float, deadline: float) -> None:
        self.ttl_s = ttl_s
        self.deadline = deadline
        self.keys: set[str] = set()


class KeySpace:
    """Revisioned keys, leases and a bounded history. `now` is monotonic seconds and never goes back.

    Call `expire(now)` first: the other methods take leases as they stand.
    """

    def __init__(self, *, history_revisions_max: int = HISTORY_REVISIONS_MAX) -> None:
        assert history_revisions_max >= 2
        self.revision = 0
        self.compacted = 0
        self._entries: dict[str, KeyValue] = {}
        self._leases: dict[int, _Held] = {}
        self._last_lease = 0
        self._history: list[tuple[Change, ...]] = []  # of the revisions compacted + 1 up to revision, without gaps
        self._history_max = history_revisions_max

    def grant(self, ttl_s: float, now: float) -> Lease:
        self._last_lease += 1
        self._leases[self._last_lease] = _Held(ttl_s, now + ttl_s)
        return Lease(id=self._last_lease, ttl_s=ttl_s)

    def keep_alive(self, lease: int, now: float) -> float:
        held = self._leases.get(lease)
        if held is None:
            return 0.0
        held.deadline = now + held.ttl_s
        return held.ttl_s

    def revoke(self, lease: int) -> None:
        held = self._leases.pop(lease, None)
        if held is not None and held.keys:
            changes = [self._remove(key) for key in sorted(held.keys)]
            self._record(changes)

    def expire(self, now: float) -> None:
        """End every lease whose time is up, the longest overdue first."""
        overdue = sorted((held.deadline, lease) for lease, held in self._leases.items() if held.deadline <= now)
        for _, lease in overdue:
            self.revoke(lease)

    def next_deadline(self) -> float | None:
        """When the next lease ends if nobody renews it."""
        return min((held.deadline for held in self._leases.values()), default=None)

    def put(self, key: str, value: bytes, lease: int) -> int:
        if lease and lease not in self._leases:
            raise lease_not_found(lease, key)
        before = self._entries.get(key)
        if before is not None and before.lease:
            self._leases[before.lease].keys.discard(key)
        revision = self.revision + 1
        created = revision if before is None else before.create_revision
        self._entries[key] = KeyValue(key, value, created, revision, lease)
        if lease:
            self._leases[lease].keys.add(key)
        self._record([Change(ChangeKind.PUT, key, revision, value)])
        return revision

    def create(self, key: str, value: bytes, lease: int) -> int:
        existing = self._entries.get(key)
        if existing is not None:
            raise key_exists(key, existing.create_revision)
        return self.put(key, value, lease)

    def delete(self, key: str) -> bool:
        if key not in self._entries:
            return False
        self._record([self._remove(key)])
        return True

    def list(self, prefix: str) -> Listing:
        found = sorted(key for key in self._entries if key.startswith(prefix))
        return Listing(items=tuple(self._entries[key] for key in found), revision=self.revision)

    def changes(self, prefix: str, from_revision: int) -> Sequence[Sequence[Change]]:
        """What happened under `prefix` from a revision on, one group per revision."""
        if from_revision <= self.compacted:
            raise Compacted(from_revision, self.compacted)
        groups: list[Sequence[Change]] = []
        for recorded in self._history[from_revision - self.compacted - 1 :]:
            group = tuple(change for change in recorded if change.key.startswith(prefix))
            if group:
                groups.append(group)
        return groups

    def compact(self, revision: int) -> None:
        if revision > self.revision:
            raise future_revision(revision, self.revision)
        if revision > self.compacted:
            del self._history[: revision - self.compacted]
            self.compacted = revision

    def _remove(self, key: str) -> Change:
        entry = self._entries.pop(key)
        held = self._leases.get(entry.lease)
        if held is not None:
            held.keys.discard(key)
        return Change(ChangeKind.DELETE, key, self.revision + 1)

    def _record(self, changes: Sequence[Change]) -> None:
        self.revision += 1
        self._history.append(tuple(changes))
        if len(self._history) > self._history_max:
            self.compact(self.revision - self._history_max // 2)


def lease_not_found(lease: int, key: str) -> NotFound:
    return NotFound(
        f"lease {lease} for {key!r} is unknown or has expired; grant a new one and put again",
        code="lease_not_found",
        lease=lease,
        key=key,
    )


def key_exists(key: str, create_revision: int) -> Conflict:
    return Conflict(
        f"key {key!r} exists since revision {create_revision}; read it, or put instead of create",
        code="key_exists",
        key=key,
        create_revision=create_revision,
    )


def future_revision(revision: int, current: int) -> Invalid:
    return Invalid(
        f"cannot compact up to revision {revision}: the registry is at {current}",
        code="future_revision",
        revision=revision,
        current=current,
    )
