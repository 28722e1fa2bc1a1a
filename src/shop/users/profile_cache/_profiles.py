"""Reading profiles through a cache."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable

import msgspec

from dougong.clock import Clock
from dougong.telemetry import counter, get_logger
from shop.users._contract import Profile
from shop.users.profile_cache._cache import Cache, Entry

__all__ = ["CachedProfiles"]

log = get_logger(__name__)

_hits = counter("shop_profile_cache_hits_total", "Profiles answered from the cache.")
_loads = counter("shop_profile_cache_loads_total", "Profiles loaded from the database.")
_refused = counter("shop_profile_cache_refused_total", "Loaded profiles not kept: the row changed meanwhile.")
_failures = counter("shop_profile_cache_failures_total", "Times the cache failed and the database was asked instead.")

QUIET_S = 10.0
"""The log is told once in so long: while a cache is down, every read fails."""

Load = Callable[[int], Awaitable[Profile | None]]


class CachedProfiles:
    """Profiles by user id. `load` asks the database; its errors are the caller's, those of the cache are nobody's."""

    def __init__(
        self,
        cache: Cache,
        load: Load,
        clock: Clock,
        *,
        ttl_s: float = 60.0,
        missing_ttl_s: float = 5.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._cache = cache
        self._load = load
        self._clock = clock
        self._ttl_s = ttl_s
        self._missing_ttl_s = missing_ttl_s
        self._chance = chance
        self._flights: dict[int, asyncio.Task[Profile | None]] = {}
        self._quiet_until = -math.inf

    async def get(self, user_id: int) -> Profile | None:
        """The profile, or None when there is no such user."""
        try:
            entry = await self._cache.get(_key(user_id))
            profile = _decoded(entry)
        except Exception as error:  # noqa: BLE001 - a cache that fails costs a read of the database, never an answer
            self._failed(error)
            entry, profile = None, None
        if entry is None:
            return await asyncio.shield(self._flight(user_id))
        _hits.inc()
        if self._early(entry):
            self._flight(user_id).add_done_callback(_noted)
        return profile

    async def forget(self, user_id: int) -> None:
        """The row may have changed: call it after the write, whatever came of that."""
        self._flights.pop(user_id, None)  # who asks from now on must not get what was read before
        try:
            await self._cache.forget(_key(user_id))
        except Exception as error:  # noqa: BLE001 - the write is done; what is left is at most `ttl_s` old
            self._failed(error)

    def _early(self, entry: Entry) -> bool:
        """Whether this reader refreshes an entry before its time: likelier the nearer its end and the dearer the load,
        so that readers of one key do not all find it gone at once, in several processes neither."""
        return -entry.cost_s * math.log(1.0 - self._chance()) >= entry.left_s

    def _flight(self, user_id: int) -> asyncio.Task[Profile | None]:
        flight = self._flights.get(user_id)
        if flight is None:
            flight = asyncio.get_running_loop().create_task(self._loaded(user_id))
            self._flights[user_id] = flight
            flight.add_done_callback(lambda done: self._landed(user_id, done))
        return flight

    def _landed(self, user_id: int, done: asyncio.Task[Profile | None]) -> None:
        if self._flights.get(user_id) is done:
            del self._flights[user_id]

    async def _loaded(self, user_id: int) -> Profile | None:
        key = _key(user_id)
        lease: int | None = None
        try:
            lease = await self._cache.lease(key)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)
        started = self._clock.monotonic()
        _loads.inc()
        profile = await self._load(user_id)
        if lease is None:
            return profile
        value = b"" if profile is None else msgspec.msgpack.encode(profile)
        ttl_s = self._missing_ttl_s if profile is None else self._ttl_s
        try:
            kept = await self._cache.put(key, value, lease, ttl_s=ttl_s, cost_s=self._clock.monotonic() - started)
            if not kept:
                _refused.inc()
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)
        return profile

    def _failed(self, error: Exception) -> None:
        _failures.inc()
        now = self._clock.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            log.warning("the cache of profiles failed, the database is asked", error=str(error))


def _key(user_id: int) -> str:
    return f"profile:{user_id}"


def _decoded(entry: Entry | None) -> Profile | None:
    if entry is None or not entry.value:
        return None
    return msgspec.msgpack.decode(entry.value, type=Profile)


def _noted(flight: asyncio.Task[Profile | None]) -> None:
    if not flight.cancelled() and (error := flight.exception()) is not None:
        log.warning("a profile is refreshed later", error=str(error))
