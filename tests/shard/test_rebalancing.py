"""Buckets over more and fewer databases, and databases that were not there when a router was opened."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.shard.conftest import add

from dougong.errors import Invalid
from dougong.shard import (
    Layout,
    Mover,
    MoveReport,
    MoveSettings,
    ShardedStore,
    ShardedTable,
    embedded_layout,
    open_sharded_store,
    plan_moves,
    rebalance,
    verify,
)
from dougong.store import Migration

SCHEMA = [
    Migration(1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, age INT, email TEXT, bucket INT)")
]
QUICK = MoveSettings(share=1.0)


async def opened(folder: Path, databases: int = 2) -> ShardedStore:
    store = await open_sharded_store(embedded_layout(folder, "users", databases=databases))
    await store.migrate("tests", SCHEMA)
    await store.declare(ShardedTable("users", bucket="bucket"))
    return store


async def test_doubling_moves_half_and_loses_nothing(tmp_path: Path) -> None:
    store, other = await opened(tmp_path), await opened(tmp_path)
    try:
        for id_ in range(300):
            await add(store, id_)
        shards = [f"db-{n}" for n in range(4)]
        assert len(await plan_moves(store, shards)) == 64
        told: list[tuple[MoveReport, int]] = []
        assert await rebalance(Mover(store, settings=QUICK), store, shards, each=lambda *news: told.append(news)) == 64
        assert [left for _, left in told] == list(range(63, -1, -1))
        assert {report.outcome for report, _ in told} == {"moved"}
        assert await plan_moves(store, shards) == []
        assert await verify(store) == []
        for id_ in range(300):  # a router that was opened when there were two
            assert await other.store_of(id_).fetch_one("SELECT name FROM users WHERE id = ?", (id_,)) == ("ada",)
        for name in ("db-2", "db-3"):
            rows = await store.databases.call(
                name, lambda opened: opened.fetch_all("SELECT DISTINCT bucket % 4 FROM users")
            )
            assert rows == [(int(name[-1]),)]
    finally:
        await store.close()
        await other.close()


async def test_what_stopped_half_way_goes_on(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    try:
        await add(store, 2)
        mover = Mover(store, settings=QUICK)
        await mover.move(2, "db-3")  # not where it belongs, and not completed
        await rebalance(mover, store, ["db-0", "db-1", "db-2"])
        assert [record.bucket for record in await store.moves.all() if record.running] == []
        assert {name: len(buckets) for name, buckets in store.owners.items()} == {"db-0": 43, "db-1": 43, "db-2": 42}
        assert await store.store_of(2).fetch_one("SELECT name FROM users WHERE id = 2") == ("ada",)
    finally:
        await store.close()


async def test_fewer_databases(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    try:
        await add(store, 1)
        await rebalance(Mover(store, settings=QUICK), store, ["db-0"])
        assert list(store.owners) == ["db-0"]
        assert await store.store_of(1).fetch_one("SELECT name FROM users WHERE id = 1") == ("ada",)
    finally:
        await store.close()


async def test_a_layout_opened_later_has_the_databases_that_were_added(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await Mover(store, settings=QUICK).move(1, "db-5", complete=True)
    await store.close()
    assert list(embedded_layout(tmp_path, "users", databases=2).databases) == [f"db-{n}" for n in range(6)]


@pytest.mark.parametrize("name", ["db-05", "db-x", "db-", "other", "db-1/../../x"])
async def test_no_database_is_made_up(tmp_path: Path, name: str) -> None:
    store = await opened(tmp_path)
    try:
        with pytest.raises(Invalid, match="not configured") as refused:
            await Mover(store).move(1, name)
        assert refused.value.code == "unknown_shard"
        assert await store.moves.all() == []
    finally:
        await store.close()


async def test_listed_databases_are_all_there_are(tmp_path: Path) -> None:
    layout = embedded_layout(tmp_path, "users", databases=2)
    listed = Layout("users", layout.metadata, layout.databases)
    assert listed.url_of("db-2") is None
    assert layout.url_of("db-2") == layout.databases["db-1"].replace("db-1", "db-2")
    assert msgspec.structs.replace(layout, databases={"db-7": "sqlite:///x"}).url_of("db-7") == "sqlite:///x"


async def test_there_is_no_bucket_beyond(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    try:
        with pytest.raises(Invalid, match="there is no bucket 128"):
            await Mover(store).move(128, "db-1")
    finally:
        await store.close()
