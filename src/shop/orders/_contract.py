"""What orders says on the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from dougong.contract import Header, Message, RawBody, Subject

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
    "PaymentMethod",
    "PlaceOrder",
    "PlacedOrder",
    "ReturnOrder",
    "WatchOrders",
    "Webhook",
    "WebhookHeard",
]

OrderId = Annotated[str, Meta(min_length=1, max_length=18, pattern=r"^[0-9]+$(?!\n)")]


class OrderState(StrEnum):
    """Where an order stands. Refused and refunded are final, delivered and cancelled unless money has to go back."""

    PLACING = "placing"
    """Written, stock and money not decided yet; never seen by who placed it."""
    AWAITING_PAYMENT = "awaiting_payment"
    """Its stock is held until it is paid, declined, cancelled, or until its time is over."""
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    PICKING = "picking"
    SHIPPED = "shipped"
    TRACING = "tracing"
    """Shipped too long ago: the courier is asked where it is."""
    LOST = "lost"
    """Not found: its price is about to be given back."""
    DELIVERED = "delivered"
    RETURNED = "returned"
    """Brought back: goods and price are about to be booked back."""
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    REFUNDING = "refunding"
    """The payment provider owes the customer the price, until it says that it has paid."""
    REFUNDED = "refunded"


class PaymentMethod(StrEnum):
    """Who keeps the customer's money."""

    WALLET = "wallet"
    """We do: it is taken together with the stock."""
    EXTERNAL = "external"
    """A payment provider: stock is held until it says that the customer has paid."""


class Line(Message):
    """A SKU and how many of it."""

    sku: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$(?!\n)")]
    quantity: Annotated[int, Meta(ge=1, le=10_000)]


class PlaceOrder(Message):
    """What is wanted. With an idempotency key, a repeat of the same order gets the first one's answer."""

    user_id: Subject = ""
    lines: Annotated[list[Line], Meta(min_length=1, max_length=100)]
    idempotency_key: Annotated[str, Meta(max_length=128), Header("Idempotency-Key")] = ""
    payment: PaymentMethod = PaymentMethod.WALLET


class PlacedOrder(Message):
    """An accepted order: stock and money are taken, durably; paid externally, stock is held and `state` says that a
    payment is awaited. Amounts are in minor units."""

    order_id: str
    state: OrderState
    total_minor: int
    currency: str
    pay_url: str = ""
    """Where the customer pays. Empty when the provider could not be asked yet: the order itself will have it."""


class GetOrder(Message):
    """Which order; one's own only."""

    order_id: OrderId
    user_id: Subject = ""


class Order(Message):
    """An order. Times are UTC in microseconds, amounts in minor units."""

    order_id: str
    user_id: str
    state: OrderState
    lines: list[Line]
    total_minor: int
    currency: str
    created_us: int
    updated_us: int
    refusal: str = ""
    """Why it was refused, cancelled, or is refunded."""
    payment: PaymentMethod = PaymentMethod.WALLET
    pay_url: str = ""
    """Where the customer pays, while a payment is awaited."""


class ListOrders(Message):
    """A page of one's orders, newest first, before the one named."""

    user_id: Subject = ""
    before: Annotated[str, Meta(max_length=18, pattern=r"^[0-9]*$(?!\n)")] = ""
    limit: Annotated[int, Meta(ge=1, le=200)] = 20


class OrderPage(Message):
    """Orders, newest first; `next` goes into `before` for the next page and is empty on the last."""

    items: list[Order]
    next: str = ""


class CancelOrder(Message):
    """Which order; possible until it ships. Stock and money go back."""

    order_id: OrderId
    user_id: Subject = ""


class ReturnOrder(Message):
    """Which order came back from the customer. Stock and money go back."""

    order_id: OrderId


class Webhook(Message):
    """What the payment provider tells, as it came."""

    signature: Annotated[str, Meta(max_length=512), Header("Webhook-Signature")] = ""
    body: Annotated[RawBody, Meta(max_length=65_536)]


class WebhookHeard(Message):
    """What became of it: `done`, or `nothing_new`, for a repeat and for what we do not need to know."""

    outcome: str


class FollowOrders(Message):
    """What happened after position `after`; waits up to `wait_ms` for something to happen."""

    after: int = 0
    limit: Annotated[int, Meta(ge=1, le=5000)] = 1000
    wait_ms: Annotated[int, Meta(ge=0, le=30_000)] = 0


class OrderEvent(Message):
    """Order `order_id` reached `state`. Numbers rise in the order of the commits."""

    seq: int
    order_id: int
    state: OrderState


class OrderEvents(Message):
    """Events in rising order of `seq`."""

    items: list[OrderEvent]
    position: int
    """What has been looked through so far: `after` of the next question."""


class WatchOrders(Message):
    """What happened after position `after` (-1: from now on); waits up to `wait_ms` for something to happen."""

    after: Annotated[int, Meta(ge=-1)] = -1
    limit: Annotated[int, Meta(ge=1, le=5000)] = 1000
    wait_ms: Annotated[int, Meta(ge=0, le=30_000)] = 0


class OrderChange(Message):
    """Order `order_id` of a user came to `state`. Times are UTC in microseconds."""

    order_id: str
    user_id: str
    state: OrderState
    at_us: int


class OrderChanges(Message):
    """Changes in the order in which they happened."""

    items: list[OrderChange]
    position: int
    """`after` of the next question."""
    complete: bool = True
    """False: some of what came after the position that was named is forgotten."""


class Advance(Message):
    """Fulfilment says how far an order got. Repeating it, or saying it late, changes nothing."""

    order_id: int
    state: OrderState


class Advanced(Message):
    """The order's state after the attempt."""

    state: OrderState
