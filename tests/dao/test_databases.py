"""One entity over several databases, through the seam that a sharded store implements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from dougong.dao import DAO, Condition, Entity, Order, Page, column, create_tables
from dougong.errors import Conflict, Invalid, Unavailable
from dougong.store import Store, Tx, Value, open_store

R = TypeVar("R")


class Item(Entity, table="items", version="version", unique={"items_name": ["name"]}):
    id: int
    name: str
    shelf: int = 0
    version: int = 1


class Modulo:
    """The simplest sharded store there is."""

    bucket_sql = "id % 128"

    def __init__(self, stores: Sequence[Store]) -> None:
        self.dialect = stores[0].dialect
        self.stores = stores
        self.gone: set[int] = set()

    def divided(self, table: str, key: str, bucket: str) -> Modulo:
        assert (table, key, bucket) == ("items", "id", "")
        return self

    def store_of(self, key: Value) -> Store:
        assert isinstance(key, int)
        place = key % len(self.stores)
        if place in self.gone:
            raise Unavailable(f"database {place} is gone", code="gone")
        return self.stores[place]

    async def bucket_of(self, key: Value) -> int:
        raise AssertionError("there is no column for it")

    async def write_many(self, keys: Sequence[Value], unit: Callable[[Tx, list[int]], Awaitable[R]]) -> list[R]:
        return await self._many(keys, lambda store, some: store.write(lambda tx: unit(tx, some)))

    async def read_many(self, keys: Sequence[Value], unit: Callable[[Tx, list[int]], Awaitable[R]]) -> list[R]:
        return await self._many(keys, lambda store, some: store.read(lambda tx: unit(tx, some)))

    async def ask_all(self, question: Callable[[Store, str], Awaitable[R]]) -> list[R]:
        owned = [range(place, 128, len(self.stores)) for place in range(len(self.stores))]
        return [await question(store, ", ".join(map(str, own))) for store, own in zip(self.stores, owned, strict=True)]

    async def _many(self, keys: Sequence[Value], work: Callable[[Store, list[int]], Awaitable[R]]) -> list[R]:
        groups: dict[str, tuple[Store, list[int]]] = {}
        for place, key in enumerate(keys):
            store = self.store_of(key)
            groups.setdefault(store.name, (store, []))[1].append(place)
        done = await asyncio.gather(*(work(*group) for group in groups.values()), return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result
        return [result for result in done if not isinstance(result, BaseException)]


@pytest.fixture
async def databases(fresh_url: Callable[[], str]) -> AsyncIterator[Modulo]:
    stores = [await open_store(fresh_url(), name=f"db{place}") for place in range(3)]
    for store in stores:
        await store.migrate("test", [create_tables(1, "items", Item)])
    yield Modulo(stores)
    for store in stores:
        await store.close()


@pytest.fixture
def items(databases: Modulo) -> DAO[Item, int]:
    return DAO(Item, databases)


async def _places(databases: Modulo) -> list[list[int]]:
    found = [await DAO(Item, store).find(limit=1000) for store in databases.stores]
    return [[item.id for item in page.items] for page in found]


async def test_one_key_is_one_database(databases: Modulo, items: DAO[Item, int]) -> None:
    await items.create(Item(4, "a"))
    await items.upsert(Item(5, "b"))
    assert await _places(databases) == [[], [4], [5]]
    assert await items.get(4) == Item(4, "a")
    assert await items.update(Item(4, "c")) == Item(4, "c", version=2)
    with pytest.raises(Conflict):
        await items.update(Item(4, "d"))
    assert await items.delete(5)
    assert await _places(databases) == [[], [4], []]


async def test_many_are_grouped_by_database(databases: Modulo, items: DAO[Item, int]) -> None:
    commits: list[str] = []
    for store in databases.stores:
        _count_writes(store, commits)
    assert await items.create_many(Item(i, str(i)) for i in range(30)) == 30
    assert sorted(commits) == ["db0", "db1", "db2"]
    assert await _places(databases) == [list(range(place, 30, 3)) for place in range(3)]
    assert await items.get_many([*range(5), 99]) == {i: Item(i, str(i)) for i in range(5)}
    assert await items.create_many([]) == 0
    assert await items.get_many([]) == {}


def _count_writes(store: Store, commits: list[str]) -> None:
    write = store.write

    async def counted(unit):  # type: ignore[no-untyped-def]
        commits.append(store.name)
        return await write(unit)

    store.write = counted  # type: ignore[method-assign]


async def test_each_database_takes_all_or_none(databases: Modulo, items: DAO[Item, int]) -> None:
    await items.create(Item(4, "taken"))
    with pytest.raises(Conflict) as conflict:
        await items.create_many([Item(1, "x"), Item(7, "taken"), Item(2, "y"), Item(3, "z")])
    assert conflict.value.fields["constraint"] == "items_name"
    assert await _places(databases) == [[3], [4], [2]]


async def test_all_are_asked_only_when_told_so(items: DAO[Item, int]) -> None:
    for attempt in (items.find(), items.count()):
        with pytest.raises(Invalid) as refused:
            await attempt
        assert (refused.value.code, refused.value.fields["entity"]) == ("no_scatter", "Item")
    with pytest.raises(Invalid):
        await anext(items.stream())


async def test_a_unit_is_one_databases(databases: Modulo, items: DAO[Item, int]) -> None:
    await items.create_many(Item(i, str(i)) for i in range(9))

    async def unit(tx: Tx) -> tuple[int, Page[Item], list[Item], dict[int, Item]]:
        await items.create_many([Item(10, "10"), Item(13, "13")], tx=tx)
        with pytest.raises(Invalid, match="own database only"):
            await items.find(scatter=True, tx=tx)
        streamed = [item async for item in items.stream(page=2, tx=tx)]
        return await items.count(tx=tx), await items.find(tx=tx), streamed, await items.get_many([1, 2], tx=tx)

    count, page, streamed, found = await databases.stores[1].write(unit)
    assert count == 5
    assert [item.id for item in page.items] == [1, 4, 7, 10, 13]
    assert streamed == page.items
    assert list(found) == [1]


NAME, SHELF, ID = column(Item.name), column(Item.shelf), column(Item.id)
ORDERS: list[list[Order]] = [
    [],
    [ID.descending],
    [NAME.ascending],
    [NAME.descending],
    [SHELF.ascending, NAME.descending],
    [SHELF.descending, ID.ascending],
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("where", [[], [SHELF.at_least(1)]])
async def test_merged_pages_are_those_of_one_database(
    fresh_url: Callable[[], str],
    items: DAO[Item, int],
    order: list[Order],
    where: list[Condition],
) -> None:
    everything = [Item(i, f"{i * 7 % 60:02}-{'äAa b'[i % 5]}", i % 4) for i in range(60)]
    single = await open_store(fresh_url())
    await single.migrate("test", [create_tables(1, "items", Item)])
    one = DAO(Item, single)
    await one.create_many(everything)
    await items.create_many(everything)
    after_one = after = None
    while True:
        expected = await one.find(*where, order=order, after=after_one, limit=7)
        page = await items.find(*where, order=order, after=after, limit=7, scatter=True)
        assert page == expected
        if page.after is None:
            break
        after_one, after = expected.after, page.after
    streamed = [item async for item in items.stream(*where, order=order, page=8, scatter=True)]
    assert streamed == [item async for item in one.stream(*where, order=order)]
    assert await items.count(*where, scatter=True) == await one.count(*where)
    await single.close()


async def test_a_database_that_is_gone_concerns_its_own_keys(databases: Modulo, items: DAO[Item, int]) -> None:
    await items.create_many(Item(i, str(i)) for i in range(6))
    databases.gone.add(1)
    assert await items.need(3) == Item(3, "3")
    with pytest.raises(Unavailable):
        await items.get(4)
    with pytest.raises(Unavailable):
        await items.get_many([3, 4])
    await databases.stores[2].close()
    with pytest.raises(Unavailable):  # no half answers
        await items.count(scatter=True)
