"""Moves of buckets without one of their safeguards, to see that the story notices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from dougong.shard import Mover
from dougong.shard.buckets import BucketState
from dougong.shard.moving.copying import Copier
from dougong.shard.moving.record import MoveRecord
from dougong.shard.moving.shapes import triggers_of
from dougong.shard.moving.side import Side
from dougong.shard.moving.triggers import Triggers
from dougong.store import Store, Tx

__all__ = ["SAFEGUARDS", "mover_without"]

SAFEGUARDS = {
    "notes": "keys that change while their bucket is copied are noted, and copied again",
    "clearing": "what an earlier move left in the target is deleted before anything is copied",
    "fence": "nobody writes between the last note and the switch",
    "drain": "all notes are worked off after the fence",
    "release": "the old owner lets go before the new one begins",
    "token": "a mover that was given up for dead changes nothing any more",
    "gone": "a bucket that was released is never owned again under the same epoch",
    "needed": "triggers stay while the move of another bucket needs them",
    "numbers": "triggers that are taken away late are not those of the next move",
    "tidying": "triggers that a dead mover left are taken away by the next one",
}


def mover_without(safeguard: str) -> type[Mover]:
    """A mover that lacks it; the whole one for an empty name."""
    return _MOVERS.get(safeguard, Mover)


class _NoNotes(Copier):
    async def catch_up(self, *, most: int, paced: bool = True) -> int:
        return 0

    async def pending(self) -> int:
        return 0

    async def compare(self, *, each: Callable[[], Awaitable[None]]) -> int:
        return 0


class _NoClearing(Copier):
    async def clear(self, side: Side, *, each: Callable[[], Awaitable[None]]) -> None:
        return

    async def compare(self, *, each: Callable[[], Awaitable[None]]) -> int:
        return 0


class _NoDrain(Copier):
    async def catch_up(self, *, most: int, paced: bool = True) -> int:
        return await super().catch_up(most=most) if paced else 0


class _NoFence(Side):
    async def turn(self, *before: BucketState, to: BucketState) -> None:
        if to is not BucketState.FENCED:
            await super().turn(*before, to=to)


class _NoRelease(Side):
    async def let_go(self, epoch: int) -> None:
        return


class _NoToken(Side):
    async def _check(self, tx: Tx) -> None:
        return


class _NoGone(Side):
    async def let_go(self, epoch: int) -> None:
        await self.write(
            lambda tx: tx.execute(
                "DELETE FROM dougong_bucket_owner WHERE bucket = ? AND epoch <= ?", (self.record.bucket, epoch)
            )
        )


class _NoneNeeded(Triggers):
    async def needed(self, tx: Tx) -> set[str]:
        return set()


class _NoTidying(Triggers):
    """Only what it asked for itself."""

    _mine: frozenset[str] = frozenset()

    async def want(self, record: MoveRecord, shard: str, *, above: int = 0) -> int:
        self._mine |= {shard}
        return await super().want(record, shard, above=above)

    async def unwanted(self) -> dict[str, int]:
        return {shard: number for shard, number in (await super().unwanted()).items() if shard in self._mine}


class _WithoutNumbers(Mover):
    async def _remove(self, shard: str, tables: Sequence[str], number: int) -> None:
        """Whoever's they are."""

        async def drop(table: str, store: Store) -> None:
            names = await triggers_of(store, table)

            async def unit(tx: Tx) -> None:
                for name in names:
                    await tx.execute(f"DROP TRIGGER IF EXISTS {name}")

            await store.write(unit)

        for table in tables:
            await self._sharded.databases.call(shard, partial(drop, table))


class _WithoutNeeds(Mover):
    noting = _NoneNeeded


class _WithoutTidying(Mover):
    noting = _NoTidying


class _WithoutNotes(Mover):
    copier = _NoNotes


class _WithoutClearing(Mover):
    copier = _NoClearing


class _WithoutDrain(Mover):
    copier = _NoDrain


class _WithoutFence(Mover):
    side = _NoFence


class _WithoutRelease(Mover):
    side = _NoRelease


class _WithoutToken(Mover):
    side = _NoToken


class _WithoutGone(Mover):
    side = _NoGone


_MOVERS: dict[str, type[Mover]] = {
    "notes": _WithoutNotes,
    "clearing": _WithoutClearing,
    "drain": _WithoutDrain,
    "fence": _WithoutFence,
    "release": _WithoutRelease,
    "token": _WithoutToken,
    "gone": _WithoutGone,
    "needed": _WithoutNeeds,
    "numbers": _WithoutNumbers,
    "tidying": _WithoutTidying,
}
