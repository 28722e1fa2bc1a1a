"""Many databases under one name: each key's rows in the database that owns its bucket, checked where they are.

The map in memory only says where to knock. Whether that is right is decided in the database, in the unit that writes;
a wrong map is read again and the unit goes where the bucket went, without its caller noticing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dougong.breaker import BreakerPolicy
from dougong.clock import Clock, SystemClock
from dougong.errors import Invalid, NotFound, Overloaded, Unavailable
from dougong.shard.buckets import BUCKETS, BucketMap, Key, Place, StaleEpoch
from dougong.shard.databases import Databases, side_by_side
from dougong.shard.layout import Layout
from dougong.shard.mapping import MappingRouting
from dougong.shard.maps import UNFINISHED, BucketMaps
from dougong.shard.moving.moves import Moves, TakenOver
from dougong.shard.moving.record import MoveRecord
from dougong.shard.moving.switching import rescue
from dougong.shard.owners import guarded, own, require
from dougong.shard.query import ShardedTable
from dougong.shard.ring import ConsistentHashRouting
from dougong.shard.routers import Routers
from dougong.shard.routing import ModuloRouting, Routing
from dougong.shard.watching import MapWatch
from dougong.store import Migration, Row, Store, Tx, Unit, Value, open_store
from dougong.telemetry import counter, get_logger

if TYPE_CHECKING:
    from dougong.shard.entities import EntityDatabases  # which needs this module

__all__ = ["PlacedStore", "Placement", "ShardedStore", "open_sharded_store", "routing_of"]

R = TypeVar("R")

AT_ONCE = 64
"""Databases that one call works on side by side."""
RESCUE_AFTER_S = 1.5
"""So long a bucket may stand closed by a mover who does nothing, before those who wait for it open it."""
_log = get_logger("dougong.shard")
_rescued = counter("dougong_shard_rescued_total", "Buckets that a silent mover had left closed.", ("store",))
_stale = counter(
    "dougong_shard_stale_total", "Calls that came to a database that did not own their bucket.", ("store",)
)


class Placement(msgspec.Struct, frozen=True):
    """Where a key's rows are, and why."""

    key: str
    bucket: int
    shard: str
    epoch: int
    state: str
    routing: str
    map_version: int
    why: str


async def open_sharded_store(
    layout: Layout,
    *,
    create: bool = True,
    clock: Clock | None = None,
    breaker: BreakerPolicy | None = None,
    stale_wait_s: float = 5.0,
    waiting_max: int = 10_000,
    watch: bool = False,
    router: str = "",
) -> ShardedStore:
    """Open the databases of a layout; the first time, lay 128 buckets over them.

    `watch`: keep the map up to date, as what serves should, and be one of the routers that movers wait for, under a
    name that begins with `router` (default: machine and process).

    Databases are opened when they are first needed, the metadata database at once. While a bucket is fenced, at most
    `waiting_max` calls wait for it, for up to `stale_wait_s`. Close what you opened. With `create=False`, `NotFound`
    (code `no_map`) instead of a first map.
    """
    clock = clock if clock is not None else SystemClock()
    metadata = await open_store(layout.metadata, name=f"{layout.name}.map", clock=clock)
    try:
        routing = await _routing(layout, metadata)
        maps = BucketMaps(metadata)
        bucket_map = await maps.open(routing.name, routing.spread(list(layout.databases)) if create else ())
        databases = Databases(
            layout.databases,
            of=layout.name,
            clock=clock,
            breaker=breaker if breaker is not None else BreakerPolicy(),
            added=layout.url_of,
        )
        store = ShardedStore(
            layout.name,
            metadata,
            maps,
            bucket_map,
            routing,
            databases,
            clock=clock,
            stale_wait_s=stale_wait_s,
            waiting_max=waiting_max,
        )
    except BaseException:
        await metadata.close()
        raise
    try:
        if bucket_map.version == UNFINISHED:
            await store.hand_over_buckets()
        if watch:
            await store.watch(router)
    except BaseException:
        await store.close()
        raise
    return store


