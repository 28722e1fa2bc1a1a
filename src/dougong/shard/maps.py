"""The bucket map, kept in the metadata database: made once, read by every router, changed by compare-and-set."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from dougong.errors import Invalid, NotFound
from dougong.shard.buckets import BucketMap, BucketState, Place
from dougong.store import Migration, Store, Tx

__all__ = ["BucketMaps"]

_TABLES = """
CREATE TABLE dougong_bucket_map (one SMALLINT NOT NULL PRIMARY KEY, version BIGINT NOT NULL,
    routing VARCHAR(50) NOT NULL, cursor_key {bytes} NOT NULL);
CREATE TABLE dougong_buckets (bucket SMALLINT NOT NULL PRIMARY KEY, shard VARCHAR(100) NOT NULL,
    epoch BIGINT NOT NULL, state VARCHAR(20) NOT NULL);
"""
_SCHEMA_TABLE = (
    "CREATE TABLE dougong_shard_schema (owner VARCHAR(100) NOT NULL PRIMARY KEY, steps INT NOT NULL,"
    " migrations {text} NOT NULL)"
)
_SCHEMA = [
    Migration(
        1,
        "bucket_map",
        _TABLES.format(bytes="BLOB"),
        {"postgresql": _TABLES.format(bytes="BYTEA"), "mysql": _TABLES.format(bytes="VARBINARY(64)")},
    ),
    Migration(
        2,
        "sharded_tables",
        "CREATE TABLE dougong_sharded_tables (name VARCHAR(63) NOT NULL PRIMARY KEY, bucket_sql VARCHAR(200) NOT NULL)",
    ),
    Migration(
        3,
        "moves",
        "CREATE TABLE dougong_moves (bucket SMALLINT NOT NULL PRIMARY KEY, number BIGINT NOT NULL,"
        " token BIGINT NOT NULL, mover VARCHAR(200) NOT NULL, source VARCHAR(100) NOT NULL,"
        " target VARCHAR(100) NOT NULL, epoch BIGINT NOT NULL, phase VARCHAR(20) NOT NULL, wish VARCHAR(20) NOT NULL,"
        " switches INT NOT NULL, copied BIGINT NOT NULL, started_us BIGINT NOT NULL, ended_us BIGINT NOT NULL)",
    ),
    Migration(
        4,
        "schema",
        _SCHEMA_TABLE.format(text="TEXT"),
        {"mysql": _SCHEMA_TABLE.format(text="MEDIUMTEXT")},
    ),
    Migration(
        5,
        "move_triggers",
        "CREATE TABLE dougong_move_triggers (shard VARCHAR(100) NOT NULL PRIMARY KEY, number BIGINT NOT NULL,"
        " state VARCHAR(20) NOT NULL)",
    ),
]
_HEAD = "SELECT version, routing, cursor_key FROM dougong_bucket_map"
_PLACES = "SELECT shard, epoch, state FROM dougong_buckets ORDER BY bucket"
UNFINISHED = 0
"""Version of a map whose databases have not all been told yet that they own their buckets."""


class BucketMaps:
    """Reads and changes the map. `open` makes what is missing."""

    def __init__(self, metadata: Store) -> None:
        self._metadata = metadata
        self.cursor_key = b""
        """Secret of all routers of this map: signs the cursors that clients hold."""

    async def open(self, routing: str, spread: Sequence[str]) -> BucketMap:
        """The map; a first one laid out as `spread` when there is none (then with version 0, see `finish`).

        `NotFound` (code `no_map`) when there is none and `spread` is empty, `Invalid` (code `other_routing`) when it
        was made with another strategy.
        """
        await self._metadata.migrate("dougong.shard.map", _SCHEMA)
        key = secrets.token_bytes(32)

        async def unit(tx: Tx) -> None:
            if spread and await tx.fetch_one(_HEAD) is None:
                await tx.execute("INSERT INTO dougong_bucket_map VALUES (1, ?, ?, ?)", (UNFINISHED, routing, key))
                rows = [(bucket, shard, 1, BucketState.SERVING.value) for bucket, shard in enumerate(spread)]
                await tx.execute_many("INSERT INTO dougong_buckets VALUES (?, ?, ?, ?)", rows)

        await self._metadata.write(unit)
        head = await self._head(self._metadata)
        if head[1] != routing:
            raise Invalid(
                f"{self._metadata.name} was laid out with routing {head[1]!r}, so with {routing!r} keys would be looked"
                f" for in the wrong place; open it with {head[1]!r}",
                code="other_routing",
            )
        self.cursor_key = cast(bytes, head[2])
        return await self.load()

    async def finish(self) -> BucketMap:
        """All databases know what they own: the map is in force."""

        async def unit(tx: Tx) -> None:
            await tx.execute("UPDATE dougong_bucket_map SET version = 1 WHERE version = ?", (UNFINISHED,))

        await self._metadata.write(unit)
        return await self.load()

    async def load(self) -> BucketMap:
        """The map as it is now."""
        return await self._metadata.read(self._load)

    async def version(self) -> int:
        """Of the map as it is now: one row, for who looks often."""
        return cast(int, (await self._head(self._metadata))[0])

    async def routing(self) -> str:
        """Name of the strategy it was made with. `NotFound` (code `no_map`) when there is no map."""
        return cast(str, (await self._head(self._metadata))[1])

    async def declare(self, tables: Mapping[str, str]) -> None:
        """Note of tables (name → SQL of a row's bucket) that their rows belong to buckets, and so move with them."""

        async def unit(tx: Tx) -> None:
            known = await self._tables(tx)
            for name, bucket_sql in tables.items():
                if known.get(name) == bucket_sql:
                    continue
                await tx.execute("DELETE FROM dougong_sharded_tables WHERE name = ?", (name,))
                await tx.execute("INSERT INTO dougong_sharded_tables VALUES (?, ?)", (name, bucket_sql))

        if not tables.items() <= (await self.tables()).items():
            await self._metadata.write(unit)

    async def record(self, owner: str, migrations: Sequence[Migration]) -> None:
        """Remember the steps of a schema, for databases that are added later. Those of older programs are left."""
        text = msgspec.json.encode(migrations).decode()

        async def unit(tx: Tx) -> None:
            newest = await self._steps(tx, owner)
            if newest < len(migrations):
                await tx.execute("DELETE FROM dougong_shard_schema WHERE owner = ?", (owner,))
                await tx.execute("INSERT INTO dougong_shard_schema VALUES (?, ?, ?)", (owner, len(migrations), text))

        if await self._steps(self._metadata, owner) < len(migrations):
            await self._metadata.write(unit)

    async def recorded(self) -> dict[str, list[Migration]]:
        """Owner → its steps, as last recorded."""
        rows = await self._metadata.fetch_all("SELECT owner, migrations FROM dougong_shard_schema ORDER BY owner")
        return {cast(str, owner): msgspec.json.decode(cast(str, text), type=list[Migration]) for owner, text in rows}

    async def _steps(self, reader: Store | Tx, owner: str) -> int:
        row = await reader.fetch_one("SELECT steps FROM dougong_shard_schema WHERE owner = ?", (owner,))
        return cast(int, row[0]) if row is not None else 0

    async def tables(self) -> dict[str, str]:
        """Name → SQL of a row's bucket, of all that were declared."""
        return await self._tables(self._metadata)

    async def _tables(self, reader: Store | Tx) -> dict[str, str]:
        rows = await reader.fetch_all("SELECT name, bucket_sql FROM dougong_sharded_tables")
        return dict(cast("list[tuple[str, str]]", rows))

    async def change(self, bucket: int, before: Place, after: Place) -> BucketMap:
        """Compare-and-set of one place; the new map. Raises what `BucketMap.changed` raises.

        It does not tell the databases (`own`): who moves a bucket does that, in the order that loses nothing.
        """
        return await self._metadata.write(lambda tx: self.change_within(tx, bucket, before, after))

    async def change_within(self, tx: Tx, bucket: int, before: Place, after: Place) -> BucketMap:
        """The same within a unit of the metadata database."""
        changed = (await self.within(tx)).changed(bucket, before, after)
        await tx.execute(
            "UPDATE dougong_buckets SET shard = ?, epoch = ?, state = ? WHERE bucket = ?",
            (after.shard, after.epoch, after.state.value, bucket),
        )
        await tx.execute("UPDATE dougong_bucket_map SET version = ?", (changed.version,))
        return changed

    async def within(self, tx: Tx) -> BucketMap:
        """The map, within a unit of the metadata database."""
        return await self._load(tx)

    async def _load(self, tx: Tx) -> BucketMap:
        version = cast(int, (await self._head(tx))[0])
        rows = cast("list[tuple[str, int, str]]", await tx.fetch_all(_PLACES))
        return BucketMap(version, tuple(Place(shard, epoch, BucketState(state)) for shard, epoch, state in rows))

    async def _head(self, reader: Store | Tx) -> tuple[object, ...]:
        row = await reader.fetch_one(_HEAD)
        if row is None:
            raise NotFound(f"{self._metadata.name} holds no bucket map", code="no_map")
        return row
