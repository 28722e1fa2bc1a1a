"""The short part of a move, in which nobody writes: what must never be left half-way.

Whoever finds a bucket fenced and its mover silent may finish or undo this part: another mover, or a router that waits.
"""

from __future__ import annotations

from dougong.shard.buckets import BucketState
from dougong.shard.databases import Databases
from dougong.shard.moving.moves import Moves
from dougong.shard.moving.record import MoveRecord, Phase
from dougong.shard.moving.side import Side

__all__ = ["back_off", "finish_switch", "rescue"]


async def back_off(moves: Moves, source: Side, record: MoveRecord) -> MoveRecord:
    """Before the switch: the source serves again, and the move goes on where it was."""
    await source.turn(BucketState.FENCED, to=BucketState.MOVING)
    return await moves.advance(record, Phase.REVERSIBLE if record.switches else Phase.COPYING)


async def finish_switch(moves: Moves, old: Side, new: Side, record: MoveRecord) -> MoveRecord:
    """After the switch: the old owner lets go, so that nobody reads there what is changed elsewhere; the new begins."""
    await old.let_go(record.epoch - 1)
    await new.begin()
    return await moves.advance(record, Phase.REVERSIBLE)


async def rescue(moves: Moves, databases: Databases, seen: MoveRecord) -> bool:
    """Open a bucket again whose mover left it closed; whether there was something to do.

    The move stays its mover's, who goes on with a new token. `TakenOver` when the mover was not silent after all.
    """
    if not seen.closed:
        return False
    record = await moves.take_over(seen.bucket, seen=seen)
    source, target = Side(databases, record.source, record), Side(databases, record.target, record)
    await source.enter()
    if record.phase is Phase.FENCING:
        await back_off(moves, source, record)
    else:
        await target.enter()
        await finish_switch(moves, target, source, record)
    return True
