"""Buckets move while they are used, on every engine; nothing is lost, and what is not possible is said beforehand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.shard.conftest import Open, add

from dougong.errors import Conflict, Invalid, NotFound, Unavailable
from dougong.shard import Layout, Mover, MoveRecord, MoveSettings, ShardedStore, ShardedTable, UniqueIndex, verify
from dougong.shard.moving.copying import Copier
from dougong.shard.moving.moves import Moves
from dougong.shard.moving.phases import Phases
from dougong.shard.moving.record import Phase, Wish
from dougong.shard.moving.side import Side
from dougong.shard.moving.switching import rescue
from dougong.store import Migration, Row, Store, Tx, Value

BUCKET = 17
QUICK = MoveSettings(share=1.0, lag_max=8)
_ITEMS = """
CREATE TABLE items (owner BIGINT NOT NULL, tag VARCHAR(40) NOT NULL, note VARCHAR(200), raw {bytes}, n BIGINT NOT NULL,
    bucket SMALLINT NOT NULL, PRIMARY KEY (owner, tag));
CREATE UNIQUE INDEX items_n ON items (bucket, owner, n);
"""
ITEMS = [
    Migration(
        1,
        "items",
        _ITEMS.format(bytes="BLOB"),
        {"postgresql": _ITEMS.format(bytes="BYTEA"), "mysql": _ITEMS.format(bytes="VARBINARY(200)")},
    )
]
TABLES = (ShardedTable("users", bucket="bucket"), ShardedTable("items", "owner", "bucket"))
USER = BUCKET  # ids that fall into the bucket: 17, 145, ...


@pytest.fixture
async def store(layout: Layout, routers: Open) -> ShardedStore:
    opened = await routers(layout)
    await opened.migrate("items", ITEMS)
    await opened.declare(*TABLES)
    return opened


@pytest.fixture
async def filled(store: ShardedStore) -> ShardedStore:
    for n in range(40):
        await add(store, BUCKET + 128 * n, f"user {n}", None if n % 3 else n, f"{n}@example.org")
    await add(store, 18, "a neighbour")

    async def unit(tx: Tx) -> None:
        rows: list[tuple[Value, ...]] = [
            (BUCKET + 128 * (n % 7), f"tag '{n}' ?%s", None if n % 2 else "ä" * 100, bytes(range(n)), n, BUCKET)
            for n in range(100)
        ]
        await tx.execute_many("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)

    await store.store_at(BUCKET).write(unit)
    return store


async def rows_in(store: ShardedStore, shard: str) -> tuple[list[Row], list[Row]]:
    async def read(opened: Store) -> tuple[list[Row], list[Row]]:
        users = await opened.fetch_all("SELECT * FROM users WHERE bucket = ? ORDER BY id", (BUCKET,))
        return users, await opened.fetch_all("SELECT * FROM items WHERE bucket = ? ORDER BY owner, tag", (BUCKET,))

    return await store.databases.call(shard, read)


async def is_whole(store: ShardedStore, owner: str) -> None:
    """The bucket is served there, all agree on it, and writing works."""
    assert (await store.why(BUCKET)).shard == owner
    assert await verify(store) == []
    assert await store.store_at(BUCKET).write(
        lambda tx: tx.execute("UPDATE users SET age = 1 WHERE id = ? AND age = 1", (USER,))
    ) in (0, 1)


async def test_there_back_and_for_good(filled: ShardedStore) -> None:
    before = await rows_in(filled, "db-1")
    mover = Mover(filled, settings=QUICK)
    moved = await mover.move(BUCKET, "db-3")
    assert (moved.outcome, moved.source, moved.target, moved.rows, moved.compared) == (
        "reversible", "db-3", "db-1", 140, 140,
    )  # fmt: skip
    assert moved.pause_s > 0
    assert await rows_in(filled, "db-3") == before
    await is_whole(filled, "db-3")
    await add(filled, BUCKET + 128 * 99, "late")
    await filled.store_at(BUCKET).write(lambda tx: tx.execute("DELETE FROM items WHERE n < 50"))
    after = await rows_in(filled, "db-3")
    reversed_ = await mover.reverse(BUCKET)
    assert (reversed_.outcome, reversed_.source) == ("reversible", "db-1")
    assert await rows_in(filled, "db-1") == after
    await is_whole(filled, "db-1")
    assert (await mover.complete(BUCKET)).outcome == "reversed"
    assert await rows_in(filled, "db-3") == ([], [])
    assert (await mover.move(BUCKET, "db-3", complete=True)).outcome == "moved"
    assert await rows_in(filled, "db-3") == after
    assert await rows_in(filled, "db-1") == ([], [])
    assert await filled.store_of(18).fetch_one("SELECT name FROM users WHERE id = 18") == ("a neighbour",)
    await is_whole(filled, "db-3")


@asynccontextmanager
async def written(store: ShardedStore, seed: int) -> AsyncGenerator[dict[tuple[int, str], int | None]]:
    """Rows change all the time, keys and unique values too; what was acknowledged: (owner, tag) → n, None if gone."""
    known: dict[tuple[int, str], int | None] = {}
    draw, going = random.Random(seed), True

    async def change(count: int) -> None:
        owner, tag = BUCKET + 128 * draw.randrange(7), f"tag {draw.randrange(20)}"
        other = f"tag {draw.randrange(20)}"
        n = 1000 + count

        async def unit(tx: Tx) -> None:
            await tx.execute("DELETE FROM items WHERE owner = ? AND tag = ?", (owner, tag))
            if count % 4:
                await tx.execute("INSERT INTO items VALUES (?, ?, NULL, NULL, ?, ?)", (owner, tag, n, BUCKET))
            if count % 5 == 0 and other != tag:  # the key itself changes
                await tx.execute("DELETE FROM items WHERE owner = ? AND tag = ?", (owner, other))
                await tx.execute("UPDATE items SET tag = ? WHERE owner = ? AND tag = ?", (other, owner, tag))

        await store.store_at(BUCKET).write(unit)
        value = n if count % 4 else None
        known[owner, tag] = value
        if count % 5 == 0 and other != tag:
            known[owner, other], known[owner, tag] = value, None

    async def work() -> None:
        count = 0
        while going:
            await change(count)
            count += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    try:
        yield known
    finally:
        going = False
        await task


@pytest.mark.parametrize("seed", range(2))
async def test_writers_notice_nothing(filled: ShardedStore, seed: int) -> None:
    async with written(filled, seed) as known:
        mover = Mover(filled, settings=QUICK)
        await mover.move(BUCKET, "db-3")
        await asyncio.sleep(0.05)
        await mover.reverse(BUCKET)
        await asyncio.sleep(0.05)
        await mover.complete(BUCKET)
        await mover.move(BUCKET, "db-0", complete=True)
    rows = await filled.store_at(BUCKET).fetch_all("SELECT owner, tag, n FROM items WHERE n >= 1000")
    assert {(owner, tag): n for owner, tag, n in rows} == {key: n for key, n in known.items() if n is not None}
    assert len(known) > 20
    await is_whole(filled, "db-0")
    for shard in ("db-1", "db-3"):
        assert await rows_in(filled, shard) == ([], [])


async def test_without_notes_changes_would_be_missed(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object, **__: object) -> int:
        return 0

    monkeypatch.setattr(Copier, "catch_up", nothing)
    monkeypatch.setattr(Copier, "pending", nothing)
    copy = Copier.copy

    async def copied_meanwhile(self: Copier, *arguments: object, **named: object) -> None:
        await copy(self, *arguments, **named)  # type: ignore[arg-type]
        await filled.store_at(BUCKET).write(lambda tx: tx.execute("UPDATE users SET name = 'x' WHERE id = ?", (USER,)))

    monkeypatch.setattr(Copier, "copy", copied_meanwhile)
    await Mover(filled, settings=QUICK).move(BUCKET, "db-3")
    assert (await rows_in(filled, "db-3"))[0] != (await rows_in(filled, "db-1"))[0]


async def test_a_cancelled_move_leaves_nothing_behind(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await rows_in(filled, "db-1")

    switch = Phases.switch

    async def cancelled(self: Phases, record: MoveRecord, *rest: object) -> MoveRecord:
        await filled.moves.wish(BUCKET, Wish.CANCEL)
        return await switch(self, record, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Phases, "switch", cancelled)
    monkeypatch.setattr("dougong.shard.moving.watch.Watch.EVERY_S", 0.0)
    report = await Mover(filled, settings=QUICK).move(BUCKET, "db-3")
    assert report.outcome == "cancelled"
    assert await rows_in(filled, "db-3") == ([], [])
    assert await rows_in(filled, "db-1") == before
    await is_whole(filled, "db-1")
    monkeypatch.undo()
    assert (await Mover(filled, settings=QUICK).move(BUCKET, "db-3")).outcome == "reversible"
    assert await rows_in(filled, "db-3") == before


async def test_paused_resumed_and_taken_over(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.shard.moving.watch.Watch.EVERY_S", 0.0)
    first, second = Mover(filled, name="first", settings=QUICK), Mover(filled, name="second", settings=QUICK)
    copy = Copier._copy_piece
    pieces = 0

    async def slowly(self: Copier, *arguments: object) -> object:
        nonlocal pieces
        pieces += 1
        if pieces == 1:
            await first.pause(BUCKET)
        return await copy(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Copier, "_copy_piece", slowly)
    assert (await first.move(BUCKET, "db-3")).outcome == "copying"
    await is_whole(filled, "db-1")
    with pytest.raises(Conflict) as running:
        await second.move(BUCKET, "db-2")
    assert running.value.code == "move_running"

    going, taken = asyncio.Event(), asyncio.Event()

    async def stuck(self: Copier, *arguments: object) -> object:
        if not going.is_set():
            going.set()
            await taken.wait()
        return await copy(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Copier, "_copy_piece", stuck)
    slow = asyncio.create_task(first.resume(BUCKET))
    await going.wait()
    assert (await second.resume(BUCKET)).outcome == "reversible"
    taken.set()
    with pytest.raises(Conflict) as lost:
        await slow
    assert lost.value.code == "move_taken_over"
    assert len((await rows_in(filled, "db-3"))[1]) == 100
    await is_whole(filled, "db-3")


async def test_a_mover_that_died_anywhere_is_replaced(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each step that is written down, and before each."""
    before = await rows_in(filled, "db-1")
    steps = 0
    while True:
        died = _Dies(steps)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("enter", "write", "fill"):
                patch.setattr(Side, name, died.around(getattr(Side, name)))
            try:
                await Mover(filled, settings=QUICK).move(BUCKET, "db-3", complete=True)
            except _Died:
                pass
            else:
                break
        report = await Mover(filled, settings=QUICK).resume(BUCKET)
        if report.outcome == "reversible":
            report = await Mover(filled, settings=QUICK).complete(BUCKET)
        assert report.outcome == "moved"
        assert await rows_in(filled, "db-3") == before
        await is_whole(filled, "db-3")
        await Mover(filled, settings=QUICK).move(BUCKET, "db-1", complete=True)
        assert await rows_in(filled, "db-1") == before
        steps += 1
    assert steps > 10


