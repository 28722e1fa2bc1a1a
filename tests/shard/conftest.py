"""Sharded stores of users on any engine, four databases unless a test wants more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dougong.shard import BucketState, Layout, Place, ShardedStore, open_sharded_store
from dougong.shard.owners import change_state, own, release
from dougong.store import Migration, Tx

SCHEMA = [
    Migration(
        1,
        "users",
        """
        CREATE TABLE users (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL, age BIGINT,
            email VARCHAR(100), bucket SMALLINT NOT NULL);
        CREATE INDEX users_name ON users (name, id);
        """,
    )
]

Open = Callable[..., Awaitable[ShardedStore]]


@pytest.fixture
def layout(fresh_url: Callable[[], str]) -> Layout:
    return Layout("users", fresh_url(), {f"db-{number}": fresh_url() for number in range(4)})


@pytest.fixture
async def routers() -> AsyncIterator[Open]:
    """Opens sharded stores; they are closed after the test."""
    opened: list[ShardedStore] = []

    async def open_(layout: Layout, **options: object) -> ShardedStore:
        store = await open_sharded_store(layout, **options)  # type: ignore[arg-type]
        opened.append(store)
        await store.migrate("users", SCHEMA)
        return store

    yield open_
    for store in opened:
        await store.close()


@pytest.fixture
async def sharded(layout: Layout, routers: Open) -> ShardedStore:
    return await routers(layout)


async def add(
    sharded: ShardedStore, id_: int, name: str = "ada", age: int | None = 1, email: str | None = None
) -> None:
    bucket = await sharded.bucket_of(id_)

    async def unit(tx: Tx) -> None:
        await tx.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?)", (id_, name, age, email, bucket))

    await sharded.store_of(id_).write(unit)


async def set_owner(sharded: ShardedStore, shard: str, bucket: int, epoch: int | None, state: BucketState) -> None:
    async def unit(tx: Tx) -> None:
        if epoch is None:
            await release(tx, bucket, 1 << 40)
        else:
            await own(tx, bucket, epoch)
            await change_state(tx, shard, bucket, epoch, list(BucketState), state)

    await sharded.databases.call(shard, lambda store: store.write(unit))


async def move(sharded: ShardedStore, bucket: int, target: str) -> None:
    """As a mover would, with nobody writing: fence, copy, publish, hand over."""
    await sharded.refresh()
    before = sharded.map.places[bucket]
    await set_owner(sharded, before.shard, bucket, before.epoch, BucketState.FENCED)
    rows = await sharded.databases.call(
        before.shard, lambda store: store.fetch_all("SELECT * FROM users WHERE bucket = ?", (bucket,))
    )

    async def copy(tx: Tx) -> None:
        await tx.execute_many("INSERT INTO users VALUES (?, ?, ?, ?, ?)", rows)
        await own(tx, bucket, before.epoch + 1)

    await sharded.maps.change(bucket, before, Place(target, before.epoch + 1))
    await sharded.databases.call(target, lambda store: store.write(copy))
    await set_owner(sharded, before.shard, bucket, None, BucketState.FENCED)
