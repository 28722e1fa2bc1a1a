"""Ids of any bucket from one lease."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from dougong.clock import ManualClock
from dougong.errors import Invalid, Unavailable
from dougong.shard import BUCKETS, BucketIds, IdSettings, bucket_ids, is_aligned, shard_of
from dougong.store import Store, open_store


@pytest.fixture
async def store(fresh_url: Callable[[], str]) -> AsyncIterator[Store]:
    store = await open_store(fresh_url())
    yield store
    await store.close()


async def test_each_id_ends_with_the_bucket_it_was_asked_for(store: Store) -> None:
    async with BucketIds(store, holder="a") as ids:
        made = [await ids.one(number % BUCKETS) for number in range(300)]
    assert [number % BUCKETS for number in made] == [number % BUCKETS for number in range(300)]
    assert all(map(is_aligned, made))
    assert [shard_of(number) for number in made[:3]] == [0, 1, 2]
    assert len(set(made)) == 300
    assert ids.worker is None


async def test_sixteen_mint_at_once_and_never_the_same(store: Store) -> None:
    minters = [BucketIds(store, holder=f"m{number}", random=random.Random(number)) for number in range(16)]
    for minter in minters:
        await minter.start()
    assert sorted(minter.worker or 0 for minter in minters) == list(range(16))
    with pytest.raises(Unavailable, match="all 16 workers"):
        await BucketIds(store, holder="one too many").start()
    made = await asyncio.gather(*(minter.one(5) for minter in minters for _ in range(30)))
    assert len(set(made)) == 480
    await minters[3].stop()
    late = BucketIds(store, holder="late")
    await late.start()
    assert late.worker is not None
    for minter in (*minters, late):
        await minter.stop()


async def test_ablation_without_the_worker_in_the_id_two_make_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_ids, "pack_id", lambda parts: (parts.time_ms, parts.shard, parts.sequence % 1024))
    clock = ManualClock(now_us=1_800_000_000_000_000)
    minters = [BucketIds(store, holder=f"m{number}", clock=clock) for number in range(2)]
    for minter in minters:
        await minter.start()
    one, other = await minters[0].one(5), await minters[1].one(5)
    assert one == other
    monkeypatch.undo()
    assert await minters[0].one(5) != await minters[1].one(5)
    for minter in minters:
        await minter.stop()


async def test_after_a_restart_none_is_made_again(store: Store) -> None:
    made: list[int] = []
    for _ in range(5):
        async with BucketIds(store, holder="a", random=random.Random(1), settings=IdSettings(ttl_s=1.0)) as ids:
            made += [await ids.one(9) for _ in range(20)]
    assert len(set(made)) == 100
    assert made == sorted(made)


async def test_bad_buckets_and_minters_that_are_not_started(store: Store) -> None:
    ids = BucketIds(store, holder="a")
    with pytest.raises(Unavailable, match="not started"):
        await ids.one(1)
    async with ids:
        for bucket in (-1, 128):
            with pytest.raises(Invalid):
                await ids.one(bucket)
