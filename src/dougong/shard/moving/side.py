"""One of the two databases of a move, for whoever holds the token and nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import msgspec

from dougong.shard.buckets import BucketState, StaleEpoch
from dougong.shard.databases import Databases
from dougong.shard.moving.moves import TakenOver
from dougong.shard.moving.record import MoveRecord
from dougong.shard.owners import GONE, change_state, own, release
from dougong.store import Store, Tx, Unit, Value

__all__ = ["At", "Side", "Stage"]

R = TypeVar("R")

_TOKEN = "SELECT token, number FROM dougong_moving WHERE bucket = ?"  # noqa: S105 (no password)


class Stage:
    """How far a target is filled; kept in the target, in the units that fill it."""

    NEW = "new"
    """What lies here of the bucket is old."""
    COPYING = "copying"
    COPIED = "copied"


class At(msgspec.Struct, frozen=True):
    """The place up to which a target is filled."""

    stage: str = Stage.NEW
    table: str = ""
    key: tuple[Value, ...] = ()


class Side:
    """Every unit first looks whether a later mover was here."""

    def __init__(self, databases: Databases, name: str, record: MoveRecord) -> None:
        self.name = name
        self.record = record
        self._databases = databases
        self._bucket = record.bucket

    async def call(self, work: Callable[[Store], Awaitable[R]]) -> R:
        """Run `work` on the database."""
        return await self._databases.call(self.name, work)

    async def enter(self) -> At:
        """Shut out earlier movers; how far the database was filled in this very move."""
        record = self.record

        async def unit(tx: Tx) -> At:
            row = await tx.fetch_one(
                "SELECT token, number, stage, at_table, at_key FROM dougong_moving WHERE bucket = ?", (self._bucket,)
            )
            if row is None:
                await tx.execute(
                    "INSERT INTO dougong_moving (bucket, token, number, stage, at_table, at_key)"
                    " VALUES (?, ?, ?, ?, '', '')",
                    (self._bucket, record.token, record.number, Stage.NEW),
                )
                return At()
            token, number, stage, table, key = cast("tuple[int, int, str, str, str]", row)
            if token > record.token:
                raise TakenOver(self._bucket)
            at = At(stage, table, _decoded(key)) if number == record.number else At()
            await tx.execute(
                "UPDATE dougong_moving SET token = ?, number = ?, stage = ?, at_table = ?, at_key = ? WHERE bucket = ?",
                (record.token, record.number, at.stage, at.table, _encoded(at.key), self._bucket),
            )
            return at

        return await self.call(lambda store: store.write(unit))

    async def write(self, unit: Unit[R]) -> R:
        """Run the unit if no later mover was here, else `TakenOver`."""

        async def checked(tx: Tx) -> R:
            await self._check(tx)
            return await unit(tx)

        return await self.call(lambda store: store.write(checked))

    async def fill(self, unit: Unit[R], at: At | None = None) -> R:
        """The same for a copy, which is never written where the bucket is owned; `at`: how far it is then filled."""

        async def checked(tx: Tx) -> R:
            await self._check(tx)
            row = await tx.fetch_one("SELECT epoch, state FROM dougong_bucket_owner WHERE bucket = ?", (self._bucket,))
            if row is not None and row[1] != GONE:
                raise StaleEpoch(
                    f"database {self.name} owns bucket {self._bucket} under epoch {row[0]!r}; no copy is written there",
                    bucket=self._bucket,
                    shard=self.name,
                )
            result = await unit(tx)
            if at is not None:
                await tx.execute(
                    "UPDATE dougong_moving SET stage = ?, at_table = ?, at_key = ? WHERE bucket = ?",
                    (at.stage, at.table, _encoded(at.key), self._bucket),
                )
            return result

        return await self.call(lambda store: store.write(checked))

    async def turn(self, *before: BucketState, to: BucketState) -> None:
        """The owner goes from one of these states to another."""

        async def unit(tx: Tx) -> None:
            await change_state(tx, self.name, self._bucket, self.record.epoch, before, to)

        await self.write(unit)

    async def let_go(self, epoch: int) -> None:
        """What was owned up to this epoch is owned no more."""
        await self.write(lambda tx: release(tx, self._bucket, epoch))

    async def begin(self) -> None:
        """Own the bucket under the record's epoch, taking notes."""
        await self.write(lambda tx: own(tx, self._bucket, self.record.epoch, BucketState.MOVING))

    async def _check(self, tx: Tx) -> None:
        row = await tx.fetch_one(_TOKEN, (self._bucket,))
        if row is None or row[0] != self.record.token:
            raise TakenOver(self._bucket)


def _encoded(key: tuple[Value, ...]) -> str:
    return msgspec.msgpack.encode(key).hex()


def _decoded(text: str) -> tuple[Value, ...]:
    return tuple(msgspec.msgpack.decode(bytes.fromhex(text))) if text else ()
