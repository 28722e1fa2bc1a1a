"""The desk: brings to an end what stands in a state that is ours to end, over and over, until nothing does.

Work is done once per version of a row. What did not succeed, or was lost with a process, gets a new version when the
state's deadline passes, and is done again: by whichever process sees it, perhaps by two, since all of it is idempotent.
Orders and payments have a loop each, so that a provider that hangs holds up no participant's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from dougong.errors import Error
from dougong.store import Store
from dougong.telemetry import counter, get_logger
from shop.orders import _ledger as ledger
from shop.orders._machine import WORK
from shop.orders._till import Till
from shop.orders._undoing import Undoing

__all__ = ["Desk"]

ROWS_MAX = 200
"""Looked at in one round, of each state."""
AT_ONCE = 16
_LOOK_AGAIN_S = 0.25
_PAUSE_S_MAX = 2.0

log = get_logger(__name__)
_worked = counter("shop_desk_work_total", "Work done at the desk, by outcome.", labels=("table", "state", "outcome"))

Work = Callable[[int, str], Awaitable[None]]


class Desk:
    """Two loops over two tables."""

    def __init__(self, store: Store, till: Till, undoing: Undoing) -> None:
        self._sides = (
            _Side(store, "orders", "id", WORK[0], undoing.work),
            _Side(store, "payments", "order_id", WORK[1], till.work),
        )

    def wake(self) -> None:
        """There may be work."""
        for side in self._sides:
            side.news.set()

    async def work(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for side in self._sides:
                group.create_task(side.for_ever(), name=f"desk {side.table}")


class _Side:
    def __init__(self, store: Store, table: str, key: str, states: Sequence[str], work: Work) -> None:
        self.table = table
        self.news = asyncio.Event()
        self._store = store
        self._key = key
        self._states = states
        self._work = work
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._seen: dict[int, int] = {}
        """Row → the version at which it was worked on, of those found in the last round."""

    async def for_ever(self) -> None:
        failures = 0
        while True:
            try:
                await self.round()
                failures = 0
            except Error as error:
                failures += 1
                if failures == 1:
                    log.warning("the desk has to wait", table=self.table, error=str(error))
            try:
                async with asyncio.timeout(min(_LOOK_AGAIN_S * 2**failures, _PAUSE_S_MAX)):
                    await self.news.wait()
            except TimeoutError:
                pass

    async def round(self) -> None:
        """Work on all that is new."""
        self.news.clear()
        found = await self._store.read(lambda tx: ledger.at_work(tx, self.table, self._key, self._states, ROWS_MAX))
        new = [row for row in found if self._seen.get(row.id) != row.version]
        self._seen = {row.id: row.version for row in found}
        if new:
            async with asyncio.TaskGroup() as group:
                for row in new:
                    group.create_task(self._one(row))

    async def _one(self, row: ledger.AtWork) -> None:
        async with self._turns:
            try:
                await self._work(row.id, row.state)
                outcome = "done"
            except Error as error:
                outcome = error.code
                log.info("it will be tried again", table=self.table, id=row.id, state=row.state, error=str(error))
            except Exception:
                outcome = "failed"
                log.exception("the desk failed", table=self.table, id=row.id, state=row.state)
        _worked.inc(1, self.table, row.state, outcome)
