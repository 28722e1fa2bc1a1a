"""Triggers are in a database while a move needs them: not longer, and not shorter, whoever is late or dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import msgspec
import pytest
from tests.shard.conftest import Open, add

from dougong.errors import Conflict, Invalid, Unavailable
from dougong.shard import Layout, Mover, MoveSettings, ShardedStore, ShardedTable, rebalance, verify
from dougong.shard.moving.capture import make_triggers, remove_triggers
from dougong.shard.moving.copying import Copier
from dougong.shard.moving.moves import TakenOver
from dougong.shard.moving.record import MoveRecord, Phase
from dougong.shard.moving.shapes import read_shapes, triggers_of
from dougong.shard.moving.triggers import Triggers
from dougong.simulation.stories.move_without import mover_without
from dougong.store import Migration, Store
from dougong.store._link import Link
from dougong.store.server import ServerStore

BUCKET, NEIGHBOUR, ELSEWHERE = 17, 21, 16
"""Two in db-1, and one in db-0."""
SHARDS = ("db-0", "db-1", "db-2", "db-3")
QUICK = MoveSettings(share=1.0, lag_max=8)


@pytest.fixture
async def store(layout: Layout, routers: Open) -> ShardedStore:
    opened = await routers(layout)
    await opened.declare(ShardedTable("users", bucket="bucket"))
    for n in range(5):
        await add(opened, BUCKET + 128 * n)
    return opened


@pytest.fixture
def mover(store: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> Mover:
    monkeypatch.setattr("dougong.shard.moving.mover._TIDY_AFTER_S", (0.0, 0.01, 0.01))
    return Mover(store, settings=QUICK)


async def noting(store: ShardedStore) -> list[str]:
    """Databases that have triggers."""
    names = [await store.databases.call(shard, partial(triggers_of, table="users")) for shard in SHARDS]
    assert {len(found) for found in names} <= {0, 3}
    return [shard for shard, found in zip(SHARDS, names, strict=True) if found]


async def raise_age(store: ShardedStore, id_: int = BUCKET) -> None:
    await store.store_of(id_).write(lambda tx: tx.execute("UPDATE users SET age = age + 1 WHERE id = ?", (id_,)))


async def is_whole(store: ShardedStore) -> None:
    assert await verify(store) == []
    assert await store.store_at(BUCKET).fetch_one("SELECT count(*) FROM users WHERE bucket = ?", (BUCKET,)) == (5,)


async def test_they_go_when_the_move_is_over(store: ShardedStore, mover: Mover) -> None:
    await mover.move(BUCKET, "db-3")
    assert await noting(store) == ["db-1", "db-3"]
    await mover.reverse(BUCKET)
    assert await noting(store) == ["db-1", "db-3"]
    assert (await mover.complete(BUCKET)).outcome == "reversed"
    assert await noting(store) == []
    await store.moves.begin(BUCKET, "db-2", "nobody")
    assert (await mover.cancel(BUCKET)).outcome == "cancelled"  # before there were any
    assert await noting(store) == []
    await mover.move(BUCKET, "db-2", complete=True)
    assert await noting(store) == []
    assert await mover.triggers.left() == {}
    await is_whole(store)


async def test_a_cancelled_move_needs_none(store: ShardedStore, mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    async def differs(*_: object, **__: object) -> int:
        raise Conflict("it differs", code="copy_differs")

    with monkeypatch.context() as patch:
        patch.setattr(Copier, "compare", differs)
        with pytest.raises(Conflict):
            await mover.move(BUCKET, "db-3")
    assert await noting(store) == ["db-1", "db-3"]
    await mover.cancel(BUCKET)
    assert await noting(store) == []


async def test_another_move_keeps_them(store: ShardedStore, mover: Mover) -> None:
    """It shares one database with each of two others; nothing it needs goes with these."""
    await mover.move(BUCKET, "db-3")
    await mover.move(NEIGHBOUR, "db-2", complete=True)
    await mover.move(19, "db-0", complete=True)
    assert await noting(store) == ["db-1", "db-3"]
    await raise_age(store)
    await mover.reverse(BUCKET)
    assert await store.store_of(BUCKET).fetch_one("SELECT age FROM users WHERE id = ?", (BUCKET,)) == (2,)
    await mover.complete(BUCKET)
    assert await noting(store) == []


async def test_moves_in_a_row_keep_them(store: ShardedStore, mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    want = Triggers.want

    async def wanted(self: Triggers, record: MoveRecord, shard: str, *, above: int = 0) -> int:
        made.append(await want(self, record, shard, above=above))
        return made[-1]

    monkeypatch.setattr(Triggers, "want", wanted)
    async with mover.several():
        for bucket in (BUCKET, NEIGHBOUR):
            await mover.move(bucket, "db-3", complete=True)
        assert await noting(store) == ["db-1", "db-3"]
    assert await noting(store) == []
    assert made == [1, 1, 1, 1]
    await rebalance(mover, store, SHARDS[:3])
    assert await noting(store) == []
    assert set(made[4:]) == {1, 2}


async def test_what_a_dead_mover_left_goes_with_the_next(
    store: ShardedStore, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may die before it is decided that they go, or before they are gone."""

    class Died(BaseException):
        pass

    async def dies(*_: object) -> None:
        raise Died

    for step in ("dougong.shard.moving.triggers.Triggers.unwanted", "dougong.shard.moving.mover.Mover._remove"):
        with monkeypatch.context() as patch:
            patch.setattr(step, dies)
            with pytest.raises(Died):
                await mover.move(BUCKET, "db-3", complete=True)
        record = await store.moves.get(BUCKET)
        assert record is not None
        assert record.phase is Phase.DONE
        assert await noting(store) == ["db-1", "db-3"]
        assert await mover.triggers.left() == dict.fromkeys(("db-1", "db-3"), record.number)
        await mover.move(ELSEWHERE, "db-2", complete=True)
        assert await noting(store) == []
        await mover.move(ELSEWHERE, "db-0", complete=True)
        await mover.move(BUCKET, "db-1", complete=True)
        await mover.triggers.unwanted()
    assert await mover.tidy() == []


