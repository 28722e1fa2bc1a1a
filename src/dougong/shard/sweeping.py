"""Keeping unique indexes whole: orphans are collected, rows that were there before the index are taken into it."""

from __future__ import annotations

from typing import TypeVar, cast

import msgspec

from dougong.errors import Conflict, Unavailable
from dougong.shard.buckets import BUCKETS, Key
from dougong.shard.grouped import write_grouped
from dougong.shard.query import ShardedTable
from dougong.shard.ring import hash_bucket
from dougong.shard.sharded import ShardedStore
from dougong.shard.unique import UNIQUE_MIGRATIONS, UNIQUE_TABLES, Claims, entry_of
from dougong.store import Migration, Tx, Unit

__all__ = ["Backfill", "Sweep", "UniqueIndex"]

R = TypeVar("R")

_STATES = [
    Migration(
        1,
        "unique_indexes",
        "CREATE TABLE dougong_unique_indexes (name VARCHAR(60) NOT NULL PRIMARY KEY, ready SMALLINT NOT NULL)",
    )
]
PAGE = 500
_ENTRIES = (
    "SELECT value, key_json, token, claimed_us FROM dougong_unique"
    " WHERE index_name = ? AND bucket = ? AND value > ? ORDER BY value LIMIT 500"
)
KEEP_S = 3600.0
"""Revocations are kept so long: no unit is under way for longer."""


class Sweep(msgspec.Struct, frozen=True):
    """What one sweep found."""

    entries: int
    orphans: int
    """Dropped."""


class Backfill(msgspec.Struct, frozen=True):
    """What one backfill did."""

    rows: int
    duplicates: tuple[tuple[str, Key], ...] = ()
    """(value, key) of rows whose value another row has, too: the index is not ready before they are put right."""


class UniqueIndex:
    """`UniqueIndex(users, "email", ShardedTable("users"), "email")`: no two users have one e-mail.

    All writers of that column have to go through it. Values are compared as they are: fold case before.

    An index has a life: it is made write-only, filled from the rows there are, and then answers.

    Writers claim from the beginning, so that nothing that comes while it is filled is missed; readers wait until all
    that was there before is in it.
    """

    claims = Claims
    keep_s = KEEP_S

    def __init__(self, sharded: ShardedStore, name: str, table: ShardedTable, column: str) -> None:
        self._sharded = sharded
        self._claims = self.claims(sharded, name, table, column)
        self._ready = False

    async def start(self, *, new: bool = False) -> None:
        """Create what is missing. `new`: the table is new with it, so there is nothing to fill it from."""
        await self._sharded.migrate("dougong.shard.unique", UNIQUE_MIGRATIONS)
        await self._sharded.metadata.migrate("dougong.shard.unique", _STATES)
        await self._sharded.declare(self._claims.table, *UNIQUE_TABLES)
        name = self._claims.name

        async def unit(tx: Tx) -> bool:
            row = await tx.fetch_one("SELECT ready FROM dougong_unique_indexes WHERE name = ?", (name,))
            if row is None:
                await tx.execute("INSERT INTO dougong_unique_indexes (name, ready) VALUES (?, ?)", (name, int(new)))
            return bool(row[0]) if row is not None else new

        self._ready = await self._sharded.metadata.write(unit)

    @property
    def ready(self) -> bool:
        """Whether it answers, as far as is known here."""
        return self._ready

    async def write(self, key: Key, value: str, unit: Unit[R]) -> R:
        """See `Claims.write`."""
        return await self._claims.write(key, value, unit)

    async def release(self, value: str) -> bool:
        """See `Claims.release`."""
        return await self._claims.release(value)

    async def find(self, value: str) -> Key | None:
        """The key of the row that has this value. `Unavailable` (code `index_not_ready`) before it was filled."""
        if not self._ready:
            await self.start()
        if not self._ready:
            raise Unavailable(
                f"unique index {self._claims.name} only takes writes until backfill() has found no duplicates",
                code="index_not_ready",
            )
        return await self._claims.find(value)

    async def backfill(self) -> Backfill:
        """Take in all rows, bucket by bucket; ready when no two have one value. May be repeated, also after a crash."""
        rows, duplicates = 0, list[tuple[str, Key]]()
        table, column = self._claims.table, self._claims.column
        for bucket in range(BUCKETS):
            store = self._sharded.store_at(bucket)
            sql = (
                f"SELECT {table.key}, {column} FROM {table.name} WHERE {table.bucket_sql} = {bucket} AND"  # noqa: S608 (the programmer's names)
                f" {column} IS NOT NULL {{behind}} ORDER BY {table.key} LIMIT {PAGE}"
            )
            page = await store.fetch_all(sql.format(behind=""))
            while page:
                rows += len(page)
                for key, value in await self._claim_new(cast("list[tuple[Key, str]]", page)):
                    try:
                        while await self._claims.claim(key, value) is None:
                            pass  # each round was won by somebody else
                    except Conflict:
                        duplicates.append((value, key))
                page = await store.fetch_all(sql.format(behind=f"AND {table.key} > ?"), (page[-1][0],))
        if not duplicates:
            await self._set_ready()
        return Backfill(rows, tuple(duplicates))

    async def _claim_new(self, page: list[tuple[Key, str]]) -> list[tuple[Key, str]]:
        """Claim what nobody has claimed, one unit per database; the rest of the page."""
        buckets = [hash_bucket(value) for _, value in page]
        grouped = await write_grouped(self._sharded, page, buckets, self._claims.claim_new)
        return [row for rest in grouped.whole() for row in rest]

    async def sweep(self, *, older_than_s: float = 60.0) -> Sweep:
        """Drop the entries whose rows do not have their values. Those claimed lately are left in peace.

        It is safe at any time and with any age: a claim that is swept while its row is being written is claimed again.
        """
        entries = orphans = 0
        before_us = self._sharded.now_us() - round(older_than_s * 1e6)
        for bucket in range(BUCKETS):
            store = self._sharded.store_at(bucket)
            rows = await store.fetch_all(_ENTRIES, (self._claims.name, bucket, ""))
            while rows:
                for entry in map(entry_of, rows):
                    entries += 1
                    if entry.claimed_us <= before_us:
                        orphans += await self._claims.drop_orphan(entry)
                rows = await store.fetch_all(_ENTRIES, (self._claims.name, bucket, rows[-1][0]))
            await store.write(self._forget(bucket))
        return Sweep(entries, orphans)

    def _forget(self, bucket: int) -> Unit[None]:
        before_us = self._sharded.now_us() - round(self.keep_s * 1e6)

        async def unit(tx: Tx) -> None:
            await tx.execute(
                "DELETE FROM dougong_unique_revoked WHERE bucket = ? AND revoked_us < ?", (bucket, before_us)
            )

        return unit

    async def _set_ready(self) -> None:
        name = self._claims.name

        async def unit(tx: Tx) -> None:
            await tx.execute("UPDATE dougong_unique_indexes SET ready = 1 WHERE name = ?", (name,))

        await self._sharded.metadata.write(unit)
        self._ready = True
