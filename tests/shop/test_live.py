"""What screens are told of orders: every change, whose it is; and to load everything anew where a hole may be."""

from __future__ import annotations

import msgspec

from dougong.errors import Unauthenticated
from dougong.gateway import Gateway, Grant, InProcess, Offset, Slow, Upgrade
from shop.live import LiveSettings
from shop.live._push import EVERYBODY, follow
from shop.orders import OrderChange, OrderChanges, Orders, OrderState, WatchOrders


class Told(InProcess):
    """A fan-out that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, object]] = []

    async def publish(self, topic: str, data: bytes, *, slow: Slow, keep: bool) -> Offset | None:
        self.said.append((topic, msgspec.json.decode(data)))
        return await super().publish(topic, data, slow=slow, keep=keep)


class Scripted(Orders):
    """Orders that answer what they are told to."""

    def __init__(self, *pages: OrderChanges) -> None:
        self.pages = list(pages)
        self.asked: list[int] = []

    async def watch(self, request: WatchOrders) -> OrderChanges:
        self.asked.append(request.after)
        return self.pages.pop(0)


async def nobody(upgrade: Upgrade) -> Grant:
    raise Unauthenticated("nobody connects here")


def change(order: str, user: str, state: OrderState) -> OrderChange:
    return OrderChange(order_id=order, user_id=user, state=state, at_us=5)


async def test_each_is_told_his_own_and_all_are_told_of_holes() -> None:
    fan_out = Told()
    gateway = Gateway(nobody, fan_out=fan_out)
    orders = Scripted(
        OrderChanges(items=[], position=7),
        OrderChanges(items=[change("8", "1", OrderState.PICKING), change("9", "2", OrderState.SHIPPED)], position=9),
        OrderChanges(items=[change("9", "2", OrderState.DELIVERED)], position=20, complete=False),
    )
    after = -1
    for _ in range(3):
        after = await follow(orders, gateway, after, LiveSettings())
    assert (orders.asked, after) == ([-1, 7, 9], 20)
    assert fan_out.said == [
        (EVERYBODY, {"reload": True}),  # what was before is not told
        ("user:1", {"order_id": "8", "state": "picking", "at_us": 5}),
        ("user:2", {"order_id": "9", "state": "shipped", "at_us": 5}),
        (EVERYBODY, {"reload": True}),
        ("user:2", {"order_id": "9", "state": "delivered", "at_us": 5}),
    ]
