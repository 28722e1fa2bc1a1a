"""What a caller of `write` and `read` may rely on."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import pytest

from dougong.errors import Conflict, Internal, Invalid, Overloaded, Unavailable
from dougong.store import Row, Store, Tx, Unit, Value, open_store
from dougong.store import _group as group
from dougong.store._meters import commit_seconds
from dougong.store._waiting import Waiting, settle
from dougong.store.sqlite import SqliteStore

INSERT = "INSERT INTO things (id, name, amount) VALUES (?, ?, ?)"


def insert(key: int, name: str | None = None) -> Unit[int]:
    async def unit(tx: Tx) -> int:
        await tx.execute(INSERT, (key, name, 0))
        return key

    return unit


def insert_then_fail(key: int) -> Unit[None]:
    async def unit(tx: Tx) -> None:
        await tx.execute(INSERT, (key, None, 0))
        raise ValueError("changed my mind")

    return unit


async def ids(store: Store) -> list[Value]:
    return [row[0] for row in await store.fetch_all("SELECT id FROM things ORDER BY id")]


def commits(store: Store) -> int:
    return commit_seconds.count(store.name)


async def test_result_of_a_unit_is_its_callers(store: Store) -> None:
    assert await store.write(insert(7)) == 7
    assert await store.fetch_one("SELECT id, name, amount FROM things WHERE id = ?", (7,)) == (7, None, 0)


async def test_acknowledged_means_committed_and_synced(store: SqliteStore) -> None:
    await store.write(insert(1))
    beside = sqlite3.connect(store.path)
    assert beside.execute("SELECT count(*) FROM things").fetchone() == (1,)
    beside.close()
    assert store._writer._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert store._writer._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_units_in_flight_share_a_commit(store: Store) -> None:
    before = commits(store)
    await asyncio.gather(*(store.write(insert(i)) for i in range(100)))
    assert commits(store) - before == 1
    assert await ids(store) == list(range(100))


async def test_units_that_arrive_during_a_commit_ride_in_the_next(store: Store) -> None:
    before = commits(store)

    async def caller(first: int) -> None:
        for i in range(5):
            await store.write(insert(first + i))

    await asyncio.gather(*(caller(i * 10) for i in range(20)))
    assert commits(store) - before == 5


async def test_a_unit_that_wrote_nothing_costs_no_sync(store: Store) -> None:
    before = commits(store)

    async def look(tx: Tx) -> Row | None:
        return await tx.fetch_one("SELECT count(*) FROM things")

    assert await store.write(look) == (0,)
    assert commits(store) == before


async def test_a_failing_unit_leaves_its_neighbours_alone(store: Store) -> None:
    outcomes = await asyncio.gather(
        store.write(insert(1)),
        store.write(insert_then_fail(2)),
        store.write(insert(3, "a")),
        store.write(insert(4, "a")),
        store.write(insert_then_fail(5)),
        store.write(insert(6)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [int, ValueError, int, Conflict, ValueError, int]
    assert await ids(store) == [1, 3, 6]


async def test_without_undoing_a_failed_unit_would_leave_traces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: with neither rerun nor savepoints, the test above sees row 2."""

    def keep(self: group.GroupWriter, items: list[Waiting]) -> None:
        self._tx.shut()
        self._connection.execute("COMMIT")
        for future, _, _ in items:
            settle(future, None, None)
        self._next()

    monkeypatch.setattr(group.GroupWriter, "_again", keep)
    await asyncio.gather(store.write(insert(1)), store.write(insert_then_fail(2)), return_exceptions=True)
    assert await ids(store) == [1, 2]


async def test_a_statement_that_failed_may_be_caught(store: Store) -> None:
    await store.write(insert(1, "taken"))

    async def unit(tx: Tx) -> str:
        await tx.execute(INSERT, (2, "free", 0))
        try:
            await tx.execute(INSERT, (3, "taken", 0))
        except Conflict as conflict:
            return conflict.code
        return "none"

    assert await store.write(unit) == "unique_violated"
    assert await ids(store) == [1, 2]


