"""The operations of a DAO on a real store."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import decimal
import enum
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from operator import attrgetter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.dao import DAO, Condition, Entity, Order, column, create_table_sql, create_tables
from dougong.dao._page import decode_cursor, encode_cursor
from dougong.dao._statements import Statements
from dougong.errors import Conflict, Internal, Invalid, NotFound
from dougong.store import Store, Tx, open_store


class User(Entity, table="users", version="version", unique={"users_email": ["email"], "users_name": ["name", "age"]}):
    id: int
    email: str
    name: str = ""
    age: int | None = None
    version: int = 1


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    S = 1
    L = 3


class Mixed(enum.Enum):
    A = 1
    B = "b"


class Address(msgspec.Struct):
    city: str
    lines: list[str] = []


class Everything(Entity, table="everything"):
    id: uuid.UUID
    flag: bool
    number: int
    ratio: float
    text: str
    data: bytes
    price: decimal.Decimal
    at: dt.datetime
    day: dt.date
    color: Color
    size: Size
    address: Address
    tags: list[str]
    counts: dict[str, int]
    maybe_at: dt.datetime | None
    maybe_address: Address | None


class Bare(Entity, table="bare", key="code"):
    code: str


@pytest.fixture
async def store(fresh_url: Callable[[], str]) -> AsyncIterator[Store]:
    opened = await open_store(fresh_url())
    await opened.migrate("test", [create_tables(1, "all", User, Everything, Bare)])
    yield opened
    await opened.close()


@pytest.fixture
def users(store: Store) -> DAO[User, int]:
    return DAO(User, store)


async def test_create_get_update_delete(users: DAO[User, int]) -> None:
    ada = User(1, "ada@example.org", "Ada", 36)
    await users.create(ada)
    assert await users.get(1) == ada
    changed = await users.update(msgspec.structs.replace(ada, age=37))
    assert changed == User(1, "ada@example.org", "Ada", 37, version=2)
    assert await users.get(1) == changed
    assert await users.delete(1)
    assert not await users.delete(1)
    assert await users.get(1) is None
    with pytest.raises(NotFound) as missing:
        await users.need(1)
    assert missing.value.fields == {"entity": "User", "field": "id", "key": "1"}


async def test_a_stale_version_is_a_conflict(users: DAO[User, int]) -> None:
    ada = User(1, "ada@example.org")
    await users.create(ada)
    outcomes = await asyncio.gather(*(users.update(ada) for _ in range(5)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 4 + ["User"]
    stale = next(outcome for outcome in outcomes if isinstance(outcome, Conflict))
    assert (stale.code, stale.fields["constraint"]) == ("stale_version", "users.version")
    with pytest.raises(NotFound):
        await users.update(User(2, "nobody@example.org"))


async def test_conflicts_name_the_index(store: Store, users: DAO[User, int]) -> None:
    await users.create(User(1, "a", "n", 1))
    names: list[tuple[object, ...]] = []
    for entity in (User(1, "b"), User(2, "a"), User(2, "b", "n", 1)):
        with pytest.raises(Conflict) as conflict:
            await users.create(entity)
        names.append((conflict.value.code, conflict.value.fields["constraint"]))
        assert conflict.value.fields["entity"] == "User"
        names[-1] = (*names[-1], conflict.value.fields["field"])
    assert names == [
        ("unique_violated", "primary_key", "id"),
        ("unique_violated", "users_email", "email"),
        ("unique_violated", "users_name", "name, age"),
    ]
    await users.create(User(2, "b"))
    with pytest.raises(Conflict) as updated:
        await users.update(User(2, "a"))
    assert updated.value.fields["constraint"] == "users_email"


async def test_create_many_is_all_or_none(users: DAO[User, int]) -> None:
    assert await users.create_many(User(i, str(i)) for i in range(10)) == 10
    with pytest.raises(Conflict):
        await users.create_many([User(10, "x"), User(11, "3")])
    assert await users.count() == 10


async def test_get_many(users: DAO[User, int]) -> None:
    await users.create_many(User(i, str(i)) for i in range(1200))
    found = await users.get_many([5, 7, 5, 99_999, *range(1000, 1200)])
    assert set(found) == {5, 7, *range(1000, 1200)}
    assert found[7] == User(7, "7")
    assert len(await users.get_many(range(1200))) == 1200
    assert await users.get_many([]) == {}


async def test_upsert_overwrites_and_counts_the_version_up(users: DAO[User, int]) -> None:
    await users.upsert(User(1, "a"))
    await users.upsert(User(1, "b"))
    assert await users.get(1) == User(1, "b", version=2)


async def test_a_key_may_be_all_there_is(store: Store) -> None:
    bare: DAO[Bare, str] = DAO(Bare, store)
    await bare.create(Bare("x"))
    await bare.upsert(Bare("x"))
    assert await bare.update(Bare("x")) == Bare("x")
    assert await bare.get("x") == Bare("x")


async def test_operations_are_part_of_a_unit(store: Store, users: DAO[User, int]) -> None:
    async def unit(tx: Tx) -> None:
        await users.create(User(1, "a"), tx=tx)
        await users.upsert(User(2, "b"), tx=tx)
        assert await users.get(1, tx=tx) == User(1, "a")
        await users.update(User(1, "c"), tx=tx)
        assert await users.count(tx=tx) == 2
        assert len((await users.find(tx=tx)).items) == len(await users.get_many([1, 2], tx=tx)) == 2
        await users.delete(2, tx=tx)
        raise LookupError

    with pytest.raises(LookupError):
        await store.write(unit)
    assert await users.count() == 0


async def test_upsert_overwrites_no_other_row(users: DAO[User, int]) -> None:
    """ON DUPLICATE KEY UPDATE would: it takes a taken e-mail for the row that is meant."""
    await users.create_many([User(1, "a"), User(2, "b")])
    for taken in (User(3, "a"), User(2, "a")):
        with pytest.raises(Conflict) as conflict:
            await users.upsert(taken)
        assert conflict.value.fields["constraint"] == "users_email"
    assert (await users.find()).items == [User(1, "a"), User(2, "b")]


ID, EMAIL, NAME, AGE = column(User.id), column(User.email), column(User.name), column(User.age)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ([], [1, 2, 3, 4]),
        ([NAME.equals("b")], [2]),
        ([AGE.is_null()], [4]),
        ([AGE.is_not_null()], [1, 2, 3]),
        ([AGE.differs_from(10)], [2, 3]),
        ([AGE.at_least(20)], [2, 3]),
        ([AGE.above(20)], [3]),
        ([AGE.at_most(20)], [1, 2]),
        ([AGE.below(20), NAME.differs_from("z")], [1]),
        ([AGE.above(10), AGE.below(30)], [2]),
        ([ID.one_of([4, 1, 9])], [1, 4]),
        ([ID.one_of([])], []),
        ([EMAIL.starts_with("a%")], [3]),
        ([EMAIL.starts_with("a")], [1, 3]),
        ([EMAIL.starts_with("")], [1, 2, 3, 4]),
    ],
)
async def test_conditions(users: DAO[User, int], where: list[Condition], expected: list[int]) -> None:
    rows = [User(1, "ab", "a", 10), User(2, "b", "b", 20), User(3, "a%c", "c", 30), User(4, "d", "d")]
    await users.create_many(rows)
    assert [user.id for user in (await users.find(*where)).items] == expected
    assert await users.count(*where) == len(expected)


async def test_text_is_compared_by_code_points(users: DAO[User, int]) -> None:
    """Blanks at the end count, case counts, and starts_with finds what Python's does."""
    texts = ["a", "a ", "A", "a\t", "á", "ab", "a\ud7ff", "a\ue000x", "a\U0010ffff", "a\U0010ffffz", "b", "\U0010ffff"]
    await users.create_many(User(place, text, str(place)) for place, text in enumerate(texts))
    assert [user.email async for user in users.stream(order=[EMAIL.ascending])] == sorted(texts)
    for text in texts:
        assert [user.email for user in (await users.find(EMAIL.equals(text))).items] == [text]
        expected = sorted(each for each in texts if each.startswith(text))
        assert [
            user.email for user in (await users.find(EMAIL.starts_with(text), order=[EMAIL.ascending])).items
        ] == expected


