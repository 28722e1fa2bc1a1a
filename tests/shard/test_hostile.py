"""Text from outside as keys: it stays text, and keys that differ stay different, on every engine."""

from __future__ import annotations

import pytest
from tests.shard.conftest import Open

from dougong.errors import Conflict, Invalid
from dougong.shard import Layout, ShardedStore, ShardedTable, UniqueIndex
from dougong.store import Tx

HOSTILE = (
    "'; DROP TABLE dougong_placed_keys; --",
    '" OR ""="',
    "%",
    "_",
    "?",
    "%s",
    "{}",
    "\\",
    "a\\' OR 1=1 -- ",
    "ada",
    "ADA",
    "\u00e4da",
    "a\u0308da",
    "\u2603" * 50,
    "\U0001f600",
    "a\nb",
    "\u202eada",
)


@pytest.fixture
async def mapped(layout: Layout, routers: Open) -> ShardedStore:
    return await routers(Layout(layout.name, layout.metadata, layout.databases, routing="mapping"))


async def test_keys_of_mapping_are_placed_once_and_found_again(layout: Layout, mapped: ShardedStore) -> None:
    placed = {key: await mapped.bucket_of(key) for key in HOSTILE}
    assert len(set(placed.values())) == len(HOSTILE), "new keys fill empty buckets"
    mapped.routing._remembered.clear()  # type: ignore[attr-defined]
    assert {key: await mapped.bucket_of(key, new=False) for key in HOSTILE} == placed
    for key in HOSTILE:
        assert (await mapped.why(key)).bucket == placed[key]


async def test_values_of_an_index_are_themselves_and_no_others(sharded: ShardedStore) -> None:
    index = UniqueIndex(sharded, "email", ShardedTable("users", bucket="bucket"), "email")
    await index.start(new=True)

    async def register(id_: int, email: str) -> None:
        bucket = await sharded.bucket_of(id_)

        async def unit(tx: Tx) -> None:
            await tx.execute("INSERT INTO users VALUES (?, 'x', 1, ?, ?)", (id_, email, bucket))

        await index.write(id_, email, unit)

    values = [value for value in HOSTILE if value == value.strip()]
    assert len(values) == len(HOSTILE) - 1
    with pytest.raises(Invalid, match="no space around"):
        await register(1000, "a\\' OR 1=1 -- ")
    for id_, value in enumerate(values):
        await register(id_, value)
    assert [await index.find(value) for value in values] == list(range(len(values)))
    for id_, value in enumerate(values):
        with pytest.raises(Conflict, match="unique_violated"):
            await register(500 + id_, value)
    assert (await index.sweep(older_than_s=0.0)).orphans == 0
