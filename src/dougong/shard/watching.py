"""A router that keeps its map: it looks for a new version all the time, and says which one it knows.

Without it a router learns of a change by its first call that goes wrong. With it hardly any does, and whoever moves
buckets can wait for all routers (see `routers`). Looking is one row of the metadata database, a few times a second,
never at the same moment as the others. A metadata database that does not answer is looked for again; meanwhile the map
is as old as it is, and the databases check it as ever.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
from collections.abc import Callable
from typing import Protocol

from dougong.clock import Clock
from dougong.errors import Error, Invalid
from dougong.shard.buckets import BucketMap
from dougong.shard.maps import BucketMaps
from dougong.shard.routers import Router, Routers
from dougong.telemetry import counter, gauge, get_logger

__all__ = ["MapWatch", "Watched", "router_name"]

_log = get_logger("dougong.shard")
_version = gauge("dougong_shard_map_version", "Version of the map that is routed by.", ("store",))
_live = gauge("dougong_shard_routers", "Routers of the map that live, as one of them counts now and then.", ("store",))
_missed = counter("dougong_shard_map_looks_missed_total", "Looks for a new map that got no answer.", ("store",))

EVERY_S = 0.5
"""Between two looks, a quarter more or less."""
LEASE_S = 10.0
"""A router that says nothing for so long is taken for dead."""
CALL_S_MAX = 5.0
"""Of one look, and of leaving: a database that hangs is given up."""
_BEATS_PER_LEASE = 4
_COUNT_EVERY = 100
"""Looks between two counts of the routers, which also clear away what the dead left."""
_NAME_MAX = 150


class Watched(Protocol):
    """What the watch needs of a sharded store."""

    name: str
    maps: BucketMaps
    clock: Clock

    @property
    def map(self) -> BucketMap:
        """The one it routes by."""

    async def refresh(self) -> None:
        """Read it again."""


def router_name(wanted: str = "") -> str:
    """A name nobody else has: what is wanted (default: machine and process), a slash and something random.

    `Invalid` (code `bad_router_name`) for more than 150 characters, or some that cannot be printed.
    """
    if len(wanted) > _NAME_MAX or not wanted.isprintable():
        raise Invalid(
            f"{wanted[:_NAME_MAX]!r} cannot be a router's name; give up to {_NAME_MAX} characters that can be printed",
            code="bad_router_name",
        )
    return f"{wanted or f'{socket.gethostname()}-{os.getpid()}'}/{secrets.token_hex(4)}"


class MapWatch:
    """Watches for one sharded store, from `start` to `stop`. One task, owned by whoever starts it."""

    def __init__(
        self,
        store: Watched,
        routers: Routers,
        *,
        router: str = "",
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.router = router_name(router)
        """As it is entered."""
        self._store = store
        self._routers = routers
        self._draw = draw
        self._beats = 0
        self._told = (-1, 0.0)
        """Version that was announced last, and when."""
        self._looks = 0
        self._missing = self._older = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Enter the router, read the map, begin to watch. Raises what the metadata database raises."""
        # Entered before its map is read, so that a mover waits for it, or it reads what the mover has written.
        await self._announce(0)
        await self._store.refresh()
        await self._announce(self._store.map.version)
        self._task = asyncio.create_task(self._run(), name=f"watch the bucket map of {self._store.name}")

    async def stop(self) -> None:
        """Watch no more, and take the router's row away; a database that does not answer keeps it for a lease."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        try:
            async with asyncio.timeout(CALL_S_MAX):
                await self._routers.leave(self.router)
        except (Error, TimeoutError) as error:
            _log.warning(
                "a router could not take its row away; movers wait for it until its lease ends",
                store=self._store.name,
                router=self.router,
                lease_s=LEASE_S,
                error=str(error),
            )

    async def look(self) -> None:
        """Look once: read the map if there is a newer one, and say so, or that the router lives, when that is due."""
        store = self._store
        version = await store.maps.version()
        if version > store.map.version:
            await store.refresh()
        elif version < store.map.version and not self._older:  # once, while it is so
            _log.error(
                "the metadata database has an older map than is known here; was it restored from a backup? compare with"
                " `dougong shards verify`, the databases still know what they own",
                store=store.name,
                version=version,
                known=store.map.version,
            )
        self._older = version < store.map.version
        known, (told, at) = store.map.version, self._told
        if known != told or store.clock.monotonic() - at >= LEASE_S / _BEATS_PER_LEASE:
            await self._announce(known)
        self._looks += 1
        if self._looks % _COUNT_EVERY == 0:
            _live.set(len(await self._routers.live()), store.name)

    async def _announce(self, version: int) -> None:
        at = self._store.clock.monotonic()
        self._beats += 1
        await self._routers.announce(
            Router(self.router, version, self._beats, round(LEASE_S * 1000), self._store.clock.now_us())
        )
        self._told = (version, at)
        _version.set(self._store.map.version, self._store.name)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S * (0.75 + 0.5 * self._draw()))
            try:
                async with asyncio.timeout(CALL_S_MAX):
                    await self.look()
            except Exception as error:  # noqa: BLE001 (whatever it is, a router goes on watching)
                _missed.inc(1, self._store.name)
                if not self._missing:  # once per outage
                    _log.warning(
                        "no news of the bucket map; what is known of it stays in use, and databases check it",
                        store=self._store.name,
                        error=str(error) or type(error).__name__,
                    )
                self._missing = True
            else:
                self._missing = False
