"""One entity over several databases, through the seam that a sharded store implements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from dougong.dao import DAO, Condition, Entity, Order, Page, column, create_tables
from dougong.dao._databases import AT_ONCE_MAX, together
from dougong.errors import Conflict, Invalid, Unavailable
from dougong.store import Store, Tx, Value, open_store


class Item(Entity, table="items", version="version", unique={"items_name": ["name"]}):
    id: int
    name: str
    shelf: int = 0
    version: int = 1


class Modulo:
    """The simplest sharded store there is."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.dialect = stores[0].dialect
        self.stores = stores
        self.gone: set[int] = set()

    async def database_of(self, key: Value) -> Store:
        assert isinstance(key, int)
        place = key % len(self.stores)
        if place in self.gone:
            raise Unavailable(f"database {place} is gone", code="gone")
        return self.stores[place]

    async def all_databases(self) -> Sequence[Store]:
        return self.stores


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


async def test_few_are_asked_at_once_and_all_are_waited_for() -> None:
    running: set[int] = set()
    most = 0
    done: list[int] = []

    def call(number: int) -> Callable[[], Awaitable[int]]:
        async def run() -> int:
            nonlocal most
            running.add(number)
            most = max(most, len(running))
            await asyncio.sleep(0)
            running.discard(number)
            done.append(number)
            if number == 3:
                raise Unavailable("three")
            return number

        return run

    with pytest.raises(Unavailable, match="three"):
        await together([call(number) for number in range(40)])
    assert most == AT_ONCE_MAX
    assert len(done) == 40
    assert await together([call(number) for number in range(4, 40)]) == list(range(4, 40))
