"""What runs on the nodes: orders as `shop.orders` puts it together, its participants, and a warehouse."""

from __future__ import annotations

import asyncio

from dougong.config import Secret
from dougong.errors import Error
from dougong.mesh import BreakerPolicy
from dougong.rpc import Server, client, trust_everyone
from dougong.simulation import Process, World
from dougong.statemachine import TimekeeperSettings
from dougong.store import IdBlocks
from dougong.tcc import (
    Coordinator,
    CoordinatorSettings,
    ParticipantService,
    RetrySchedule,
    participant_service,
)
from shop.inventory import Inventory, StockHolds
from shop.orders import Advance, FollowOrders, Orders, OrdersSettings, OrderState, Payments
from shop.orders._desk import Desk
from shop.orders._feed import Feed
from shop.orders._machine import OrderMachine, PaymentMachine
from shop.orders._prices import Prices
from shop.orders._undoing import Undoing
from shop.proof.payment._without import made_coordinator, made_moves, made_provider, made_settings, made_till, weaken
from shop.users import WalletHolds

__all__ = ["HOLD_S", "SECRET", "SHOPS", "inventory", "orders", "users", "warehouse"]

HOLD_S = 4.0
SECRET = "a secret between two companies"  # noqa: S105 (of two companies that are played)
PATIENCE_S = 0.05
"""While no instance is there, whoever calls does better to try again later."""
SHOPS = ("orders-1:1", "orders-2:1")
SETTINGS = OrdersSettings(
    provider_url="http://provider",
    webhook_secret=Secret(SECRET),
    pay_within_s=HOLD_S,
    provider_timeout_s=2.0,
    retry_s=1.5,
    ask_s=2.5,
    history_s=5.0,
    confirmed_s=5.0,
    picking_s=3.0,
    shipped_s=4.0,
    tracing_s=3.0,
)
COORDINATOR = CoordinatorSettings(
    retry=RetrySchedule(cap_s=3.0, attempts=100),
    message_retry=RetrySchedule(base_s=1.0, cap_s=5.0, attempts=100),
    breaker=BreakerPolicy(open_s_max=1.0),
    lease_s=2.0,
    scan_every_s=0.8,
    retention_s=14.0,
    forget_every_s=4.0,
    hold_s_max=30.0,
)
TIMEKEEPER = TimekeeperSettings(scan_every_s=1.2, retry_s=2.0, skew_s=6.0)


async def orders(process: Process, without: str) -> None:
    """One process of orders."""
    store, clock, transport, random = process.store("orders"), process.clock, process.transport, process.random
    settings = made_settings(SETTINGS, without)
    payments = PaymentMachine(store, clock, settings, TIMEKEEPER)
    machine = OrderMachine(store, clock, settings, payments, TIMEKEEPER)
    weaken(payments, machine, without)
    for each in (payments, machine):
        await each.start()
    moves = made_moves(machine, payments, without)
    stock = client(
        participant_service(StockHolds), "inventory:1", transport=transport, random=random, patience_s=PATIENCE_S
    )
    wallets = client(
        participant_service(WalletHolds), "users:1", transport=transport, random=random, patience_s=PATIENCE_S
    )
    coordinator = made_coordinator(
        Coordinator(
            store,
            initiator="orders",
            participants={StockHolds.service: stock, WalletHolds.service: wallets},
            decide=moves.settle,
            clock=clock,
            settings=COORDINATOR,
            random=random.random,
        ),
        without,
    )
    await coordinator.start()
    prices = Prices(client(Inventory, "inventory:1", transport=transport, random=random, patience_s=PATIENCE_S), clock)
    ids, feed = IdBlocks(store, "orders", block=50), Feed(machine, clock, settings)
    till = made_till(store, coordinator, moves, made_provider(process, settings, without), without)
    undoing = Undoing(store, ids, coordinator, moves)
    desk = Desk(store, till, undoing)
    services = [
        Orders(store, clock, ids, coordinator, prices, feed, moves, till, undoing, desk, settings),
        Payments(clock, till, desk, settings),
    ]
    await Server(services, authenticator=trust_everyone, transport=transport).start(f"{process.name}:1")
    async with asyncio.TaskGroup() as group:
        group.create_task(desk.work())
        group.create_task(feed.keep_forgetting())


async def inventory(process: Process) -> None:
    """Stock and prices."""
    holds = ParticipantService(StockHolds(), process.store())
    await holds.start()
    services = [Inventory(process.store()), holds]
    await Server(services, authenticator=trust_everyone, transport=process.transport).start("inventory:1")


async def users(process: Process) -> None:
    """Wallets."""
    holds = ParticipantService(WalletHolds(), process.store())
    await holds.start()
    await Server([holds], authenticator=trust_everyone, transport=process.transport).start("users:1")


async def warehouse(process: Process, world: World) -> None:
    """Follows confirmed orders and says how far they got; forgets all about them when it is killed. While the storm
    lasts pickers vanish and parcels get lost; afterwards everything arrives."""
    remote = client(Orders, SHOPS, transport=process.transport, random=process.random, patience_s=PATIENCE_S)
    draw, faults = process.random.random, world.faults.source(f"warehouse {process.number}", "warehouse")

    async def deliver(order_id: int) -> None:
        for state in (OrderState.PICKING, OrderState.SHIPPED, OrderState.DELIVERED):
            if faults.strike(((0.15, f"nobody reports {state} of"),), str(order_id)) is not None:
                return
            await asyncio.sleep(draw() * 1.5)
            try:
                if (await remote.advance(Advance(order_id=order_id, state=state))).state is not state:
                    return
            except Error:
                return  # it is announced again

    after, busy = 0, set[asyncio.Task[None]]()
    while True:
        try:
            page = await remote.follow(FollowOrders(after=after, limit=100, wait_ms=200))
        except Error:
            await asyncio.sleep(1.0)
            continue
        after = page.position
        for event in page.items:
            if event.state in (OrderState.CONFIRMED, OrderState.TRACING):
                task = asyncio.create_task(deliver(event.order_id))
                busy.add(task)
                task.add_done_callback(busy.discard)
        await asyncio.sleep(0.8)
