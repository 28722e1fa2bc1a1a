"""What holds on every engine: SQLite, MariaDB and PostgreSQL, each a real one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, cast

import pytest

from dougong.errors import Conflict, Error, Internal, Invalid, Overloaded, Unavailable
from dougong.store import (
    IdBlocks,
    Migration,
    Queue,
    Row,
    Store,
    Tx,
    Unit,
    Value,
    migrations_from,
    open_store,
)
from dougong.store._meters import commit_seconds
from dougong.store.server import ServerStore

THINGS = """
CREATE TABLE things (
    id BIGINT PRIMARY KEY,
    name VARCHAR(100),
    amount BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT things_name UNIQUE (name),
    CONSTRAINT not_negative CHECK (amount >= 0)
);
CREATE TABLE parts (
    id BIGINT PRIMARY KEY,
    thing BIGINT,
    CONSTRAINT part_of FOREIGN KEY (thing) REFERENCES things (id)
);
CREATE TABLE samples (id BIGINT PRIMARY KEY, whole BIGINT, ratio DOUBLE PRECISION, words TEXT, octets BLOB)
"""
SCHEMA = [
    Migration(
        1,
        "things",
        THINGS,
        {
            "postgresql": THINGS.replace("BLOB", "BYTEA"),
            "mysql": THINGS.replace("BLOB", "LONGBLOB").replace("TEXT", "MEDIUMTEXT"),
        },
    )
]
INSERT = "INSERT INTO things (id, name, amount) VALUES (?, ?, ?)"


@pytest.fixture
def url(fresh_url: Callable[[], str]) -> str:
    return fresh_url()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await open_store(url, name="things")
    await opened.migrate("things", SCHEMA)
    yield opened
    await opened.close()


@pytest.fixture
async def second(store: Store, url: str) -> AsyncIterator[Store]:
    """As another process would have it."""
    opened = await open_store(url, name="second")
    yield opened
    await opened.close()


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


# Writing


async def test_result_of_a_unit_is_its_callers(store: Store) -> None:
    assert await store.write(insert(7)) == 7
    assert await store.fetch_one("SELECT id, name, amount FROM things WHERE id = ?", (7,)) == (7, None, 0)
    assert await store.fetch_one("SELECT id FROM things WHERE id = ?", (8,)) is None


async def test_units_in_flight_share_a_commit(store: Store) -> None:
    before = commits(store)
    await asyncio.gather(*(store.write(insert(i)) for i in range(20)))
    assert commits(store) - before == 1
    assert await ids(store) == list(range(20))


async def test_units_that_arrive_during_a_commit_ride_in_the_next(store: Store) -> None:
    before = commits(store)

    async def caller(first: int) -> None:
        for i in range(3):
            await store.write(insert(first + i))

    await asyncio.gather(*(caller(i * 10) for i in range(5)))
    assert commits(store) - before == 3


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


async def test_a_failing_unit_alone_leaves_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="changed my mind"):
        await store.write(insert_then_fail(1))
    assert await ids(store) == []


async def test_a_statement_that_failed_may_be_caught(store: Store) -> None:
    await store.write(insert(1, "taken"))
    seen: list[str] = []

    async def unit(tx: Tx) -> str:
        await tx.execute(INSERT, (2, "free", 0))
        try:
            await tx.execute(INSERT, (3, "taken", 0))
        except Conflict as conflict:
            seen.append(conflict.code)
        await tx.execute(INSERT, (4, None, 0))
        try:
            await tx.execute(INSERT, (4, None, 0))
        except Conflict as conflict:
            seen.append(conflict.code)
        return "fine"

    outcomes = await asyncio.gather(store.write(insert(8)), store.write(unit), store.write(insert(9)))
    assert list(outcomes) == [8, "fine", 9]
    assert seen[-2:] == ["unique_violated"] * 2
    assert await ids(store) == [1, 2, 4, 8, 9]


async def test_many_rows_are_undone_with_the_one_that_failed(store: Store) -> None:
    async def unit(tx: Tx) -> int:
        return await tx.execute_many(INSERT, [(1, "a", 0), (2, "b", 0), (3, "a", 0)])

    outcomes = await asyncio.gather(store.write(insert(9)), store.write(unit), return_exceptions=True)
    assert isinstance(outcomes[1], Conflict)
    assert await ids(store) == [9]


async def test_constraints_have_the_same_codes_and_their_names(store: Store) -> None:
    await store.write(insert(1, "a"))
    for sql, parameters, kind, code, name in (
        (INSERT, (2, "a", 0), Conflict, "unique_violated", "name"),
        (INSERT, (2, "b", -1), Conflict, "check_violated", "not_negative"),
        (INSERT, (2, "b", None), Invalid, "null_violated", "amount"),
        ("INSERT INTO parts (id, thing) VALUES (?, ?)", (1, 404), Conflict, "foreign_key_violated", ""),
    ):
        with pytest.raises(kind) as refused:
            await store.write(lambda tx, s=sql, p=parameters: tx.execute(s, p))  # type: ignore[misc]
        assert refused.value.code == code
        assert name in str(refused.value.fields["constraint"]), "which one"
        if store.dialect != "sqlite" or code != "check_violated":
            assert "s3cret" not in refused.value.message
    assert await ids(store) == [1]


async def test_counts_are_of_rows_found(store: Store) -> None:
    async def unit(tx: Tx) -> list[int]:
        return [
            await tx.execute_many(INSERT, [(i, None, i) for i in range(6)]),
            await tx.execute("UPDATE things SET amount = 0 WHERE amount > ?", (3,)),
            await tx.execute("UPDATE things SET amount = 0 WHERE id > ?", (3,)),  # changes nothing, finds two
            await tx.execute_many("UPDATE things SET amount = ? WHERE id = ?", [(0, 5), (1, 1), (1, 77)]),
            await tx.execute("DELETE FROM things WHERE id = ?", (77,)),
            await tx.execute_many("DELETE FROM things WHERE id = ?", [(0,), (1,), (77,)]),
            await tx.execute_many(INSERT, []),
            await tx.execute("SELECT id FROM things"),
        ]

    assert await store.write(unit) == [6, 2, 2, 2, 0, 2, 0, 0]


async def test_upserts_row_by_row(store: Store) -> None:
    """The same key twice in one call: the later row wins, as if they had been sent one by one."""
    upsert = {
        "mysql": "INSERT INTO things (id, amount) VALUES (?, ?) ON DUPLICATE KEY UPDATE amount = VALUES(amount)",
    }.get(
        store.dialect,
        "INSERT INTO things (id, amount) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount",
    )
    await store.write(lambda tx: tx.execute_many(upsert, [(1, 1), (2, 1), (1, 5), (3, 1)]))
    assert await store.fetch_all("SELECT id, amount FROM things ORDER BY id") == [(1, 5), (2, 1), (3, 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 5001])
async def test_many_rows(store: Store, count: int) -> None:
    rows = [(i, i * 7, None if i % 3 else 0.5, f"w{i}", None) for i in range(count)]
    sql = "INSERT INTO samples (id, whole, ratio, words, octets) VALUES (?, ?, ?, ?, ?)"
    assert await store.write(lambda tx: tx.execute_many(sql, iter(rows))) == count
    assert await store.fetch_all("SELECT id, whole, ratio, words, octets FROM samples ORDER BY id") == rows
    changes = [(i if i % 2 else None, i) for i in range(count)]
    assert await store.write(lambda tx: tx.execute_many("UPDATE samples SET whole = ? WHERE id = ?", changes)) == count
    assert (await store.fetch_all("SELECT whole, id FROM samples ORDER BY id"))[-3:] == changes[-3:]


VALUES: list[tuple[Value, Value, Value, Value]] = [
    (None, None, None, None),
    (0, 0.0, "", b""),
    (2**63 - 1, 1.5e300, 'it\'s 100% "sure" \\ or ? ; -- no', bytes(range(256))),
    (-(2**63), -0.1, "žluťoučký 🐎\n\t'' \\' %s $1", b"'\\\x00%s?"),
    (2**31, 1e-300, "x" * 100_000, b"\x00" * (1 << 20)),
]


@pytest.mark.parametrize("many", [False, True])
async def test_values_come_back_as_they_were(store: Store, many: bool) -> None:
    rows = [(i, *row) for i, row in enumerate(VALUES)]
    sql = "INSERT INTO samples (id, whole, ratio, words, octets) VALUES (?, ?, ?, ?, ?)"

    async def unit(tx: Tx) -> list[Row]:
        if many:
            await tx.execute_many(sql, rows)
        else:
            for row in rows:
                await tx.execute(sql, row)
        return await tx.fetch_all("SELECT id, whole, ratio, words, octets FROM samples ORDER BY id")

    within = await store.write(unit)
    assert within == rows
    assert await store.fetch_all("SELECT id, whole, ratio, words, octets FROM samples ORDER BY id") == rows
    for i, row in enumerate(VALUES):
        found = await store.fetch_one("SELECT id FROM samples WHERE words = ? AND octets = ?", row[2:])
        assert found == (None if row[2] is None else (i,))


async def test_numbers_are_plain(store: Store) -> None:
    await store.write(lambda tx: tx.execute_many(INSERT, [(i, None, i) for i in range(1, 5)]))
    row = await store.fetch_one("SELECT sum(amount), avg(amount), count(*), max(id), min(name), 2.5 FROM things")
    assert row == (10, 2.5, 4, 4, None, 2.5)
    assert [type(value) for value in cast(Row, row)] == [int, float, int, int, type(None), float]


async def test_what_does_not_fit_is_invalid(store: Store) -> None:
    def unit(parameters: Row) -> Unit[int]:
        return lambda tx: tx.execute(INSERT, parameters)

    for parameters in ((2**63, None, 0), (1, None, "words")):
        outcomes = await asyncio.gather(store.write(insert(5)), store.write(unit(parameters)), return_exceptions=True)
        assert outcomes[0] == 5
        if store.dialect != "sqlite" or parameters[0] == 2**63:  # SQLite's columns hold anything
            assert isinstance(outcomes[1], Invalid), outcomes[1]
            assert outcomes[1].code == "out_of_range"
        await store.write(lambda tx: tx.execute("DELETE FROM things"))


async def test_marks_in_text_and_comments_are_text(store: Store) -> None:
    async def unit(tx: Tx) -> list[Row]:
        await tx.execute("INSERT INTO things (id, name) /* ? */ VALUES (?, 'what? 50%') -- why?", (1,))
        await tx.execute_many("INSERT INTO things (id, name) VALUES (?, '?%s')", [(2,)])
        return await tx.fetch_all('SELECT "id", name AS "a?", 7 % 4 FROM things WHERE id = ? OR name = \'?%s\'', (1,))

    assert sorted(await store.write(unit)) == [(1, "what? 50%", 3), (2, "?%s", 3)]


async def test_joined_text(store: Store) -> None:
    assert await store.fetch_one("SELECT 'a' || 'b' || ?", ("c",)) == ("abc",)


# What a unit may not do


async def test_a_unit_may_be_any_awaitable(store: Store) -> None:
    class Write:
        def __init__(self, tx: Tx) -> None:
            self.tx = tx

        def __await__(self) -> Generator[Any, Any, int]:
            return self.tx.execute(INSERT, (1, None, 0)).__await__()

    assert await store.write(Write) == 1


async def test_a_unit_sees_its_callers_context(store: Store) -> None:
    variable = contextvars.ContextVar("variable", default="nobody")

    async def unit(tx: Tx) -> str:
        await tx.fetch_one("SELECT 1")
        return variable.get()

    async def caller(name: str) -> tuple[str, str]:
        variable.set(name)
        return await store.write(unit), await store.read(unit)

    assert list(await asyncio.gather(caller("a"), caller("b"))) == [("a", "a"), ("b", "b")]


@pytest.mark.parametrize("how", ["write", "read"])
async def test_awaiting_anything_else_is_refused(store: Store, how: str) -> None:
    async def wait(tx: Tx) -> None:
        if how == "write":
            await tx.execute(INSERT, (1, None, 0))
        await asyncio.sleep(0)

    with pytest.raises(Internal, match="waited for something else") as refused:
        await (store.write(wait) if how == "write" else store.read(wait))
    assert refused.value.code == "unit_suspended"
    assert await ids(store) == []
    await store.write(insert(2))


async def test_a_write_inside_a_unit_is_refused_whole(store: Store) -> None:
    async def outer(tx: Tx) -> None:
        await tx.execute(INSERT, (3, None, 0))
        await store.write(insert(1))

    with pytest.raises(Internal, match="waited for something else"):
        await store.write(outer)
    await store.write(insert(2))
    assert await ids(store) == [2]


@pytest.mark.parametrize(
    "sql", ["COMMIT", "  rollback", "-- x\nBEGIN", "/* y */ SAVEPOINT z", "SELECT 1; COMMIT", "SET x = 1"]
)
async def test_transaction_statements_are_refused(store: Store, sql: str) -> None:
    async def unit(tx: Tx) -> None:
        await tx.execute(INSERT, (1, None, 0))
        await tx.execute(sql)

    outcomes = await asyncio.gather(store.write(unit), store.write(insert(2)), return_exceptions=True)
    assert isinstance(outcomes[0], Internal)
    assert outcomes[0].code in ("statement_refused", "bad_sql")
    assert await ids(store) == [2]


async def test_statements_that_would_commit_are_refused(store: Store) -> None:
    if store.dialect != "mysql":
        await store.write(lambda tx: tx.execute("CREATE TABLE more (id BIGINT)"))
        return
    with pytest.raises(Internal) as refused:
        await store.write(lambda tx: tx.execute("CREATE TABLE more (id BIGINT)"))
    assert refused.value.code == "statement_refused"


async def test_a_handle_kept_is_dead(store: Store) -> None:
    kept: list[Tx] = []

    async def unit(tx: Tx) -> None:
        kept.append(tx)

    await store.write(unit)
    with pytest.raises(Internal, match="after its unit ended"):
        await kept[0].execute(INSERT, (1, None, 0))
    if store.dialect == "sqlite":
        return  # its reads share one handle, which can do no harm
    await store.read(unit)
    with pytest.raises(Internal, match="after its unit ended"):
        await kept[1].fetch_all("SELECT 1")


async def test_wrong_sql_harms_nobody_else(store: Store) -> None:
    async def typo(tx: Tx) -> None:
        await tx.execute("INSRT INTO things VALUES (1)")

    async def too_few(tx: Tx) -> None:
        await tx.execute(INSERT, (1,))

    for wrong in (typo, too_few):
        outcomes = await asyncio.gather(store.write(insert(1)), store.write(wrong), return_exceptions=True)
        assert outcomes[0] == 1
        assert isinstance(outcomes[1], Internal)
        assert outcomes[1].code == "bad_sql"
        await store.write(lambda tx: tx.execute("DELETE FROM things"))
    with pytest.raises(Internal, match="INSRT"):
        await store.write(typo)


# Reading


async def test_a_read_sees_what_was_acknowledged_before(store: Store) -> None:
    async def count(tx: Tx) -> Value:
        row = await tx.fetch_one("SELECT count(*) FROM things")
        assert row is not None
        return row[0]

    for i in range(10):
        await store.write(insert(i))
        assert await store.read(count) == i + 1
        assert await store.fetch_one("SELECT count(*) FROM things") == (i + 1,)


async def test_many_readers_at_once(store: Store) -> None:
    await store.write(insert(1))

    async def count(tx: Tx) -> Row | None:
        return await tx.fetch_one("SELECT count(*) FROM things")

    assert await asyncio.gather(*(store.read(count) for _ in range(30))) == [(1,)] * 30


@pytest.mark.parametrize("sql", ["DELETE FROM things", "WITH x AS (SELECT 1) DELETE FROM things"])
async def test_reads_only_read(store: Store, sql: str) -> None:
    if store.dialect == "mysql" and sql.startswith("WITH"):
        sql = "INSERT INTO things (id) VALUES (2) RETURNING id"  # there is no WITH ... DELETE
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
    with pytest.raises(Internal):
        await store.fetch_all("SELECT nonsense FROM things")
    await store.write(insert(1))
    assert await ids(store) == [1]


# Cancelling, bounds, closing


async def test_cancelled_before_it_began_is_never_run(store: Store) -> None:
    ran: list[int] = []

    async def unit(tx: Tx) -> None:
        ran.append(1)

    waiting = asyncio.create_task(store.write(unit))
    neighbour = asyncio.create_task(store.write(insert(2)))
    await asyncio.sleep(0)
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


async def test_cancelled_readers_take_nothing_with_them(store: Store) -> None:
    await store.write(insert(1))
    for _ in range(6):
        readers = [asyncio.create_task(store.fetch_one("SELECT id FROM things")) for _ in range(6)]
        await asyncio.sleep(0)
        for reader in readers[::2]:
            reader.cancel()
        assert [await reader for reader in readers[1::2]] == [(1,)] * 3
    assert await asyncio.gather(*(store.fetch_one("SELECT 7") for _ in range(8))) == [(7,)] * 8


async def test_a_full_queue_is_refused_at_once(url: str) -> None:
    store = await open_store(url, queued_max=3)

    async def nothing(tx: Tx) -> None: ...

    outcomes = await asyncio.gather(*(store.write(nothing) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [Overloaded] * 2
    assert isinstance(outcomes[-1], Overloaded)
    assert (outcomes[-1].code, outcomes[-1].retry_after_s) == ("store_queue_full", 0.1)
    await store.write(nothing)
    await store.close()


async def test_close_finishes_what_was_accepted(url: str) -> None:
    store = await open_store(url)
    await store.migrate("things", SCHEMA)
    waiting = [asyncio.create_task(store.write(insert(i))) for i in range(700)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert [task.result() for task in waiting] == list(range(700))

    async def nothing(tx: Tx) -> None: ...

    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: store.write(nothing),
        lambda: store.read(nothing),
        lambda: store.fetch_all("SELECT 1"),
        lambda: store.fetch_one("SELECT 1"),
        lambda: store.migrate("x", []),
        store.check,
    ]
    for use in uses:
        with pytest.raises(Unavailable) as closed:
            await use()
        assert closed.value.code == "closed"
    again = await open_store(url)
    assert len(await ids(again)) == 700
    await again.check()
    await again.close()


# Several processes on one database


async def _count_up(stores: list[Store], turns: int) -> Value:
    """Everybody reads a number and writes the next one; what is lost shows in the end."""

    async def unit(tx: Tx) -> None:
        row = await tx.fetch_one("SELECT amount FROM things WHERE id = 1")
        assert row is not None
        await tx.execute("UPDATE things SET amount = ? WHERE id = 1", (int(row[0] or 0) + 1,))

    async def caller(store: Store) -> None:
        for _ in range(turns):
            await store.write(unit)

    await stores[0].write(insert(1))
    await asyncio.gather(*(caller(store) for store in stores for _ in range(3)))
    row = await stores[0].fetch_one("SELECT amount FROM things WHERE id = 1")
    assert row is not None
    return row[0]


async def test_units_of_several_processes_do_not_overlap(store: Store, second: Store) -> None:
    assert await _count_up([store, second], 20) == 120


async def test_without_turns_they_would(store: Store, second: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation, on servers: SQLite's own lock cannot be taken out."""
    if not isinstance(store, ServerStore):
        return
    monkeypatch.setattr(type(store._engine), "begin", "START TRANSACTION")
    assert await _count_up([store, second], 20) != 120


