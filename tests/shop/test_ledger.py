"""Orders in the database: every move is a compare-and-set, and what others follow is written with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from dougong.errors import Conflict
from dougong.store import Store, Tx, migrations_from, open_store
from dougong.tcc import Decision
from shop.orders import OrderState
from shop.orders import _ledger as ledger
from shop.orders._feed import Feed

ID = ledger.place_id(1)
S = OrderState


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await open_store(f"sqlite:///{tmp_path / 'orders.db'}", name="orders")
    await made.migrate("orders", migrations_from("shop.orders.migrations"))
    yield made
    await made.close()


def new(id_: int = ID, key: str | None = None) -> ledger.NewOrder:
    return ledger.NewOrder(id_, 1, 250, "EUR", '[{"sku":"bolt","quantity":1}]', key)


async def insert(store: Store, *orders: ledger.NewOrder) -> None:
    await store.write(lambda tx: ledger.insert(tx, orders, 1))


async def settle(store: Store, *decisions: Decision) -> None:
    await store.write(lambda tx: ledger.settle(tx, decisions, 2))


async def state(store: Store, id_: int = ID) -> OrderState:
    return (await store.read(lambda tx: ledger.states(tx, [id_])))[id_]


async def put(store: Store, state_: OrderState) -> None:
    await insert(store, new())
    await store.write(lambda tx: tx.execute("UPDATE orders SET state = ?", (state_.value,)))


async def events(store: Store) -> list[tuple[int, OrderState]]:
    found = await store.read(lambda tx: ledger.events_after(tx, 0, 100))
    return [(event.order_id, event.state) for event in found]


@pytest.mark.parametrize("before", list(S))
async def test_a_decision_moves_only_what_is_being_placed(store: Store, before: OrderState) -> None:
    await put(store, before)
    await settle(store, Decision(ID, False, "insufficient_stock", "none left"))
    assert await state(store) is (S.REFUSED if before is S.PLACING else before)


@pytest.mark.parametrize("before", list(S))
async def test_only_what_has_not_shipped_can_be_cancelled(store: Store, before: OrderState) -> None:
    await put(store, before)
    first, second = ledger.reversal_id(2), ledger.reversal_id(3)
    taken = await store.write(lambda tx: ledger.start_cancelling(tx, ID, first, 3))
    assert taken == (before in (S.CONFIRMED, S.PICKING))
    assert not await store.write(lambda tx: ledger.start_cancelling(tx, ID, second, 3))
    assert await state(store) is (S.CANCELLING if taken else before)


LEGAL = {
    S.PICKING: {S.CONFIRMED},
    S.SHIPPED: {S.CONFIRMED, S.PICKING},
    S.DELIVERED: {S.CONFIRMED, S.PICKING, S.SHIPPED},
}


@pytest.mark.parametrize("before", list(S))
@pytest.mark.parametrize("reported", list(S))
async def test_a_report_moves_an_order_forward_or_not_at_all(
    store: Store, before: OrderState, reported: OrderState
) -> None:
    await put(store, before)
    await store.write(lambda tx: ledger.advance(tx, [(ID, reported)], 3))
    assert await state(store) is (reported if before in LEGAL.get(reported, ()) else before)
    assert await events(store) == []


async def test_a_refused_reversal_is_followed_by_another(store: Store) -> None:
    await put(store, S.PICKING)
    first, second = ledger.reversal_id(2), ledger.reversal_id(3)
    await store.write(lambda tx: ledger.start_cancelling(tx, ID, first, 3))
    await settle(store, Decision(first, False, "unavailable", "away"))
    assert await state(store) is S.CONFIRMED
    assert await events(store) == []
    await store.write(lambda tx: ledger.start_cancelling(tx, ID, second, 3))
    await settle(store, Decision(second, True))
    assert await state(store) is S.CANCELLED
    assert await events(store) == [(ID, S.CANCELLED)]


async def test_only_an_order_that_could_not_be_tried_gives_its_key_back(store: Store) -> None:
    other = ledger.place_id(2)
    await insert(store, new(key="a"), new(other, key="b"))
    await settle(
        store, Decision(ID, False, "unavailable", "away"), Decision(other, False, "insufficient_stock", "none left")
    )
    found = await store.read(lambda tx: ledger.find_by_key(tx, [(1, "a"), (1, "b")]))
    assert list(found) == [(1, "b")]
    await insert(store, new(ledger.place_id(3), key="a"))
    with pytest.raises(Conflict):
        await insert(store, new(ledger.place_id(4), key="b"))


async def confirmed(store: Store, *numbers: int) -> None:
    ids = [ledger.place_id(n) for n in numbers]
    await insert(store, *(new(id_) for id_ in ids))
    await settle(store, *(Decision(id_, True) for id_ in ids))


async def read(feed: Feed, after: int, limit: int = 100, wait_s: float = 0.0) -> Sequence[int]:
    return [event.seq for event in await feed.after(after, limit, wait_s)]


async def test_the_feed_hands_out_until_its_follower_has_stored(store: Store) -> None:
    feed = Feed(store)
    await confirmed(store, 1, 2, 3)
    assert await read(feed, 0) == await read(feed, 0) == [1, 2, 3]
    assert await read(feed, 0, limit=2) == [1, 2]
    assert await read(feed, 2) == [3]
    assert await read(feed, 0) == [3]  # two are forgotten
    assert await read(feed, 3) == []
    await confirmed(store, 4)
    assert await read(feed, 3) == [4]  # numbers are not used again after all were forgotten


async def test_a_slow_follower_loses_nothing_that_a_fast_one_has_not_stored(store: Store) -> None:
    """Two instances of fulfilment share their database: what one has stored, the other has."""
    feeds = [Feed(store), Feed(store)]
    await confirmed(store, 1, 2, 3)
    assert await read(feeds[0], 2) == [3]
    assert await read(feeds[1], 1) == [3]
    assert await read(feeds[1], 0) == [3]


async def test_waiting_ends_with_news_from_here_and_from_another_process(store: Store) -> None:
    feed = Feed(store)
    waiting = asyncio.create_task(read(feed, 0, wait_s=1000))
    await asyncio.sleep(0)
    await confirmed(store, 1)
    feed.wake()
    assert await waiting == [1]
    waiting = asyncio.create_task(read(feed, 1, wait_s=1000))
    await asyncio.sleep(0)
    await confirmed(store, 2)  # another process wrote it: nobody wakes this one
    assert await waiting == [2]


async def test_nobody_waits_longer_than_asked(store: Store) -> None:
    assert await read(Feed(store), 0, wait_s=0.01) == []


async def test_a_unit_that_fails_leaves_no_event(store: Store) -> None:
    async def unit(tx: Tx) -> None:
        await ledger.insert(tx, [new()], 1)
        await ledger.settle(tx, [Decision(ID, True)], 2)
        raise Conflict("no")

    with pytest.raises(Conflict):
        await store.write(unit)
    assert await events(store) == []
