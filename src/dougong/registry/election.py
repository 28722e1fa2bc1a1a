"""Elections: who leads is who holds a lock, and everybody may know.

A leader is as little to be trusted as a lock's holder: what it writes carries its `fence`.
"""

from __future__ import annotations

import random as random_module
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from dougong.clock import Clock
from dougong.registry._protocol import Compacted, Registry
from dougong.registry.lock import TTL_S, Held, Lock, lock_prefix

__all__ = ["Election", "Leader"]


class Leader(msgspec.Struct, frozen=True):
    value: bytes
    """What it said of itself, e.g. its address."""
    fence: int


class Election:
    """The election called `name`, for those who stand for it as well as for those who look on."""

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._name = name
        self._prefix = lock_prefix(name)

    async def campaign(
        self,
        value: bytes,
        *,
        ttl_s: float = TTL_S,
        timeout_s: float | None = None,
        clock: Clock | None = None,
        random: random_module.Random | None = None,
    ) -> Held:
        """Wait until we lead; to be released, or else over when `lost`. As `Lock.acquire`."""
        lock = Lock(self._registry, self._name, ttl_s=ttl_s, value=value, clock=clock, random=random)
        return await lock.acquire(timeout_s)

    async def leader(self) -> Leader | None:
        """Who leads now, as far as the registry knows."""
        return (await self._look())[0]

    async def observe(self) -> AsyncIterator[Leader | None]:
        """Who leads, now and after every change. Raises `Unavailable` when the registry cannot be reached."""
        leader, revision = await self._look()
        yield leader
        while True:
            watch = self._registry.watch(self._prefix, revision + 1)
            try:
                async for changes in watch:
                    if changes[0].revision <= revision:
                        continue
                    seen, revision = await self._look()
                    if seen != leader:
                        leader = seen
                        yield leader
                return  # the registry is closed
            except Compacted:
                pass  # look again, and go on from there
            finally:
                if isinstance(watch, AsyncGenerator):
                    await watch.aclose()
            seen, revision = await self._look()
            if seen != leader:
                leader = seen
                yield leader

    async def _look(self) -> tuple[Leader | None, int]:
        listing = await self._registry.list(self._prefix)
        first = min(listing.items, key=lambda item: item.create_revision, default=None)
        return (Leader(first.value, first.create_revision) if first else None), listing.revision