async def test_what_cannot_be_asked_is_refused_by_name(users: DAO[User, int]) -> None:
    attempts: list[tuple[Callable[[], Awaitable[object]], str, str]] = [
        (lambda: users.find(column(Bare.code).equals("x")), "unknown_column", "code"),
        (lambda: users.find(order=[column(Bare.code).ascending]), "unknown_column", "code"),
        (lambda: users.find(order=[AGE.ascending]), "bad_order", ""),
        (lambda: users.find(limit=0), "bad_limit", ""),
        (lambda: users.find(limit=1001), "bad_limit", ""),
        (lambda: users.find(AGE.above(None)), "bad_condition", "age"),  # type: ignore[arg-type]
        (lambda: users.find(AGE.equals(None)), "bad_condition", "age"),  # type: ignore[arg-type]
        (lambda: users.find(EMAIL.equals(7)), "wrong_value", "email"),  # type: ignore[arg-type]
        (lambda: users.find(AGE.one_of(range(501))), "too_many_values", "age"),
        (lambda: users.count(*[AGE.equals(1)] * 101), "too_many_conditions", ""),
        (lambda: users.get("1"), "wrong_value", "id"),  # type: ignore[arg-type]
        (lambda: users.get(2**63), "wrong_value", "id"),
    ]
    for attempt, code, field in attempts:
        with pytest.raises(Invalid) as refused:
            await attempt()
        assert (refused.value.code, refused.value.fields.get("field", "")) == (code, field)
        assert refused.value.fields["entity"] == "User"
    for cursor in ("???", "AAAA", "", "é"):
        with pytest.raises(Invalid) as refused:
            await users.find(after=cursor)
        assert refused.value.code == "bad_cursor"
    with pytest.raises(TypeError, match=r"column\(User.…\)"):
        await users.find(True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a field from an Entity class"):
        column("email")


async def test_numbers_held_as_text_neither_compare_nor_order(store: Store) -> None:
    """As text 9 is above 10: better no answer than a wrong one."""
    things: DAO[Everything, uuid.UUID] = DAO(Everything, store)
    for attempt in (
        things.find(column(Everything.price).above(decimal.Decimal(9))),
        things.find(order=[column(Everything.price).ascending]),
        things.find(order=[column(Everything.address).ascending]),
    ):
        with pytest.raises(Invalid) as refused:
            await attempt
        assert refused.value.code in {"unordered_column", "bad_order"}


def _order(words: list[str]) -> list[Order]:
    up = {"id": ID.ascending, "email": EMAIL.ascending, "name": NAME.ascending}
    down = {"-id": ID.descending, "-name": NAME.descending}
    return [(up | down)[word] for word in words]


@pytest.mark.parametrize("words", [[], ["-id"], ["name"], ["-name"], ["name", "-id"], ["-name", "email", "-id"]])
async def test_pages_neither_repeat_nor_skip(users: DAO[User, int], words: list[str]) -> None:
    order = _order(words)
    everybody = [User(i, f"{i % 7}-{i}", f"n{i % 5}") for i in range(60)]
    await users.create_many(everybody)
    seen: list[User] = []
    after: str | None = None
    pages = 0
    while True:
        page = await users.find(ID.at_least(3), order=order, after=after, limit=8)
        seen += page.items
        pages += 1
        if page.after is None:
            break
        after = page.after
    expected = everybody[3:]
    total = list(words)
    if not any(word.endswith("id") for word in words):
        total.append("-id" if words and words[-1].startswith("-") else "id")
    for word in reversed(total):
        expected.sort(key=attrgetter(word.lstrip("-")), reverse=word[0] == "-")
    assert seen == expected
    assert pages == 8
    assert [user async for user in users.stream(ID.at_least(3), order=order, page=9)] == expected


async def test_a_cursor_serves_only_its_order(users: DAO[User, int]) -> None:
    await users.create_many(User(i, str(i)) for i in range(3))
    page = await users.find(order=[EMAIL.ascending], limit=1)
    with pytest.raises(Invalid, match="made for order users, email, id"):
        await users.find(order=[EMAIL.descending], after=page.after)


@given(st.text())
def test_any_text_as_a_cursor_is_refused_or_read(text: str) -> None:
    with contextlib.suppress(Invalid):
        assert len(decode_cursor(["users", "id"], [int], text)) == 1


@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(), st.binary()), min_size=1, max_size=4))
def test_cursors_come_back(values: list[int | str | bytes]) -> None:
    names = [str(i) for i in range(len(values))]
    cursor = encode_cursor(names, list(values))
    held = [type(value) for value in values]
    if any(isinstance(value, str) and "\0" in value for value in values):
        values = []
    else:
        assert decode_cursor(names, held, cursor) == values
    for other in ([*held, int], [*held[:-1], float]):
        with pytest.raises(Invalid):
            decode_cursor(names, other, cursor)


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=255)
_times = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC))  # noqa: DTZ001
_addresses = st.builds(Address, city=_texts, lines=st.lists(_texts, max_size=3))
_everything = st.builds(
    Everything,
    id=st.uuids(),
    flag=st.booleans(),
    number=st.integers(-(2**63), 2**63 - 1),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    text=_texts,
    data=st.binary(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    at=_times,
    day=st.dates(),
    color=st.sampled_from(Color),
    size=st.sampled_from(Size),
    address=_addresses,
    tags=st.lists(_texts, max_size=3),
    counts=st.dictionaries(_texts, st.integers(-(2**63), 2**63 - 1), max_size=3),
    maybe_at=st.none() | _times,
    maybe_address=st.none() | _addresses,
)


def _about(entity: Everything) -> list[Condition]:
    """Every column equals what was stored, in one query."""
    conditions = [
        column(Everything.id).equals(entity.id),
        column(Everything.flag).equals(entity.flag),
        column(Everything.number).equals(entity.number),
        column(Everything.ratio).equals(entity.ratio),
        column(Everything.text).equals(entity.text),
        column(Everything.data).equals(entity.data),
        column(Everything.price).equals(entity.price),
        column(Everything.at).equals(entity.at),
        column(Everything.day).equals(entity.day),
        column(Everything.color).equals(entity.color),
        column(Everything.size).equals(entity.size),
        column(Everything.address).equals(entity.address),
        column(Everything.tags).equals(entity.tags),
        column(Everything.counts).equals(entity.counts),
    ]
    for field, value in ((column(Everything.maybe_at), entity.maybe_at),):
        conditions.append(field.is_null() if value is None else field.equals(value))
    return conditions


def _types(entity: Everything) -> list[type]:
    return [type(value) for value in msgspec.structs.astuple(entity)]


async def test_every_type_comes_back_as_it_went(store: Store) -> None:
    things: DAO[Everything, uuid.UUID] = DAO(Everything, store)
    loop = asyncio.get_running_loop()

    @given(_everything)
    def check(entity: Everything) -> None:
        async def there_and_back() -> None:
            await things.upsert(entity)
            back = await things.need(entity.id)
            assert back == entity
            assert _types(back) == _types(entity)
            assert (await things.find(*_about(entity))).items == [entity]

        asyncio.run_coroutine_threadsafe(there_and_back(), loop).result(30)

    await asyncio.to_thread(check)


_GOOD = Everything(
    uuid.UUID(int=1), True, 1, 1.0, "t", b"b", decimal.Decimal(1), dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
    dt.date(2025, 1, 1), Color.RED, Size.S, Address("Bern"), ["a"], {"b": 1}, None, None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("id", ["x", None]),
        ("flag", [1, "true", None]),
        ("number", [2**63, -(2**63) - 1, True, "1", 1.0, None]),
        ("ratio", [math.nan, math.inf, True, "1"]),
        ("text", ["a\0b", "\ud800", "x" * 256, b"x", None]),
        ("data", ["x", bytearray(b"x")]),
        ("price", [1.5, decimal.Decimal("NaN"), decimal.Decimal("-Infinity"), decimal.Decimal("1" * 81)]),
        ("at", [dt.datetime(2025, 1, 1), dt.date(2025, 1, 1), 5]),  # noqa: DTZ001 (that is the point)
        ("day", [dt.datetime(2025, 1, 1, tzinfo=dt.UTC), "2025-01-01"]),
        ("color", ["red", Size.S]),
        ("size", [1, Color.RED]),
        ("address", [{"city": "Bern"}, None]),
        ("tags", ["a", ("a",), ["\ud800"]]),
        ("counts", [[]]),
        ("maybe_at", ["now"]),
    ],
)
async def test_values_of_the_wrong_kind_are_refused(store: Store, field: str, values: list[object]) -> None:
    things: DAO[Everything, uuid.UUID] = DAO(Everything, store)
    for value in values:
        with pytest.raises(Invalid) as refused:
            await things.create(msgspec.structs.replace(_GOOD, **{field: value}))
        assert refused.value.code == "wrong_value", value
        assert (refused.value.fields["entity"], refused.value.fields["field"]) == ("Everything", field)
    assert await things.count() == 0


