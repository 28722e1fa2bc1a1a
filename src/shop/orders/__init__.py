"""Orders: place one or many, read, list, cancel; the initiator of every transaction.

An order and its transaction's log stand in one database and change in one local transaction, so they cannot disagree.
`Orders` is what others call, `Payments` what the payment provider calls; `_machine` says how orders and payments move,
`_ledger` holds the other statements about the tables, `_desk` ends what nobody else does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from dougong.app import App, Glance, Participants, StatusRow, StatusTable
from dougong.clock import Clock
from dougong.store import IdBlocks, Store
from dougong.tcc import Coordinator
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
    OrderChange,
    OrderChanges,
    OrderEvent,
    OrderEvents,
    OrderPage,
    OrderState,
    PaymentMethod,
    PlacedOrder,
    PlaceOrder,
    ReturnOrder,
    WatchOrders,
    Webhook,
    WebhookHeard,
)
from shop.orders._desk import Desk
from shop.orders._feed import Feed
from shop.orders._jobs import JOBS, SCHEDULES
from shop.orders._machine import OrderMachine, PaymentMachine
from shop.orders._moves import Moves
from shop.orders._prices import Prices
from shop.orders._provider import PaymentProvider
from shop.orders._service import Orders
from shop.orders._settings import OrdersSettings
from shop.orders._till import Till
from shop.orders._undoing import Undoing
from shop.orders._webhook import Payments
from shop.users import WalletHolds, follow_ended_sessions

__all__ = [
    "Advance",
    "Advanced",
    "CancelOrder",
    "FollowOrders",
    "GetOrder",
    "Line",
    "ListOrders",
    "Order",
    "OrderChange",
    "OrderChanges",
    "OrderEvent",
    "OrderEvents",
    "OrderPage",
    "OrderState",
    "Orders",
    "OrdersSettings",
    "PaymentMethod",
    "Payments",
    "PlaceOrder",
    "PlacedOrder",
    "ReturnOrder",
    "WatchOrders",
    "Webhook",
    "WebhookHeard",
    "app",
]


def ids(store: Store) -> IdBlocks:
    return IdBlocks(store, "orders")


def feed(moves: Moves, clock: Clock, settings: OrdersSettings) -> Feed:
    return Feed(moves.orders, clock, settings)


async def prices(inventory: Inventory, clock: Clock) -> AsyncIterator[Prices]:
    made = Prices(inventory, clock)
    yield made
    await made.close()


async def moves(store: Store, clock: Clock, settings: OrdersSettings) -> AsyncIterator[Moves]:
    payments = PaymentMachine(store, clock, settings)
    orders = OrderMachine(store, clock, settings, payments)
    for machine in (payments, orders):
        await machine.start()
    yield Moves(orders, payments)
    for machine in (orders, payments):
        await machine.stop()


async def transactions(
    store: Store, clock: Clock, participants: Participants, moves: Moves
) -> AsyncIterator[Coordinator]:
    coordinator = Coordinator(
        store,
        initiator="orders",
        participants=await participants.connect(StockHolds, WalletHolds),
        decide=moves.settle,
        clock=clock,
    )
    await coordinator.start()
    yield coordinator
    await coordinator.stop()


async def provider(settings: OrdersSettings) -> AsyncIterator[PaymentProvider]:
    made = PaymentProvider(settings)
    yield made
    await made.close()


def till(store: Store, transactions: Coordinator, moves: Moves, provider: PaymentProvider) -> Till:
    return Till(store, transactions, moves, provider)


def undoing(store: Store, ids: IdBlocks, transactions: Coordinator, moves: Moves) -> Undoing:
    return Undoing(store, ids, transactions, moves)


def desk(store: Store, till: Till, undoing: Undoing) -> Desk:
    return Desk(store, till, undoing)


async def at_the_desk(desk: Desk) -> None:
    await desk.work()


async def forgetting(feed: Feed) -> None:
    await feed.keep_forgetting()


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
    services=[Orders, Payments],
    migrations="shop.orders.migrations",
    jobs=JOBS,
    schedules=SCHEDULES,
    settings=OrdersSettings,
    provide=[ids, moves, feed, prices, transactions, provider, till, undoing, desk],
    background=[at_the_desk, forgetting, follow_ended_sessions],
    glance=recent,
)