class _Died(BaseException):
    pass


class _Dies:
    """Lets so many steps pass; the next one is done, and then its caller is dead."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def around(self, step: Callable[..., object]) -> Callable[..., object]:
        async def wrapped(side: Side, *arguments: object) -> object:
            result = await step(side, *arguments)  # type: ignore[misc]
            self._left -= 1
            if self._left < 0:
                raise _Died
            return result

        return wrapped


@pytest.mark.parametrize("switched", [False, True])
async def test_a_bucket_left_closed_is_opened_by_those_who_wait(
    filled: ShardedStore, monkeypatch: pytest.MonkeyPatch, switched: bool
) -> None:
    monkeypatch.setattr("dougong.shard.sharded.RESCUE_AFTER_S", 0.05)

    async def dies(*_: object) -> None:
        raise _Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Side, "let_go", dies) if switched else patch.setattr(
            "dougong.shard.moving.moves.Moves.switch", dies
        )
        with pytest.raises(_Died):
            await Mover(filled, settings=QUICK).move(BUCKET, "db-3")
    record = await filled.moves.get(BUCKET)
    assert record is not None
    assert record.phase is (Phase.SWITCHED if switched else Phase.FENCING)
    await filled.store_at(BUCKET).write(lambda tx: tx.execute("UPDATE users SET name = 'y' WHERE id = ?", (USER,)))
    record = await filled.moves.get(BUCKET)
    assert record is not None
    assert record.phase is (Phase.REVERSIBLE if switched else Phase.COPYING)
    await is_whole(filled, "db-3" if switched else "db-1")
    assert (await Mover(filled, settings=QUICK).finish(BUCKET)).outcome == "moved"
    rows = await filled.store_at(BUCKET).fetch_all("SELECT name FROM users WHERE id = ?", (USER,))
    assert rows == [("y",)]


async def test_nobody_opens_what_its_mover_works_on(filled: ShardedStore) -> None:
    await filled.moves.begin(BUCKET, "db-3", "somebody")
    record = await filled.moves.get(BUCKET)
    assert record is not None
    assert not await rescue(filled.moves, filled.databases, record)
    fencing = await filled.moves.advance(record, Phase.FENCING)
    await filled.moves.take_over(BUCKET, "another")
    with pytest.raises(Conflict, match="another mover"):
        await rescue(filled.moves, filled.databases, fencing)


async def test_a_fence_that_takes_too_long_is_lifted(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr("dougong.shard.moving.moves.Moves.switch", never)
    settings = msgspec.structs.replace(QUICK, fence_s=0.02, fences_max=2)
    with pytest.raises(Unavailable) as failed:
        await Mover(filled, settings=settings).move(BUCKET, "db-3")
    assert failed.value.code == "fence_timeout"
    await is_whole(filled, "db-1")
    monkeypatch.undo()
    assert (await Mover(filled, settings=QUICK).resume(BUCKET)).outcome == "reversible"


async def test_a_switch_whose_answer_was_lost_is_finished(
    filled: ShardedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last try, too, and by the mover itself: nobody waits for the bucket who could rescue it."""
    before = await rows_in(filled, "db-1")
    switch, lost = Moves.switch, 0

    async def switched(self: Moves, record: MoveRecord) -> MoveRecord:
        nonlocal lost
        await switch(self, record)
        lost += 1
        raise Unavailable("the answer was lost", code="commit_unknown")

    monkeypatch.setattr(Moves, "switch", switched)
    settings = msgspec.structs.replace(QUICK, fences_max=1)
    report = await Mover(filled, settings=settings).move(BUCKET, "db-3")
    assert (report.outcome, report.source, lost) == ("reversible", "db-3", 1)
    assert await rows_in(filled, "db-3") == before
    await is_whole(filled, "db-3")
    assert (await Mover(filled, settings=settings).reverse(BUCKET)).source == "db-1"
    await is_whole(filled, "db-1")


