"""`DAO(Entity, ShardedStore)`: unchanged calls over four databases, with rows that show their bucket or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
from tests.shard.conftest import set_owner

from dougong.dao import DAO, Entity, column, create_tables
from dougong.errors import Conflict, Invalid
from dougong.shard import BUCKETS, BucketState, Layout, ShardedStore, open_sharded_store, table_of
from dougong.store import Tx


class Person(Entity, table="people", version="version", unique={"people_name": ["name"]}):
    id: int
    name: str
    version: int = 1


class Pet(Entity, table="pets", key="name", bucket="bucket", version="version"):
    name: str
    age: int
    bucket: int = -1
    version: int = 1


@pytest.fixture
async def opened(layout: Layout) -> Callable[[str], Awaitable[ShardedStore]]:
    async def open_(routing: str) -> ShardedStore:
        store = await open_sharded_store(msgspec.structs.replace(layout, routing=routing))
        await store.migrate("test", [create_tables(1, "tables", Person, Pet)])
        return store

    return open_


async def test_numbers_by_their_remainder(opened: Callable[[str], Awaitable[ShardedStore]]) -> None:
    store = await opened("modulo")
    people = DAO(Person, store)
    everyone = [Person(id_, f"p{id_:03}") for id_ in range(200)]
    assert await people.create_many(everyone) == 200
    assert await people.get(131) == everyone[131]
    assert await people.get_many([1, 2, 130, 999]) == {1: everyone[1], 2: everyone[2], 130: everyone[130]}
    with pytest.raises(Conflict) as conflict:
        await people.create(Person(133, "again"))
    assert conflict.value.fields["constraint"] == "primary_key"
    changed = await people.update(msgspec.structs.replace(everyone[7], name="seven"))
    assert changed.version == 2
    with pytest.raises(Conflict):
        await people.update(everyone[7])
    await people.upsert(Person(300, "last"))
    assert await people.delete(8)
    assert await people.count(scatter=True) == 200
    with pytest.raises(Invalid):
        await people.count()
    page = await people.find(
        column(Person.name).starts_with("p"), order=[column(Person.name).descending], limit=3, scatter=True
    )
    assert [person.id for person in page.items] == [199, 198, 197]
    page = await people.find(order=[column(Person.name).descending], limit=200, scatter=True)
    assert [person.name for person in page.items][:2] == ["seven", "p199"]
    streamed = [person.id async for person in people.stream(page=7, scatter=True)]
    assert streamed == [*range(8), *range(9, 200), 300]

    async def unit(tx: Tx) -> list[int]:
        await people.create(Person(1 + 128 * 9, "in a unit"), tx=tx)
        return [person.id for person in (await people.find(limit=1000, tx=tx)).items]

    assert await store.store_of(1).write(unit) == [*range(1, 200, 4), 1 + 128 * 9]
    await store.close()


async def test_rows_that_a_move_left_behind_are_not_seen(opened: Callable[[str], Awaitable[ShardedStore]]) -> None:
    store = await opened("modulo")
    people = DAO(Person, store)
    await people.create_many([Person(1, "one"), Person(2, "two")])

    async def copy(tx: Tx) -> None:
        await people.create(Person(1, "a copy on its way"), tx=tx)

    await store.databases.call("db-3", lambda other: other.write(copy))
    assert await people.count(scatter=True) == 2
    assert [person.name for person in (await people.find(scatter=True)).items] == ["one", "two"]
    await store.close()


@pytest.mark.parametrize("routing", ["consistent-hash", "mapping"])
async def test_text_by_its_bucket_column(opened: Callable[[str], Awaitable[ShardedStore]], routing: str) -> None:
    store = await opened(routing)
    with pytest.raises(Invalid) as refused:
        DAO(Person, store)
    assert refused.value.code == "no_bucket_column"
    pets: DAO[Pet, str] = DAO(Pet, store)
    assert table_of(Pet).bucket_sql == "bucket"
    names = [f"pet {number}" for number in range(40)]
    await pets.create_many(Pet(name, number) for number, name in enumerate(names))
    pet = await pets.need("pet 3")
    assert pet.bucket == await store.bucket_of("pet 3")
    older = await pets.update(Pet("pet 3", 4))
    assert older == msgspec.structs.replace(pet, age=4, version=2) == await pets.get("pet 3")
    await pets.upsert(Pet("pet 3", 5))
    await pets.upsert(Pet("pet 99", 5))
    assert (await pets.need("pet 3")).bucket == pet.bucket
    assert (await pets.need("pet 99")).bucket == await store.bucket_of("pet 99")
    assert await pets.count(column(Pet.age).at_least(5), scatter=True) == 37
    assert len(await pets.get_many([*names, "nobody"])) == 40
    assert await pets.get("nobody") is None
    await store.close()


async def test_a_moved_bucket_is_found(layout: Layout, opened: Callable[[str], Awaitable[ShardedStore]]) -> None:
    store = await opened("modulo")
    people = DAO(Person, store)
    await set_owner(store, "db-1", 1, None, BucketState.SERVING)
    await set_owner(store, "db-2", 1, 2, BucketState.SERVING)
    mover = await open_sharded_store(layout)
    before = mover.map.places[1]
    await mover.maps.change(1, before, msgspec.structs.replace(before, shard="db-2", epoch=2))
    await people.create_many(Person(id_, str(id_)) for id_ in range(BUCKETS))
    assert len(await people.get_many(range(BUCKETS))) == BUCKETS
    assert await people.count(scatter=True) == BUCKETS
    moved = await store.databases.call("db-2", lambda other: other.fetch_one("SELECT name FROM people WHERE id = 1"))
    assert moved == ("1",)
    await mover.close()
    await store.close()