async def test_a_snapshot_stays_while_others_write(store: Store, second: Store) -> None:
    """The unit's first look is before the other's commit, its second after."""
    if not isinstance(store, ServerStore):
        return  # there a unit has no moment in which anybody could write: see test_a_read_is_one_snapshot
    both: list[Row | None] = []
    wrote = asyncio.Event()

    async def twice(tx: Tx) -> None:
        both.append(await tx.fetch_one("SELECT count(*) FROM things"))
        await tx.fetch_one("SELECT pg_sleep(0.3)" if store.dialect == "postgresql" else "SELECT sleep(0.3)")
        assert wrote.is_set()
        both.append(await tx.fetch_one("SELECT count(*) FROM things"))

    async def meanwhile() -> None:
        while not both:
            await asyncio.sleep(0.001)
        await second.write(insert(1))
        wrote.set()

    await asyncio.gather(store.read(twice), meanwhile())
    assert both == [(0,), (0,)]
    assert await store.fetch_one("SELECT count(*) FROM things") == (1,)


async def test_ids_are_never_given_twice(store: Store, second: Store) -> None:
    allocators = [IdBlocks(one, "orders", block=7) for one in (store, second)]
    taken = await asyncio.gather(*(some.take(i % 11) for i in range(40) for some in allocators))
    everything = [number for numbers in taken for number in numbers]
    assert len(everything) == len(set(everything)) == sum(i % 11 for i in range(40)) * 2


