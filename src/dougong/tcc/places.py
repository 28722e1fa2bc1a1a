"""Where a participant's units run: in its one database, or in each that owns buckets of the transactions asked about.

Over many databases the fence row of a branch lies in the bucket `transaction % 128`, and so must the rows that the
participant changes for it, since both are written by one unit. Who makes transaction ids sees to that (decision 0026).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from dougong.errors import DeadlineExceeded, Overloaded, Unavailable
from dougong.shard import BUCKETS, ShardedStore, ShardedTable, write_grouped
from dougong.store import Store, Tx, in_halves, migrations_from
from dougong.tcc.fence_table import FenceTable, ShardedFenceTable
from dougong.tcc.wire import Forget, Forgotten

__all__ = ["ManyPlaces", "OnePlace", "Places"]

Item = TypeVar("Item")
R = TypeVar("R")

_FENCE = "dougong.tcc.migrations.fence"
_AWAY = (Unavailable, Overloaded, DeadlineExceeded)
"""Errors that say nothing about the items."""


class Places(Protocol):
    """What a participant service needs of its databases."""

    @property
    def table(self) -> FenceTable:
        """Its statements about the fence."""

    async def start(self) -> None:
        """Create or upgrade the fence's tables."""

    async def each(
        self, items: Sequence[Item], ids: Sequence[int], unit: Callable[[Tx, Sequence[Item]], Awaitable[R]]
    ) -> tuple[list[R], list[tuple[Item, Exception]]]:
        """Run `unit` on all items, of which `ids` are the transactions; where it fails, down to those that fail alone.

        The results of the units that worked, and the others with their errors. When no database could be used, that is
        raised.
        """

    async def forget(self, participant: str, request: Forget) -> Forgotten:
        """Drop what is over."""


class OnePlace:
    """One database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.table: FenceTable = FenceTable()

    async def start(self) -> None:
        await self._store.migrate("dougong.tcc.fence", migrations_from(_FENCE))

    async def each(
        self, items: Sequence[Item], ids: Sequence[int], unit: Callable[[Tx, Sequence[Item]], Awaitable[R]]
    ) -> tuple[list[R], list[tuple[Item, Exception]]]:
        async def part(some: Sequence[Item]) -> R:
            async def bound(tx: Tx) -> R:
                return await unit(tx, some)

            bound.__qualname__ = unit.__qualname__
            return await self._store.write(bound)

        return await in_halves(items, part)

    async def forget(self, participant: str, request: Forget) -> Forgotten:
        async def unit(tx: Tx) -> Forgotten:
            scope, _ = await self.table.scope(tx, participant, request.initiator)
            rows, more = await self.table.forget(tx, scope, request.before_us, request.keep)
            return Forgotten(rows=rows, more=more)

        return await self._store.write(unit)


class ManyPlaces:
    """Many databases; a batch is one unit in each that it touches."""

    def __init__(self, sharded: ShardedStore) -> None:
        self._sharded = sharded
        self.table = ShardedFenceTable()

    async def start(self) -> None:
        sharded = self._sharded
        await sharded.migrate("dougong.tcc.fence", migrations_from(_FENCE))
        await sharded.migrate("dougong.tcc.floors", migrations_from("dougong.tcc.migrations.floors"))
        await sharded.declare(
            ShardedTable("dougong_fence", "transaction_id"),
            ShardedTable("dougong_fence_pages", "first_id"),
            ShardedTable("dougong_fence_floors", "bucket", "bucket"),
        )

    async def each(
        self, items: Sequence[Item], ids: Sequence[int], unit: Callable[[Tx, Sequence[Item]], Awaitable[R]]
    ) -> tuple[list[R], list[tuple[Item, Exception]]]:
        places = range(len(items))

        async def bound(tx: Tx, some: list[int]) -> R:
            return await unit(tx, [items[place] for place in some])

        async def part(some: Sequence[int]) -> list[R]:
            return (await write_grouped(self._sharded, some, [ids[i] % BUCKETS for i in some], bound)).whole()

        grouped = await write_grouped(self._sharded, places, [ids[i] % BUCKETS for i in places], bound)
        results = [done.result for done in grouped.done]
        culprits: list[tuple[Item, Exception]] = []
        if grouped.failed and not results and all(isinstance(failed.error, _AWAY) for failed in grouped.failed):
            raise grouped.failed[0].error
        for failed in grouped.failed:
            if len(failed.items) == 1 or isinstance(failed.error, _AWAY):
                culprits += [(items[i], failed.error) for i in failed.items]
                continue
            try:
                more, alone = await in_halves(failed.items, part)
            except _AWAY as error:  # what had worked by then is found again by the fence
                culprits += [(items[i], error) for i in failed.items]
                continue
            results += [result for some in more for result in some]
            culprits += [(items[i], error) for i, error in alone]
        return results, culprits

    async def forget(self, participant: str, request: Forget) -> Forgotten:
        async def unit(tx: Tx, buckets: list[int]) -> tuple[int, bool]:
            return await self.table.forget_buckets(
                tx, participant, request.initiator, request.before_us, request.keep, buckets
            )

        buckets = range(BUCKETS)
        dropped = (await write_grouped(self._sharded, buckets, buckets, unit)).whole()
        return Forgotten(rows=sum(rows for rows, _ in dropped), more=any(more for _, more in dropped))
