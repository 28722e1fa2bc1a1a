"""What a database itself knows of the buckets it owns: the check that no router can forget.

A router may have an old map, and be slow. So the last word is in the database that is written: every unit first looks
whether this database owns the bucket under the epoch the router knows, and whoever takes the bucket away changes that
row. On servers the row is locked for sharing, so a fence waits for the writers before it; SQLite has one writer anyway.

In one database the epochs of a bucket only rise, and what was released under one is never owned under it again: the row
stays, as `gone`. So a step of a move that comes late, after all is over, changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar, cast

from dougong.shard.buckets import BucketState, StaleEpoch
from dougong.store import Migration, Store, Tx, Unit

__all__ = ["GONE", "OWNER_MIGRATIONS", "change_state", "guarded", "own", "owned", "release", "require"]

R = TypeVar("R")

OWNER_MIGRATIONS = [
    Migration(
        1,
        "bucket_owner",
        "CREATE TABLE dougong_bucket_owner (bucket SMALLINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL,"
        " state VARCHAR(20) NOT NULL)",
    ),
    Migration(
        2,
        "moving",
        "CREATE TABLE dougong_moving (bucket SMALLINT NOT NULL PRIMARY KEY, token BIGINT NOT NULL,"
        " number BIGINT NOT NULL, stage VARCHAR(20) NOT NULL, at_table VARCHAR(63) NOT NULL, at_key TEXT NOT NULL)",
    ),
]
GONE = "gone"
"""State of a bucket that this database had, up to that epoch."""
_LOOK = "SELECT epoch, state FROM dougong_bucket_owner WHERE bucket = ?"
_LOCK = {
    "sqlite": _LOOK,
    "mysql": _LOOK + " LOCK IN SHARE MODE",  # MariaDB has no FOR SHARE, MySQL knows both
    "postgresql": _LOOK + " FOR SHARE",
}
_OWN = "INSERT INTO dougong_bucket_owner (bucket, epoch, state) VALUES (?, ?, ?)"
_OWN_AGAIN = "UPDATE dougong_bucket_owner SET epoch = ?, state = ? WHERE bucket = ?"
_STATE = "UPDATE dougong_bucket_owner SET state = ? WHERE bucket = ? AND epoch = ?"
_NOT_WRITTEN = frozenset({BucketState.FENCED.value, GONE})


def guarded(unit: Unit[R], store: Store, bucket: int, epoch: int) -> Unit[R]:
    """`unit`, run only where this database owns the bucket and takes writes; else it raises `StaleEpoch`."""
    look, name = _LOCK[store.dialect], store.name

    async def checked(tx: Tx) -> R:
        row = await tx.fetch_one(look, (bucket,))
        if row is None or row[0] != epoch or row[1] in _NOT_WRITTEN:
            raise _stale(name, bucket, epoch, row)
        return await unit(tx)

    checked.__qualname__ = getattr(unit, "__qualname__", checked.__qualname__)  # a slow unit is warned of by its name
    return checked


async def require(reader: Store | Tx, name: str, expected: Mapping[int, int]) -> None:
    """`StaleEpoch` unless the database owns these (bucket → epoch).

    After a read: epochs only rise, so what is still owned was owned when it was read.
    """
    if len(expected) == 1:
        ((bucket, epoch),) = expected.items()
        row = await reader.fetch_one(_LOOK, (bucket,))
        if row is None or row[0] != epoch or row[1] == GONE:
            raise _stale(name, bucket, epoch, row)
        return
    missing = expected.items() - set(
        await reader.fetch_all("SELECT bucket, epoch FROM dougong_bucket_owner WHERE state <> ?", (GONE,))
    )
    for bucket, epoch in missing:
        raise _stale(name, bucket, epoch, await reader.fetch_one(_LOOK, (bucket,)))


async def owned(reader: Store | Tx) -> dict[int, tuple[int, str]]:
    """Bucket → (epoch, state): everything this database owns."""
    rows = await reader.fetch_all("SELECT bucket, epoch, state FROM dougong_bucket_owner WHERE state <> ?", (GONE,))
    return {cast(int, bucket): (cast(int, epoch), cast(str, state)) for bucket, epoch, state in rows}


async def own(tx: Tx, bucket: int, epoch: int, state: BucketState = BucketState.SERVING) -> None:
    """Within a unit: this database owns the bucket from now on. Nothing to do when it does, or did, under this epoch.

    Raises `StaleEpoch` when it has, or had, the bucket under a later one.
    """
    row = await tx.fetch_one(_LOOK, (bucket,))
    if row is None:
        await tx.execute(_OWN, (bucket, epoch, state.value))
    elif cast(int, row[0]) < epoch:
        await tx.execute(_OWN_AGAIN, (epoch, state.value, bucket))
    elif row[0] != epoch:
        raise _stale("this one", bucket, epoch, row)


async def change_state(
    tx: Tx, name: str, bucket: int, epoch: int, before: Collection[BucketState], after: BucketState
) -> None:
    """Within a unit: from one of these states to another under the same epoch. `StaleEpoch` when it is in no such."""
    row = await tx.fetch_one(_LOOK, (bucket,))
    if row is None or row[0] != epoch or row[1] not in {after.value, *(state.value for state in before)}:
        raise _stale(name, bucket, epoch, row)
    if row[1] != after.value:
        await tx.execute(_STATE, (after.value, bucket, epoch))


async def release(tx: Tx, bucket: int, epoch: int) -> None:
    """Within a unit: what this database owned up to this epoch, it does not own any more."""
    row = await tx.fetch_one(_LOOK, (bucket,))
    if row is not None and cast(int, row[0]) <= epoch:
        await tx.execute("UPDATE dougong_bucket_owner SET state = ? WHERE bucket = ?", (GONE, bucket))


def _stale(name: str, bucket: int, epoch: int, row: object) -> StaleEpoch:
    has = f"has it as {row}" if row is not None else "does not own it"
    return StaleEpoch(f"bucket {bucket} under epoch {epoch}: database {name} {has}", bucket=bucket, shard=name)
