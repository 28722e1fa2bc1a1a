"""The cache that the settings ask for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from dougong.clock import Clock
from dougong.config import Secret
from dougong.errors import Invalid
from shop.users.profile_cache._cache import Cache, MemoryCache
from shop.users.profile_cache._redis_url import parse_redis_url

__all__ = ["open_cache"]


@asynccontextmanager
async def open_cache(
    url: Secret, clock: Clock, *, system: str, entries_max: int, timeout_s: float
) -> AsyncGenerator[Cache]:
    """A Redis's, whose keys start with the name of the system, or for an empty URL the process's own, of `entries_max`.

    `Invalid` (`bad_cache_url`, `driver_missing`) when the URL or the driver is at fault; a Redis that is down is not.
    """
    if not url:
        yield MemoryCache(clock, entries_max=entries_max)
        return
    options = parse_redis_url(url)
    try:
        from shop.users.profile_cache._redis import RedisCache  # here: who needs no Redis needs no driver
    except ImportError as error:
        raise Invalid(
            f"profile_cache_url names a Redis, and its driver is not installed ({error}); pip install 'dougong[redis]'",
            code="driver_missing",
        ) from error
    cache = RedisCache(options, clock, prefix=f"{system}:users", timeout_s=timeout_s)
    try:
        await cache.start()
        yield cache
    finally:
        await cache.stop()
