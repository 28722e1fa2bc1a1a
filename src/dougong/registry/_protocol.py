"""The seam: a small revisioned key-value store with leases and watches, after etcd's v3 model.

Every change gets the next revision. Keys may hang on a lease and disappear, all at one revision, when it expires. A
watch starts from a revision and misses nothing; when that revision was compacted away it says so (`Compacted`) and the
watcher lists again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from dougong.errors import Error

__all__ = ["Change", "ChangeKind", "Compacted", "Instance", "InstanceState", "KeyValue", "Lease", "Listing", "Registry"]


class InstanceState(StrEnum):
    STARTING = "starting"
    SERVING = "serving"
    TERMINATING = "terminating"


class Instance(msgspec.Struct, frozen=True):
    """One process that serves one service; the JSON value under `/services/SERVICE/ADDRESS`."""

    service: str
    """Full service name, e.g. `shop.v1.Orders`."""
    address: str
    """`host:port`."""
    app: str = ""
    id: str = ""
    """Unique per process start, e.g. `orders-0-4711-9f3a01bc`."""
    version: str = ""
    zone: str = ""
    weight: int = 100
    """Share of calls among the others; 0 gets none."""
    state: InstanceState = InstanceState.SERVING
    metadata: dict[str, str] = {}
    epoch: int = 0
    """Of two with the same `id` or `address` the one of the lower epoch is over, and is not called; 0 says nothing."""


class Lease(msgspec.Struct, frozen=True):
    id: int
    ttl_s: float
    """What the registry granted, which may be more than was asked for."""


class KeyValue(msgspec.Struct, frozen=True):
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class ChangeKind(StrEnum):
    PUT = "put"
    DELETE = "delete"


class Change(msgspec.Struct, frozen=True):
    kind: ChangeKind
    key: str
    revision: int
    value: bytes = b""
    """Empty for a delete."""


class Listing(msgspec.Struct, frozen=True):
    items: tuple[KeyValue, ...]
    """Sorted by key."""
    revision: int
    """Revision of the whole registry at the time of the read."""


class Compacted(Error):
    """The revision a watch wanted is gone: list again, then watch from the listing's revision + 1."""

    family = "conflict"

    def __init__(self, revision: int, compacted: int) -> None:
        super().__init__(
            f"revision {revision} was compacted away (oldest kept: {compacted + 1}); list again",
            code="compacted",
            revision=revision,
            compacted=compacted,
        )
        self.compacted = compacted


class Registry(Protocol):
    """Where processes say who they are and find each other."""

    async def grant(self, ttl_s: float) -> Lease:
        """A new lease. It lives `ttl_s` from now and from every `keep_alive`."""

    async def keep_alive(self, lease: int) -> float:
        """Renew; seconds left, or 0.0 when the lease is gone (then grant anew and put again)."""

    async def revoke(self, lease: int) -> None:
        """End a lease now; its keys go at one revision. Unknown leases are fine."""

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Set a key; the new revision. Raises `NotFound` (code `lease_not_found`) for a dead lease."""

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Set a key that must not exist; the new revision. Raises `Conflict` when it does."""

    async def delete(self, key: str) -> bool:
        """Remove a key; whether it was there."""

    async def list(self, prefix: str) -> Listing:
        """All keys that start with `prefix`."""

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        """Changes under `prefix` from a revision on; all changes of one revision come together. Raises `Compacted`."""

    async def compact(self, revision: int) -> None:
        """Forget the history up to and including `revision`."""

    async def close(self) -> None:
        """Stop watches and background work; leases are left to expire."""
