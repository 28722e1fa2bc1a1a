"""Orders: place one or many, read, list, cancel; the initiator of every transaction.

An order and its transaction's log stand in one database and change in one local transaction, so they cannot disagree.
`Orders` is what others call; `_ledger` holds every statement about the tables.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from dougong.app import App, Glance, Participants, StatusRow, StatusTable
from dougong.clock import Clock
from dougong.store import IdBlocks, Store, Tx
from dougong.tcc import Coordinator, Decision
from shop.inventory import Inventory, StockHolds
from shop.orders import _ledger as ledger
from shop.orders._contract import (
    Advance,
    Advanced,
    CancelOrder,
    FollowOrders,
    GetOrder,
    Line,
    ListOrders,
    Order,
    OrderEvent,
    OrderEvents,
    OrderPage,
    OrderState,
    PlacedOrder,
    PlaceOrder,
)
from shop.orders._feed import Feed
from shop.orders._prices import Prices
from shop.orders._service import Orders
from shop.users import WalletHolds

__all__ = [
    "Advance",
    "Advanced",
    "CancelOrder",
    "FollowOrders",
    "GetOrder",
    "Line",
    "ListOrders",
    "Order",
    "OrderEvent",
    "OrderEvents",
    "OrderPage",
    "OrderState",
    "Orders",
    "PlaceOrder",
    "PlacedOrder",
    "app",
]


def ids(store: Store) -> IdBlocks:
    return IdBlocks(store, "orders")


def feed(store: Store) -> Feed:
    return Feed(store)


async def prices(inventory: Inventory, clock: Clock) -> AsyncIterator[Prices]:
    made = Prices(inventory, clock)
    yield made
    await made.close()


async def transactions(store: Store, clock: Clock, participants: Participants) -> AsyncIterator[Coordinator]:
    async def settle(tx: Tx, decisions: Sequence[Decision]) -> None:
        await ledger.settle(tx, decisions, clock.now_us())

    coordinator = Coordinator(
        store,
        initiator="orders",
        participants=await participants.connect(StockHolds, WalletHolds),
        decide=settle,
        clock=clock,
    )
    await coordinator.start()
    yield coordinator
    await coordinator.stop()


def recent(store: Store) -> Glance:
    """The latest orders, for the status page."""

    async def glance() -> list[StatusTable]:
        orders = [ledger.to_order(row) for row in await store.read(ledger.latest)]
        rows = [
            [o.order_id, o.state.value, f"{o.total_minor / 100:.2f} {o.currency}", str(len(o.lines)), o.refusal]
            for o in orders
        ]
        columns = ["order", "state", "total", "lines", "refusal"]
        return [StatusTable(title="Recent orders", columns=columns, rows=[StatusRow(cells=row) for row in rows])]

    return glance


app = App(
    "orders",
    services=[Orders],
    migrations="shop.orders.migrations",
    provide=[ids, feed, prices, transactions],
    glance=recent,
)
