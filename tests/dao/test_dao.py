"""The operations of a DAO on a real store."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import AsyncIterator
from operator import attrgetter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.dao import (
    DAO,
    Condition,
    Entity,
    Where,
    above,
    at_least,
    at_most,
    below,
    create_table_sql,
    differs_from,
    one_of,
    starts_with,
)
from dougong.dao._page import decode_cursor, encode_cursor
from dougong.dao._statements import Statements
from dougong.errors import Conflict, Invalid, NotFound
from dougong.store import Migration, Store, Tx, open_store


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
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(f"sqlite:///{tmp_path}/dao.db")
    sql = ";\n".join(create_table_sql(entity) for entity in (User, Everything, Bare)) + ";"
    await opened.migrate("test", [Migration(1, "all", sql)])
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
    assert missing.value.fields == {"entity": "User", "key": "1"}


async def test_a_stale_version_is_a_conflict(users: DAO[User, int]) -> None:
    ada = User(1, "ada@example.org")
    await users.create(ada)
    outcomes = await asyncio.gather(*(users.update(ada) for _ in range(5)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 4 + ["User"]
    stale = next(outcome for outcome in outcomes if isinstance(outcome, Conflict))
    assert (stale.code, stale.fields["constraint"]) == ("stale_version", "users.version")
    with pytest.raises(NotFound):
        await users.update(User(2, "nobody@example.org"))


async def test_conflicts_name_the_index(users: DAO[User, int]) -> None:
    await users.create(User(1, "a", "n", 1))
    names: list[object] = []
    for entity in (User(1, "b"), User(2, "a"), User(2, "b", "n", 1)):
        with pytest.raises(Conflict) as conflict:
            await users.create(entity)
        names.append((conflict.value.code, conflict.value.fields["constraint"]))
    assert names == [("unique_violated", name) for name in ("users.id", "users_email", "users_name")]
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


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"name": "b"}, [2]),
        ({"age": None}, [4]),
        ({"age": differs_from(None)}, [1, 2, 3]),
        ({"age": at_least(20)}, [2, 3]),
        ({"age": above(20)}, [3]),
        ({"age": at_most(20)}, [1, 2]),
        ({"age": below(20), "name": differs_from("z")}, [1]),
        ({"id": one_of([4, 1, 9])}, [1, 4]),
        ({"id": one_of([])}, []),
        ({"email": starts_with("a%")}, [3]),
        ({"email": starts_with("a")}, [1, 3]),
    ],
)
async def test_conditions(users: DAO[User, int], where: Where, expected: list[int]) -> None:
    rows = [User(1, "ab", "a", 10), User(2, "b", "b", 20), User(3, "a%c", "c", 30), User(4, "d", "d")]
    await users.create_many(rows)
    assert [user.id for user in (await users.find(where)).items] == expected
    assert await users.count(where) == len(expected)


async def test_what_cannot_be_asked_is_refused_by_name(users: DAO[User, int]) -> None:
    for attempt, code in (
        (users.find({"nmae": 1}), "unknown_column"),
        (users.find(order=["nmae"]), "unknown_column"),
        (users.find(order=["age"]), "unknown_order"),
        (users.find(limit=0), "bad_limit"),
        (users.find(limit=1001), "bad_limit"),
        (users.find(after="???"), "bad_cursor"),
        (users.find(after="AAAA"), "bad_cursor"),
        (users.find({"age": above(None)}), "bad_condition"),
    ):
        with pytest.raises(Invalid) as refused:
            await attempt
        assert refused.value.code == code
    with pytest.raises(Invalid):
        one_of(range(501))


async def test_values_never_become_sql(users: DAO[User, int]) -> None:
    await users.create(User(1, "'; DROP TABLE users; --"))
    assert (await users.find({"email": "'; DROP TABLE users; --"})).items[0].id == 1
    with pytest.raises(Invalid):
        await users.find({"id = 1; --": 1})


@pytest.mark.parametrize("order", [[], ["-id"], ["name"], ["-name"], ["name", "-id"], ["-name", "email", "-id"]])
async def test_pages_neither_repeat_nor_skip(users: DAO[User, int], order: list[str]) -> None:
    everybody = [User(i, f"{i % 7}-{i}", f"n{i % 5}") for i in range(60)]
    await users.create_many(everybody)
    seen: list[User] = []
    after: str | None = None
    pages = 0
    while True:
        page = await users.find({"id": at_least(3)}, order=order, after=after, limit=8)
        seen += page.items
        pages += 1
        if page.after is None:
            break
        after = page.after
    expected = everybody[3:]
    total = list(order)
    if not any(word.endswith("id") for word in order):
        total.append("-id" if order and order[-1].startswith("-") else "id")
    for word in reversed(total):
        expected.sort(key=attrgetter(word.lstrip("-")), reverse=word[0] == "-")
    assert seen == expected
    assert pages == 8
    assert [user async for user in users.stream({"id": at_least(3)}, order=order, page=9)] == expected


async def test_a_cursor_serves_only_its_order(users: DAO[User, int]) -> None:
    await users.create_many(User(i, str(i)) for i in range(3))
    page = await users.find(order=["email"], limit=1)
    with pytest.raises(Invalid, match="made for order email, id"):
        await users.find(order=["-email"], after=page.after)


@given(st.text())
def test_any_text_as_a_cursor_is_refused_or_read(text: str) -> None:
    with contextlib.suppress(Invalid):
        assert len(decode_cursor(["id"], text)) == 1


@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(), st.binary()), min_size=1, max_size=4))
def test_cursors_come_back(values: list[int | str | bytes]) -> None:
    names = [str(i) for i in range(len(values))]
    assert decode_cursor(names, encode_cursor(names, list(values))) == values


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_times = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC))  # noqa: DTZ001
_addresses = st.builds(Address, city=_texts, lines=st.lists(_texts, max_size=3))
_everything = st.builds(
    Everything,
    id=st.uuids(),
    flag=st.booleans(),
    number=st.integers(-(2**63), 2**63 - 1),
    ratio=st.floats(allow_nan=False),
    text=_texts,
    data=st.binary(),
    price=st.decimals(allow_nan=False),
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
            assert (await things.find({"price": entity.price, "at": entity.at, "id": entity.id})).items == [entity]

        asyncio.run_coroutine_threadsafe(there_and_back(), loop).result(30)

    await asyncio.to_thread(check)


async def test_values_of_the_wrong_kind_are_refused(store: Store) -> None:
    things: DAO[Everything, uuid.UUID] = DAO(Everything, store)
    with pytest.raises(Invalid, match="no time zone"):
        await things.find({"at": dt.datetime(2025, 1, 1)})  # noqa: DTZ001 (that is the point)
    with pytest.raises(Invalid) as refused:
        await things.find({"at": "yesterday"})
    assert refused.value.fields["column"] == "at"


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

    for entity, words in (
        (NoTable, "names no table"),
        (NoKey, "key='id'"),
        (NoVersion, "version='v'"),
        (NoIndex, "nothing"),
        (NoColumn, "NoColumn.what"),
    ):
        with pytest.raises(TypeError, match=words):
            create_table_sql(entity)


async def test_an_entity_of_another_table_is_refused(users: DAO[User, int]) -> None:
    with pytest.raises(TypeError, match="stores User, not Bare"):
        await users.create(Bare("x"))  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", ["sqlite", "mysql", "postgresql"])
def test_every_dialect_renders_with_the_same_parameters(dialect: str) -> None:
    from dougong.dao._entity import shape_of

    sql = Statements(shape_of(User), dialect)
    assert sql.insert.count("?") == sql.upsert.count("?") == 5
    assert sql.update.count("?") == 6
    parts = (("age", "in", 4), ("name", "prefix", 2), ("email", "null", 0))
    assert sql.find(parts, (("name", True), ("id", False)), after=True).count("?") == 4 + 2 + 3 + 1
    assert sql.find(parts, (("name", True), ("id", True)), after=True).count("?") == 4 + 2 + 2 + 1
    assert sql.get_many(8).count("?") == 8


async def test_sql_is_rendered_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    users: DAO[User, int] = DAO(User, store)
    await users.find({"age": at_least(1)}, order=["-email"])
    monkeypatch.setattr(Statements, "_text", None)
    for i in range(3):
        again: DAO[User, int] = DAO(User, store)
        await again.create(User(i, str(i)))
        await again.find({"age": at_least(i)}, order=["-email"])
