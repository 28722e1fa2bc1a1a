"""Ids: never twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dougong.errors import Invalid
from dougong.store import IdBlocks, Store, open_store


async def test_ids_rise_from_one(store: Store) -> None:
    ids = IdBlocks(store, "orders", block=10)
    assert list(await ids.take(3)) == [1, 2, 3]
    assert list(await ids.take()) == [4]
    assert list(await ids.take(0)) == []
    assert list(await ids.take(12)) == list(range(5, 17))
    assert list(await ids.take(100)) == list(range(17, 117))


async def test_names_count_apart(store: Store) -> None:
    assert list(await IdBlocks(store, "a").take(2)) == list(await IdBlocks(store, "b").take(2)) == [1, 2]


async def test_a_restart_repeats_nothing(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        store = await open_store(f"sqlite:///{tmp_path}/a.db")
        seen += await IdBlocks(store, "orders", block=10).take(7)
        await store.close()
    assert seen == [*range(1, 8), *range(11, 18), *range(21, 28)]


async def test_many_callers_and_processes_share_without_repeating(tmp_path: Path) -> None:
    stores = [await open_store(f"sqlite:///{tmp_path}/a.db", name=str(i)) for i in range(3)]
    allocators = [IdBlocks(store, "orders", block=7) for store in stores]
    taken = await asyncio.gather(*(ids.take(i % 11) for i in range(150) for ids in allocators))
    everything = [number for some in taken for number in some]
    assert len(everything) == len(set(everything)) == sum(i % 11 for i in range(150)) * 3
    assert all(list(some) == sorted(some) for some in taken)
    for store in stores:
        await store.close()


async def test_a_cancelled_caller_harms_nobody(store: Store) -> None:
    ids = IdBlocks(store, "orders", block=5)
    callers = [asyncio.create_task(ids.take(3)) for _ in range(10)]
    await asyncio.sleep(0)
    callers[0].cancel()
    callers[4].cancel()
    taken = await asyncio.gather(*callers, return_exceptions=True)
    numbers = [number for some in taken if not isinstance(some, BaseException) for number in some]
    assert len(numbers) == len(set(numbers)) == 24


async def test_what_cannot_be_taken(store: Store) -> None:
    with pytest.raises(Invalid):
        IdBlocks(store, "orders", block=0)
    with pytest.raises(Invalid):
        await IdBlocks(store, "orders").take(-1)
