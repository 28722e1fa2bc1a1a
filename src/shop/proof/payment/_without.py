"""Orders with one safeguard missing each: what the story must notice.

Each function makes a part of a process of orders as it is, or without the safeguard that is the part's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from dougong.simulation import Process
from dougong.store import Store, Tx
from dougong.tcc import Coordinator, Decision
from shop.orders import OrdersSettings
from shop.orders._machine import OrderMachine, PaymentMachine, PaymentState
from shop.orders._moves import Moves
from shop.orders._provider import PaymentProvider
from shop.orders._till import Till
from shop.proof.payment._company import Provider

__all__ = [
    "SAFEGUARDS",
    "made_coordinator",
    "made_moves",
    "made_provider",
    "made_settings",
    "made_till",
    "weaken",
]

_MOMENT_S = 0.5

SAFEGUARDS: Mapping[str, str] = {
    "compare-and-set": "an order and a payment move only from where they were read",
    "hold": "a hold is decided once: by the payment, the decline, the cancellation or its end",
    "late-refund": "money that comes when nobody waits for it is owed back",
    "one-unit": "a hold is decided and its payment moves in one unit",
    "refund-key": "a refund is asked for under the order's number, however often",
    "retry": "what did not succeed is tried again when its deadline passes",
}


def made_settings(settings: OrdersSettings, without: str) -> OrdersSettings:
    return msgspec.structs.replace(settings, retry_s=1e6) if without == "retry" else settings


def weaken(payments: PaymentMachine, orders: OrderMachine, without: str) -> None:
    """Take away the compare of the machines' compare-and-set. Their index on versions is the story's to leave out."""
    if without == "compare-and-set":
        for machine in (payments, orders):
            machine._firing.rows._compare = "(state = ? AND state_version = ? AND definition = ?) IS NOT NULL"


def made_coordinator(made: Coordinator, without: str) -> Coordinator:
    if without == "hold":
        decider, log = made._decider, made._log

        async def release(tx: Tx, decisions: Sequence[Decision], due_us: int) -> tuple[Any, list[Decision]]:
            """Decides whatever was decided before."""
            rows = await log.rows(tx, [d.transaction for d in decisions])
            mine = [d for d in decisions if d.transaction in rows]
            if mine:
                await log.release(tx, mine, due_us)
                assert decider._decide is not None
                await decider._decide(tx, mine)
            return rows, mine

        decider.release = release  # type: ignore[method-assign]
        log._expecting = ""
    return made


def made_moves(orders: OrderMachine, payments: PaymentMachine, without: str) -> Moves:
    return (_LateIsLost if without == "late-refund" else Moves)(orders, payments)


def made_till(store: Store, transactions: Coordinator, moves: Moves, provider: PaymentProvider, without: str) -> Till:
    return (_TwoUnits if without == "one-unit" else Till)(store, transactions, moves, provider)


def made_provider(process: Process, settings: OrdersSettings, without: str) -> PaymentProvider:
    return (_FreshKeys if without == "refund-key" else Provider)(process, settings)


async def _nothing(_tx: Tx) -> bool:
    return False


class _LateIsLost(Moves):
    """Hears of no payment that nobody waits for."""

    async def paid(self, tx: Tx, order_id: int, event_id: str | None) -> bool:
        row = await tx.fetch_one("SELECT state FROM payments WHERE order_id = ?", (order_id,))
        if row is None or row[0] not in (PaymentState.WANTED, PaymentState.OPEN, PaymentState.ASKING):
            return False
        return await super().paid(tx, order_id, event_id)


class _TwoUnits(Till):
    """Decides the hold, and a moment later moves the payment."""

    async def _decide(self, decide: Any, move: Callable[[Tx], Awaitable[bool]]) -> bool:
        await super()._decide(decide, _nothing)
        await asyncio.sleep(_MOMENT_S)
        return await self._store.write(move)


class _FreshKeys(Provider):
    """Asks each time as if for the first time."""

    def __init__(self, process: Process, settings: OrdersSettings) -> None:
        super().__init__(process, settings)
        self._random = process.random

    async def _exchange(self, verb: str, path: str, body: object, key: str) -> tuple[int, bytes]:
        fresh = f"{key}-{self._random.getrandbits(64)}" if path.endswith("/refunds") else key
        return await super()._exchange(verb, path, body, fresh)
