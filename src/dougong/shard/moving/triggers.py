"""Which databases take notes: decided in the metadata database, carried out by steps that are numbered.

Triggers cost every write a look, so they are there while a move needs them and no longer. Two moves may need those of
one database, and who takes them away may be slow, or dead. So it is decided in a unit beside the records of the moves,
whether triggers are wanted; and each time they are wanted again they get a higher number. In the database itself the
numbers are those of migrations, which only rise: a removal that comes late finds its number passed and changes nothing.
"""

from __future__ import annotations

from typing import cast

from dougong.shard.moving.moves import Moves
from dougong.shard.moving.record import MoveRecord, Phase
from dougong.store import Store, Tx

__all__ = ["Triggers"]

_WANTED, _UNWANTED, _GONE = "wanted", "unwanted", "gone"
_READ = "SELECT shard, number, state FROM dougong_move_triggers"
_NEEDED = "SELECT source, target FROM dougong_moves WHERE phase <> ?"


class Triggers:
    """The table `dougong_move_triggers` of one sharded store."""

    def __init__(self, metadata: Store, moves: Moves) -> None:
        self._metadata = metadata
        self._moves = moves

    async def want(self, record: MoveRecord, shard: str, *, above: int = 0) -> int:
        """The number under which this move needs the triggers of a database; a new one if it is not `above` that.

        `TakenOver` when the record is not the present one any more: then it needs nothing.
        """

        async def unit(tx: Tx) -> int:
            await self._moves.require(tx, record)
            row = await tx.fetch_one(f"{_READ} WHERE shard = ?", (shard,))
            if row is None:
                await tx.execute("INSERT INTO dougong_move_triggers VALUES (?, ?, ?)", (shard, above + 1, _WANTED))
                return above + 1
            _, number, state = cast("tuple[str, int, str]", row)
            if state != _WANTED or number <= above:
                number = max(number, above) + 1
                await tx.execute(
                    "UPDATE dougong_move_triggers SET number = ?, state = ? WHERE shard = ?", (number, _WANTED, shard)
                )
            return number

        return await self._metadata.write(unit)

    async def left(self) -> dict[str, int]:
        """Databases that have triggers no move needs any more, and the numbers of these."""
        return await self._metadata.read(self._left)

    async def unwanted(self) -> dict[str, int]:
        """The same; from now on who needs them gets a new number, so they may be taken away."""

        async def unit(tx: Tx) -> dict[str, int]:
            left = await self._left(tx)
            for shard in left:
                await tx.execute("UPDATE dougong_move_triggers SET state = ? WHERE shard = ?", (_UNWANTED, shard))
            return left

        return await self._metadata.write(unit) if await self.left() else {}

    async def gone(self, shard: str, number: int) -> None:
        """They were taken away."""
        await self._metadata.write(
            lambda tx: tx.execute(
                "UPDATE dougong_move_triggers SET state = ? WHERE shard = ? AND number = ? AND state = ?",
                (_GONE, shard, number, _UNWANTED),
            )
        )

    async def needed(self, tx: Tx) -> set[str]:
        """Databases of moves that are not over."""
        return {cast(str, name) for row in await tx.fetch_all(_NEEDED, (Phase.DONE.value,)) for name in row}

    async def _left(self, tx: Tx) -> dict[str, int]:
        rows = cast("list[tuple[str, int]]", await tx.fetch_all(f"{_READ} WHERE state <> ?", (_GONE,)))
        needed = await self.needed(tx) if rows else set()
        return {shard: number for shard, number, *_ in rows if shard not in needed}
