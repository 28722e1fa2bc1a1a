"""Profiles kept near, so that most reads ask no database.

`Cache` is the seam: bytes by key, with leases. `MemoryCache` is the one in the process, bounded; `open_cache` gives
that or one in a Redis, which processes share. `CachedProfiles` reads through a cache: one load per key at a time,
nothing old after a write, and no error because of the cache.
"""

from shop.users.profile_cache._cache import Cache, Entry, MemoryCache
from shop.users.profile_cache._open import open_cache
from shop.users.profile_cache._profiles import CachedProfiles

__all__ = ["Cache", "CachedProfiles", "Entry", "MemoryCache", "open_cache"]
