"""Unique numbers without a clock: take a block from the database, hand it out from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dougong.errors import Invalid
from dougong.store._protocol import Migration, Store, Tx

__all__ = ["IdBlocks"]

_SCHEMA = [
    Migration(
        1,
        "id_blocks",
        "CREATE TABLE dougong_id_blocks (name VARCHAR(100) NOT NULL PRIMARY KEY, next_id BIGINT NOT NULL)",
    )
]


class IdBlocks:
    """Ids from 1 upwards, never twice: not after a restart, not from another process on the same database.

    The next block is booked durably before any id of it is given out (hi-lo), so a crash loses the rest of a block and
    repeats nothing. Ids of one process rise; between processes blocks interleave, so ids say little about time.

    >>> orders = IdBlocks(store, "orders")           # doctest: +SKIP
    >>> await orders.take(3)                         # doctest: +SKIP
    range(1, 4)
    """

    def __init__(self, store: Store, name: str, block: int = 10_000) -> None:
        if block < 1:
            raise Invalid(f"a block of {block} ids is none; give 1 or more", code="bad_block", block=block)
        self._store = store
        self._name = name
        self._block = block
        self._free = range(0)
        self._filling = asyncio.Lock()
        self._ready = False

    async def take(self, count: int = 1) -> Sequence[int]:
        """`count` new ids, rising. Touches the database only when the block in memory runs out."""
        if count < 0:
            raise Invalid(f"{count} ids cannot be taken", code="bad_count", count=count)
        if count > len(self._free):
            async with self._filling:
                short = count - len(self._free)
                if short > 0:
                    start = await self._book(max(short, self._block))
                    # Others may have taken ids meanwhile; what is left of the old block goes first.
                    return self._split(start, max(short, self._block), count)
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def _split(self, start: int, size: int, count: int) -> Sequence[int]:
        old = self._free
        fresh = range(start, start + size)
        if old and old[-1] + 1 == start:
            joined = range(old[0], fresh[-1] + 1)
            taken: Sequence[int] = joined[:count]
            self._free = joined[count:]
            return taken
        wanted = count - len(old)
        self._free = fresh[wanted:]
        return [*old, *fresh[:wanted]]

    async def _book(self, size: int) -> int:
        if not self._ready:
            await self._store.migrate("dougong.ids", _SCHEMA)
            self._ready = True
        name = self._name

        async def unit(tx: Tx) -> int:
            changed = await tx.execute(
                "UPDATE dougong_id_blocks SET next_id = next_id + ? WHERE name = ?", (size, name)
            )
            if not changed:
                await tx.execute("INSERT INTO dougong_id_blocks (name, next_id) VALUES (?, ?)", (name, 1 + size))
                return 1
            row = await tx.fetch_one("SELECT next_id FROM dougong_id_blocks WHERE name = ?", (name,))
            assert row is not None, "the row was updated a line above"
            assert isinstance(row[0], int)
            return row[0] - size

        return await self._store.write(unit)
