"""Numbers never given out twice, also from within somebody else's transaction, which may wait for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from dougong.errors import Error
from dougong.store import Store, Tx
from dougong.telemetry import get_logger

__all__ = ["Numbers"]

_log = get_logger("dougong.jobs")


class Numbers:
    """A block is booked durably before a number of it is given out; a crash loses the rest and repeats nothing.

    Within a unit, numbers come from the block in memory. When it is too short they are booked in that unit, exactly as
    many as are needed (if it is undone, so are they), while a task fetches the next block.
    """

    def __init__(self, store: Store, name: str, block: int) -> None:
        self._store = store
        self._name = name
        self._block = block
        self._free = range(0)
        self._filling = asyncio.Lock()
        self._refilling: asyncio.Task[None] | None = None

    async def fill(self, count: int = 1) -> None:
        """Make sure that the next `count` are in memory."""
        if len(self._free) >= count:
            return
        async with self._filling:
            size = max(count, self._block)
            if len(self._free) < count:
                start = await self._store.write(lambda tx: self._book(tx, size))
                self._free = range(start, start + size)

    async def take(self, tx: Tx, count: int) -> Sequence[int]:
        """`count` new ones, rising."""
        if count > len(self._free):
            self._refill()
            start = await self._book(tx, count)
            return range(start, start + count)
        taken, self._free = self._free[:count], self._free[count:]
        if len(self._free) < self._block // 4:
            self._refill()
        return taken

    async def close(self) -> None:
        """Wait for the block that is being fetched."""
        if self._refilling is not None:
            await asyncio.gather(self._refilling, return_exceptions=True)

    def _refill(self) -> None:
        if self._refilling is None or self._refilling.done():
            self._refilling = asyncio.create_task(self._fetch(), name="job numbers")

    async def _fetch(self) -> None:
        try:
            await self.fill(self._block // 2)
        except Error as error:  # numbers are booked one by one meanwhile
            _log.warning("job_numbers_not_fetched", code=error.code, reason=error.message)

    async def _book(self, tx: Tx, size: int) -> int:
        if not await tx.execute(
            "UPDATE dougong_job_numbers SET next_number = next_number + ? WHERE name = ?", (size, self._name)
        ):
            await tx.execute(
                "INSERT INTO dougong_job_numbers (name, next_number) VALUES (?, ?)", (self._name, 1 + size)
            )
            return 1
        row = await tx.fetch_one("SELECT next_number FROM dougong_job_numbers WHERE name = ?", (self._name,))
        assert row is not None, "the row was updated a line above"
        return cast(int, row[0]) - size
