"""Between two pieces of work: what is wished of the move meanwhile, and how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dougong.shard.moving.moves import Moves, TakenOver
from dougong.shard.moving.record import MoveRecord, Wish

__all__ = ["Progress", "Watch", "Wished"]

Progress = Callable[[MoveRecord, int], None]
"""Called now and then with the record and the rows copied so far."""


class Wished(Exception):
    """Somebody wants to pause or to cancel."""


class Watch:
    """Looks at what is wished, and tells how far it is."""

    EVERY_S = 0.2

    def __init__(self, moves: Moves, record: MoveRecord, progress: Progress | None) -> None:
        self.record = record
        self.rows = record.rows
        self._moves = moves
        self._progress = progress
        self._looked = 0.0

    async def copied(self, rows: int) -> None:
        self.rows += rows
        await self.look()

    async def keep(self) -> None:
        """Only tell; nothing can be wished now."""
        if self._progress is not None:
            self._progress(self.record, self.rows)

    async def look(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._looked < self.EVERY_S:
            return
        self._looked = now
        record = await self._moves.get(self.record.bucket)
        if record is None or record.token != self.record.token:
            raise TakenOver(self.record.bucket)
        if self._progress is not None:
            self._progress(record, self.rows)
        if record.wish in (Wish.PAUSE, Wish.CANCEL):
            raise Wished
