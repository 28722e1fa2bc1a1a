"""Orders against its participants in one process: the same code as in production, on databases in a directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from dougong.clock import Clock, SystemClock
from dougong.contract import Message
from dougong.errors import Error, Unavailable
from dougong.store import IdBlocks, Store, Tx, migrations_from, open_store
from dougong.tcc import Coordinator, CoordinatorSettings, Decision, Participant, ParticipantClient, ParticipantService
from dougong.tcc.wire import BranchReply, Forget, Forgotten, Settle, TryBatch
from shop.inventory import Inventory, PutProduct, StockHolds
from shop.inventory._service import put_products
from shop.orders import Line, Orders, PlacedOrder, PlaceOrder
from shop.orders import _ledger as ledger
from shop.orders._feed import Feed
from shop.orders._prices import Prices
from shop.users import WalletHolds

__all__ = ["STOCK", "Counter", "Gate", "counter", "order", "outcome", "shop_stores"]

STOCK = 100
PRICE_MINOR = 250


def order(user: int = 1, sku: str = "bolt", quantity: int = 1, key: str = "") -> PlaceOrder:
    return PlaceOrder(user_id=str(user), lines=[Line(sku=sku, quantity=quantity)], idempotency_key=key)


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


class Counter:
    """One process's worth of orders."""

    def __init__(self, orders: Orders, coordinator: Coordinator, store: Store, prices: Prices, feed: Feed) -> None:
        self.orders = orders
        self.coordinator = coordinator
        self.store = store
        self.prices = prices
        self.feed = feed

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
) -> AsyncGenerator[Counter]:
    """Orders as `shop.orders` puts it together; several may share one directory, as several processes do."""
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        store = await open_store(f"sqlite:///{directory / 'orders.db'}", name="orders")
        stack.push_async_callback(store.close)
        await store.migrate("orders", migrations_from("shop.orders.migrations"))

        async def settle(tx: Tx, decisions: Sequence[Decision]) -> None:
            await ledger.settle(tx, decisions, clock.now_us())

        coordinator = Coordinator(
            store, initiator="orders", participants=participants, decide=settle, clock=clock, settings=settings
        )
        await coordinator.start()
        stack.push_async_callback(coordinator.stop)
        prices = Prices(Inventory(inventory), clock)
        stack.push_async_callback(prices.close)
        feed = Feed(store)
        yield Counter(
            Orders(store, clock, IdBlocks(store, "orders"), coordinator, prices, feed), coordinator, store, prices, feed
        )