async def test_a_row_that_nobody_stored_here_is_named(store: Store) -> None:
    things: DAO[Everything, uuid.UUID] = DAO(Everything, store)
    await things.create(_GOOD)
    await store.write(lambda tx: tx.execute("UPDATE everything SET color = 'green'"))
    with pytest.raises(Internal) as damaged:
        await things.get(_GOOD.id)
    assert damaged.value.code == "bad_row"
    assert str(_GOOD.id) in damaged.value.message


def test_declarations_that_make_no_table() -> None:
    class NoTable(Entity):
        id: int

    class NoKey(Entity, table="x"):
        name: str

    class NoVersion(Entity, table="x", version="v"):
        id: int

    class NoIndex(Entity, table="x", unique={"u": ["nothing"]}):
        id: int

    class NoColumn(Entity, table="x"):
        id: int
        what: Condition | int

    class Injected(Entity, table='x" (id); DROP TABLE users; --'):
        id: int

    class InjectedIndex(Entity, table="x", unique={"a`b": ["id"]}):
        id: int

    class MaybeKey(Entity, table="x"):
        id: int | None

    class TextVersion(Entity, table="x", version="at"):
        id: int
        at: str

    class MixedEnum(Entity, table="x"):
        id: int
        what: Mixed

    for entity, words in (
        (NoTable, "names no table"),
        (NoKey, "key='id'"),
        (NoVersion, "version='v'"),
        (NoIndex, "nothing"),
        (NoColumn, "NoColumn.what"),
        (Injected, "no name for a table"),
        (InjectedIndex, "no name for a table"),
        (MaybeKey, "must not be None"),
        (TextVersion, "must be an int"),
        (MixedEnum, "MixedEnum.what: the values of Mixed"),
    ):
        with pytest.raises(TypeError, match=words):
            create_table_sql(entity)