# Schemas


ONE = Migration(1, "one", "CREATE TABLE one (id BIGINT)")
TWO = Migration(2, "two", "CREATE TABLE two (id BIGINT); INSERT INTO two VALUES (2);")


async def has(store: Store, table: str) -> bool:
    try:
        await store.fetch_all(f"SELECT * FROM {table}")
    except Error:
        return False
    return True


async def test_what_is_missing_is_applied_once(store: Store) -> None:
    assert await store.migrate("app", [ONE]) == 1
    assert await store.migrate("app", [ONE, TWO]) == 1
    assert await store.migrate("app", [ONE, TWO]) == 0
    assert await store.migrate("other", [Migration(1, "x", "CREATE TABLE x (id BIGINT)")]) == 1
    assert await store.fetch_all("SELECT * FROM two") == [(2,)]
    rows = await store.fetch_all("SELECT number, name FROM dougong_migrations WHERE owner = 'app' ORDER BY number")
    assert rows == [(1, "one"), (2, "two")]


async def test_many_at_once_apply_once(store: Store, second: Store) -> None:
    applied = await asyncio.gather(*(one.migrate("app", [ONE, TWO]) for one in (store, second, store, second)))
    assert sorted(applied) == [0, 0, 0, 2]


async def test_migrating_while_writing(store: Store) -> None:
    await asyncio.gather(store.migrate("app", [ONE, TWO]), *(store.write(insert(i)) for i in range(100)))
    assert await store.fetch_one("SELECT count(*) FROM things") == (100,)


