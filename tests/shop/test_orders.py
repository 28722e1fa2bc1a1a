"""Orders with its participants on real databases: batches, repeats, races between processes, participants away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from tests.shop.till import STOCK, Counter, Gate, counter, gates, order, outcome, shop_stores

from dougong.errors import Conflict, Error, Internal, NotFound, Unavailable
from dougong.mesh import BreakerPolicy
from dougong.rpc import call_scope
from dougong.store import Store, Tx
from dougong.tcc import CoordinatorSettings, RetrySchedule
from shop.inventory import StockHolds
from shop.orders import (
    Advance,
    Advanced,
    CancelOrder,
    GetOrder,
    Line,
    ListOrders,
    OrdersSettings,
    OrderState,
    PlacedOrder,
    PlaceOrder,
)
from shop.orders import _ledger as ledger
from shop.users import WalletHolds

# Impatient, so that tests of what happens when patience ends take milliseconds.
QUICK = CoordinatorSettings(
    breaker=BreakerPolicy(failures=1_000_000),
    try_timeout_s=0.5,
    grace_s=0.1,
    scan_every_s=0.05,
    retry=RetrySchedule(base_s=0.01, cap_s=0.05, attempts=1000),
)


@dataclass
class Stand:
    """A shop in one process, with as many counters on one database as wanted."""

    directory: Path
    inventory: Store
    users: Store
    gates: dict[str, Gate]
    stack: AsyncExitStack

    async def open(self, settings: OrdersSettings | None = None) -> Counter:
        return await self.stack.enter_async_context(
            counter(self.directory, self.inventory, self.gates, settings=QUICK, orders_settings=settings)
        )

    async def stock(self, sku: str = "bolt") -> tuple[object, ...]:
        """(available, frozen, sold)"""
        row = await self.inventory.fetch_one("SELECT available, frozen, sold FROM stock WHERE sku = ?", (sku,))
        assert row is not None
        return row

    async def settled(self, till: Counter) -> None:
        """Wait until no transaction is under way; the deadline only ends a test that would never end."""
        async with asyncio.timeout(60):
            while await till.store.fetch_one("SELECT 1 FROM dougong_transactions WHERE due_us IS NOT NULL"):
                await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with shop_stores(tmp_path) as (inventory, users), AsyncExitStack() as stack:
        yield Stand(tmp_path, inventory, users, await gates(inventory, users), stack)


async def state_of(till: Counter, placed: PlacedOrder | Error, user: str = "1") -> OrderState:
    assert isinstance(placed, PlacedOrder)
    return (await till.orders.get_order(GetOrder(order_id=placed.order_id, user_id=user))).state


async def until_state(till: Counter, placed: PlacedOrder | Error, state: OrderState, user: str = "1") -> None:
    """The deadline only ends a test that would never end."""
    async with asyncio.timeout(60):
        while await state_of(till, placed, user) is not state:
            await asyncio.sleep(0.005)


async def test_each_order_of_a_mixed_batch_has_its_own_outcome(stand: Stand) -> None:
    till = await stand.open()
    outcomes = await till.place(
        order(),
        order(sku="none"),
        order(quantity=STOCK + 1),
        order(user=99),
        PlaceOrder(user_id="1", lines=[Line(sku="bolt", quantity=1), Line(sku="yen", quantity=1)]),
        order(sku="yen"),
        order(user=2, key="a"),
        order(user=2, key="a"),
        order(user=3, key="a"),
        order(user=2, sku="nut", key="a"),
        PlaceOrder(user_id="x", lines=[Line(sku="bolt", quantity=1)]),
        PlaceOrder(user_id="9" * 18, lines=[Line(sku="bolt", quantity=10_000)] * 100),
        PlaceOrder(user_id="9" * 19, lines=[Line(sku="bolt", quantity=1)]),
        PlaceOrder(user_id="٣", lines=[Line(sku="bolt", quantity=1)]),  # a digit, but not one of ours
    )
    assert [outcome(o) for o in outcomes] == [
        "placed",
        "unknown_sku",
        "insufficient_stock",
        "unknown_user",
        "mixed_currencies",
        "currency_mismatch",
        "placed",
        "placed",
        "placed",
        "idempotency_key_reused",
        "invalid_field",
        "insufficient_stock",
        "invalid_field",
        "invalid_field",
    ]
    assert outcomes[6] == outcomes[7] != outcomes[8]
    await stand.settled(till)
    assert await stand.stock() == (STOCK - 3, 0, 3)
    assert await stand.stock("nut") == (STOCK, 0, 0)
    assert await stand.stock("yen") == (STOCK, 0, 0)


async def test_a_key_gets_its_first_answer_again_after_a_restart(stand: Stand, tmp_path: Path) -> None:
    async with counter(tmp_path, stand.inventory, stand.gates) as till:
        (first,) = await till.place(order(key="k"))
        (no,) = await till.place(order(quantity=STOCK + 1, key="n"))
    async with counter(tmp_path, stand.inventory, stand.gates) as till:
        assert await till.place(order(key="k"), order(key="k")) == [first, first]
        (again,) = await till.place(order(quantity=STOCK + 1, key="n"))
    assert isinstance(no, Conflict)
    assert isinstance(again, Conflict)
    assert (no.code, no.message, no.fields) == (again.code, again.message, again.fields)


async def test_two_processes_race_for_keys_and_nobody_else_suffers(stand: Stand) -> None:
    """Whoever loses a key gets the winner's answer; its neighbours in the batch are placed as if nothing had been."""
    tills = [await stand.open(), await stand.open()]
    for round_ in range(5):
        keys = [f"{round_}-{n}" for n in range(4)]

        def batch(offset: int, keys: Sequence[str] = tuple(keys)) -> list[PlaceOrder]:
            return [
                *(order(user=1 + n, key=key) for n, key in enumerate(keys)),
                order(user=5, sku="nut"),
                *[order(user=5, sku="gear", key=f"own-{keys[0]}-{offset}")],
            ]

        with call_scope(timeout_s=10):
            one, two = await asyncio.gather(tills[0].place(*batch(0)), tills[1].place(*batch(1)))
        assert [outcome(o) for o in [*one, *two]] == ["placed"] * 12
        assert one[:4] == two[:4]
        assert one[4:] != two[4:]
    for till in tills:
        await stand.settled(till)
    assert await stand.stock() == (STOCK - 20, 0, 20)
    assert await stand.stock("nut") == (STOCK - 10, 0, 10)
    assert await stand.stock("gear") == (STOCK - 10, 0, 10)