async def test_a_late_step_changes_nothing(store: ShardedStore, mover: Mover) -> None:
    """Whoever removes, or makes, what is not the present number."""
    shapes = await store.databases.call(
        "db-1", lambda opened: read_shapes(opened, {"users": "bucket"})
    )  # as a mover reads them

    async def late(number: int, *, make: bool) -> object:
        async def work(opened: Store) -> object:
            if make:
                return await make_triggers(opened, shapes, number)
            await remove_triggers(opened, ["users"], number)
            return None

        return await store.databases.call("db-1", work)

    await mover.move(BUCKET, "db-3")
    first = await mover.triggers.want(await current(store), "db-1")
    await mover.complete(BUCKET)
    assert await late(first, make=True) is False
    assert await noting(store) == []
    await mover.move(NEIGHBOUR, "db-3")
    await late(first, make=False)
    assert await noting(store) == ["db-1", "db-3"]
    await mover.complete(NEIGHBOUR)
    with pytest.raises(TakenOver):
        await mover.triggers.want(await current(store), "db-1")
    assert await noting(store) == []


async def current(store: ShardedStore) -> MoveRecord:
    """The present record, but one that was read before the move was over."""
    records = [record for record in await store.moves.all() if record.running] or await store.moves.all()
    return msgspec.structs.replace(records[0], phase=Phase.REVERSIBLE)


