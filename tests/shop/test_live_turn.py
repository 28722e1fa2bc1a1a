"""Several processes with screens: one of them follows the orders and tells all, and another when it is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.shop.test_live import Scripted, Told, change, nobody

from dougong.app import DataDirectory
from dougong.gateway import Gateway
from shop.live import LiveSettings
from shop.live._push import EVERYBODY, push_orders
from shop.orders import OrderChanges, OrderState, WatchOrders

PATIENCE_S = 60.0


class Busy(Gateway):
    """Somebody is connected, or not."""

    people = 1

    def __len__(self) -> int:
        return self.people


class Patient(Scripted):
    """Once it has told everything, nothing happens any more."""

    def __init__(self, *pages: OrderChanges) -> None:
        super().__init__(*pages)
        self.told = asyncio.Event()

    async def watch(self, request: WatchOrders) -> OrderChanges:
        if not self.pages:
            self.told.set()
            await asyncio.Event().wait()
        return await super().watch(request)


class Quiet(Scripted):
    """Nothing ever happens."""

    async def watch(self, request: WatchOrders) -> OrderChanges:
        self.asked.append(request.after)
        await asyncio.sleep(0.01)
        return OrderChanges(items=[], position=7)


async def test_what_happens_is_told_once_by_whoever_is_there(tmp_path: Path) -> None:
    fan_out = Told()
    shipped = OrderChanges(items=[change("8", "1", OrderState.SHIPPED)], position=9)
    delivered = OrderChanges(items=[change("8", "1", OrderState.DELIVERED)], position=20)
    here = Patient(OrderChanges(items=[], position=7), shipped)
    there = Patient(OrderChanges(items=[], position=9), delivered)

    def follow(orders: Patient, gateway: Gateway) -> asyncio.Task[None]:
        return asyncio.create_task(push_orders(orders, gateway, LiveSettings(), DataDirectory(tmp_path)))

    first = Busy(nobody, fan_out=fan_out)
    one = follow(here, first)
    async with asyncio.timeout(PATIENCE_S):
        await here.told.wait()
        other = follow(there, Busy(nobody, fan_out=fan_out))
        await asyncio.sleep(0.3)  # it looks several times
        assert not there.asked  # not its turn
        one.cancel()
        await asyncio.wait([one])
        await there.told.wait()
    other.cancel()
    await asyncio.wait([other])
    assert fan_out.said == [
        (EVERYBODY, {"reload": True}),
        ("user:1", {"order_id": "8", "state": "shipped", "at_us": 5}),
        (EVERYBODY, {"reload": True}),  # what happened in between
        ("user:1", {"order_id": "8", "state": "delivered", "at_us": 5}),
    ]


async def test_whose_screens_have_gone_leaves_the_turn_to_others(tmp_path: Path) -> None:
    fan_out = Told()
    orders = [Quiet(), Quiet()]
    gateways = [Busy(nobody, fan_out=fan_out) for _ in orders]
    tasks = [
        asyncio.create_task(push_orders(o, g, LiveSettings(), DataDirectory(tmp_path)))
        for o, g in zip(orders, gateways, strict=True)
    ]
    async with asyncio.timeout(PATIENCE_S):
        while not any(o.asked for o in orders):
            await asyncio.sleep(0.01)
        first = next(i for i, o in enumerate(orders) if o.asked)
        assert not orders[1 - first].asked
        gateways[first].people = 0
        while not orders[1 - first].asked:
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
