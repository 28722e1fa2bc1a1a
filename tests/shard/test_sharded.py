"""Single keys on several databases: found, checked where they are, and found again after a move."""

from __future__ import annotations

import asyncio

import pytest
from tests.shard.conftest import Open, add, move, set_owner

from dougong.clock import ManualClock
from dougong.errors import Conflict, Error, Invalid, Unavailable
from dougong.mesh import BreakerPolicy
from dougong.shard import BUCKETS, BucketState, Layout, Place, ShardedStore, StaleEpoch, owners
from dougong.shard import sharded as module
from dougong.store import Tx

NAME = "SELECT name FROM users WHERE id = ?"


async def where(sharded: ShardedStore, id_: int) -> list[str]:
    """The databases that have a row of that key, whoever owns its bucket."""
    found: list[str] = []
    for shard in sharded.databases.names:
        row = await sharded.databases.call(shard, lambda store: store.fetch_one(NAME, (id_,)))
        if row is not None:
            found.append(shard)
    return found


async def test_a_row_lies_in_the_database_that_owns_its_bucket(sharded: ShardedStore) -> None:
    for id_ in (0, 1, 127, 130):
        await add(sharded, id_, f"user {id_}")
        assert await sharded.store_of(id_).fetch_one(NAME, (id_,)) == (f"user {id_}",)
        assert await where(sharded, id_) == [sharded.map.places[id_ % BUCKETS].shard]


async def test_opened_again_it_finds_everything(layout: Layout, routers: Open) -> None:
    await add(await routers(layout), 5)
    assert await (await routers(layout)).store_of(5).fetch_all(NAME, (5,)) == [("ada",)]


async def test_two_that_open_it_first_at_once_agree(layout: Layout, routers: Open) -> None:
    one, other = await asyncio.gather(routers(layout), routers(layout))
    assert one.map == other.map
    assert one.map.version == 1
    assert one.maps.cursor_key == other.maps.cursor_key


async def test_a_router_with_an_old_map_writes_and_reads_where_the_bucket_went(layout: Layout, routers: Open) -> None:
    old, mover = await routers(layout), await routers(layout)
    await add(old, 1)
    await move(mover, 1, "db-3")
    assert old.map.places[1] == Place("db-1")
    assert await old.store_of(1).fetch_one(NAME, (1,)) == ("ada",)
    assert old.map.places[1] == Place("db-3", 2)
    await move(mover, 2, "db-3")
    await add(old, 130, "new")
    assert await where(old, 130) == ["db-3"]
    assert old.map == mover.map or old.map.version == mover.map.version + 1


