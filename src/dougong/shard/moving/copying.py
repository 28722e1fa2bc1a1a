"""Filling the other database: cleared, copied piece by piece, brought up to date from the notes, compared.

One thing after the other, by one mover: what was read is written before anything else is read. So a piece never comes
after a newer state of its rows, and where a row is not among the notes, both databases must have the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar, cast

from dougong.clock import Clock
from dougong.errors import Conflict
from dougong.shard.moving.shapes import Shape
from dougong.shard.moving.side import At, Side, Stage
from dougong.shard.moving.statements import Statements
from dougong.store import Row, Store, Tx, Value

__all__ = ["Copier", "Pace"]

R = TypeVar("R")
Key = tuple[Value, ...]

ROWS_MIN, ROWS_FIRST, ROWS_MAX = 64, 256, 4096
SCAN = 16
"""Keys looked at, of any bucket, per row wanted: bounds what one statement reads."""


class Pace:
    """How much at once, so that nobody waits long behind a piece, and how long to rest in between."""

    def __init__(self, clock: Clock, *, piece_s: float, share: float) -> None:
        self._clock = clock
        self._piece_s = piece_s
        self._rest = (1 - share) / share
        self.rows = ROWS_FIRST

    async def step(self, work: Awaitable[R]) -> R:
        """Do one piece, learn from how long it took, and rest."""
        began = self._clock.monotonic()
        result = await work
        took_s = self._clock.monotonic() - began
        if took_s > self._piece_s:
            self.rows = max(ROWS_MIN, self.rows // 2)
        elif took_s < self._piece_s / 2:
            self.rows = min(ROWS_MAX, self.rows * 5 // 4)
        if self._rest > 0:
            await asyncio.sleep(min(took_s, 1.0) * self._rest)
        return result


class Copier:
    """From source to target. Holds nothing that is not in the databases, but for its pace."""

    def __init__(self, source: Side, target: Side, shapes: Sequence[Shape], dialect: str, pace: Pace) -> None:
        self._source = source
        self._target = target
        self._bucket = source.record.bucket
        self._tables = {shape.table: Statements(shape, dialect) for shape in shapes}
        self._pace = pace

    async def clear(self, side: Side, *, each: Callable[[], Awaitable[None]]) -> None:
        """Delete the bucket's rows in a database that does not own it."""
        for table in self._tables.values():
            after: Key = ()
            while True:
                await each()
                after, more = await self._pace.step(self._clear_piece(side, table, after))
                if not more:
                    break

    async def copy(self, at: At, *, each: Callable[[int], Awaitable[None]]) -> None:
        """Go on from where the target says it is. `each` is told the rows of every piece."""
        reached = at.stage == Stage.NEW or not at.table
        for name, table in self._tables.items():
            if not reached and name != at.table:
                continue
            after = at.key if not reached else ()
            reached = True
            while True:
                after, rows, more = await self._pace.step(self._copy_piece(name, table, after))
                await each(rows)
                if not more:
                    break
        await self._target.fill(_nothing, At(Stage.COPIED))

    async def catch_up(self, *, most: int, paced: bool = True) -> int:
        """Work off some notes of each table; how many. 0: there were none."""
        done = 0
        for table in self._tables.values():
            work = self._work_off(table, most)
            done += await (self._pace.step(work) if paced else work)
        return done

    async def pending(self) -> int:
        """Notes not worked off."""

        async def count(store: Store) -> int:
            rows = [await store.fetch_one(table.count, (self._bucket,)) for table in self._tables.values()]
            return sum(cast(int, row[0]) for row in rows if row is not None)

        return await self._source.call(count)

    async def strike_all(self, side: Side, *, each: Callable[[], Awaitable[None]]) -> None:
        """Drop the notes of a bucket of which none are taken any more."""
        for table in self._tables.values():
            while notes := await side.call(partial(_notes, table, self._bucket)):
                await each()
                await self._strike(side, table, notes)

    async def compare(self, *, each: Callable[[], Awaitable[None]]) -> int:
        """Rows of the source that were looked at, all of them alike in the target or among the notes.

        `Conflict` (code `copy_differs`) naming the first that is not.
        """
        compared = 0
        for table in self._tables.values():
            after: Key = ()
            while True:
                await each()
                after, count, more = await self._pace.step(self._compare_piece(table, after))
                compared += count
                if not more:
                    break
        return compared

    async def _clear_piece(self, side: Side, table: Statements, after: Key) -> tuple[Key, bool]:
        width = self._pace.rows * SCAN

        async def look(tx: Tx) -> tuple[Key | None, list[Row]]:
            end = await table.window(tx, after, width)
            return end, await table.rows(tx, self._bucket, after, end, self._pace.rows)

        most = self._pace.rows
        end, rows = await side.call(lambda store: store.read(look))
        if rows:
            keys = [table.key_of(row) for row in rows]
            await side.fill(lambda tx: table.replace(tx, self._bucket, keys, ()))
        return _next(table, rows, end, most)

    async def _copy_piece(self, name: str, table: Statements, after: Key) -> tuple[Key, int, bool]:
        most = self._pace.rows

        async def look(tx: Tx) -> tuple[Key | None, list[Row]]:
            end = await table.window(tx, after, most * SCAN)
            return end, await table.rows(tx, self._bucket, after, end, most)

        end, rows = await self._source.call(lambda store: store.read(look))
        until, more = _next(table, rows, end, most)
        keys = [table.key_of(row) for row in rows]

        async def put(tx: Tx) -> None:
            if rows:
                await table.replace(tx, self._bucket, keys, rows)

        await self._target.fill(put, At(Stage.COPYING, name, until))
        return until, len(rows), more

    async def _work_off(self, table: Statements, most: int) -> int:
        async def look(tx: Tx) -> tuple[list[Row], list[Row]]:
            notes = await tx.fetch_all(table.notes, (self._bucket, most))
            keys = list({tuple(note[1:]) for note in notes})
            return notes, await table.rows_of(tx, self._bucket, keys) if keys else []

        notes, rows = await self._source.call(lambda store: store.read(look))
        if not notes:
            return 0
        keys = sorted({tuple(note[1:]) for note in notes}, key=repr)
        await self._target.fill(lambda tx: table.replace(tx, self._bucket, keys, rows))
        await self._strike(self._source, table, notes)
        return len(notes)

    async def _strike(self, side: Side, table: Statements, notes: Sequence[Row]) -> None:
        await side.write(lambda tx: tx.execute_many(table.strike, [(note[0],) for note in notes]))

    async def _compare_piece(self, table: Statements, after: Key) -> tuple[Key, int, bool]:
        most = self._pace.rows

        async def ours(tx: Tx) -> tuple[Key | None, list[Row], set[Key]]:
            end = await table.window(tx, after, most * SCAN)
            rows = await table.rows(tx, self._bucket, after, end, most)
            notes = await tx.fetch_all(table.notes, (self._bucket, 1_000_000))
            return end, rows, {tuple(note[1:]) for note in notes}

        end, rows, noted = await self._source.call(lambda store: store.read(ours))
        until, more = _next(table, rows, end, most)
        theirs = await self._target.call(
            lambda store: store.read(
                lambda tx: table.rows(tx, self._bucket, after, until if more else None, most + len(noted) + 1)
            )
        )
        here = {table.key_of(row): row for row in rows}
        there = {table.key_of(row): row for row in theirs}
        for key in here.keys() | there.keys():
            if here.get(key) != there.get(key) and key not in noted:
                raise Conflict(
                    f"table {table.shape.table}, key {', '.join(map(str, key))}: {self._target.name} does not have what"
                    f" {self._source.name} has, and nobody changed it; the move is not safe",
                    code="copy_differs",
                    bucket=self._bucket,
                )
        return until, len(rows), more


def _next(table: Statements, rows: Sequence[Row], end: Key | None, most: int) -> tuple[Key, bool]:
    """Where the next piece begins, and whether there is one."""
    if len(rows) == most:
        return table.key_of(rows[-1]), True
    return (end, True) if end is not None else ((), False)


async def _notes(table: Statements, bucket: int, store: Store) -> list[Row]:
    return await store.fetch_all(table.notes, (bucket, 512))


async def _nothing(tx: Tx) -> None:
    """A unit that only says how far the target is."""