async def test_a_copy_that_differs_is_not_switched_to(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Copier.compare

    async def tampered(self: Copier, **named: object) -> int:
        await filled.databases.call(
            "db-3", lambda opened: opened.write(lambda tx: tx.execute("DELETE FROM items WHERE n = 7"))
        )
        return await compare(self, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Copier, "compare", tampered)
    with pytest.raises(Conflict) as differs:
        await Mover(filled, settings=QUICK).move(BUCKET, "db-3")
    assert differs.value.code == "copy_differs"
    assert "tag '7' ?%s" in str(differs.value)
    await is_whole(filled, "db-1")
    assert (await Mover(filled, settings=QUICK).cancel(BUCKET)).outcome == "cancelled"


async def test_who_was_given_up_for_dead_raises_no_alarm(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later mover has brought up to date differs from what a slow one read before."""

    async def slow(*_: object, **__: object) -> int:
        await filled.moves.take_over(BUCKET, "another")
        raise Conflict("it differs", code="copy_differs")

    with monkeypatch.context() as patch:
        patch.setattr(Copier, "compare", slow)
        with pytest.raises(Conflict) as late:
            await Mover(filled, settings=QUICK).move(BUCKET, "db-3")
    assert late.value.code == "move_taken_over"
    assert (await Mover(filled, settings=QUICK).resume(BUCKET)).outcome == "reversible"


async def test_too_many_changes_are_not_fenced(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ever_more(_: Copier) -> int:
        return 1000

    monkeypatch.setattr(Copier, "pending", ever_more)
    settings = msgspec.structs.replace(QUICK, rounds_max=3)
    with pytest.raises(Conflict) as slow:
        await Mover(filled, settings=settings).move(BUCKET, "db-3")
    assert slow.value.code == "move_too_slow"
    await is_whole(filled, "db-1")


async def test_a_database_that_is_away_is_waited_for(filled: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill, away = Side.fill, 5

    async def failing(self: Side, *arguments: object) -> object:
        nonlocal away
        away -= 1
        if away > 0:
            raise Unavailable("it is away", code="connection_lost")
        return await fill(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Side, "fill", failing)
    settings = msgspec.structs.replace(QUICK, patience_s=0.0)
    with pytest.raises(Unavailable, match="it is away"):
        await Mover(filled, settings=settings).move(BUCKET, "db-3")
    await is_whole(filled, "db-1")
    assert (await Mover(filled, settings=QUICK).resume(BUCKET)).outcome == "reversible"


async def test_routers_that_do_not_follow_are_waited_for(
    filled: ShardedStore, layout: Layout, routers: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dougong.shard.watching.EVERY_S", 3600.0)  # it will not look again by itself
    behind = await routers(layout, watch=True, router="sleepy")
    mover = Mover(filled, settings=msgspec.structs.replace(QUICK, routers_s=0.0, patience_s=0.0))
    await mover.move(BUCKET, "db-3")
    with pytest.raises(Unavailable, match="sleepy") as waited:
        await mover.reverse(BUCKET)
    assert waited.value.code == "routers_behind"
    await is_whole(filled, "db-3")
    assert behind._watch is not None
    await behind._watch.look()
    assert (await mover.resume(BUCKET)).source == "db-1"


BAD = {
    "CREATE TABLE keyless (id BIGINT, bucket SMALLINT)": "no primary key",
    "CREATE TABLE keyless (id BIGINT NOT NULL PRIMARY KEY, bucket SMALLINT, email VARCHAR(50) UNIQUE)": "unique in one",
    "CREATE TABLE keyless (id BIGINT NOT NULL PRIMARY KEY, other SMALLINT)": "not one of its columns",
    "CREATE TABLE keyless (id BIGINT NOT NULL PRIMARY KEY, bucket SMALLINT, of BIGINT,"
    " FOREIGN KEY (of) REFERENCES users (id))": "foreign key to",
}  # fmt: skip


@pytest.mark.parametrize("sql", BAD)
async def test_tables_that_cannot_move_are_named(filled: ShardedStore, sql: str) -> None:
    await filled.migrate("bad", [Migration(1, "bad", sql)])
    await filled.declare(ShardedTable("keyless", bucket="bucket"))
    with pytest.raises(Invalid, match=BAD[sql]) as refused:
        await Mover(filled, settings=QUICK).move(BUCKET, "db-3")
    assert refused.value.code == "cannot_move"
    assert "keyless" in str(refused.value)
    await is_whole(filled, "db-1")
    assert (await Mover(filled).moves.wish(BUCKET, Wish.CANCEL)).wish is Wish.CANCEL


async def test_a_table_nobody_declared_is_named_or_left(filled: ShardedStore) -> None:
    await filled.migrate("more", [Migration(1, "more", "CREATE TABLE leftover (id BIGINT NOT NULL PRIMARY KEY)")])
    with pytest.raises(Invalid, match="leftover belong to nothing"):
        await Mover(filled, settings=QUICK).move(BUCKET, "db-3")
    settings = msgspec.structs.replace(QUICK, leave=frozenset({"leftover"}))
    assert (await Mover(filled, settings=settings).resume(BUCKET)).outcome == "reversible"


async def test_schemas_that_differ_are_refused(filled: ShardedStore) -> None:
    await filled.databases.call(
        "db-3",
        lambda opened: opened.migrate("odd", [Migration(1, "odd", "ALTER TABLE users ADD COLUMN extra BIGINT")]),
    )
    with pytest.raises(Invalid, match="table users differs") as refused:
        await Mover(filled, settings=QUICK).move(BUCKET, "db-3")
    assert refused.value.code == "cannot_move"


async def test_wishes_at_the_wrong_time(filled: ShardedStore) -> None:
    mover = Mover(filled, settings=QUICK)
    for wish in (mover.pause, mover.cancel, mover.complete, mover.reverse, mover.resume):
        with pytest.raises(NotFound) as none:
            await wish(BUCKET)
        assert none.value.code == "no_move"
    with pytest.raises(Conflict) as there:
        await mover.move(BUCKET, "db-1")
    assert there.value.code == "already_there"
    await mover.move(BUCKET, "db-3")
    for wish in (mover.pause, mover.cancel):
        with pytest.raises(Conflict, match="possible are reverse, complete") as late:
            await wish(BUCKET)
        assert late.value.code == "wrong_phase"
    await mover.complete(BUCKET)
    with pytest.raises(Conflict, match="it is over"):
        await mover.reverse(BUCKET)


async def test_what_is_unique_moves_along(store: ShardedStore) -> None:
    emails = UniqueIndex(store, "email", TABLES[0], "email")
    await emails.start(new=True)

    def row(id_: int) -> Callable[[Tx], object]:
        return lambda tx: tx.execute(
            "INSERT INTO users VALUES (?, 'n', 1, ?, ?)", (id_, f"{id_}@example.org", id_ % 128)
        )

    for id_ in range(40):
        await emails.write(id_, f"{id_}@example.org", row(id_))  # type: ignore[arg-type]
    mover = Mover(store, settings=QUICK)
    for bucket in range(0, 128, 3):
        await mover.move(bucket, "db-3" if (await store.why(bucket)).shard != "db-3" else "db-0", complete=True)
    for id_ in range(40):
        assert await emails.find(f"{id_}@example.org") == id_
        with pytest.raises(Conflict):
            await emails.write(id_ + 128, f"{id_}@example.org", row(id_ + 128))  # type: ignore[arg-type]
    assert await verify(store) == []