async def test_rollback_by_a_statement_hurts_only_its_unit(store: Store) -> None:
    async def unit(tx: Tx) -> None:
        await tx.execute("INSERT OR ROLLBACK INTO things (id) VALUES (1)")

    async def stubborn(tx: Tx) -> None:
        """Carries on after the transaction was taken away; must not write outside one."""
        try:
            await tx.execute("INSERT OR ROLLBACK INTO things (id) VALUES (1)")
        except Conflict:
            pass
        await tx.execute(INSERT, (99, None, 0))

    outcomes = await asyncio.gather(
        store.write(insert(1)),
        store.write(unit),
        store.write(insert(2)),
        store.write(stubborn),
        store.write(insert(3)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [int, Conflict, int, Conflict, int]
    assert await ids(store) == [1, 2, 3]


async def test_half_a_statement_is_undone(store: Store) -> None:
    async def unit(tx: Tx) -> None:
        await tx.execute("INSERT OR FAIL INTO things (id) VALUES (1), (2), (1)")

    with pytest.raises(Conflict):
        await store.write(unit)
    assert await ids(store) == []


async def test_many_rows_are_undone_with_the_one_that_failed(store: Store) -> None:
    async def unit(tx: Tx) -> int:
        return await tx.execute_many(INSERT, [(1, "a", 0), (2, "b", 0), (3, "a", 0)])

    outcomes = await asyncio.gather(store.write(insert(9)), store.write(unit), return_exceptions=True)
    assert isinstance(outcomes[1], Conflict)
    assert await ids(store) == [9]


async def test_a_constraint_checked_at_commit_hurts_only_its_unit(store: Store) -> None:
    async def orphan(tx: Tx) -> None:
        await tx.execute("INSERT INTO parts (id, thing) VALUES (1, 404)")

    outcomes = await asyncio.gather(
        store.write(insert(1)), store.write(orphan), store.write(insert(2)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [int, Conflict, int]
    assert isinstance(outcomes[1], Conflict)
    assert outcomes[1].code == "foreign_key_violated"
    assert await ids(store) == [1, 2]
    assert await store.fetch_all("SELECT * FROM parts") == []


async def test_constraints_are_named(store: Store) -> None:
    await store.write(insert(1, "a"))

    async def negative(tx: Tx) -> None:
        await tx.execute(INSERT, (2, "b", -1))

    with pytest.raises(Conflict) as unique:
        await store.write(insert(2, "a"))
    with pytest.raises(Conflict) as check:
        await store.write(negative)
    assert (unique.value.code, unique.value.fields["constraint"]) == ("unique_violated", "things.name")
    assert (check.value.code, check.value.fields["constraint"]) == ("check_violated", "amount >= 0")


async def test_counts_of_changed_rows(store: Store) -> None:
    async def unit(tx: Tx) -> tuple[int, int, int]:
        return (
            await tx.execute_many(INSERT, [(i, None, i) for i in range(5)]),
            await tx.execute("UPDATE things SET amount = 0 WHERE amount > ?", (2,)),
            await tx.execute("CREATE TABLE more (id INTEGER)"),
        )

    assert await store.write(unit) == (5, 2, 0)


async def test_returning_counts_as_a_write(store: Store) -> None:
    async def unit(tx: Tx) -> Row | None:
        return await tx.fetch_one("INSERT INTO things (id) VALUES (1), (2) RETURNING id")

    assert await store.write(unit) == (1,)
    assert await ids(store) == [1, 2]


async def test_a_unit_may_be_any_awaitable(store: Store) -> None:
    class Write:
        def __init__(self, tx: Tx) -> None:
            self.tx = tx

        def __await__(self) -> Generator[None, None, int]:
            return self.tx.execute(INSERT, (1, None, 0)).__await__()

    assert await store.write(Write) == 1


async def test_a_unit_sees_its_callers_context(store: Store) -> None:
    variable = contextvars.ContextVar("variable", default="nobody")

    async def unit(tx: Tx) -> str:
        return variable.get()

    async def caller(name: str) -> str:
        variable.set(name)
        return await store.write(unit)

    assert list(await asyncio.gather(caller("a"), caller("b"))) == ["a", "b"]


# What a unit may not do


async def _sleep(tx: Tx) -> None:
    await tx.execute(INSERT, (1, None, 0))
    await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["write", "read"])
async def test_awaiting_anything_else_is_refused(store: Store, how: str) -> None:
    async def wait(tx: Tx) -> None:
        await asyncio.sleep(0)

    with pytest.raises(Internal, match="waited for something else") as refused:
        await (store.write(_sleep) if how == "write" else store.read(wait))
    assert refused.value.code == "unit_suspended"
    assert await ids(store) == []


async def test_a_write_inside_a_unit_is_refused_whole(store: Store) -> None:
    async def outer(tx: Tx) -> None:
        await store.write(insert(1))

    with pytest.raises(Internal, match="waited for something else"):
        await store.write(outer)
    await store.write(insert(2))
    assert await ids(store) == [2]


@pytest.mark.parametrize(
    "sql", ["COMMIT", "  rollback", "-- x\nBEGIN", "/* y */ SAVEPOINT z", "PRAGMA synchronous=off"]
)
async def test_transaction_statements_are_refused(store: Store, sql: str) -> None:
    async def unit(tx: Tx) -> None:
        await tx.execute(INSERT, (1, None, 0))
        await tx.execute(sql)

    outcomes = await asyncio.gather(store.write(unit), store.write(insert(2)), return_exceptions=True)
    assert isinstance(outcomes[0], Internal)
    assert outcomes[0].code == "statement_refused"
    assert await ids(store) == [2]


async def test_a_handle_kept_is_dead(store: Store) -> None:
    kept: list[Tx] = []

    async def unit(tx: Tx) -> None:
        kept.append(tx)

    await store.write(unit)
    with pytest.raises(Internal, match="after its unit ended"):
        await kept[0].execute(INSERT, (1, None, 0))


async def test_wrong_sql_and_wrong_values(store: Store) -> None:
    async def typo(tx: Tx) -> None:
        await tx.execute("INSRT INTO things VALUES (1)")

    async def huge(tx: Tx) -> None:
        await tx.execute(INSERT, (2**63, None, 0))

    with pytest.raises(Internal, match="INSRT") as bad:
        await store.write(typo)
    assert bad.value.code == "bad_sql"
    with pytest.raises(Invalid) as invalid:
        await store.write(huge)
    assert invalid.value.code == "out_of_range"


# Reading


async def test_a_read_sees_what_was_acknowledged_before(store: Store) -> None:
    async def count(tx: Tx) -> Value:
        row = await tx.fetch_one("SELECT count(*) FROM things")
        assert row is not None
        return row[0]

    for i in range(50):
        await store.write(insert(i))
        assert await store.read(count) == i + 1
        assert await store.fetch_one("SELECT count(*) FROM things") == (i + 1,)


async def test_a_read_is_one_snapshot(store: SqliteStore) -> None:
    beside = sqlite3.connect(store.path, isolation_level=None)

    async def twice(tx: Tx) -> tuple[Row | None, Row | None]:
        first = await tx.fetch_one("SELECT count(*) FROM things")
        beside.execute("INSERT INTO things (id) VALUES (1)")
        return first, await tx.fetch_one("SELECT count(*) FROM things")

    assert await store.read(twice) == ((0,), (0,))
    assert await store.fetch_one("SELECT count(*) FROM things") == (1,)
    beside.close()


async def test_a_first_row_does_not_keep_the_snapshot(store: SqliteStore) -> None:
    """An unfinished SELECT would hold the WAL back and show old data for ever."""
    await asyncio.gather(*(store.write(insert(i)) for i in range(1000)))
    await store.fetch_one("SELECT * FROM things")
    busy, _, _ = store._writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0


@pytest.mark.parametrize("sql", ["DELETE FROM things", "WITH x AS (SELECT 1) DELETE FROM things"])
async def test_reads_only_read(store: Store, sql: str) -> None:
    await store.write(insert(1))

    async def unit(tx: Tx) -> int:
        return await tx.execute(sql)

    for attempt in (lambda: store.read(unit), lambda: store.fetch_all(sql), lambda: store.fetch_one(sql)):
        with pytest.raises(Internal, match="only reads"):
            await attempt()
    assert await ids(store) == [1]


async def test_a_failing_read_unit_ends_its_snapshot(store: Store) -> None:
    async def fail(tx: Tx) -> None:
        await tx.fetch_all("SELECT * FROM things")
        raise LookupError

    with pytest.raises(LookupError):
        await store.read(fail)
    await store.write(insert(1))
    assert await ids(store) == [1]


# Cancelling, bounds, closing


async def test_cancelled_before_it_began_is_never_run(store: Store) -> None:
    ran: list[int] = []

    async def unit(tx: Tx) -> None:
        ran.append(1)

    waiting = asyncio.create_task(store.write(unit))
    neighbour = asyncio.create_task(store.write(insert(2)))
    await asyncio.sleep(0)  # both have submitted; the group begins after us
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await neighbour == 2
    assert ran == []


async def test_cancelled_after_it_ran_is_kept(store: Store) -> None:
    async def unit(tx: Tx) -> None:
        await tx.execute(INSERT, (1, None, 0))
        caller.cancel()

    caller = asyncio.create_task(store.write(unit))
    neighbour = asyncio.create_task(store.write(insert(2)))
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await neighbour == 2
    assert await ids(store) == [1, 2]


async def test_a_full_queue_is_refused_at_once(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/a.db", queued_max=3)

    async def nothing(tx: Tx) -> None: ...

    outcomes = await asyncio.gather(*(store.write(nothing) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [Overloaded] * 2
    assert isinstance(outcomes[-1], Overloaded)
    assert (outcomes[-1].code, outcomes[-1].retry_after_s) == ("store_queue_full", 0.1)
    await store.write(nothing)
    await store.close()


async def test_groups_are_bounded(store: SqliteStore) -> None:
    bounded = await open_store(f"sqlite:///{store.path}", group_max=10)
    before = commits(bounded)
    await asyncio.gather(*(bounded.write(insert(i)) for i in range(25)))
    assert commits(bounded) - before == 3
    await bounded.close()


async def test_a_group_leaves_the_loop_to_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "GROUP_S_MAX", 0.0)
    before = commits(store)
    await asyncio.gather(*(store.write(insert(i)) for i in range(5)))
    assert commits(store) - before == 5  # no time at all still means one unit each


async def test_close_finishes_what_was_accepted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    store = await open_store(url)

    async def create(tx: Tx) -> None:
        await tx.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER)")

    await store.write(create)
    waiting = [asyncio.create_task(store.write(insert(i))) for i in range(2000)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert [task.result() for task in waiting] == list(range(2000))
    for attempt in _uses(store):
        with pytest.raises(Unavailable) as closed:
            await attempt()
        assert closed.value.code == "closed"
    await store.close()
    assert not (tmp_path / "a.db-wal").exists()  # everything is in the file itself
    again = await open_store(url)
    assert len(await ids(again)) == 2000
    await again.close()


def _uses(store: Store) -> list[Callable[[], Awaitable[object]]]:
    async def nothing(tx: Tx) -> None: ...

    return [
        lambda: store.write(nothing),
        lambda: store.read(nothing),
        lambda: store.fetch_all("SELECT 1"),
        lambda: store.fetch_one("SELECT 1"),
        lambda: store.migrate("x", []),
        store.check,
    ]


async def test_a_cancelled_close_still_closes(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/a.db")
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await store.close()
    assert not (tmp_path / "a.db-wal").exists()


async def test_slow_units_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "SLOW_UNIT_S", -1.0)
    heard: list[dict[str, object]] = []

    class Log:
        def warning(self, event: str, **fields: object) -> None:
            heard.append({"event": event, **fields})

    monkeypatch.setattr(group, "_log", Log())
    await store.write(insert(1))
    await store.read(look_at_things)
    assert [entry["unit"] for entry in heard] == ["insert.<locals>.unit", "look_at_things"]
    assert heard[0]["store"] == "things"


async def look_at_things(tx: Tx) -> list[Row]:
    return await tx.fetch_all("SELECT * FROM things")


async def test_a_rollback_for_what_a_neighbour_will_not_keep_fails_nobody(store: Store) -> None:
    async def orphan(tx: Tx) -> None:
        await tx.execute(INSERT, (1, None, 0))
        await tx.execute("INSERT INTO parts (thing) VALUES (-1)")  # breaks a rule that is checked at commit

    async def wreck(tx: Tx) -> None:
        await tx.execute("INSERT OR ROLLBACK INTO things (id) VALUES (1)")

    outcomes = await asyncio.gather(store.write(orphan), store.write(wreck), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Conflict, type(None)]
    assert await ids(store) == [1]
