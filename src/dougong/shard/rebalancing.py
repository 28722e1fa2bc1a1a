"""From as many databases as there are to more, or fewer: the moves that takes, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dougong.shard.buckets import Move
from dougong.shard.moving.mover import Mover, MoveReport
from dougong.shard.sharded import ShardedStore

__all__ = ["plan_moves", "rebalance"]


async def plan_moves(sharded: ShardedStore, shards: Sequence[str]) -> list[Move]:
    """What has to move until the buckets lie over these databases as their strategy wants it."""
    await sharded.refresh()
    places = sharded.map.places
    return sharded.map.moves(sharded.routing.spread(shards, [place.shard for place in places]))


async def rebalance(
    mover: Mover, sharded: ShardedStore, shards: Sequence[str], *, each: Callable[[MoveReport, int], None] | None = None
) -> int:
    """Move bucket after bucket, each completed before the next begins; how many.

    `each` is told of every move, and how many are left. What stops half-way is taken up again by calling it again: a
    move that was under way is finished first, wherever it goes.
    """
    async with mover.several():
        for record in await sharded.moves.all():
            if record.running:
                await mover.finish(record.bucket)
        plan = await plan_moves(sharded, shards)
        for left, move in zip(range(len(plan) - 1, -1, -1), plan, strict=True):
            report = await mover.move(move.bucket, move.target, complete=True)
            if each is not None:
                each(report, left)
    return len(plan)
