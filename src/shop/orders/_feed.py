"""The feed of orders, for whoever follows them: the history of their machine, as far as it concerns others."""

from __future__ import annotations

import asyncio
import collections

from dougong.clock import Clock
from dougong.errors import Error
from dougong.store import Store
from dougong.telemetry import get_logger
from shop.orders import _ledger as ledger
from shop.orders._contract import OrderChange, OrderChanges, OrderEvent, OrderEvents, OrderState
from shop.orders._machine import OrderMachine
from shop.orders._settings import OrdersSettings

__all__ = ["Feed"]

# What others do something about; the rest they brought about themselves, or it is our own business.
_NEWS = (OrderState.CONFIRMED, OrderState.CANCELLED, OrderState.TRACING, OrderState.LOST)
# What a customer may see happen.
_SHOWN = tuple(state for state in OrderState if state is not OrderState.PLACING)
_MARKS_MAX = 10_000
_FORGET_EVERY_S = 1.0

log = get_logger(__name__)


class Feed:
    """Hands out events, and forgets what its follower has stored some time ago.

    The history is kept a little longer than the follower needs it, because with a transition its event id is forgotten.
    """

    def __init__(self, orders: OrderMachine, clock: Clock, settings: OrdersSettings) -> None:
        self._history = orders.history
        self._clock = clock
        self._keep_s = settings.history_s
        self._stored: collections.deque[tuple[float, int]] = collections.deque(maxlen=_MARKS_MAX)
        """(when the follower said so, up to where it has stored)"""
        self._said = 0

    def wake(self) -> None:
        """There may be news."""
        self._history.wake()

    async def after(self, after: int, limit: int, wait_s: float) -> OrderEvents:
        """Events above `after`, at most `limit`; waits up to `wait_s` for something to happen."""
        if after > self._said:
            self._said = after
            self._stored.append((self._clock.monotonic(), after))
        page = await self._history.after(after, limit, wait_s=wait_s, targets=_NEWS)
        return OrderEvents(
            items=[OrderEvent(seq=t.seq, order_id=t.instance, state=OrderState(t.target)) for t in page.items],
            position=page.position,
        )

    async def watch(self, store: Store, after: int, limit: int, wait_s: float) -> OrderChanges:
        """The same for screens: whose orders came to which state. It holds up nothing: what is forgotten meanwhile is
        said to be missing, for a screen can load everything anew."""
        if after < 0:
            return OrderChanges(items=[], position=(await self._history.span())[1])
        page = await self._history.after(after, limit, wait_s=wait_s, targets=_SHOWN)
        first, _ = await self._history.span()  # afterwards: what is forgotten between the two is missed as well
        customers = await store.read(lambda tx: ledger.customers(tx, [t.instance for t in page.items]))
        return OrderChanges(
            items=[
                OrderChange(
                    order_id=str(t.instance),
                    user_id=str(customers[t.instance]),
                    state=OrderState(t.target),
                    at_us=t.at_us,
                )
                for t in page.items
                if t.instance in customers
            ],
            position=page.position,
            complete=after + 1 >= first,
        )

    async def forget(self) -> None:
        """Drop what the follower has stored some time ago."""
        up_to, now = 0, self._clock.monotonic()
        while self._stored and self._stored[0][0] <= now - self._keep_s:
            _, up_to = self._stored.popleft()
        if up_to:
            await self._history.forget(up_to=up_to)

    async def keep_forgetting(self) -> None:
        """For ever. Beside the follower's calls, not in them: it must not wait for this."""
        while True:
            await asyncio.sleep(_FORGET_EVERY_S)
            try:
                await self.forget()
            except Error as error:
                log.warning("the history of orders is forgotten later", error=str(error))
