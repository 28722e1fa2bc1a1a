"""The feed of order events: read after a position, wait when there is nothing new."""

from __future__ import annotations

import asyncio

from dougong.store import Store, Tx
from shop.orders import _ledger as ledger
from shop.orders._contract import OrderEvent

__all__ = ["Feed"]

# Another process on the same database may write events too, and wakes nobody here.
_LOOK_AGAIN_S = 0.25


class Feed:
    """Hands out events and forgets what its follower has stored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._news = asyncio.Event()
        self._forgotten = 0

    def wake(self) -> None:
        """There may be news."""
        self._news.set()

    async def after(self, after: int, limit: int, wait_s: float) -> list[OrderEvent]:
        """Events above `after`, at most `limit`; waits up to `wait_s` for the first."""
        if after > self._forgotten:
            await self._forget(after)
        give_up = asyncio.get_running_loop().time() + wait_s
        while True:
            self._news.clear()
            events = await self._store.read(lambda tx: ledger.events_after(tx, after, limit))
            left_s = give_up - asyncio.get_running_loop().time()
            if events or left_s <= 0:
                return events
            try:
                async with asyncio.timeout(min(left_s, _LOOK_AGAIN_S)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _forget(self, up_to: int) -> None:
        async def unit(tx: Tx) -> None:
            await ledger.forget_events(tx, up_to)

        await self._store.write(unit)
        self._forgotten = up_to