async def test_the_same_key_with_another_order_loses_the_race_by_name(stand: Stand) -> None:
    tills = [await stand.open(), await stand.open()]
    for n in range(5):
        with call_scope(timeout_s=10):
            answers = await asyncio.gather(
                tills[0].place(order(key=f"k{n}")), tills[1].place(order(sku="nut", key=f"k{n}"), order(sku="gear"))
            )
        ((one,), (two, neighbour)) = answers
        assert sorted([outcome(one), outcome(two)]) == ["idempotency_key_reused", "placed"]
        assert outcome(neighbour) == "placed"


async def test_a_placement_whose_caller_went_away_is_found_by_its_key(stand: Stand) -> None:
    """The caller's deadline ends while the order is being tried; asking again gives the one order there is."""
    till = await stand.open()
    await till.place(order(sku="nut"))  # prices are known, ids are booked
    placing = asyncio.create_task(till.place(order(key="k")))
    for _ in range(3):
        await asyncio.sleep(0)
    placing.cancel()
    await asyncio.gather(placing, return_exceptions=True)
    with call_scope(timeout_s=10):
        (answer,) = await till.place(order(key="k"))
    assert outcome(answer) == "placed"
    await stand.settled(till)
    assert await stand.stock() == (STOCK - 1, 0, 1)


