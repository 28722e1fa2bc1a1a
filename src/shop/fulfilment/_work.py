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
from dougong.jobs import Jobs
from dougong.store import Store, Tx
from dougong.telemetry import get_logger
from shop.fulfilment import _warehouse as warehouse
from shop.fulfilment._notices import notices
from shop.fulfilment._stalls import Stalls
from shop.orders import Advance, FollowOrders, Orders, OrderState

__all__ = ["FulfilmentSettings", "follow_orders", "move_shipments"]

log = get_logger(__name__)

_PAUSE_MAX_S = 2.0
_GIVE_WAY = 3.0
"""Pause for this many times as long as a step took, if that is longer than a tick: steps take long when the shop is
busy, and then deliveries can wait."""


class FulfilmentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the warehouse works."""

    stage_ms: int = 300
    """How long a shipment stays in each state."""
    batch: int = 500
    """Orders in one step: a larger one holds up its neighbours for longer than it saves."""
    tick_ms: int = 25
    """Pause between batches, at the least."""
    notices: bool = True
    """Customers are told of what matters to them."""
    stalls: Stalls = Stalls()
    """What goes wrong, on purpose."""


async def follow_orders(store: Store, clock: Clock, orders: Orders, jobs: Jobs, settings: FulfilmentSettings) -> None:
    """Read the feed of orders for ever, storing the position with the effects, customers' notices among them."""

    async def once() -> float:
        after = await store.read(warehouse.position)
        page = await orders.follow(FollowOrders(after=after, limit=settings.batch, wait_ms=5000))
        started = clock.monotonic()  # waiting for orders was no work
        if page.position > after:

            async def unit(tx: Tx) -> None:
                changes = await warehouse.take_in(tx, page, clock.now_us(), settings.stalls)
                if settings.notices:
                    await jobs.enqueue_many(notices(changes), tx=tx)

            await store.write(unit)
        return clock.monotonic() - started

    await _for_ever("follow", once, settings.tick_ms / 1000)


async def move_shipments(store: Store, clock: Clock, orders: Orders, jobs: Jobs, settings: FulfilmentSettings) -> None:
    """Move shipments that are due, telling orders first; what orders answers is what is stored."""

    async def once() -> float:
        started = clock.monotonic()
        steps = await store.read(lambda tx: warehouse.due(tx, clock.now_us(), settings.batch))
        if not steps:
            return 0.0
        answers = await orders.advance.many([Advance(order_id=step.order_id, state=step.next) for step in steps])
        reached: list[tuple[warehouse.Step, OrderState]] = []
        for step, answer in zip(steps, answers, strict=True):
            if not isinstance(answer, Error):
                reached.append((step, answer.state))
            elif answer.code == "unknown_order":
                reached.append((step, OrderState.CANCELLED))
        stage_us = settings.stage_ms * 1000

        async def unit(tx: Tx) -> None:
            changes = await warehouse.move(tx, reached, clock.now_us(), stage_us, settings.stalls)
            if settings.notices:
                await jobs.enqueue_many(notices(changes), tx=tx)

        await store.write(unit)
        return clock.monotonic() - started

    await _for_ever("move", once, settings.tick_ms / 1000)


async def _for_ever(name: str, once: Callable[[], Awaitable[float]], tick_s: float) -> None:
    """Repeat a step, which says how long it worked; a failing neighbour or a full disk slows it down and is said once,
    not at every try."""
    failures = 0
    while True:
        pause_s = tick_s
        try:
            pause_s = max(tick_s, _GIVE_WAY * await once())
            if failures:
                log.info("fulfilment works again", loop=name, failures=failures)
            failures = 0
        except Error as error:
            failures += 1
            pause_s = tick_s * 2 ** min(failures, 10)
            if failures == 1:
                log.warning("fulfilment has to wait", loop=name, error=str(error))
        await asyncio.sleep(min(pause_s, _PAUSE_MAX_S))
