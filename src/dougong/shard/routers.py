"""Which routers there are and which map each of them knows: what a mover waits for before it fences a bucket.

A router with an old map does no harm, since databases check what they are asked for; but each of its calls then costs a
way there and back. So whoever moves a bucket first waits until every router that lives has said that it knows the map:

    name | map_version | beats | lease_ms | seen_us

No wall clock is compared with another machine's. Whoever asks watches the rows: when one has not changed for its
router's whole lease, by the asking one's own monotonic clock, that router is gone and its row is removed. So a dead
router holds nobody up for longer than a lease, and one that was only slow enters itself again with its next beat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from dougong.store import Migration, Store, Tx

__all__ = ["Router", "Routers", "Silence"]

_SCHEMA = [
    Migration(
        1,
        "routers",
        "CREATE TABLE dougong_routers (name VARCHAR(200) NOT NULL PRIMARY KEY, map_version BIGINT NOT NULL,"
        " beats BIGINT NOT NULL, lease_ms BIGINT NOT NULL, seen_us BIGINT NOT NULL)",
    )
]
_ALL = "SELECT name, map_version, beats, lease_ms, seen_us FROM dougong_routers ORDER BY name"
_BEAT = "UPDATE dougong_routers SET map_version = ?, beats = ?, lease_ms = ?, seen_us = ? WHERE name = ?"
_ENTER = "INSERT INTO dougong_routers (map_version, beats, lease_ms, seen_us, name) VALUES (?, ?, ?, ?, ?)"
_LEAVE = "DELETE FROM dougong_routers WHERE name = ?"
_REMOVE = "DELETE FROM dougong_routers WHERE name = ? AND beats = ?"


class Router(msgspec.Struct, frozen=True):
    """A row."""

    name: str
    """Of one opening of one sharded store: never used again."""
    map_version: int
    """The map it routes by is this one or a newer one; 0 while it is being opened."""
    beats: int
    """Counts its entries, so that a row that stays the same is one of a router that says nothing."""
    lease_ms: int
    seen_us: int
    """UTC by the router's own clock, for people to read."""


class Silence:
    """Which routers have said nothing for their whole lease. A core: rows and time come from outside."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[int, float]] = {}

    def gone(self, routers: Sequence[Router], now: float) -> list[Router]:
        """Those of the rows, as they are at `now` (monotonic seconds), whose routers are gone. A row seen for the
        first time is one of a router that lives."""
        since: dict[str, tuple[int, float]] = {}
        gone: list[Router] = []
        for router in routers:
            beats, at = self._since.get(router.name, (-1, now))
            if beats != router.beats:
                at = now
            since[router.name] = (router.beats, at)
            if now - at >= router.lease_ms / 1000:
                gone.append(router)
        self._since = since
        return gone


class Routers:
    """The routers of one map. `now`: monotonic seconds of who asks."""

    def __init__(self, metadata: Store, *, now: Callable[[], float]) -> None:
        self._metadata = metadata
        self._now = now
        self._silence = Silence()
        self._started = False

    async def announce(self, router: Router) -> None:
        """Enter a router, or what it knows by now."""
        await self._start()
        row = (router.map_version, router.beats, router.lease_ms, router.seen_us, router.name)

        async def unit(tx: Tx) -> None:
            if not await tx.execute(_BEAT, row):
                await tx.execute(_ENTER, row)

        await self._metadata.write(unit)

    async def leave(self, name: str) -> None:
        """A router is closed: nobody waits for it any more."""

        async def unit(tx: Tx) -> None:
            await tx.execute(_LEAVE, (name,))

        await self._metadata.write(unit)

    async def live(self) -> list[Router]:
        """Those that are not known to be gone. Rows of those that are get removed.

        Only who asks again and again notices that a router is gone: at the first time all of them count.
        """
        await self._start()
        rows = cast("list[tuple[str, int, int, int, int]]", await self._metadata.fetch_all(_ALL))
        routers = [Router(*row) for row in rows]
        gone = self._silence.gone(routers, self._now())
        if not gone:
            return routers

        async def unit(tx: Tx) -> None:
            for router in gone:
                await tx.execute(_REMOVE, (router.name, router.beats))

        await self._metadata.write(unit)
        return [router for router in routers if router not in gone]

    async def behind(self, version: int) -> list[str]:
        """Names of the live routers that have not said yet that they know this map, or a newer one."""
        return [router.name for router in await self.live() if router.map_version < version]

    async def _start(self) -> None:
        if not self._started:
            await self._metadata.migrate("dougong.shard.routers", _SCHEMA)
            self._started = True