@pytest.mark.parametrize(
    ("migrations", "kind", "code"),
    [
        ([Migration(1, "one", "CREATE TABLE changed (id BIGINT)")], Conflict, "migration_changed"),
        ([ONE, TWO, Migration(3, "three", "SELECT 1")], Conflict, "migration_out_of_order"),
        ([TWO, ONE], Invalid, "bad_migrations"),
        ([ONE, Migration(9, "nine", "-- why\nCOMMIT")], Invalid, "bad_migrations"),
        ([ONE, Migration(9, "nine", "", {"other": "SELECT 1"})], Invalid, "bad_migrations"),
    ],
)
async def test_what_history_forbids(store: Store, migrations: list[Migration], kind: type[Error], code: str) -> None:
    await store.migrate("app", [ONE, Migration(3, "three", "SELECT 1")])
    with pytest.raises(kind) as refused:
        await store.migrate("app", migrations)
    assert refused.value.code == code
    assert not await has(store, "two")
    assert not await has(store, "changed")


async def test_an_engine_may_have_words_of_its_own(store: Store) -> None:
    variants = {"mysql": "CREATE TABLE mine (m INT)", "postgresql": "CREATE TABLE mine (p INT)"}
    await store.migrate("app", [Migration(1, "mine", "CREATE TABLE mine (s INT)", variants)])
    column = {"mysql": "m", "postgresql": "p", "sqlite": "s"}[store.dialect]
    assert await store.fetch_all(f"SELECT {column} FROM mine") == []


