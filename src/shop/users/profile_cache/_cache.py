"""What a cache has to be able to do, and the one that lives in the process."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import msgspec

from dougong.clock import Clock
from dougong.errors import Invalid

__all__ = ["VALUE_BYTES_MAX", "Cache", "Entry", "MemoryCache", "check_size"]

VALUE_BYTES_MAX = 16_384
"""A profile has a few hundred."""


class Entry(msgspec.Struct, frozen=True):
    """What is known of a key."""

    value: bytes
    """Empty: there is nothing under this key, and that is known too."""
    left_s: float
    """How long it is good for."""
    cost_s: float
    """How long loading it took."""


class Cache(Protocol):
    """Bytes by key. Who loads takes a lease first; `forget` ends it, so that what was read before cannot come back."""

    async def get(self, key: str) -> Entry | None:
        """What is known, unless its time is over."""
        ...

    async def lease(self, key: str) -> int:
        """Leave to `put` what is read from now on. A later lease ends an earlier one."""
        ...

    async def put(self, key: str, value: bytes, lease: int, *, ttl_s: float, cost_s: float) -> bool:
        """Keep `value` until `ttl_s` after the lease was taken, unless that has ended; whether it was kept.

        `Invalid` (code `cache_value_size`) for more than `VALUE_BYTES_MAX`.
        """
        ...

    async def forget(self, key: str) -> None:
        """Drop the entry and end the lease: the row has changed."""
        ...


class MemoryCache:
    """At most `entries_max` entries, and as many leases; who was used longest ago goes first."""

    def __init__(self, clock: Clock, *, entries_max: int = 50_000) -> None:
        if entries_max < 1:
            raise Invalid(f"a cache of {entries_max} entries keeps nothing; give 1 or more", code="cache_size")
        self._clock = clock
        self._entries_max = entries_max
        self._entries: OrderedDict[str, tuple[bytes, float, float]] = OrderedDict()
        self._leases: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._leased = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: str) -> Entry | None:
        known = self._entries.get(key)
        if known is None:
            return None
        value, until, cost_s = known
        left_s = until - self._clock.monotonic()
        if left_s <= 0:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return Entry(value, left_s, cost_s)

    async def lease(self, key: str) -> int:
        self._leased += 1
        self._leases[key] = self._leased, self._clock.monotonic()
        self._leases.move_to_end(key)
        if len(self._leases) > self._entries_max:
            self._leases.popitem(last=False)  # its loader keeps nothing, which is safe
        return self._leased

    async def put(self, key: str, value: bytes, lease: int, *, ttl_s: float, cost_s: float) -> bool:
        check_size(key, value)
        held, since = self._leases.get(key, (None, 0.0))
        if held != lease:
            return False
        del self._leases[key]
        if since + ttl_s <= self._clock.monotonic():
            return False
        self._entries[key] = value, since + ttl_s, cost_s
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
        return True

    async def forget(self, key: str) -> None:
        self._entries.pop(key, None)
        self._leases.pop(key, None)


def check_size(key: str, value: bytes) -> None:
    if len(value) > VALUE_BYTES_MAX:
        raise Invalid(
            f"{key}: a cache takes values of {VALUE_BYTES_MAX} bytes at most, not {len(value)}", code="cache_value_size"
        )
