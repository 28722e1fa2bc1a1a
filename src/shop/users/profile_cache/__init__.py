"""Profiles kept near, so that most reads ask no database.

`Cache` is the seam: bytes by key, with leases. `MemoryCache` is the one in the process, bounded. `CachedProfiles` reads
through a cache: one load per key at a time, nothing old after a write, and no error because of the cache.
"""

from shop.users.profile_cache._cache import Cache, Entry, MemoryCache
from shop.users.profile_cache._profiles import CachedProfiles

__all__ = ["Cache", "CachedProfiles", "Entry", "MemoryCache"]
