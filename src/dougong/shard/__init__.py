"""Rows of one service in many databases, each row where it can be found, and movable while in use.

The one idea: **keys fall into 128 buckets for ever; only a small map of buckets changes.** A router computes a key's
bucket and looks up its database. Whether that is right is checked in the database itself, in the unit that writes, so
an old map costs a retry and never a row in the wrong place.

    users = await open_sharded_store(embedded_layout(Path("data"), "users"))      # 128 buckets over 4 SQLite files
    await users.migrate("users", migrations_from("shop.users.migrations"))        # all of them
    await users.store_of(user_id).write(unit)                                     # a `Store` for the rows of one key

Ids say to which bucket they belong: `IdMinter` makes them, `BucketIds` for any bucket, and nobody is asked for one. **A
minter owns a stretch of time**: what it may mint lies between two marks that were made durable before, so no id is made
twice.

Batches over many keys run as one unit per database (`write_grouped`), not one per key.

Buckets move while they are in use, and come back if they must (`Mover`, `rebalance`).

Questions about many keys go to all databases, where the call says so (`Query`, `lookup`), and what must be unique over
all of them has an index of its own (`UniqueIndex`).

What it does not do: transactions over several databases (see `tcc`), and queries whose parts cannot be merged, which
are refused by name.
"""

from dougong.shard.bucket_ids import BucketIds
from dougong.shard.buckets import BUCKETS, BucketMap, BucketState, Key, Move, Place, StaleEpoch
from dougong.shard.entities import EntityDatabases, table_of
from dougong.shard.grouped import Done, Failed, Grouped, GroupUnit, buckets_of, read_grouped, write_grouped
from dougong.shard.id_minter import IdMinter, IdSettings
from dougong.shard.ids import IdParts, explain_id, is_aligned, pack_id, parse_id, shard_of, unpack_id
from dougong.shard.layout import Layout, embedded_layout, load_layout
from dougong.shard.mapping import MappingRouting
from dougong.shard.minting import ClockMovedBack, MarkReached, Run
from dougong.shard.moving.mover import Mover, MoveReport
from dougong.shard.moving.record import MoveRecord
from dougong.shard.moving.settings import MoveSettings
from dougong.shard.query import Query, ShardedTable
from dougong.shard.rebalancing import plan_moves, rebalance
from dougong.shard.ring import ConsistentHashRouting, hash_bucket
from dougong.shard.routing import ModuloRouting, Routing
from dougong.shard.scatter import Answer, ask, lookup
from dougong.shard.sharded import PlacedStore, Placement, ShardedStore, open_sharded_store, routing_of
from dougong.shard.sweeping import Backfill, Sweep, UniqueIndex
from dougong.shard.verifying import verify

__all__ = [
    "BUCKETS",
    "Answer",
    "Backfill",
    "BucketIds",
    "BucketMap",
    "BucketState",
    "ClockMovedBack",
    "ConsistentHashRouting",
    "Done",
    "EntityDatabases",
    "Failed",
    "GroupUnit",
    "Grouped",
    "IdMinter",
    "IdParts",
    "IdSettings",
    "Key",
    "Layout",
    "MappingRouting",
    "MarkReached",
    "ModuloRouting",
    "Move",
    "MoveRecord",
    "MoveReport",
    "MoveSettings",
    "Mover",
    "Place",
    "PlacedStore",
    "Placement",
    "Query",
    "Routing",
    "Run",
    "ShardedStore",
    "ShardedTable",
    "StaleEpoch",
    "Sweep",
    "UniqueIndex",
    "ask",
    "buckets_of",
    "embedded_layout",
    "explain_id",
    "hash_bucket",
    "is_aligned",
    "load_layout",
    "lookup",
    "open_sharded_store",
    "pack_id",
    "parse_id",
    "plan_moves",
    "read_grouped",
    "rebalance",
    "routing_of",
    "shard_of",
    "table_of",
    "unpack_id",
    "verify",
    "write_grouped",
]