async def test_ablation_without_the_check_a_row_lands_where_nobody_looks(
    layout: Layout, routers: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, mover = await routers(layout), await routers(layout)
    await move(mover, 1, "db-3")
    monkeypatch.setattr(module, "guarded", lambda unit, store, bucket, epoch: unit)
    await add(old, 1)
    await mover.refresh()
    assert await mover.store_of(1).fetch_one(NAME, (1,)) is None


async def test_while_a_bucket_is_fenced_reads_go_on_and_writes_wait(sharded: ShardedStore) -> None:
    await add(sharded, 1)
    await set_owner(sharded, "db-1", 1, 1, BucketState.FENCED)
    assert await sharded.store_of(1).fetch_one(NAME, (1,)) == ("ada",)
    waiting = asyncio.ensure_future(add(sharded, 129))
    await sharded.refresh()
    assert not waiting.done()
    await set_owner(sharded, "db-1", 1, 1, BucketState.SERVING)
    await waiting
    assert await where(sharded, 129) == ["db-1"]


async def test_a_fence_that_stays_is_told_and_waiting_is_bounded(layout: Layout, routers: Open) -> None:
    impatient = await routers(layout, stale_wait_s=0.0)
    await set_owner(impatient, "db-1", 1, 1, BucketState.FENCED)
    with pytest.raises(StaleEpoch) as caught:
        await add(impatient, 1)
    assert (caught.value.code, caught.value.fields["bucket"]) == ("stale_epoch", 1)
    crowded = await routers(layout, waiting_max=0)
    with pytest.raises(Error, match="calls wait for buckets"):
        await add(crowded, 1)


async def test_a_unit_that_raises_is_undone_and_its_error_comes_through(sharded: ShardedStore) -> None:
    async def unit(tx: Tx) -> None:
        await tx.execute("INSERT INTO users VALUES (1, 'x', 1, NULL, 1)")
        raise Conflict("no", code="changed_my_mind")

    with pytest.raises(Conflict, match="changed_my_mind"):
        await sharded.store_of(1).write(unit)
    assert await where(sharded, 1) == []


async def test_a_read_unit_sees_one_snapshot_of_its_bucket(sharded: ShardedStore) -> None:
    await add(sharded, 1)

    async def unit(tx: Tx) -> tuple[object, object]:
        return await tx.fetch_one(NAME, (1,)), await tx.fetch_one(NAME, (2,))

    assert await sharded.store_of(1).read(unit) == (("ada",), None)
    await set_owner(sharded, "db-1", 1, None, BucketState.SERVING)
    with pytest.raises(StaleEpoch):
        await sharded.databases.call("db-1", lambda store: owners.require(store, store.name, {1: 1}))


async def test_why_names_every_step(sharded: ShardedStore) -> None:
    placement = await sharded.why(133)
    assert (placement.bucket, placement.shard, placement.epoch) == (5, "db-1", 1)
    assert placement.why == "133 % 128 = 5; map version 1 says that bucket 5 is in db-1 under epoch 1 (serving)"


async def test_a_database_that_does_not_answer_is_left_alone(layout: Layout, routers: Open) -> None:
    clock = ManualClock()
    sharded = await routers(layout, clock=clock, breaker=BreakerPolicy(failures=2, open_s=1.0))
    calls = 0

    async def gone(store: object) -> None:
        nonlocal calls
        calls += 1
        raise Unavailable("gone", code="connection_lost")

    async def answers(store: object) -> str:
        return "yes"

    for _ in range(2):
        with pytest.raises(Unavailable, match="gone"):
            await sharded.databases.call("db-1", gone)
    with pytest.raises(Unavailable, match="did not answer lately") as caught:
        await sharded.databases.call("db-1", gone)
    assert calls == 2
    assert caught.value.retry_after_s == 1.0
    assert caught.value.fields["shard"] == "db-1"
    assert await sharded.databases.call("db-2", answers) == "yes"
    clock.advance(1.0)
    assert await sharded.databases.call("db-1", answers) == "yes"


async def test_another_strategy_than_the_map_was_made_with_is_refused(layout: Layout, routers: Open) -> None:
    await routers(layout)
    with pytest.raises(Invalid, match="laid out with routing 'modulo'"):
        await routers(Layout(layout.name, layout.metadata, layout.databases, routing="consistent-hash"))


async def test_a_database_that_lost_its_name_is_told(layout: Layout, routers: Open) -> None:
    await routers(layout)
    renamed = {name.replace("db-1", "db-9"): url for name, url in layout.databases.items()}
    other = await routers(Layout(layout.name, layout.metadata, renamed))
    with pytest.raises(Invalid, match="names database 'db-1', which is not configured"):
        await add(other, 1)


async def test_swapped_urls_serve_nothing(layout: Layout, routers: Open) -> None:
    await routers(layout)
    names, urls = list(layout.databases), list(layout.databases.values())
    swapped = dict(zip(names, [urls[1], urls[0], *urls[2:]], strict=True))
    other = await routers(Layout(layout.name, layout.metadata, swapped), stale_wait_s=0.0)
    with pytest.raises(StaleEpoch):
        await add(other, 1)
    with pytest.raises(StaleEpoch):
        await other.store_of(1).fetch_one(NAME, (1,))
