"""Customers: each orders once, pays in time, in the last moment, too late or never, and may change their mind."""

from __future__ import annotations

import asyncio
import random

from dougong.errors import DeadlineExceeded, Error, NotFound, Overloaded, Unavailable
from dougong.rpc import client
from dougong.simulation import Process, World
from shop.orders import (
    CancelOrder,
    GetOrder,
    Line,
    Order,
    Orders,
    OrderState,
    PaymentMethod,
    PlacedOrder,
    PlaceOrder,
    ReturnOrder,
)
from shop.proof.payment._company import ADDRESS, Company, Exchange
from shop.proof.payment._processes import HOLD_S, SHOPS

__all__ = ["CUSTOMERS", "SKUS", "USERS", "Customers"]

CUSTOMERS = 9
CALM_S = 8.0
"""The last order is placed about then."""
SKUS = ("a", "b")
USERS = (1, 2, 3)
ATTEMPTS_MAX = 15

_UNCLEAR = Unavailable, Overloaded, DeadlineExceeded


class Customers:
    """All of them, in one process that is never killed."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._shop = client(Orders, SHOPS, transport=process.transport, random=process.random, patience_s=0.05)
        self._provider = client(Company, ADDRESS, transport=process.transport, random=process.random, patience_s=0.05)

    async def all(self) -> None:
        """Until the last one is done."""
        async with asyncio.TaskGroup() as group:
            for number in range(CUSTOMERS):
                group.create_task(self._customer(f"customer {number}"))

    async def _customer(self, name: str) -> None:
        draw = self._world.stream(name)
        await asyncio.sleep(draw.random() * CALM_S)
        user_id = str(draw.choice(USERS))
        external = draw.random() < 0.75
        placed = await self._place(name, draw, user_id, external=external)
        if placed is None:
            return
        deed = draw.choice(("pay", "pay", "pay", "pay", "pay", "decline", ""))
        pays_s, cancels_s = _moment(draw), _moment(draw) if draw.random() < 0.5 else 0.0
        cancels = draw.random() < 0.4
        async with asyncio.TaskGroup() as group:
            if external and deed:
                group.create_task(self._pay(name, placed, user_id, deed, pays_s))
            if cancels:  # half of them in the very moment in which they pay
                group.create_task(self._cancel(name, placed, user_id, cancels_s or pays_s))
        if draw.random() < 0.2:
            await self._give_back(name, placed, user_id)

    async def _place(self, name: str, draw: random.Random, user_id: str, *, external: bool) -> PlacedOrder | None:
        lines = [Line(sku=sku, quantity=draw.randint(1, 3)) for sku in draw.sample(SKUS, draw.randint(1, 2))]
        request = PlaceOrder(
            user_id=user_id,
            lines=lines,
            idempotency_key=name,
            payment=PaymentMethod.EXTERNAL if external else PaymentMethod.WALLET,
        )
        call = self._world.history.invoke(name, "place", name)
        for _ in range(ATTEMPTS_MAX):
            try:
                placed = await self._shop.place(request)
            except _UNCLEAR:
                await asyncio.sleep(0.5)
            except Error as error:
                self._world.history.fail(call, error.code)
                return None
            else:
                self._world.history.ok(call, int(placed.order_id))
                return placed
        self._world.history.unknown(call)
        return None

    async def _pay(self, name: str, placed: PlacedOrder, user_id: str, deed: str, wait_s: float) -> None:
        call = self._world.history.invoke(name, deed, int(placed.order_id))
        pay_url, began_s = placed.pay_url, self._world.now_s
        while not pay_url:
            await asyncio.sleep(0.5)
            order = await self._look(placed.order_id, user_id)
            if order is not None and order.state is not OrderState.AWAITING_PAYMENT:
                self._world.history.fail(call, order.state.value)
                return
            pay_url = order.pay_url if order is not None else ""
        await asyncio.sleep(max(0.0, wait_s - (self._world.now_s - began_s)))
        for _ in range(ATTEMPTS_MAX):
            try:
                said = await self._provider.exchange(Exchange(verb="POST", path=pay_url, body=deed.encode()))
            except Error:
                await asyncio.sleep(0.3)
                continue
            if said.status == 200:
                self._world.history.ok(call, pay_url)
                return
            if said.status < 500:
                self._world.history.fail(call, said.body.decode())
                return
        self._world.history.unknown(call)

    async def _cancel(self, name: str, placed: PlacedOrder, user_id: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        call = self._world.history.invoke(name, "cancel", int(placed.order_id))
        for _ in range(ATTEMPTS_MAX):
            try:
                order = await self._shop.cancel_order(CancelOrder(order_id=placed.order_id, user_id=user_id))
            except _UNCLEAR:
                await asyncio.sleep(0.5)
            except Error as error:
                self._world.history.unknown(call, error.code)  # an attempt before that one may have been heard
                return
            else:
                self._world.history.ok(call, order.state.value)
                return

    async def _give_back(self, name: str, placed: PlacedOrder, user_id: str) -> None:
        """Bring a delivered order back."""
        for _ in range(5):
            await asyncio.sleep(1.5)
            order = await self._look(placed.order_id, user_id)
            if order is not None and order.state is OrderState.DELIVERED:
                call = self._world.history.invoke(name, "return", int(placed.order_id))
                try:
                    await self._shop.return_order(ReturnOrder(order_id=placed.order_id))
                except Error as error:
                    self._world.history.unknown(call, error.code)
                else:
                    self._world.history.ok(call)
                return

    async def _look(self, order_id: str, user_id: str) -> Order | None:
        try:
            return await self._shop.get_order(GetOrder(order_id=order_id, user_id=user_id))
        except NotFound as error:
            self._world.failed(f"order {order_id}, which was acknowledged", error)
            return None
        except Error:
            return None


def _moment(draw: random.Random) -> float:
    """Some time after an order was placed: mostly about when its hold ends."""
    return HOLD_S * draw.choice(
        (0.1, 0.3, 0.6, 0.7 + 0.4 * draw.random(), 0.85 + 0.25 * draw.random(), 0.9 + 0.2 * draw.random(), 3.0)
    )