async def removed_late(store: ShardedStore, slow: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mover decides that they go, and stands still; meanwhile a move begins, and has copied when it goes on."""
    decided, go_on = asyncio.Event(), asyncio.Event()
    remove, copy = slow._remove, Copier.copy

    async def slowly(shard: str, tables: Sequence[str], number: int) -> None:
        decided.set()
        await go_on.wait()
        await remove(shard, tables, number)

    async def copied(self: Copier, *arguments: object, **named: object) -> None:
        await copy(self, *arguments, **named)  # type: ignore[arg-type]
        go_on.set()
        await ending
        await raise_age(store)

    monkeypatch.setattr(slow, "_remove", slowly)
    ending = asyncio.create_task(slow.move(NEIGHBOUR, "db-3", complete=True))
    await decided.wait()
    monkeypatch.setattr(Copier, "copy", copied)
    await Mover(store, name="other", settings=QUICK).move(BUCKET, "db-3")


async def test_a_removal_between_two_moves_loses_nothing(
    store: ShardedStore, mover: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    await removed_late(store, mover, monkeypatch)
    assert await store.store_of(BUCKET).fetch_one("SELECT age FROM users WHERE id = ?", (BUCKET,)) == (2,)
    assert await noting(store) == ["db-1", "db-3"]


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_without_numbers_it_would(store: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Conflict) as differs:
        await removed_late(store, mover_without("numbers")(store, settings=QUICK), monkeypatch)
    assert differs.value.code == "copy_differs"


async def test_triggers_that_somebody_dropped_are_made_again(store: ShardedStore, mover: Mover) -> None:
    await mover.move(BUCKET, "db-3")
    number = await mover.triggers.want(await current(store), "db-3")
    await store.databases.call("db-3", lambda opened: remove_triggers(opened, ["users"], number))
    assert await noting(store) == ["db-1"]
    assert (await mover.reverse(BUCKET)).source == "db-1"
    assert await noting(store) == ["db-1", "db-3"]
    await mover.complete(BUCKET)
    assert await noting(store) == []


async def test_a_metadata_database_that_was_set_back(store: ShardedStore, mover: Mover) -> None:
    """It has forgotten the numbers; the other databases have not."""
    for target in ("db-3", "db-1", "db-3", "db-1"):
        await mover.move(BUCKET, target, complete=True)
    await store.metadata.write(lambda tx: tx.execute("DELETE FROM dougong_move_triggers"))
    await mover.move(BUCKET, "db-3")
    assert await noting(store) == ["db-1", "db-3"]
    await mover.complete(BUCKET)
    assert await noting(store) == []


@asynccontextmanager
async def held(store: ShardedStore, shard: str) -> AsyncGenerator[None]:
    """Somebody's transaction that has looked at the table, and does not end."""

    async def connected(opened: Store) -> Link:
        return await cast(ServerStore, opened)._dialer.connect()

    link = await store.databases.call(shard, connected)
    await link.control("START TRANSACTION; UPDATE users SET age = age WHERE id = -1")
    try:
        yield
        await link.control("ROLLBACK")
    finally:
        link.abort()


@pytest.mark.parametrize("dialect", ["mysql", "postgresql"])
async def test_a_table_that_is_in_use_is_left_for_later(store: ShardedStore, mover: Mover) -> None:
    await mover.move(BUCKET, "db-3")
    await mover.move(ELSEWHERE, "db-2")
    async with held(store, "db-1"), held(store, "db-3"):
        assert (await mover.complete(BUCKET)).outcome == "moved"
        await raise_age(store)  # nobody waits behind what did not come about
        assert await noting(store) == ["db-0", "db-1", "db-2", "db-3"]
        assert await mover.tidy() == ["db-1", "db-3"]
        await is_whole(store)
    assert await mover.tidy() == []
    assert await noting(store) == ["db-0", "db-2"]


@pytest.mark.parametrize("dialect", ["mysql", "postgresql"])
async def test_no_move_begins_while_a_table_is_in_use(store: ShardedStore, mover: Mover) -> None:
    impatient = Mover(store, settings=msgspec.structs.replace(QUICK, patience_s=0.0))
    async with held(store, "db-1"):
        with pytest.raises(Unavailable) as busy:
            await impatient.move(BUCKET, "db-3")
        assert busy.value.code == "table_busy"
        await raise_age(store)
        record = await store.moves.get(BUCKET)
        assert record is not None
        assert (record.phase, record.rows) == (Phase.COPYING, 0)
    assert (await impatient.resume(BUCKET)).outcome == "reversible"
    assert await store.store_of(BUCKET).fetch_one("SELECT age FROM users WHERE id = ?", (BUCKET,)) == (2,)


_OWN = {
    "sqlite": "AFTER UPDATE ON users BEGIN UPDATE users SET age = 7 WHERE id = -1; END",
    "mysql": "AFTER UPDATE ON users FOR EACH ROW SET @seen = 1",
    "postgresql": "BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
}


@pytest.mark.parametrize("name", ["audit", "dougong_audit"])
async def test_a_trigger_of_somebody_else_is_refused(store: ShardedStore, mover: Mover, name: str) -> None:
    """It would run for rows that are only copied. A name that looks like ours makes no difference."""
    sql = {dialect: f"CREATE TRIGGER {name} {body}" for dialect, body in _OWN.items()}
    await store.migrate("audit", [Migration(1, "audit", "", sql)])
    with pytest.raises(Invalid, match=f"trigger {name} of table users would run") as refused:
        await mover.move(BUCKET, "db-3")
    assert refused.value.code == "cannot_move"
    assert (await store.why(BUCKET)).shard == "db-1"
    await raise_age(store)
    assert await triggers_in(store, "db-1") == await triggers_in(store, "db-3") == [name]
    assert (await mover.cancel(BUCKET)).outcome == "cancelled"
    assert await triggers_in(store, "db-1") == [name]


async def triggers_in(store: ShardedStore, shard: str) -> list[str]:
    return await store.databases.call(shard, partial(triggers_of, table="users"))


async def test_what_is_decided_is_decided_once(store: ShardedStore) -> None:
    """The rules, without any mover."""
    triggers = Triggers(store.metadata, store.moves)
    assert await triggers.unwanted() == {}
    record = await store.moves.begin(BUCKET, "db-3", "one")
    assert [await triggers.want(record, "db-1") for _ in range(2)] == [1, 1]
    assert await triggers.unwanted() == {}
    done = await store.moves.advance(record, Phase.DONE)
    with pytest.raises(TakenOver):
        await triggers.want(record, "db-1")
    assert await triggers.unwanted() == {"db-1": 1}
    again = await store.moves.begin(BUCKET, "db-3", "two")
    assert await triggers.unwanted() == {}, "the next move is there, though it has not asked yet"
    await triggers.gone("db-1", 1)
    assert await triggers.want(again, "db-1") == 2
    await triggers.gone("db-1", 1)
    assert await triggers.want(again, "db-1") == 2, "late, and of another number"
    assert await triggers.want(again, "db-1", above=5) == 6
    assert (done.number, again.number) == (1, 2)