async def routing_of(layout: Layout) -> str:
    """Name of the strategy with which this layout's map was made. `NotFound` (code `no_map`) when there is none."""
    metadata = await open_store(layout.metadata, name=f"{layout.name}.map")
    try:
        return await BucketMaps(metadata).routing()
    finally:
        await metadata.close()


async def _routing(layout: Layout, metadata: Store) -> Routing:
    if layout.routing == ModuloRouting.name:
        return ModuloRouting()
    if layout.routing == ConsistentHashRouting.name:
        return ConsistentHashRouting()
    if layout.routing == MappingRouting.name:
        mapping = MappingRouting(metadata, spare=layout.spare_buckets)
        await mapping.start()
        return mapping
    known = ", ".join(kind.name for kind in (ModuloRouting, ConsistentHashRouting, MappingRouting))
    raise Invalid(f"{layout.name}: no routing {layout.routing!r}; there are {known}", code="unknown_routing")


class ShardedStore:
    """Made by `open_sharded_store`; belongs to the loop it was opened on."""

    def __init__(
        self,
        name: str,
        metadata: Store,
        maps: BucketMaps,
        bucket_map: BucketMap,
        routing: Routing,
        databases: Databases,
        *,
        clock: Clock,
        stale_wait_s: float,
        waiting_max: int,
    ) -> None:
        self.name = name
        self.metadata = metadata
        """Where the map is kept."""
        self.maps = maps
        self.moves = Moves(metadata, maps, clock)
        """Of buckets, under way and done."""
        self.routing = routing
        self.databases = databases
        self.dialect = databases.dialect
        self.clock = clock
        self._learn(bucket_map)
        self.routers = Routers(metadata, now=clock.monotonic)
        """Who watches this map."""
        self._watch: MapWatch | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self.stale_wait_s = stale_wait_s
        self._waiting_max = waiting_max
        self._waiting = 0
        self._closed: dict[int, tuple[MoveRecord, float]] = {}
        self._rescuing = asyncio.Lock()

    @property
    def map(self) -> BucketMap:
        """The map as this router knows it; it may be old."""
        return self._map

    def store_of(self, key: Key) -> PlacedStore:
        """What a plain `Store` is to everything, for the rows of one key."""
        return PlacedStore(self, key, self.routing.bucket(key))

    def store_at(self, bucket: int) -> PlacedStore:
        """The same for the rows of one bucket."""
        if not 0 <= bucket < BUCKETS:
            raise Invalid(f"there is no bucket {bucket}; there are 0 to {BUCKETS - 1}", code="bad_bucket")
        return PlacedStore(self, bucket, bucket)

    def now_us(self) -> int:
        """UTC, by the clock of this store."""
        return self.clock.now_us()

    async def bucket_of(self, key: Key, *, new: bool = True) -> int:
        """The key's bucket, for a table's bucket column. See `Routing.find` for keys that have none."""
        bucket = self.routing.bucket(key)
        return bucket if bucket is not None else await self.routing.find(key, new=new)

    async def why(self, key: Key) -> Placement:
        """Where a key's rows are, and why, by the map as it is now."""
        await self.refresh()
        bucket = await self.bucket_of(key, new=False)
        place = self._map.places[bucket]
        return Placement(
            key=str(key),
            bucket=bucket,
            shard=place.shard,
            epoch=place.epoch,
            state=place.state.value,
            routing=self.routing.name,
            map_version=self._map.version,
            why=f"{self.routing.why(key, bucket)}; map version {self._map.version} says that bucket {bucket} is in"
            f" {place.shard} under epoch {place.epoch} ({place.state.value})",
        )

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        """Bring every database up to date; how many steps that took in all."""

        async def work(name: str) -> int:
            return await self.databases.call(name, lambda store: store.migrate(owner, migrations))

        applied, _ = await side_by_side(self.databases.names, work, at_once=AT_ONCE)
        await self.maps.record(owner, migrations)
        return sum(applied.values())

    async def prepare(self, name: str) -> None:
        """Bring one database up to date by all the migrations there were, so that buckets can move there."""
        self.databases.check(name)
        for owner, migrations in (await self.maps.recorded()).items():
            await self.databases.call(name, partial(_migrate, owner, migrations))

    async def declare(self, *tables: ShardedTable) -> None:
        """Say that the rows of these tables belong to buckets: what a move takes along."""
        await self.maps.declare({table.name: table.bucket_sql for table in tables})

    def divided(self, table: str, key: str, bucket: str) -> EntityDatabases:
        """For a `DAO`: `DAO(User, users)` works as over a plain store."""
        from dougong.shard.entities import EntityDatabases

        return EntityDatabases(self, ShardedTable(table, key, bucket))

    async def refresh(self) -> None:
        """Read the map again. Who comes while it is being read shares that."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._load(), name=f"read the bucket map of {self.name}")
        await asyncio.shield(self._refreshing)

    async def watch(self, router: str = "") -> None:
        """Keep the map up to date from now on (see `open_sharded_store`); `close` ends that."""
        if self._watch is not None:
            return
        self._watch = watch = MapWatch(self, self.routers, router=router)
        try:
            await watch.start()
        except BaseException:
            self._watch = None
            raise

    async def routers_behind(self, version: int) -> list[str]:
        """Names of the routers that watch and have not said yet that they know this map: ask again until there is none.

        One that died is named for as long as its lease (10 s from the first time it was asked for), then no more.
        """
        return await self.routers.behind(version)

    async def on_bucket(self, bucket: int, work: Callable[[Store, Place], Awaitable[R]]) -> R:
        """Run `work` on the bucket's database. When it raises `StaleEpoch`, read the map and run it again.

        A bucket that is still where it was is fenced: wait until it is not, or give up after `stale_wait_s`.
        """
        until = self.clock.monotonic() + self.stale_wait_s
        while True:
            place = self._map.places[bucket]
            try:
                return await self.databases.call(place.shard, lambda store, place=place: work(store, place))  # type: ignore[misc]
            except StaleEpoch as stale:
                await self.catch_up(stale, [bucket], until)

    async def catch_up(self, stale: StaleEpoch, buckets: Sequence[int], until: float) -> None:
        """After `StaleEpoch`: return when it is worth trying these buckets again, else raise it."""
        _stale.inc(1, self.name)
        before = [self._map.places[bucket].epoch for bucket in buckets]
        await self.refresh()
        if before != [self._map.places[bucket].epoch for bucket in buckets]:
            return
        if self.clock.monotonic() >= until:
            raise stale
        if self._waiting >= self._waiting_max:
            raise Overloaded(
                f"{self.name}: {self._waiting_max} calls wait for buckets on the move; send less or later",
                code="buckets_moving",
                retry_after_s=0.1,
            ) from stale
        self._waiting += 1
        try:
            await asyncio.sleep(_PAUSE_S)
            for bucket in buckets:
                await self._rescue(bucket)
        finally:
            self._waiting -= 1

    async def hand_over_buckets(self) -> None:
        """Tell each database what it owns by the first map, then put that in force. Repeating it does no harm."""

        async def work(name: str) -> None:
            async def unit(tx: Tx) -> None:
                for bucket, epoch in self.owners[name].items():
                    await own(tx, bucket, epoch)

            await self.databases.call(name, lambda store: store.write(unit))

        await side_by_side(self.owners, work, at_once=AT_ONCE)
        self._learn(await self.maps.finish())

    async def close(self) -> None:
        """Finish what was accepted, then close all databases."""
        if self._watch is not None:
            await self._watch.stop()
        if self._refreshing is not None:
            await asyncio.wait([self._refreshing])
        await self.databases.close()
        await self.metadata.close()

    async def _rescue(self, bucket: int) -> None:
        """Open a bucket whose mover has left it closed for a while: it may have been killed."""
        if self._rescuing.locked():
            return
        async with self._rescuing:
            now, (seen, since) = self.clock.monotonic(), self._closed.get(bucket, (None, 0.0))
            if seen is not None and now - since < RESCUE_AFTER_S:
                return
            record = await self.moves.get(bucket)
            if record is None or not record.closed:
                self._closed.pop(bucket, None)
            elif seen is None or (record.token, record.phase) != (seen.token, seen.phase):
                self._closed[bucket] = record, now
            else:
                self._closed[bucket] = record, now
                try:
                    await rescue(self.moves, self.databases, record)
                except (TakenOver, Unavailable) as error:
                    _log.warning("a closed bucket could not be opened", bucket=bucket, problem=str(error))
                else:
                    _rescued.inc(1, self.name)

    async def _load(self) -> None:
        loaded = await self.maps.load()
        if loaded.version > self._map.version:  # a slow answer does not take back a newer one
            self._learn(loaded)

    def _learn(self, bucket_map: BucketMap) -> None:
        self._map = bucket_map
        self.owners = bucket_map.owners()
        """Of the map, by database."""
        for name in self.owners:
            self.databases.knows(name)


async def _migrate(owner: str, migrations: Sequence[Migration], store: Store) -> int:
    return await store.migrate(owner, migrations)


_PAUSE_S = 0.01
"""Between two looks at a bucket that is fenced."""


class PlacedStore:
    """A `Store` for the rows of one key (or bucket): found, checked and retried by the sharded store."""

    __slots__ = ("_bucket", "_key", "_sharded")

    def __init__(self, sharded: ShardedStore, key: Key, bucket: int | None) -> None:
        self._sharded = sharded
        self._key = key
        self._bucket = bucket

    @property
    def name(self) -> str:
        return self._sharded.name

    @property
    def dialect(self) -> str:
        return self._sharded.dialect

    async def write(self, unit: Unit[R]) -> R:
        """As `Store.write`, in a unit that first makes sure that the database owns the bucket."""
        bucket = self._bucket if self._bucket is not None else await self._found()

        def work(store: Store, place: Place) -> Awaitable[R]:
            return store.write(guarded(unit, store, bucket, place.epoch))

        return await self._sharded.on_bucket(bucket, work)

    async def read(self, unit: Unit[R]) -> R:
        bucket = self._bucket if self._bucket is not None else await self._found()

        async def work(store: Store, place: Place) -> R:
            async def checked(tx: Tx) -> R:
                await require(tx, store.name, {bucket: place.epoch})
                return await unit(tx)

            return await store.read(checked)

        return await self._sharded.on_bucket(bucket, work)

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        try:
            bucket = self._bucket if self._bucket is not None else await self._found(new=False)
        except NotFound:  # of the key: reading places nothing
            return []

        async def work(store: Store, place: Place) -> list[Row]:
            rows = await store.fetch_all(sql, parameters)
            await require(store, store.name, {bucket: place.epoch})
            return rows

        return await self._sharded.on_bucket(bucket, work)

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        try:
            bucket = self._bucket if self._bucket is not None else await self._found(new=False)
        except NotFound:
            return None

        async def work(store: Store, place: Place) -> Row | None:
            row = await store.fetch_one(sql, parameters)
            await require(store, store.name, {bucket: place.epoch})
            return row

        return await self._sharded.on_bucket(bucket, work)

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        """All databases of the sharded store: a key may come to any of them."""
        return await self._sharded.migrate(owner, migrations)

    async def check(self) -> None:
        bucket = self._bucket if self._bucket is not None else await self._found()
        await self._sharded.on_bucket(bucket, lambda store, _: store.check())

    async def close(self) -> None:
        """Nothing: the sharded store is closed, not the view of it."""

    async def _found(self, *, new: bool = True) -> int:
        self._bucket = await self._sharded.routing.find(self._key, new=new)
        return self._bucket
