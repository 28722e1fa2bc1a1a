"""The service that all sides carry orders to: a price and a number in memory, so that nothing but the way costs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from dougong.contract import Message, Service, batched, rpc
from dougong.errors import Error

__all__ = ["Book", "Count", "Counted", "Order", "Placed", "Placing", "expected", "order"]

PRICE_MINOR = 250
_SKUS = 1000


class Order(Message):
    """What a customer sends."""

    key: str
    user_id: int
    sku: str
    quantity: int


class Placed(Message):
    """What comes back."""

    order_id: int
    total_minor: int
    state: str


class Count(Message):
    """How many were there?"""


class Counted(Message):
    orders: int


class Book:
    """Who serves keeps it: orders are numbered, and counted, so that none is lost or done for nothing unseen."""

    def __init__(self) -> None:
        self.orders = 0

    def enter(self, quantity: int) -> tuple[int, int]:
        """The order's number, and its price."""
        self.orders += 1
        return self.orders, quantity * PRICE_MINOR


class Placing(Service, package="proof.v1"):
    """Orders, priced and numbered."""

    def __init__(self, book: Book) -> None:
        self._book = book

    @batched(max_batch=1000, idempotent=True, public=True)
    async def place(self, requests: Sequence[Order]) -> Sequence[Placed | Error]:
        """Number it and say what it costs."""
        enter = self._book.enter
        numbered = (enter(request.quantity) for request in requests)
        return [Placed(order_id=number, total_minor=total, state="placed") for number, total in numbered]

    @rpc(idempotent=True, public=True)
    async def count(self, request: Count) -> Counted:
        """How many orders have been entered."""
        return Counted(orders=self._book.orders)


def order(number: int) -> Order:
    """The order that all sides send as their `number`-th."""
    return Order(key=f"order-{number:08d}", user_id=number % 9973, sku=_sku(number % _SKUS), quantity=1 + number % 5)


def expected(number: int) -> int:
    """What it must cost."""
    return (1 + number % 5) * PRICE_MINOR


@functools.cache
def _sku(number: int) -> str:
    return f"sku-{number:04d}"
