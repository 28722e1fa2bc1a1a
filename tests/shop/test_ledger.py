"""Orders in the database: what moves them, and what others get to know of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from dougong.clock import ManualClock
from dougong.errors import Conflict
from dougong.statemachine import Page, TimekeeperSettings
from dougong.store import Store, Tx, migrations_from, open_store
from dougong.tcc import Decision
from shop.orders import OrdersSettings, OrderState
from shop.orders import _ledger as ledger
from shop.orders._feed import Feed
from shop.orders._machine import OrderMachine, PaymentMachine
from shop.orders._moves import Moves

ID = ledger.place_id(1, 1)
S = OrderState


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await open_store(f"sqlite:///{tmp_path / 'orders.db'}", name="orders")
    await made.migrate("orders", migrations_from("shop.orders.migrations"))
    yield made
    await made.close()


def new(id_: int = ID, key: str | None = None) -> ledger.NewOrder:
    return ledger.NewOrder(id_, 1, 250, "EUR", '[{"sku":"bolt","quantity":1}]', [("bolt", 1)], key)


async def insert(store: Store, *orders: ledger.NewOrder) -> None:
    await store.write(lambda tx: ledger.insert(tx, orders, 1))


@pytest_asyncio.fixture
async def moves(store: Store) -> Moves:
    clock, settings = ManualClock(), OrdersSettings()
    payments = PaymentMachine(store, clock, settings)
    orders = OrderMachine(store, clock, settings, payments)
    for machine in (payments, orders):
        await machine.start(keep_time=False)
    return Moves(orders, payments)


def feed_of(moves: Moves) -> Feed:
    return Feed(moves.orders, ManualClock(), OrdersSettings())


async def settle(store: Store, moves: Moves, *decisions: Decision) -> None:
    await store.write(lambda tx: moves.settle(tx, decisions))


async def state(store: Store, id_: int = ID) -> OrderState:
    return (await store.read(lambda tx: ledger.states(tx, [id_])))[id_]


async def put(store: Store, state_: OrderState) -> None:
    await insert(store, new())
    await store.write(lambda tx: tx.execute("UPDATE orders SET state = ?", (state_.value,)))


async def events(moves: Moves) -> list[tuple[int, OrderState]]:
    return [(e.order_id, e.state) for e in (await feed_of(moves).after(0, 100, 0.0)).items]


@pytest.mark.parametrize("before", list(S))
async def test_a_decision_moves_only_what_waits_for_one(store: Store, moves: Moves, before: OrderState) -> None:
    await put(store, before)
    await settle(store, moves, Decision(ID, False, "insufficient_stock", "none left"))
    expected = {S.PLACING: S.REFUSED, S.AWAITING_PAYMENT: S.CANCELLED}
    assert await state(store) is expected.get(before, before)


@pytest.mark.parametrize("before", list(S))
async def test_only_what_has_not_shipped_can_be_cancelled(store: Store, moves: Moves, before: OrderState) -> None:
    await put(store, before)
    first, second = ledger.reversal_id(2, ID), ledger.reversal_id(3, ID)
    taken = await store.write(lambda tx: moves.start_cancelling(tx, ID, first))
    assert taken == (before in (S.CONFIRMED, S.PICKING))
    assert not await store.write(lambda tx: moves.start_cancelling(tx, ID, second))
    assert await state(store) is (S.CANCELLING if taken else before)


LEGAL = {
    S.PICKING: {S.CONFIRMED},
    S.SHIPPED: {S.CONFIRMED, S.PICKING},
    S.DELIVERED: {S.CONFIRMED, S.PICKING, S.SHIPPED, S.TRACING},
}


@pytest.mark.parametrize("before", list(S))
@pytest.mark.parametrize("reported", list(S))
async def test_a_report_moves_an_order_forward_or_not_at_all(
    store: Store, moves: Moves, before: OrderState, reported: OrderState
) -> None:
    await put(store, before)
    expected = reported if before in LEGAL.get(reported, ()) else before
    assert await store.write(lambda tx: moves.advance(tx, [(ID, reported), (98, reported)])) == {ID: expected}
    assert await state(store) is expected
    assert await events(moves) == [], "who reported it knows it"


async def test_a_refused_reversal_is_followed_by_another(store: Store, moves: Moves) -> None:
    await put(store, S.PICKING)
    first, second = ledger.reversal_id(2, ID), ledger.reversal_id(3, ID)
    await store.write(lambda tx: moves.start_cancelling(tx, ID, first))
    with pytest.raises(Conflict, match="unique_violated"):  # one is under way
        await store.write(lambda tx: ledger.start_reversal(tx, ID, second))
    await settle(store, moves, Decision(first, False, "unavailable", "away"))
    assert await state(store) is S.CANCELLING
    assert await events(moves) == []
    await store.write(lambda tx: ledger.start_reversal(tx, ID, second))
    await settle(store, moves, Decision(second, True))
    assert await state(store) is S.CANCELLED
    assert await events(moves) == [(ID, S.CANCELLED)]


async def test_only_an_order_that_could_not_be_tried_gives_its_key_back(store: Store, moves: Moves) -> None:
    other = ledger.place_id(2, 1)
    await insert(store, new(key="a"), new(other, key="b"))
    no = Decision(ID, False, "unavailable", "away"), Decision(other, False, "insufficient_stock", "none left")
    await settle(store, moves, *no)
    found = await store.read(lambda tx: ledger.find_by_key(tx, [(1, "a"), (1, "b")]))
    assert list(found) == [(1, "b")]
    await insert(store, new(ledger.place_id(3, 1), key="a"))
    with pytest.raises(Conflict):
        await insert(store, new(ledger.place_id(4, 1), key="b"))


async def confirmed(store: Store, moves: Moves, *numbers: int) -> None:
    ids = [ledger.place_id(n, 1) for n in numbers]
    await insert(store, *(new(id_) for id_ in ids))
    await settle(store, moves, *(Decision(id_, True) for id_ in ids))


async def read(feed: Feed, after: int, limit: int = 100, wait_s: float = 0.0) -> tuple[Sequence[int], int]:
    page = await feed.after(after, limit, wait_s)
    return [event.seq for event in page.items], page.position


async def test_the_feed_hands_out_what_concerns_others(store: Store, moves: Moves) -> None:
    feed = feed_of(moves)
    await confirmed(store, moves, 1, 2, 3)
    assert await read(feed, 0) == await read(feed, 0) == ([1, 2, 3], 3)
    assert await read(feed, 0, limit=2) == ([1, 2], 2)
    assert await read(feed, 2) == ([3], 3)
    await store.write(lambda tx: moves.advance(tx, [(ledger.place_id(1, 1), S.PICKING)]))
    assert await read(feed, 3) == ([], 4)
    await confirmed(store, moves, 4)
    assert await read(feed, 3) == await read(feed, 4) == ([5], 5)


async def test_it_forgets_what_its_follower_has_stored_some_time_ago(store: Store, moves: Moves) -> None:
    clock = ManualClock()
    feed = Feed(moves.orders, clock, OrdersSettings(history_s=60))
    await confirmed(store, moves, 1, 2, 3)
    await read(feed, 2)
    clock.advance(59)
    await feed.forget()
    assert await read(feed, 0) == ([1, 2, 3], 3)
    clock.advance(2)
    await feed.forget()
    assert await read(feed, 0) == ([3], 3)
    await read(feed, 3)
    clock.advance(61)
    await feed.forget()
    assert await read(feed, 3) == ([], 3)
    await confirmed(store, moves, 4)
    assert await read(feed, 3) == ([4], 4)  # numbers are not used again after all were forgotten


async def test_screens_are_told_every_change_and_of_what_they_missed(store: Store, moves: Moves) -> None:
    clock, id_ = ManualClock(), ledger.place_id(1, 1)
    feed = Feed(moves.orders, clock, OrdersSettings(history_s=60))
    await confirmed(store, moves, 1)
    assert (await feed.watch(store, -1, 100, 0.0)).position == 1
    await store.write(lambda tx: moves.advance(tx, [(id_, S.PICKING)]))
    page = await feed.watch(store, 0, 100, 0.0)
    told = [(change.order_id, change.user_id, change.state) for change in page.items]
    assert told == [(str(id_), "1", S.CONFIRMED), (str(id_), "1", S.PICKING)]
    assert (page.position, page.complete) == (2, True)
    await read(feed, 1)
    clock.advance(61)
    await feed.forget()  # a screen's watcher holds up nothing
    assert not (await feed.watch(store, 0, 100, 0.0)).complete
    assert (await feed.watch(store, 1, 100, 0.0)).complete


async def test_waiting_ends_with_news_from_here_and_from_another_process(store: Store, moves: Moves) -> None:
    feed = feed_of(moves)
    waiting = asyncio.create_task(read(feed, 0, wait_s=1000))
    await asyncio.sleep(0)
    await confirmed(store, moves, 1)
    feed.wake()
    assert await waiting == ([1], 1)
    waiting = asyncio.create_task(read(feed, 1, wait_s=1000))
    await asyncio.sleep(0)
    await confirmed(store, moves, 2)  # another process wrote it: nobody wakes this one
    assert await waiting == ([2], 2)


async def test_nobody_waits_longer_than_asked(moves: Moves) -> None:
    assert await read(feed_of(moves), 0, wait_s=0.01) == ([], 0)


async def test_a_unit_that_fails_leaves_no_event(store: Store, moves: Moves) -> None:
    async def unit(tx: Tx) -> None:
        await ledger.insert(tx, [new()], 1)
        await moves.settle(tx, [Decision(ID, True)])
        raise Conflict("no")

    with pytest.raises(Conflict):
        await store.write(unit)
    assert await events(moves) == []


async def test_orders_of_before_there_was_a_machine_go_on(tmp_path: Path) -> None:
    """Those under way are overdue: announced or picked once more, and so known to who follows the new feed."""
    store = await open_store(f"sqlite:///{tmp_path / 'old.db'}", name="orders")
    steps = migrations_from("shop.orders.migrations")
    await store.migrate("orders", steps[:1])
    for n, before in enumerate(("confirmed", "picking", "shipped", "delivered", "cancelled", "refused"), 1):
        await store.write(
            lambda tx, n=n, before=before: tx.execute(  # type: ignore[misc]
                "INSERT INTO orders (id, user_id, state, total_minor, currency, lines, created_us, updated_us) "
                "VALUES (?, 1, ?, 1, 'EUR', '[]', 1, 1)",
                (ledger.place_id(n, 1), before),
            )
        )
    await store.migrate("orders", steps)
    clock, settings = ManualClock(), OrdersSettings()
    payments = PaymentMachine(store, clock, settings)
    orders = OrderMachine(store, clock, settings, payments, TimekeeperSettings(scan_every_s=0.01))
    await payments.start(keep_time=False)
    await orders.start()
    try:
        page = await orders.history.after(0, 100, wait_s=30.0)
        while len(page.items) < 3:
            more = await orders.history.after(page.position, 100, wait_s=30.0)
            page = Page([*page.items, *more.items], more.position)
    finally:
        await orders.stop()
        await store.close()
    happened = [(t.instance, t.event, t.target) for t in page.items]
    assert sorted(happened) == [
        (ledger.place_id(1, 1), "announce", "confirmed"),
        (ledger.place_id(2, 1), "repick", "confirmed"),
        (ledger.place_id(3, 1), "trace", "tracing"),
    ]


async def test_a_customers_orders_are_paged_over_stretches_of_ids_newest_first(store: Store) -> None:
    ids = [ledger.place_id(n, 1) for n in (1, 2, 40_000, 40_001, 1_000_000, 1 << 40)]
    await insert(store, *[new(id_) for id_ in ids], ledger.NewOrder(ids[-1] + 2, 2, 250, "EUR", "[]", [], None))
    await store.write(lambda tx: tx.execute("UPDATE orders SET state = 'confirmed'"))
    seen: list[int] = []
    before = (1 << 63) - 1
    while rows := await store.read(lambda tx, before=before: ledger.list_before(tx, 1, before, 2)):  # type: ignore[misc]
        before = int(rows[-1][0])  # type: ignore[arg-type]
        seen += [int(row[0]) for row in rows]  # type: ignore[arg-type]
    assert seen == ids[::-1]


async def test_a_customers_orders_are_found_by_an_index(store: Store) -> None:
    statements: list[str] = []

    async def unit(tx: Tx) -> None:
        class Explaining:
            async def fetch_one(self, sql: str, parameters: Sequence[int]) -> tuple[int]:
                return (1 << 41,) if not statements else (None,)  # type: ignore[return-value]

            async def fetch_all(self, sql: str, parameters: Sequence[int]) -> list[object]:
                statements.extend(str(row[3]) for row in await tx.fetch_all(f"EXPLAIN QUERY PLAN {sql}", parameters))
                return []

        await ledger.list_before(Explaining(), 1, 1 << 42, 10)  # type: ignore[arg-type]

    await store.read(unit)
    assert any("orders_by_stretch (<expr>=? AND user_id=? AND id<?)" in plan for plan in statements), statements
    assert not any("TEMP B-TREE" in plan for plan in statements), statements