@pytest.mark.parametrize("who", [StockHolds.service, WalletHolds.service])
async def test_with_a_participant_away_nothing_is_half_done_and_the_same_key_works_when_it_is_back(
    stand: Stand, who: str
) -> None:
    till = await stand.open()
    stand.gates[who].down = True
    refused = await till.place(order(key="k"), order(key="k"), order(sku="none"))
    assert [outcome(o) for o in refused] == ["participant_unavailable", "not_placed", "unknown_sku"]
    assert all(isinstance(o, Unavailable) and o.retry_after_s for o in refused[:2])
    assert [outcome(o) for o in await till.place(order(key="k"))] == ["participant_unavailable"]
    stand.gates[who].down = False
    (placed,) = await till.place(order(key="k"))
    assert outcome(placed) == "placed"
    assert await till.place(order(key="k")) == [placed]
    await stand.settled(till)
    assert await stand.stock() == (STOCK - 1, 0, 1)
    row = await stand.users.fetch_one("SELECT frozen, spent FROM wallets WHERE user_id = 1")
    assert row == (0, 250)


async def test_a_participant_with_a_bug_is_our_fault_not_the_customers_and_tells_nothing_of_itself(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: StockHolds, tx: Tx, holds: object) -> None:
        raise RuntimeError("secret detail")

    till = await stand.open()
    with monkeypatch.context() as patch:
        patch.setattr(StockHolds, "try_", broken)
        (first,) = await till.place(order(key="k"))
    (again,) = await till.place(order(key="k"))
    for answer in (first, again):
        assert isinstance(answer, Internal)
        assert answer.code == "participant_failed"
        assert "secret" not in str(answer)
    (listed,) = (await till.orders.list_orders(ListOrders(user_id="1"))).items
    assert listed.state is OrderState.REFUSED
    assert listed.refusal
    assert "secret" not in listed.refusal
    await stand.settled(till)
    assert await stand.stock() == (STOCK, 0, 0)
    assert await stand.users.fetch_one("SELECT frozen, spent FROM wallets WHERE user_id = 1") == (0, 0)


async def test_a_repeat_of_an_order_in_doubt_does_not_hold_up_its_neighbours(stand: Stand) -> None:
    """Its first process died with the order undecided: the others of a batch are not made to wait until it is."""
    till = await stand.open()
    lines = '[{"sku":"bolt","quantity":1}]'
    left = ledger.NewOrder(ledger.place_id(1 << 40, 1), 1, 250, "EUR", lines, [], "k")

    async def unit(tx: Tx) -> None:
        await ledger.insert(tx, [left], 1)

    await till.store.write(unit)
    started = asyncio.get_running_loop().time()
    with call_scope(timeout_s=1000):
        doubtful, neighbour = await till.place(order(key="k"), order(user=2))
    assert asyncio.get_running_loop().time() - started < 500
    assert isinstance(doubtful, Unavailable)
    assert doubtful.code == "placing"
    assert outcome(neighbour) == "placed"


async def test_a_cancellation_gives_everything_back_once(stand: Stand) -> None:
    tills = [await stand.open(), await stand.open()]
    (placed,) = await tills[0].place(order(quantity=3))
    assert isinstance(placed, PlacedOrder)
    request = CancelOrder(order_id=placed.order_id, user_id="1")
    with call_scope(timeout_s=10):
        answers = await asyncio.gather(
            *(tills[n % 2].orders.cancel_order(request) for n in range(6)), return_exceptions=True
        )
    assert all(getattr(a, "state", getattr(a, "code", "")) in ("cancelled", "order_not_cancellable") for a in answers)
    assert any(getattr(a, "state", "") == "cancelled" for a in answers), answers
    await stand.settled(tills[0])
    assert await stand.stock() == (STOCK, 0, 0)
    row = await stand.users.fetch_one("SELECT available, frozen, spent FROM wallets WHERE user_id = 1")
    assert row == (1_000_000, 0, 0)
    with call_scope(timeout_s=10):
        assert (await tills[1].orders.cancel_order(request)).state is OrderState.CANCELLED


