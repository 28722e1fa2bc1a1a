"""Moves in the metadata database, beside the map: begun, taken over and advanced by compare-and-set.

A token counts who took a move over. It is checked here and, in the databases that are worked on, by every step; so of
two movers (one may only be slow) the later one is the only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from dougong.clock import Clock
from dougong.errors import Conflict, NotFound
from dougong.shard.buckets import Place
from dougong.shard.maps import BucketMaps
from dougong.shard.moving.record import MoveRecord, Phase, Wish
from dougong.store import Row, Store, Tx

__all__ = ["Moves", "TakenOver"]

_COLUMNS = "bucket, number, token, mover, source, target, epoch, phase, wish, switches, copied, started_us, ended_us"
_READ = f"SELECT {_COLUMNS} FROM dougong_moves"  # noqa: S608 (constant)
_WISHES = {
    Phase.COPYING: (Wish.GO, Wish.PAUSE, Wish.CANCEL),
    Phase.FENCING: (Wish.GO, Wish.PAUSE, Wish.CANCEL),
    Phase.SWITCHED: (Wish.GO, Wish.REVERSE, Wish.COMPLETE),
    Phase.REVERSIBLE: (Wish.GO, Wish.REVERSE, Wish.COMPLETE),
    Phase.ENDING: (Wish.GO,),
    Phase.DONE: (),
}


class TakenOver(Conflict):
    """Somebody else works on the move now."""

    def __init__(self, bucket: int) -> None:
        super().__init__(
            f"another mover took over the move of bucket {bucket}; look at `dougong shards moves`",
            code="move_taken_over",
            bucket=bucket,
        )


class Moves:
    """The table `dougong_moves` of one sharded store."""

    def __init__(self, metadata: Store, maps: BucketMaps, clock: Clock) -> None:
        self._metadata = metadata
        self._maps = maps
        self._clock = clock

    async def all(self) -> list[MoveRecord]:
        """The last move of every bucket that ever moved."""
        return [_record(row) for row in await self._metadata.fetch_all(f"{_READ} ORDER BY bucket")]

    async def get(self, bucket: int) -> MoveRecord | None:
        """The last move of this bucket."""
        row = await self._metadata.fetch_one(f"{_READ} WHERE bucket = ?", (bucket,))
        return _record(row) if row is not None else None

    async def still(self, record: MoveRecord) -> None:
        """`TakenOver` when the record is not the present one any more."""
        await self._metadata.read(lambda tx: self.require(tx, record))

    async def begin(self, bucket: int, target: str, mover: str) -> MoveRecord:
        """A new move from where the bucket is, or the one to this target that is under way.

        `Conflict`: code `move_running` when another one is, `already_there` when there is nothing to move.
        """

        async def unit(tx: Tx) -> MoveRecord:
            last = await self._get(tx, bucket)
            place = (await self._maps.within(tx)).places[bucket]
            if last is not None and last.phase is not Phase.DONE:
                if last.target == target and last.phase in (Phase.COPYING, Phase.FENCING) and not last.switches:
                    return last
                raise Conflict(
                    f"bucket {bucket} is on its way from {last.source} to {last.target} ({last.phase.value}); complete,"
                    " cancel or reverse that first",
                    code="move_running",
                    bucket=bucket,
                )
            if place.shard == target:
                raise Conflict(f"bucket {bucket} is in {target} already", code="already_there", bucket=bucket)
            record = MoveRecord(
                bucket=bucket,
                number=last.number + 1 if last is not None else 1,
                token=last.token + 1 if last is not None else 1,
                mover=mover,
                source=place.shard,
                target=target,
                epoch=place.epoch,
                phase=Phase.COPYING,
                wish=Wish.GO,
                switches=0,
                rows=0,
                started_us=self._clock.now_us(),
                ended_us=0,
            )
            await tx.execute("DELETE FROM dougong_moves WHERE bucket = ?", (bucket,))
            await tx.execute(
                f"INSERT INTO dougong_moves ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                _values(record),
            )
            return record

        return await self._metadata.write(unit)

    async def take_over(self, bucket: int, mover: str = "", *, seen: MoveRecord | None = None) -> MoveRecord:
        """The move under a new token. `mover` empty: whose it is stays. With `seen`: only if it is still at that.

        `NotFound` (code `no_move`) when the bucket never moved, `TakenOver` when it is not as seen.
        """

        async def unit(tx: Tx) -> MoveRecord:
            now = await self._get(tx, bucket)
            if now is None:
                raise NotFound(f"bucket {bucket} is not on the move", code="no_move", bucket=bucket)
            if seen is not None and (now.token, now.phase) != (seen.token, seen.phase):
                raise TakenOver(bucket)
            if now.phase is Phase.DONE:
                return now
            taken = msgspec.structs.replace(now, token=now.token + 1, mover=mover or now.mover)
            await self._put(tx, now, taken)
            return taken

        return await self._metadata.write(unit)

    async def advance(
        self, record: MoveRecord, phase: Phase, *, wish: Wish | None = None, rows: int | None = None
    ) -> MoveRecord:
        """On to another phase; `TakenOver` when the record is not the present one any more."""

        async def unit(tx: Tx) -> MoveRecord:
            now = await self.require(tx, record)
            after = msgspec.structs.replace(
                now,
                phase=phase,
                wish=wish if wish is not None else now.wish,
                rows=rows if rows is not None else now.rows,
                ended_us=self._clock.now_us() if phase is Phase.DONE else 0,
            )
            await self._put(tx, now, after)
            return after

        return await self._metadata.write(unit)

    async def switch(self, record: MoveRecord) -> MoveRecord:
        """The commit point: the map names the target, under the next epoch, and the two change their roles."""

        async def unit(tx: Tx) -> MoveRecord:
            now = await self.require(tx, record)
            before, after = Place(now.source, now.epoch), Place(now.target, now.epoch + 1)
            await self._maps.change_within(tx, now.bucket, before, after)
            switched = msgspec.structs.replace(
                now,
                source=now.target,
                target=now.source,
                epoch=now.epoch + 1,
                phase=Phase.SWITCHED,
                wish=Wish.GO,
                switches=now.switches + 1,
            )
            await self._put(tx, now, switched)
            return switched

        return await self._metadata.write(unit)

    async def wish(self, bucket: int, wish: Wish) -> MoveRecord:
        """Tell the mover what to do. `Conflict` (code `wrong_phase`) when that cannot be done (any more)."""

        async def unit(tx: Tx) -> MoveRecord:
            now = await self._get(tx, bucket)
            if now is None:
                raise NotFound(f"bucket {bucket} is not on the move", code="no_move", bucket=bucket)
            if wish not in _WISHES[now.phase] or (now.switches and wish in (Wish.CANCEL, Wish.PAUSE)):
                raise Conflict(
                    f"the move of bucket {bucket} is {now.outcome}: {wish.value} is not possible;"
                    f" {_possible(now) or 'it is over'}",
                    code="wrong_phase",
                    bucket=bucket,
                )
            wanted = msgspec.structs.replace(now, wish=wish)
            await self._put(tx, now, wanted)
            return wanted

        return await self._metadata.write(unit)

    async def require(self, tx: Tx, record: MoveRecord) -> MoveRecord:
        """Within a unit: the record, `TakenOver` when it is not the present one any more."""
        now = await self._get(tx, record.bucket)
        if now is None or (now.token, now.phase) != (record.token, record.phase):
            raise TakenOver(record.bucket)
        return now

    async def _get(self, tx: Tx, bucket: int) -> MoveRecord | None:
        row = await tx.fetch_one(f"{_READ} WHERE bucket = ?", (bucket,))
        return _record(row) if row is not None else None

    async def _put(self, tx: Tx, now: MoveRecord, after: MoveRecord) -> None:
        await tx.execute(
            "UPDATE dougong_moves SET token = ?, mover = ?, source = ?, target = ?, epoch = ?, phase = ?, wish = ?,"
            " switches = ?, copied = ?, ended_us = ? WHERE bucket = ?",
            (
                after.token,
                after.mover,
                after.source,
                after.target,
                after.epoch,
                after.phase.value,
                after.wish.value,
                after.switches,
                after.rows,
                after.ended_us,
                now.bucket,
            ),
        )


def _possible(record: MoveRecord) -> str:
    wishes = [
        wish.value
        for wish in _WISHES[record.phase]
        if wish is not Wish.GO and not (record.switches and wish in (Wish.CANCEL, Wish.PAUSE))
    ]
    return f"possible are {', '.join(wishes)}" if wishes else ""


def _record(row: Row) -> MoveRecord:
    bucket, number, token, mover, source, target, epoch, phase, wish, switches, rows, started_us, ended_us = cast(
        "tuple[int, int, int, str, str, str, int, str, str, int, int, int, int]", row
    )
    return MoveRecord(
        bucket, number, token, mover, source, target, epoch, Phase(phase), Wish(wish), switches, rows, started_us,
        ended_us,
    )  # fmt: skip


def _values(record: MoveRecord) -> Sequence[int | str]:
    values = msgspec.structs.astuple(record)
    return [value.value if isinstance(value, Phase | Wish) else value for value in values]
