"""Questions to many databases: the answers are those that one database would have given, or there are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shard.conftest import Open, add, move, set_owner

from dougong.errors import Invalid, Unavailable
from dougong.shard import (
    BucketState,
    Layout,
    Query,
    ShardedStore,
    ShardedTable,
    StaleEpoch,
    ask,
    lookup,
    owners,
    scatter,
)
from dougong.shard.cursor import read_cursor, write_cursor
from dougong.shard.merging import merge_rows, merge_totals
from dougong.shard.query import RowsPlan, TotalsPlan, plan_of
from dougong.store import MemoryDatabase, Row

TABLE = ShardedTable("users")
PEOPLE = [(0, "cleo", 40), (1, "ada", 30), (2, "bob", 30), (3, "ada", 20), (6, "ada", 10), (129, "dora", 50)]


def people(**changes: object) -> Query:
    return Query(**{"table": TABLE, "select": ("id", "name"), "order": ("name",), **changes})  # type: ignore[arg-type]


@pytest.fixture
async def crowd(sharded: ShardedStore) -> ShardedStore:
    for id_, name, age in PEOPLE:
        await add(sharded, id_, name, age)
    return sharded


async def test_pages_are_those_of_one_database(crowd: ShardedStore) -> None:
    expected = sorted(((id_, name) for id_, name, _ in PEOPLE), key=lambda row: (row[1], row[0]))
    assert (await ask(crowd, people(), scatter=True)).rows == expected
    assert (await ask(crowd, people(limit=2, offset=3), scatter=True)).rows == expected[3:5]
    seen: list[Row] = []
    after: str | None = None
    for _ in range(3):
        answer = await ask(crowd, people(limit=2), scatter=True, after=after)
        seen += answer.rows
        after = answer.after
    assert (seen, after) == (expected, None)


async def test_order_filters_and_null(crowd: ShardedStore) -> None:
    await add(crowd, 4, "eve", None)
    query = people(
        order=("-age", "name"), where=(("age", ">=", 20), ("name", "!=", "dora"), ("id", "in", (0, 1, 2, 3)))
    )
    assert [row[0] for row in (await ask(crowd, query, scatter=True)).rows] == [0, 1, 2, 3]
    first = await ask(crowd, people(order=("-age", "name"), where=(("age", "!=", None),), limit=3), scatter=True)
    second = await ask(
        crowd, people(order=("-age", "name"), where=(("age", "!=", None),), limit=3), scatter=True, after=first.after
    )
    assert [row[0] for row in first.rows + second.rows] == [129, 0, 1, 2, 3, 6]
    assert (await ask(crowd, people(where=(("age", "=", None),)), scatter=True)).rows == [(4, "eve")]
    with pytest.raises(Invalid, match="'age' is NULL"):
        await ask(crowd, people(order=("age",)), scatter=True)


async def test_totals_are_added_up(crowd: ShardedStore) -> None:
    query = Query(table=TABLE, select=("count(*)", "sum(age)", "min(name)", "max(age)", "avg(age)"))
    assert (await ask(crowd, query, scatter=True)).rows == [(6, 180, "ada", 50, 30.0)]
    grouped = Query(table=TABLE, select=("name", "avg(age)", "count(age)"), group=("name",))
    rows = (await ask(crowd, grouped, scatter=True)).rows
    assert rows == [("ada", 20.0, 3), ("bob", 30.0, 1), ("cleo", 40.0, 1), ("dora", 50.0, 1)]
    nobody = Query(table=TABLE, select=("count(*)", "avg(age)", "max(age)"), where=(("id", "=", 77),))
    assert (await ask(crowd, nobody, scatter=True)).rows == [(0, None, None)]


async def test_one_key_asks_one_database_and_all_only_where_it_is_said(crowd: ShardedStore) -> None:
    assert (await ask(crowd, people(), key=1)).rows == [(1, "ada"), (129, "dora")]
    with pytest.raises(Invalid, match="scatter=True"):
        await ask(crowd, people())


async def test_a_text_stays_text(crowd: ShardedStore) -> None:
    for text in ("' OR 1 = 1 --", '"; DROP TABLE users; --', "{owned}", "%s ? \\"):
        assert (await ask(crowd, people(where=(("name", "=", text),)), scatter=True)).rows == []
    assert len((await ask(crowd, people(), scatter=True)).rows) == 6


async def test_moved_rows_are_seen_once_and_cursors_outlive_moves(
    crowd: ShardedStore, routers: Open, layout: Layout
) -> None:
    first = await ask(crowd, people(limit=2), scatter=True)
    mover = await routers(layout)
    await move(mover, 1, "db-2")  # the source keeps its copies
    rest = await ask(crowd, people(limit=10), scatter=True, after=first.after)
    assert [row[0] for row in first.rows + rest.rows] == [1, 3, 6, 2, 0, 129]
    assert (await ask(crowd, Query(table=TABLE, select=("count(*)",)), scatter=True)).rows == [(6,)]
    old = await routers(layout)
    cursor = (await ask(old, people(limit=2), scatter=True)).after
    assert cursor is not None
    assert read_cursor(old.maps.cursor_key, people(limit=2), cursor).version == old.map.version == 2
    await move(mover, 2, "db-3")
    newer = (await ask(mover, people(limit=2), scatter=True)).after
    assert [row[0] for row in (await ask(old, people(limit=9), scatter=True, after=newer)).rows] == [6, 2, 0, 129]
    assert old.map.version == 3


async def test_ablation_without_the_filter_moved_rows_are_seen_twice(
    crowd: ShardedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await move(crowd, 1, "db-2")
    filled = scatter._filled
    monkeypatch.setattr(scatter, "_filled", lambda sql, buckets, rows=0: filled(sql, range(128), rows))
    assert (await ask(crowd, Query(table=TABLE, select=("count(*)",)), scatter=True)).rows == [(8,)]


async def test_a_bucket_that_nobody_owns_fails_the_question(layout: Layout, routers: Open) -> None:
    sharded = await routers(layout, stale_wait_s=0.0)
    await set_owner(sharded, "db-1", 1, None, BucketState.SERVING)
    for partial in (False, True):
        with pytest.raises(StaleEpoch):
            await ask(sharded, people(), scatter=True, partial=partial)


async def test_a_database_that_fails_fails_the_whole_unless_a_part_will_do(
    crowd: ShardedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    require = owners.require

    async def fails(reader: object, name: str, expected: object) -> None:
        if name.endswith("db-1"):
            raise Unavailable("gone", code="connection_lost")
        await require(reader, name, expected)  # type: ignore[arg-type]

    monkeypatch.setattr(scatter, "require", fails)
    with pytest.raises(Unavailable, match="gone"):
        await ask(crowd, people(), scatter=True)
    answer = await ask(crowd, people(limit=2), scatter=True, partial=True)
    assert ([row[0] for row in answer.rows], answer.after, list(answer.failed)) == ([3, 6], None, ["db-1"])
    assert answer.failed["db-1"].code == "connection_lost"


async def test_lookup_joins_by_key(crowd: ShardedStore) -> None:
    found = await lookup(crowd, TABLE, [129, 0, 1, 1, 5], ["name", "age"])
    assert found == {129: ("dora", 50), 0: ("cleo", 40), 1: ("ada", 30)}
    assert await lookup(crowd, TABLE, [], ["name"]) == {}
    with pytest.raises(Invalid, match="too_many_keys"):
        await lookup(crowd, TABLE, range(10_001), ["name"])


async def test_lookup_asks_each_database_once(crowd: ShardedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    call = crowd.databases.call

    async def counting(name: str, work: object) -> object:
        asked.append(name)
        return await call(name, work)  # type: ignore[arg-type]

    monkeypatch.setattr(crowd.databases, "call", counting)
    await lookup(crowd, TABLE, [*range(0, 400, 4), 1], ["name"])
    assert sorted(asked) == ["db-0", "db-1"]


@pytest.mark.parametrize(
    ("select", "named"),
    [
        (("median(age)",), r"median\(age\)"),
        (("count(DISTINCT name)",), r"count\(DISTINCT name\)"),
        (("count(*)", "name"), "name"),
        (("row_number() OVER (ORDER BY id)",), "row_number"),
        (("sum(*)",), r"sum\(\*\)"),
        (("*",), r"\*"),
        (("id; DROP TABLE users",), "DROP TABLE"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(select: tuple[str, ...], named: str) -> None:
    with pytest.raises(Invalid, match=named) as caught:
        plan_of(Query(table=TABLE, select=select))
    assert caught.value.code == "unmergeable"


def test_totals_in_pages_are_refused() -> None:
    with pytest.raises(Invalid, match="unmergeable"):
        plan_of(Query(table=TABLE, select=("count(*)",), order=("name",)))


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": 0}, {"limit": 1001}, {"offset": -1}, {"select": ()}, {"order": ("name desc",)},
        {"table": ShardedTable("users u")}, {"table": ShardedTable("users", bucket="1) OR (1")},
        {"where": (("name = 1 OR name", "=", 1),)}, {"where": (("name", "like", "a"),)},
        {"where": (("name", "in", ()),)}, {"where": (("name", "<", None),)}, {"where": (("name", "=", (1, 2)),)},
    ],
)  # fmt: skip
def test_what_is_no_query_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        plan_of(people(**changes))
    assert caught.value.code == "bad_query"


async def test_an_offset_that_reads_everything_is_refused(sharded: ShardedStore) -> None:
    with pytest.raises(Invalid, match="go on with a cursor"):
        await ask(sharded, people(offset=30_000), scatter=True)


async def test_rows_that_do_not_show_their_bucket_are_refused(layout: Layout, routers: Open) -> None:
    hashed = await routers(Layout(layout.name, layout.metadata, layout.databases, routing="consistent-hash"))
    await add(hashed, 7)
    with pytest.raises(Invalid, match="no_bucket_column"):
        await ask(hashed, people(), scatter=True)
    shown = people(table=ShardedTable("users", bucket="bucket"))
    assert (await ask(hashed, shown, scatter=True)).rows == [(7, "ada")]


KEY = b"k" * 32


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_tampered_cursor_is_refused(at: int, flip: int) -> None:
    cursor = write_cursor(KEY, 3, people(), ("ada", 7))
    assert read_cursor(KEY, people(limit=7), cursor).after == ("ada", 7)
    raw = bytearray(cursor.encode())
    raw[at % len(raw)] ^= flip
    changed = raw.decode("latin-1")
    try:
        same = read_cursor(KEY, people(), changed)
    except Invalid as error:
        assert error.code == "bad_cursor"  # noqa: PT017 (or it decodes to the same bytes)
    else:
        assert same == read_cursor(KEY, people(), cursor)


@given(st.text(max_size=100))
def test_any_text_is_refused_as_a_cursor(text: str) -> None:
    with pytest.raises(Invalid, match="bad_cursor"):
        read_cursor(KEY, people(), text)


def test_a_cursor_belongs_to_its_question_and_to_its_map() -> None:
    cursor = write_cursor(KEY, 3, people(), ("ada", 7))
    for key, query in ((KEY, people(order=("-name",))), (KEY, people(where=(("age", "=", 1),))), (b"o" * 32, people())):
        with pytest.raises(Invalid, match="bad_cursor"):
            read_cursor(key, query, cursor)


def test_another_collation_is_noticed_not_merged() -> None:
    plan = plan_of(people())
    assert isinstance(plan, RowsPlan)
    with pytest.raises(Invalid, match="order_differs"):
        merge_rows(plan, {"db-0": [(1, "a", "a", 1), (2, "B", "B", 2)]}, offset=0, limit=9, asked=51)


def test_a_thousand_groups_are_enough() -> None:
    plan = plan_of(Query(table=TABLE, select=("id", "count(*)"), group=("id",)))
    assert isinstance(plan, TotalsPlan)
    with pytest.raises(Invalid, match="too_many_groups"):
        merge_totals(plan, {f"db-{at}": [(row, 1) for row in range(at, 1200, 2)] for at in range(2)})


_rows = st.lists(
    st.tuples(st.integers(0, 500), st.sampled_from("abcAB") | st.text(max_size=2), st.integers(0, 3)),
    max_size=40,
    unique_by=lambda row: row[0],
)


@given(
    _rows, st.sampled_from([(), ("name",), ("-name",), ("-age", "name"), ("age", "-id"), ("-id",)]), st.integers(1, 7)
)
def test_any_page_of_any_spread_is_that_of_one_database(rows: list[Row], order: tuple[str, ...], limit: int) -> None:
    found, expected = pages(rows, order, limit)
    assert found == expected


def test_ablation_who_has_more_than_its_share_is_missed_unless_asked_again() -> None:
    rows: list[Row] = [(3 * number, "a", 1) for number in range(40)]
    found, expected = pages(rows, (), 7, ignore_short=True)
    assert found != expected
    found, expected = pages(rows, (), 7)
    assert found == expected


def pages(
    rows: list[Row], order: tuple[str, ...], limit: int, *, ignore_short: bool = False
) -> tuple[list[Row], list[Row]]:
    """All pages of rows in three databases, and what one database says."""

    def database(rows: list[Row]) -> MemoryDatabase:
        made = MemoryDatabase("m")
        made.run_script("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
        for row in rows:
            made.write(lambda tx, row=row: tx.execute("INSERT INTO users VALUES (?, ?, ?)", row))  # type: ignore[misc]
        return made

    shards = {f"db-{n}": database([row for row in rows if int(row[0] or 0) % 3 == n]) for n in range(3)}
    query = people(order=order, limit=limit)
    every = ", ".join(map(str, range(128)))
    whole = plan_of(people(order=order, limit=1000))
    assert isinstance(whole, RowsPlan)
    expected = [
        row[:2] for row in database(rows).fetch_all(whole.sql.replace("{owned}", every).replace("{rows}", "1000"))
    ]
    found: list[Row] = []
    after: tuple[object, ...] | None = None
    while True:
        plan = plan_of(query, after)  # type: ignore[arg-type]
        assert isinstance(plan, RowsPlan)
        asked = 1 + plan.share(3) // 4
        while True:
            sql = plan.sql.replace("{owned}", every).replace("{rows}", str(asked))
            answers = {name: made.fetch_all(sql, plan.parameters) for name, made in shards.items()}
            page, after, short = merge_rows(plan, answers, offset=0, limit=limit, asked=asked)
            if not short or ignore_short:
                break
            asked = plan.wanted
        found += page
        if after is None:
            break
    return found, expected
