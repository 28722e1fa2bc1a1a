"""Who owns a bucket, in one database: epochs only rise, and what was released never comes back under the same one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.shard import BucketState, StaleEpoch
from dougong.shard.owners import OWNER_MIGRATIONS, change_state, guarded, own, owned, release, require
from dougong.store import MemoryDatabase, Store, Tx, open_store

SERVING, MOVING, FENCED = BucketState.SERVING, BucketState.MOVING, BucketState.FENCED


@pytest.fixture
async def store(fresh_url: Callable[[], str]) -> Store:
    opened = await open_store(fresh_url())
    await opened.migrate("owners", OWNER_MIGRATIONS)
    return opened


async def test_a_released_bucket_stays_released(store: Store) -> None:
    await store.write(lambda tx: own(tx, 5, 3))
    assert await owned(store) == {5: (3, "serving")}
    await store.write(lambda tx: own(tx, 5, 3, MOVING))  # a repeat changes nothing
    assert await owned(store) == {5: (3, "serving")}
    await store.write(lambda tx: release(tx, 5, 2))  # a late release of an earlier epoch
    assert await owned(store) == {5: (3, "serving")}
    await store.write(lambda tx: release(tx, 5, 3))
    assert await owned(store) == {}
    await store.write(lambda tx: own(tx, 5, 3))  # a late beginning
    assert await owned(store) == {}
    with pytest.raises(StaleEpoch):
        await store.write(lambda tx: own(tx, 5, 2))
    with pytest.raises(StaleEpoch):
        await store.write(lambda tx: change_state(tx, "here", 5, 3, [SERVING], MOVING))
    with pytest.raises(StaleEpoch):
        await require(store, "here", {5: 3})
    with pytest.raises(StaleEpoch):
        await store.write(guarded(_nothing, store, 5, 3))
    await store.write(lambda tx: own(tx, 5, 5))
    assert await owned(store) == {5: (5, "serving")}
    await store.close()


async def test_a_fenced_bucket_is_read_and_not_written(store: Store) -> None:
    await store.write(lambda tx: own(tx, 5, 1))
    await store.write(lambda tx: change_state(tx, "here", 5, 1, [SERVING], FENCED))
    await require(store, "here", {5: 1})
    with pytest.raises(StaleEpoch, match="here"):
        await store.write(lambda tx: change_state(tx, "here", 5, 1, [SERVING], MOVING))
    with pytest.raises(StaleEpoch):
        await store.write(guarded(_nothing, store, 5, 1))
    await store.write(lambda tx: change_state(tx, "here", 5, 1, [FENCED], SERVING))
    await store.write(guarded(_nothing, store, 5, 1))
    with pytest.raises(StaleEpoch):
        await store.write(guarded(_nothing, store, 5, 2))
    await store.close()


async def _nothing(tx: Tx) -> None:
    """Nothing."""


@given(st.lists(st.tuples(st.sampled_from(["own", "release"]), st.integers(1, 5)), max_size=20))
def test_whatever_comes_late_epochs_only_rise(steps: list[tuple[str, int]]) -> None:
    database = MemoryDatabase("owners")
    database.migrate("owners", OWNER_MIGRATIONS, 0)
    highest, gone = 0, 0
    for step, epoch in steps:
        if step == "own":
            try:
                database.write(lambda tx, epoch=epoch: own(tx, 5, epoch))  # type: ignore[misc]
            except StaleEpoch:
                assert epoch < highest
            else:
                highest = max(highest, epoch)
        else:
            database.write(lambda tx, epoch=epoch: release(tx, 5, epoch))  # type: ignore[misc]
            if highest <= epoch:
                gone = highest
        row = database.fetch_one("SELECT epoch, state FROM dougong_bucket_owner WHERE bucket = 5")
        assert row == ((highest, "gone" if gone == highest else "serving") if highest else None)
