"""The two loops of fulfilment: take in confirmed orders, move shipments on.

Both work in large batches at a steady pace rather than one by one: a rush of orders is delivered a little later,
and costs the machine little while it lasts. Both may be killed anywhere: what is read again was not stored, what is
reported again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from dougong.clock import Clock
from dougong.errors import Error
from dougong.store import Store
from dougong.telemetry import get_logger
from shop.fulfilment import _warehouse as warehouse
from shop.orders import Advance, FollowOrders, Orders, OrderState

__all__ = ["FulfilmentSettings", "follow_orders", "move_shipments"]

log = get_logger(__name__)

_PAUSE_MAX_S = 2.0


class FulfilmentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the warehouse works."""

    stage_ms: int = 300
    """How long a shipment stays in each state."""
    batch: int = 2000
    tick_ms: int = 100
    """Pause between batches."""


async def follow_orders(store: Store, clock: Clock, orders: Orders, settings: FulfilmentSettings) -> None:
    """Read the feed of orders for ever, storing the position with the effects."""

    async def once() -> None:
        after = await store.read(warehouse.position)
        page = await orders.follow(FollowOrders(after=after, limit=settings.batch, wait_ms=5000))
        if page.items:
            await store.write(lambda tx: warehouse.take_in(tx, page.items, clock.now_us()))

    await _for_ever("follow", once, settings.tick_ms / 1000)


async def move_shipments(store: Store, clock: Clock, orders: Orders, settings: FulfilmentSettings) -> None:
    """Move shipments that are due, telling orders first; what orders answers is what is stored."""

    async def once() -> None:
        steps = await store.read(lambda tx: warehouse.due(tx, clock.now_us(), settings.batch))
        if not steps:
            return
        answers = await orders.advance.many([Advance(order_id=step.order_id, state=step.next) for step in steps])
        reached: list[tuple[warehouse.Step, OrderState]] = []
        for step, answer in zip(steps, answers, strict=True):
            if not isinstance(answer, Error):
                reached.append((step, answer.state))
            elif answer.code == "unknown_order":
                reached.append((step, OrderState.CANCELLED))
        await store.write(lambda tx: warehouse.move(tx, reached, clock.now_us(), settings.stage_ms * 1000))

    await _for_ever("move", once, settings.tick_ms / 1000)


async def _for_ever(name: str, once: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """Repeat a step; a failing neighbour or a full disk slows it down and is said once, not at every try."""
    failures = 0
    while True:
        try:
            await once()
            if failures:
                log.info("fulfilment works again", loop=name, failures=failures)
            failures = 0
        except Error as error:
            failures += 1
            if failures == 1:
                log.warning("fulfilment has to wait", loop=name, error=str(error))
        await asyncio.sleep(min(pause_s * 2 ** min(failures, 10), _PAUSE_MAX_S))
