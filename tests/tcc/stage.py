"""What the tests of coordinators share: participants that fail on demand, and the rows to look at afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.tcc.world import Purse, Shelf, Take

from dougong.errors import Internal, Unavailable
from dougong.store import Store, Tx
from dougong.tcc import (
    Coordinator,
    CoordinatorSettings,
    Decision,
    NewTransaction,
    Operator,
    ParticipantClient,
    ParticipantService,
    RetrySchedule,
    TransactionState,
)
from dougong.tcc.wire import BranchReply, Forget, Forgotten, Settle, TryBatch

QUICK = CoordinatorSettings(
    try_timeout_s=3.0,
    grace_s=0.1,
    settle_timeout_s=0.5,
    scan_every_s=0.02,
    lease_s=0.2,
    drain_s=2.0,
    retry=RetrySchedule(base_s=0.01, cap_s=0.02, attempts=4),
)


class Switch:
    """A participant that can be down, fail, or hang; it counts its calls."""

    def __init__(self, service: ParticipantService[Any]) -> None:
        self._service = service
        self.down = False
        self.broken = False
        self.hangs = False
        self.calls: list[tuple[str, int]] = []

    async def _pass(self, call: str, count: int) -> None:
        self.calls.append((call, count))
        if self.hangs:
            await asyncio.sleep(60)
        if self.down:
            raise Unavailable("down for now")
        if self.broken:
            raise Internal("broken for now")

    async def try_(self, request: TryBatch) -> BranchReply:
        await self._pass("try", len(request.transactions))
        return await self._service.try_(request)

    async def confirm(self, request: Settle) -> BranchReply:
        await self._pass("confirm", len(request.transactions))
        return await self._service.confirm(request)

    async def cancel(self, request: Settle) -> BranchReply:
        await self._pass("cancel", len(request.transactions))
        return await self._service.cancel(request)

    async def forget(self, request: Forget) -> Forgotten:
        return await self._service.forget(request)


async def write_down(tx: Tx, decisions: Sequence[Decision]) -> None:
    """The initiator's own rows, so that order and log can be compared."""
    for d in decisions:
        await tx.execute("UPDATE orders SET state = ? WHERE id = ?", (d.code or "confirmed", d.transaction))


def placing(*ids: int) -> Callable[[Tx], Awaitable[None]]:
    async def begin(tx: Tx) -> None:
        await tx.execute_many("INSERT INTO orders (id, state) VALUES (?, 'placing')", [(i,) for i in ids])

    return begin


@asynccontextmanager
async def coordinating(
    books: Store, participants: dict[str, ParticipantClient], settings: CoordinatorSettings = QUICK, **more: Any
) -> AsyncGenerator[Coordinator, None]:
    options: dict[str, Any] = {"decide": write_down, **more}
    made = Coordinator(books, initiator="orders", participants=participants, settings=settings, **options)
    await made.start()
    await asyncio.sleep(0)  # the first scan is asked for before anything the test writes
    try:
        yield made
    finally:
        await made.stop()


def both(id_: int, sku: str = "a", quantity: int = 1) -> NewTransaction:
    return NewTransaction(id_, {Shelf.service: Take(sku, quantity), Purse.service: Take(sku, quantity)})


def one(id_: int, quantity: int = 1) -> NewTransaction:
    return NewTransaction(id_, {Shelf.service: Take("a", quantity)})


async def stock(store: Store, sku: str = "a") -> Any:
    return await store.fetch_one("SELECT available, frozen, sold FROM shelf WHERE sku = ?", (sku,))


async def orders(books: Store) -> dict[Any, Any]:
    return dict(await books.fetch_all("SELECT id, state FROM orders"))  # type: ignore[arg-type]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.005)


async def is_(books: Store, transaction: int, state: TransactionState) -> None:
    async def there() -> bool:
        return await Operator(books).state(transaction) is state

    await until(there)