async def test_a_cancellation_with_a_participant_away_is_taken_and_done_when_it_is_back(stand: Stand) -> None:
    till = await stand.open(OrdersSettings(retry_s=0.05))
    (placed,) = await till.place(order())
    await stand.settled(till)
    assert isinstance(placed, PlacedOrder)
    request = CancelOrder(order_id=placed.order_id, user_id="1")
    stand.gates[WalletHolds.service].down = True
    with call_scope(timeout_s=1):
        assert (await till.orders.cancel_order(request)).state is OrderState.CANCELLING
        assert (await till.orders.cancel_order(request)).state is OrderState.CANCELLING
    stand.gates[WalletHolds.service].down = False
    await until_state(till, placed, OrderState.CANCELLED)
    with call_scope(timeout_s=10):
        assert (await till.orders.cancel_order(request)).state is OrderState.CANCELLED
    await stand.settled(till)
    assert await stand.stock() == (STOCK, 0, 0)


async def test_reports_of_fulfilment_move_orders_forward_only(stand: Stand) -> None:
    till = await stand.open()
    placed, refused = await till.place(order(), order(quantity=STOCK + 1))
    assert isinstance(placed, PlacedOrder)
    id_ = int(placed.order_id)

    async def report(*states: OrderState) -> list[object]:
        answers = await till.orders.advance.many([Advance(order_id=id_, state=s) for s in states])
        return [a.state for a in answers if isinstance(a, Advanced)]

    s = OrderState
    assert await report(s.CANCELLED, s.REFUSED, s.PLACING, s.CONFIRMED) == [s.CONFIRMED] * 4
    assert await report(s.SHIPPED) == [s.SHIPPED]
    assert await report(s.PICKING) == [s.SHIPPED]
    assert await report(s.DELIVERED, s.PICKING) == [s.DELIVERED] * 2
    assert await report(s.SHIPPED) == [s.DELIVERED]
    with call_scope(timeout_s=10), pytest.raises(Conflict, match="delivered"):
        await till.orders.cancel_order(CancelOrder(order_id=placed.order_id, user_id="1"))
    assert isinstance(refused, Error)
    no = int(str(refused.fields["order_id"]))
    answers = await till.orders.advance.many(
        [Advance(order_id=no, state=s.PICKING), Advance(order_id=(1 << 63) - 1, state=s.PICKING)]
    )
    assert isinstance(answers[0], Advanced)
    assert answers[0].state is s.REFUSED
    assert isinstance(answers[1], NotFound)


async def test_ids_as_long_as_they_may_be_are_simply_not_there(stand: Stand) -> None:
    till = await stand.open()
    for order_id in ("9" * 18, "0", "000000000000000000"):
        with pytest.raises(NotFound):
            await till.orders.get_order(GetOrder(order_id=order_id, user_id="1"))
    page = await till.orders.list_orders(ListOrders(user_id="9" * 18, before="9" * 18))
    assert list(page.items) == []


async def test_somebody_elses_order_and_one_not_decided_are_not_there(stand: Stand) -> None:
    till = await stand.open()
    (placed,) = await till.place(order())
    assert isinstance(placed, PlacedOrder)
    with pytest.raises(NotFound):
        await till.orders.get_order(GetOrder(order_id=placed.order_id, user_id="2"))
    with pytest.raises(NotFound):
        await till.orders.cancel_order(CancelOrder(order_id=placed.order_id, user_id="2"))
    left = ledger.NewOrder(ledger.place_id(1 << 40, 1), 1, 250, "EUR", "[]", [], None)

    async def unit(tx: Tx) -> None:
        await ledger.insert(tx, [left], 1)

    await till.store.write(unit)
    with pytest.raises(NotFound):
        await till.orders.get_order(GetOrder(order_id=str(left.id), user_id="1"))
    page = await till.orders.list_orders(ListOrders(user_id="1"))
    assert [item.order_id for item in page.items] == [placed.order_id]
