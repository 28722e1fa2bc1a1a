"""Entities over many databases: what a `DAO` needs of a sharded store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar, cast

from dougong.dao import Entity
from dougong.errors import NotFound
from dougong.shard.buckets import Key
from dougong.shard.grouped import buckets_of, read_grouped, write_grouped
from dougong.shard.query import ShardedTable
from dougong.shard.scatter import check_bucket, spread
from dougong.shard.sharded import AT_ONCE, ShardedStore
from dougong.store import Store, Tx, Value

__all__ = ["EntityDatabases", "table_of"]

R = TypeVar("R")


def table_of(entity: type[Entity]) -> ShardedTable:
    """The entity's table as queries, indexes and `ShardedStore.declare` want it."""
    declared = entity.__declared__
    return ShardedTable(declared.table, declared.key, declared.bucket)


class EntityDatabases:
    """Implements `dougong.dao.Databases` for one table.

    `Invalid` (code `no_bucket_column`) when keys are not routed by `key % 128` and the entity names no `bucket`.
    """

    def __init__(self, sharded: ShardedStore, table: ShardedTable) -> None:
        check_bucket(sharded, table)
        self._sharded = sharded
        self.bucket_sql = table.bucket_sql

    def store_of(self, key: Value) -> Store:
        return self._sharded.store_of(cast(Key, key))

    async def bucket_of(self, key: Value) -> int:
        return await self._sharded.bucket_of(cast(Key, key))

    async def write_many(self, keys: Sequence[Value], unit: Callable[[Tx, list[int]], Awaitable[R]]) -> list[R]:
        buckets = await buckets_of(self._sharded, cast("Sequence[Key]", keys))
        return (await write_grouped(self._sharded, range(len(keys)), buckets, unit)).whole()

    async def read_many(self, keys: Sequence[Value], unit: Callable[[Tx, list[int]], Awaitable[R]]) -> list[R]:
        places: list[int] = []
        buckets: list[int] = []
        for place, key in enumerate(cast("Sequence[Key]", keys)):
            try:
                buckets.append(await self._sharded.bucket_of(key, new=False))
            except NotFound:  # of the key: reading places nothing
                continue
            places.append(place)
        return (await read_grouped(self._sharded, places, buckets, unit)).whole()

    async def ask_all(self, question: Callable[[Store, str], Awaitable[R]]) -> list[R]:
        def work(store: Store, buckets: Mapping[int, int]) -> Awaitable[R]:
            return question(store, ", ".join(map(str, buckets)))

        _, answers, _ = await spread(self._sharded, None, work, at_once=AT_ONCE, partial=False)
        return list(answers.values())
