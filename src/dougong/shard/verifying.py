"""Whether the map and the databases agree on who owns what."""

from __future__ import annotations

from dougong.shard.buckets import BUCKETS, BucketState
from dougong.shard.databases import side_by_side
from dougong.shard.owners import owned
from dougong.shard.sharded import AT_ONCE, ShardedStore

__all__ = ["verify"]


async def verify(sharded: ShardedStore) -> list[str]:
    """What is wrong, in sentences; nothing when each bucket is owned by the database that the map names, and no other.

    While a bucket moves, its two databases may be named for a moment.
    """
    await sharded.refresh()
    places = sharded.map.places

    async def work(name: str) -> dict[int, tuple[int, str]]:
        return await sharded.databases.call(name, owned)

    found, failed = await side_by_side(sharded.databases.names, work, at_once=AT_ONCE, partial=True)
    wrong = [f"database {name}: {error}" for name, error in failed.items()]
    for bucket in range(BUCKETS):
        place = places[bucket]
        for name, buckets in found.items():
            has = buckets.get(bucket)
            if name == place.shard and has is None:
                wrong.append(f"bucket {bucket}: the map says {name}, which does not own it")
            elif name == place.shard and has is not None and has[0] != place.epoch:
                wrong.append(f"bucket {bucket}: the map says epoch {place.epoch}, {name} has it under {has[0]}")
            elif (
                name == place.shard
                and has is not None
                and (has[1] == BucketState.FENCED.value) != (place.state is BucketState.FENCED)
            ):
                wrong.append(f"bucket {bucket}: the map says {place.state.value}, {name} has it as {has[1]}")
            elif name != place.shard and has is not None:
                wrong.append(f"bucket {bucket}: the map says {place.shard}, but {name} owns it under epoch {has[0]}")
        if place.shard not in sharded.databases.names:
            wrong.append(f"bucket {bucket}: the map says {place.shard}, which is not configured")
    return wrong
