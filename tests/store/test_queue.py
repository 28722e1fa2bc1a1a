"""The queue: with its rows or not at all, again until done, and kept when it was too often."""

from __future__ import annotations

import pytest

from dougong.errors import Conflict
from dougong.store import Message, Queue, Store, Tx


@pytest.fixture
async def queue(store: Store) -> Queue:
    made = Queue(store, "letters")
    await made.start()
    await made.start()  # it is there already
    return made


async def put(store: Store, queue: Queue, *messages: tuple[str, int]) -> None:
    async def unit(tx: Tx) -> None:
        for body, due_us in messages:
            await queue.put(tx, body, due_us)

    await store.write(unit)


async def due(store: Store, queue: Queue, now_us: int, limit: int = 100) -> list[Message]:
    return await store.read(lambda tx: queue.due(tx, now_us, limit))


async def test_in_order_of_their_time_and_not_before(store: Store, queue: Queue) -> None:
    await put(store, queue, ("late", 30), ("early", 10), ("soon", 20))
    assert [m.body for m in await due(store, queue, 25)] == ["early", "soon"]
    assert [m.body for m in await due(store, queue, 30, limit=1)] == ["early"]
    assert await store.read(queue.next_us) == 10


async def test_a_message_of_a_unit_that_failed_never_was(store: Store, queue: Queue) -> None:
    async def unit(tx: Tx) -> None:
        await queue.put(tx, "ghost", 0)
        raise Conflict("no")

    with pytest.raises(Conflict):
        await store.write(unit)
    assert await due(store, queue, 100) == []
    assert await store.read(queue.next_us) is None


async def test_again_then_buried_then_revived(store: Store, queue: Queue) -> None:
    await put(store, queue, ("a", 0))
    (first,) = await due(store, queue, 5)
    assert first.attempts == 1
    await store.write(lambda tx: queue.again(tx, [(first, 50)]))
    assert await due(store, queue, 49) == []
    (second,) = await due(store, queue, 50)
    assert second.attempts == 2
    await store.write(lambda tx: queue.bury(tx, [(second, "nobody home")], 60))
    assert await due(store, queue, 1000) == []
    (dead,) = await store.read(lambda tx: queue.dead(tx, 10))
    assert (dead.body, dead.attempts, dead.dead_us, dead.failure) == ("a", 2, 60, "nobody home")
    await store.write(lambda tx: queue.revive(tx, [dead]))
    (third,) = await due(store, queue, 1)
    assert third.attempts == 1
    await store.write(lambda tx: queue.done(tx, [third]))
    assert await due(store, queue, 1000) == []
    assert await store.read(lambda tx: queue.dead(tx, 10)) == []


async def test_queues_of_one_database_know_nothing_of_each_other(store: Store, queue: Queue) -> None:
    other = Queue(store, "parcels")
    await other.start()
    await put(store, queue, ("letter", 0))
    await put(store, other, ("parcel", 0))
    assert [m.body for m in await due(store, queue, 1)] == ["letter"]
    assert [m.body for m in await due(store, other, 1)] == ["parcel"]