async def test_an_entity_of_another_table_is_refused(users: DAO[User, int]) -> None:
    with pytest.raises(TypeError, match="stores User, not Bare"):
        await users.create(Bare("x"))  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", ["sqlite", "mysql", "postgresql"])
def test_every_dialect_renders_with_the_same_parameters(dialect: str) -> None:
    from dougong.dao._shape import shape_of

    sql = Statements(shape_of(User), dialect)
    assert sql.insert.count("?") == 5
    assert sql.overwrite.count("?") == 4
    assert sql.update.count("?") == 6
    parts = (("age", "in", 4), ("name", ">=", 1), ("name", "<", 1), ("email", "null", 0))
    assert sql.find(parts, (("name", True), ("id", False)), after=True).count("?") == 4 + 2 + 3 + 1
    assert sql.find(parts, (("name", True), ("id", True)), after=True).count("?") == 4 + 2 + 2 + 1
    assert sql.get_many(8).count("?") == 8


async def test_sql_is_rendered_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    users: DAO[User, int] = DAO(User, store)
    await users.find(AGE.at_least(1), order=[EMAIL.descending])
    monkeypatch.setattr(Statements, "_column", None)
    for i in range(3):
        again: DAO[User, int] = DAO(User, store)
        await again.create(User(i, str(i)))
        await again.find(AGE.at_least(i), order=[EMAIL.descending])