async def test_a_step_that_failed_is_taken_up_again(store: Store) -> None:
    """All or nothing where DDL is transactional; on MySQL what was done is not done twice."""
    bad = Migration(
        1, "half", "CREATE TABLE half (id BIGINT); INSERT INTO half VALUES (1); INSRT INTO half VALUES (2);"
    )
    good = Migration(1, "half", bad.sql.replace("INSRT", "INSERT"))
    with pytest.raises(Internal, match="0001_half") as failed:
        await store.migrate("app", [bad])
    assert failed.value.code == "bad_sql"
    assert await has(store, "half") == (store.dialect == "mysql")
    if store.dialect == "mysql":
        changed = Migration(1, "half", "CREATE TABLE half (id INT); INSERT INTO half VALUES (1)")
        with pytest.raises(Conflict, match="interrupted after 2 statements") as conflict:
            await store.migrate("app", [changed])
        assert conflict.value.code == "migration_interrupted"
    assert await store.migrate("app", [good]) == 1
    assert await store.fetch_all("SELECT id FROM half ORDER BY id") == [(1,), (2,)]
    assert await store.migrate("app", [good]) == 0


async def test_an_interrupted_statement_is_recognised(store: Store) -> None:
    """The process died between a DDL statement and the note that it was done."""
    if store.dialect != "mysql":
        return
    step = Migration(1, "x", "CREATE TABLE x (id BIGINT); CREATE TABLE y (id BIGINT); ALTER TABLE x ADD COLUMN z INT")
    with pytest.raises(Error):
        await store.migrate("app", [Migration(1, "x", "CREATE TABLE x (id BIGINT); nonsense")])
    await store.migrate("by hand", [Migration(1, "y", "CREATE TABLE y (id BIGINT)")])
    assert await store.migrate("app", [step]) == 1
    assert await store.fetch_all("SELECT id, z FROM x") == []


def test_the_toolkits_own_schemas_have_words_for_every_engine() -> None:
    for package in ("fence", "log", "nested"):
        for step in migrations_from(f"dougong.tcc.migrations.{package}"):
            for dialect in ("sqlite", "mysql", "postgresql"):
                assert step.sql_for(dialect)


# What stands on a store


async def test_the_queue(store: Store) -> None:
    queue = Queue(store, "letters")
    await queue.start()
    body = "x" * 200_000  # more than MySQL's TEXT
    await store.write(lambda tx: queue.put(tx, body, 10))
    (message,) = await store.read(lambda tx: queue.due(tx, 10, 5))
    assert message.body == body
    await store.write(lambda tx: queue.done(tx, [message]))
    assert await store.read(queue.next_us) is None
