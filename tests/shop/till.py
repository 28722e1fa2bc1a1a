"""Orders against its participants in one process: the same code as in production, on databases in a directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dougong.clock import Clock, SystemClock
from dougong.contract import Message
from dougong.errors import Error, Unavailable
from dougong.statemachine import TimekeeperSettings
from dougong.store import IdBlocks, Store, migrations_from, open_store
from dougong.tcc import Coordinator, CoordinatorSettings, Participant, ParticipantClient, ParticipantService
from dougong.tcc.wire import BranchReply, Forget, Forgotten, Settle, TryBatch
from shop.inventory import Inventory, PutProduct, StockHolds
from shop.inventory._service import put_products
from shop.orders import Line, Orders, OrdersSettings, PaymentMethod, Payments, PlacedOrder, PlaceOrder
from shop.orders._desk import Desk
from shop.orders._feed import Feed
from shop.orders._machine import OrderMachine, PaymentMachine
from shop.orders._moves import Moves
from shop.orders._prices import Prices
from shop.orders._provider import PaymentProvider
from shop.orders._till import Till
from shop.orders._undoing import Undoing
from shop.users import WalletHolds

__all__ = ["STOCK", "Counter", "Gate", "counter", "order", "outcome", "shop_stores"]

STOCK = 100
PRICE_MINOR = 250


def order(user: int = 1, sku: str = "bolt", quantity: int = 1, key: str = "", *, external: bool = False) -> PlaceOrder:
    payment = PaymentMethod.EXTERNAL if external else PaymentMethod.WALLET
    return PlaceOrder(user_id=str(user), lines=[Line(sku=sku, quantity=quantity)], idempotency_key=key, payment=payment)


def outcome(placed: PlacedOrder | Error) -> str:
    return placed.code if isinstance(placed, Error) else "placed"


class Gate:
    """A participant that can be made unreachable."""

    def __init__(self, inner: ParticipantClient) -> None:
        self.inner = inner
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise Unavailable("nobody there", code="connect_failed")

    async def try_(self, request: TryBatch, /) -> BranchReply:
        self._check()
        return await self.inner.try_(request)

    async def confirm(self, request: Settle, /) -> BranchReply:
        self._check()
        return await self.inner.confirm(request)

    async def cancel(self, request: Settle, /) -> BranchReply:
        self._check()
        return await self.inner.cancel(request)

    async def forget(self, request: Forget, /) -> Forgotten:
        self._check()
        return await self.inner.forget(request)


@dataclass(frozen=True)
class Counter:
    """One process's worth of orders."""

    orders: Orders
    payments: Payments
    coordinator: Coordinator
    store: Store
    prices: Prices
    feed: Feed
    moves: Moves
    till: Till
    desk: Desk

    async def place(self, *requests: PlaceOrder) -> Sequence[PlacedOrder | Error]:
        return await self.orders.place.many(requests)


@asynccontextmanager
async def shop_stores(directory: Path) -> AsyncGenerator[tuple[Store, Store]]:
    """Inventory's and users' databases, with a little in them."""
    async with AsyncExitStack() as stack:
        stores = []
        for name in ("inventory", "users"):
            store = await open_store(f"sqlite:///{directory / f'{name}.db'}", name=name)
            stack.push_async_callback(store.close)
            await store.migrate(name, migrations_from(f"shop.{name}.migrations"))
            stores.append(store)
        inventory, users = stores
        products = [PutProduct(sku=s, name=s, price_minor=PRICE_MINOR, restock=STOCK) for s in ("bolt", "nut", "gear")]
        products.append(PutProduct(sku="yen", name="yen", price_minor=1, currency="JPY", restock=STOCK))
        await inventory.write(lambda tx: put_products(tx, products))
        wallets = [(user, 1_000_000, 1_000_000) for user in range(1, 6)]
        await users.write(
            lambda tx: tx.execute_many(
                "INSERT INTO wallets (user_id, currency, available, deposited) VALUES (?, 'EUR', ?, ?)", wallets
            )
        )
        yield inventory, users


async def gates(inventory: Store, users: Store) -> dict[str, Gate]:
    """Both participants, reachable until told otherwise."""
    made: dict[str, Gate] = {}
    pairs: list[tuple[Participant, Store]] = [(StockHolds(), inventory), (WalletHolds(), users)]  # type: ignore[type-arg]
    for participant, store in pairs:
        service: ParticipantService[Message] = ParticipantService(participant, store)
        await service.start()
        made[participant.service] = Gate(service)
    return made


@asynccontextmanager
async def counter(
    directory: Path,
    inventory: Store,
    participants: Mapping[str, ParticipantClient],
    *,
    clock: Clock | None = None,
    settings: CoordinatorSettings | None = None,
    orders_settings: OrdersSettings | None = None,
    at_work: bool = True,
) -> AsyncGenerator[Counter]:
    """Orders as `shop.orders` puts it together; several may share one directory, as several processes do.

    Without `at_work` neither deadlines are fired nor anything is done at the desk.
    """
    clock = clock or SystemClock()
    of_orders = orders_settings or OrdersSettings()
    async with AsyncExitStack() as stack:
        store = await open_store(f"sqlite:///{directory / 'orders.db'}", name="orders")
        stack.push_async_callback(store.close)
        await store.migrate("orders", migrations_from("shop.orders.migrations"))

        keeping_time = TimekeeperSettings(scan_every_s=0.02)
        payment_machine = PaymentMachine(store, clock, of_orders, keeping_time)
        order_machine = OrderMachine(store, clock, of_orders, payment_machine, keeping_time)
        for machine in (payment_machine, order_machine):
            await machine.start(keep_time=at_work)
            stack.push_async_callback(machine.stop)
        moves = Moves(order_machine, payment_machine)
        coordinator = Coordinator(
            store, initiator="orders", participants=participants, decide=moves.settle, clock=clock, settings=settings
        )
        await coordinator.start()
        stack.push_async_callback(coordinator.stop)
        prices = Prices(Inventory(inventory), clock)
        stack.push_async_callback(prices.close)
        provider = PaymentProvider(of_orders)
        stack.push_async_callback(provider.close)
        ids = IdBlocks(store, "orders")
        feed = Feed(order_machine, clock, of_orders)
        till = Till(store, coordinator, moves, provider)
        undoing = Undoing(store, ids, coordinator, moves)
        desk = Desk(store, till, undoing)
        orders = Orders(store, clock, ids, coordinator, prices, feed, moves, till, undoing, desk, of_orders)
        payments = Payments(clock, till, desk, of_orders)
        if at_work:
            working = asyncio.create_task(desk.work())
            stack.push_async_callback(_end, working)
        yield Counter(orders, payments, coordinator, store, prices, feed, moves, till, desk)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended
