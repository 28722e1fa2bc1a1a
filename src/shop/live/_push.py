"""From the history of orders to the screens of those whose they are.

Of several processes one follows the history and tells the screens of all, as long as somebody is connected to it.
Whenever it is not followed without a hole (nobody was there, another process did so until now, orders forgot something
meanwhile) all screens are told to load their orders again: what they have after that, and what they are told from then
on, leaves nothing out.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from dougong.app import DataDirectory
from dougong.errors import Error
from dougong.gateway import Gateway
from dougong.telemetry import get_logger
from shop.live._turn import Turn
from shop.orders import OrderChange, Orders, WatchOrders

__all__ = ["EVERYBODY", "LiveSettings", "follow", "push_orders"]

log = get_logger(__name__)

EVERYBODY = "orders"
"""The topic of what concerns all screens."""
RELOAD = b'{"reload":true}'
_LOOK_S = 0.1
_PAUSE_MAX_S = 2.0
_FROM_NOW = -1
_HOLE_S = 15.0
"""Who was away for so long begins anew: well under the minute for which orders keep what happened."""


class LiveSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How screens are told."""

    public_url: str = ""
    """Where pages connect, `wss://shop.example/live`, when something stands before the gateway."""
    wait_ms: int = 5000
    batch: int = 1000


class Change(msgspec.Struct, frozen=True):
    """What a screen is told."""

    order_id: str
    state: str
    at_us: int


async def push_orders(orders: Orders, gateway: Gateway, settings: LiveSettings, data: DataDirectory) -> None:
    """For ever."""
    turn = Turn(Path(data) / "screens.lock")
    try:
        await _push_orders(orders, gateway, settings, turn)
    finally:
        turn.leave()


async def _push_orders(orders: Orders, gateway: Gateway, settings: LiveSettings, turn: Turn) -> None:
    loop = asyncio.get_running_loop()
    after, failures, followed = _FROM_NOW, 0, loop.time()
    while True:
        try:
            if len(gateway) and turn.take():
                if loop.time() - followed > _HOLE_S:
                    after = _FROM_NOW
                after = await follow(orders, gateway, after, settings)
                followed = loop.time()
            else:
                turn.leave()
                after = _FROM_NOW
                await asyncio.sleep(_LOOK_S)
            if failures:
                log.info("orders are followed again", failures=failures)
            failures = 0
        except Error as error:
            failures += 1
            if failures == 1:
                log.warning("screens have to wait", error=str(error))
            await asyncio.sleep(min(_PAUSE_MAX_S, _LOOK_S * float(1 << min(failures, 10))))


async def follow(orders: Orders, gateway: Gateway, after: int, settings: LiveSettings) -> int:
    """Tell what happened after `after`; how far that was."""
    if after == _FROM_NOW:
        page = await orders.watch(WatchOrders())
        await gateway.publish(EVERYBODY, RELOAD)
        return page.position
    page = await orders.watch(WatchOrders(after=after, limit=settings.batch, wait_ms=settings.wait_ms))
    if not page.complete:
        await gateway.publish(EVERYBODY, RELOAD)
    for change in page.items:
        await tell(gateway, change)
    return page.position


async def tell(gateway: Gateway, change: OrderChange) -> None:
    told = Change(change.order_id, change.state.value, change.at_us)
    await gateway.publish(f"user:{change.user_id}", msgspec.json.encode(told))
