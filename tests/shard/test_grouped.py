"""Batches over many buckets: one unit per database, all of its buckets made sure of, regrouped when they have moved."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from tests.shard.conftest import Open, move, set_owner

from dougong.errors import Conflict, Invalid, NotFound, Overloaded, Unavailable
from dougong.shard import (
    BUCKETS,
    BucketState,
    Grouped,
    Layout,
    ShardedStore,
    StaleEpoch,
    buckets_of,
    grouped,
    read_grouped,
    write_grouped,
)
from dougong.store import Tx

COUNT = "SELECT count(*) FROM users"


async def insert(tx: Tx, ids: list[int]) -> int:
    rows = [(id_, f"user {id_}", id_, None, id_ % BUCKETS) for id_ in ids]
    return await tx.execute_many("INSERT INTO users VALUES (?, ?, ?, ?, ?)", rows)


async def names(tx: Tx, ids: list[int]) -> list[object]:
    found: list[object] = []
    for id_ in ids:
        found += [row[0] for row in await tx.fetch_all("SELECT name FROM users WHERE id = ?", (id_,))]
    return found


async def write(sharded: ShardedStore, ids: Sequence[int]) -> Grouped[int, int]:
    return await write_grouped(sharded, ids, await buckets_of(sharded, ids), insert)


async def counts(sharded: ShardedStore) -> list[object]:
    rows = [await sharded.databases.call(name, lambda s: s.fetch_one(COUNT)) for name in sharded.databases.names]
    return [row[0] for row in rows if row is not None]


async def test_a_batch_is_one_unit_in_each_database(sharded: ShardedStore) -> None:
    ran: list[list[int]] = []

    async def unit(tx: Tx, ids: list[int]) -> int:
        ran.append(ids)
        return await insert(tx, ids)

    ids = range(256)
    done = await write_grouped(sharded, ids, await buckets_of(sharded, ids), unit)
    assert sorted(ran) == [list(range(shard, 256, 4)) for shard in range(4)]
    assert done.whole() == [64] * 4
    assert {tuple(part.items) for part in done.done} == {tuple(ids) for ids in ran}
    assert await counts(sharded) == [64] * 4
    read = await read_grouped(sharded, [7, 1, 3], [7, 1, 3], names)
    assert sorted(map(str, read.whole())) == ["['user 1']", "['user 7', 'user 3']"]


async def test_nothing_is_nothing_and_lists_have_one_length(sharded: ShardedStore) -> None:
    assert (await write(sharded, [])).whole() == []
    with pytest.raises(Invalid, match="2 items with 1 buckets"):
        await write_grouped(sharded, [1, 2], [1], insert)


async def test_one_database_fails_and_the_others_have_done_their_part(sharded: ShardedStore) -> None:
    await write(sharded, [5])
    result = await write(sharded, [1, 5, 2, 3])
    assert [part.items for part in result.failed] == [[1, 5]]
    assert sorted(part.items for part in result.done) == [[2], [3]]
    with pytest.raises(Conflict):
        result.whole()
    assert await counts(sharded) == [0, 1, 1, 1]

    async def broken(tx: Tx, ids: list[int]) -> int:
        if 6 in ids:
            raise RuntimeError("a fault of ours")
        return await insert(tx, ids)

    result = await write_grouped(sharded, [6, 7], [6, 7], broken)
    assert [(part.items, repr(part.error)) for part in result.failed] == [([6], "RuntimeError('a fault of ours')")]
    assert [part.items for part in result.done] == [[7]]


async def test_what_has_moved_is_grouped_anew_and_nothing_else_is_repeated(layout: Layout, routers: Open) -> None:
    old, mover = await routers(layout), await routers(layout)
    await move(mover, 1, "db-3")
    await move(mover, 5, "db-2")
    assert old.map.version == 1
    assert sorted((await write(old, range(16))).whole()) == [1, 1, 2, 4, 4, 4]
    assert await counts(old) == [4, 2, 5, 5]
    assert old.map.version == 3
    stale = await routers(layout)
    await move(mover, 9, "db-0")
    read = await read_grouped(stale, [9, 13], [9, 13], names)
    assert sorted(map(str, read.whole())) == ["['user 13']", "['user 9']"]


async def test_ablation_without_the_check_rows_land_where_nobody_looks(
    layout: Layout, routers: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, mover = await routers(layout), await routers(layout)
    await move(mover, 1, "db-3")
    monkeypatch.setattr(grouped, "guarded_all", lambda unit, store, expected: unit)
    await write(old, [1, 5])
    await mover.refresh()
    assert await mover.store_of(1).fetch_one("SELECT name FROM users WHERE id = 1") is None


async def test_a_fenced_bucket_holds_up_only_its_own_items(sharded: ShardedStore) -> None:
    await set_owner(sharded, "db-1", 1, 1, BucketState.FENCED)
    waiting = asyncio.ensure_future(write(sharded, range(8)))
    while await counts(sharded) != [2, 1, 2, 2]:  # 5 is in, which lies in the same database as 1
        await asyncio.sleep(0.001)
    assert not waiting.done()
    assert (await read_grouped(sharded, [1, 5], [1, 5], names)).whole() == [["user 5"]]
    await set_owner(sharded, "db-1", 1, 1, BucketState.SERVING)
    assert sorted((await waiting).whole()) == [1, 1, 2, 2, 2]
    assert await counts(sharded) == [2, 2, 2, 2]


async def test_a_bucket_that_stays_fenced_is_given_up_on(layout: Layout, routers: Open) -> None:
    for options, error in (({"stale_wait_s": 0.0}, StaleEpoch), ({"waiting_max": 0}, Overloaded)):
        sharded = await routers(layout, **options)
        await set_owner(sharded, "db-1", 1, 1, BucketState.FENCED)
        first = 256 * (1 + (error is Overloaded))
        result = await write(sharded, [first + 1, first + 5, first + 129])
        assert [(part.items, type(part.error)) for part in result.failed] == [([first + 1, first + 129], error)]
        assert [part.items for part in result.done] == [[first + 5]]


async def test_a_database_that_is_gone_fails_alone(layout: Layout, routers: Open) -> None:
    sharded = await routers(layout)
    await sharded.databases.call("db-2", lambda store: store.close())
    result = await write(sharded, range(8))
    assert [part.items for part in result.failed] == [[2, 6]]
    assert isinstance(result.failed[0].error, Unavailable)
    assert await sharded.store_of(3).fetch_one(COUNT) == (2,)


async def test_cancelled_it_ends_and_leaves_no_task_behind(sharded: ShardedStore) -> None:
    await set_owner(sharded, "db-1", 1, 1, BucketState.FENCED)
    waiting = asyncio.ensure_future(write(sharded, range(8)))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await set_owner(sharded, "db-1", 1, 1, BucketState.SERVING)
    assert (await write(sharded, [1])).whole() == [1]


async def test_keys_that_have_to_be_looked_up(layout: Layout, routers: Open) -> None:
    sharded = await routers(msgspec.structs.replace(layout, routing="mapping"))
    assert await buckets_of(sharded, [10, 20, 10]) == [0, 1, 0]
    with pytest.raises(NotFound):
        await buckets_of(sharded, [30], new=False)
