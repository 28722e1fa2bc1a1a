"""Payments at the provider: opened, heard of, asked about, voided and refunded.

A call to the provider never happens inside a unit, and never decides anything by itself: each is idempotent by the
order's number, and what it led to is an event of the payment's machine. So whatever is killed in between is done again.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from dougong.errors import Conflict, NotFound
from dougong.statemachine import Fire
from dougong.store import Store, Tx
from dougong.tcc import Coordinator, Decision, Outcome
from shop.orders import _ledger as ledger
from shop.orders._machine import PaymentState
from shop.orders._moves import Moves
from shop.orders._provider import Intent, IntentStatus, PaymentProvider

__all__ = ["Till"]


class _Decide(Protocol):
    """`confirm` or `cancel` of a transaction."""

    async def __call__(self, *, also: Callable[[Tx, Sequence[Decision]], Awaitable[None]]) -> Sequence[Outcome]: ...


class Till:
    """What is done about payments, by whoever notices that it has to be done."""

    def __init__(self, store: Store, transactions: Coordinator, moves: Moves, provider: PaymentProvider) -> None:
        self._store = store
        self._transactions = transactions
        self._moves = moves
        self._provider = provider

    async def open(self, order_id: int) -> str:
        """Tell the provider what is to be paid; where the customer does so. `Unavailable` when that must wait."""
        payment = await self._payment(order_id)
        if payment.state != PaymentState.WANTED:
            return payment.pay_url
        intent = await self._create(payment)
        await self._moves.payments.fire_many([Fire(order_id, "opened")])
        return intent.pay_url

    async def paid(self, intent: Intent, event_id: str | None = None) -> bool:
        """The provider has the money: the held stock is sold, or, if it was given back, the money is owed back.

        Whether that was new. Of this and the end of the hold, the transaction's log lets one win.
        """
        order_id = (await self._payment_of(intent)).order_id
        return await self._decide(
            functools.partial(self._transactions.confirm, [order_id]),
            lambda tx: self._moves.paid(tx, order_id, event_id),
        )

    async def declined(self, intent: Intent, event_id: str | None = None) -> bool:
        """The provider will not have the money: the held stock is given back. Whether that was new."""
        order_id = (await self._payment_of(intent)).order_id
        cancel = functools.partial(
            self._transactions.cancel, [order_id], code="declined", message="the payment was declined"
        )
        return await self._decide(
            cancel,
            lambda tx: self._moves.declined(tx, order_id, event_id),
        )

    async def voided(self, intent: Intent, event_id: str | None = None) -> bool:
        """The provider takes the money no more. If we did not ask for that, it is as good as declined."""
        payment = await self._payment_of(intent)
        if payment.state != PaymentState.VOIDING:
            return await self.declined(intent, event_id)
        return await self._store.write(lambda tx: self._moves.voided(tx, payment.order_id, event_id))

    async def refunded(self, intent: Intent, event_id: str | None = None) -> bool:
        """The provider gave the money back. Whether that was new."""
        payment = await self._payment_of(intent)
        return await self._store.write(lambda tx: self._moves.refunded(tx, payment.order_id, event_id))

    async def work(self, order_id: int, state: str) -> None:
        """Do what a payment in this state needs. Raises `Error` when it has to be done again later."""
        if state == PaymentState.WANTED:
            await self.open(order_id)
            return
        payment = await self._payment(order_id)
        if payment.state != state:
            return
        if state == PaymentState.REFUNDING:
            await self._provider.refund(order_id, payment.intent, payment.amount_minor)
            await self._store.write(lambda tx: self._moves.refunded(tx, order_id, None))
            return
        id_ = payment.intent or (await self._create(payment)).id
        intent = await (self._provider.ask(id_) if state == PaymentState.ASKING else self._provider.void(id_))
        if intent.status is IntentStatus.PAID:
            await self.paid(intent)
        elif intent.status is IntentStatus.DECLINED:
            await self.declined(intent)
        elif intent.status is IntentStatus.VOIDED:
            await self.voided(intent)
        elif state == PaymentState.ASKING:
            await self._moves.payments.fire_many([Fire(order_id, "opened")])

    async def _decide(self, decide: _Decide, move: Callable[[Tx], Awaitable[bool]]) -> bool:
        """Decide about the hold and move the payment, in one unit. What the move says: whether it was news."""
        news = False

        async def also(tx: Tx, _mine: Sequence[Decision]) -> None:
            nonlocal news
            news = await move(tx)

        try:
            await decide(also=also)
        except NotFound:  # so late that the log has forgotten the hold
            news = await self._store.write(move)
        self._moves.orders.history.wake()
        return news

    async def _create(self, payment: ledger.Payment) -> Intent:
        intent = await self._provider.create(payment.order_id, payment.amount_minor, payment.currency)
        await self._store.write(lambda tx: ledger.note_intent(tx, payment.order_id, intent.id, intent.pay_url))
        return intent

    async def _payment(self, order_id: int) -> ledger.Payment:
        payment = await self._store.read(lambda tx: ledger.payment(tx, order_id))
        if payment is None:
            raise NotFound(f"there is no payment for an order {order_id}", code="unknown_order")
        return payment

    async def _payment_of(self, intent: Intent) -> ledger.Payment:
        """Our side of what the provider speaks of."""
        reference = intent.reference
        if not (reference.isascii() and reference.isdigit() and len(reference) <= 18):
            raise NotFound(f"{reference[:64]!r} is no order of ours", code="unknown_order")
        payment = await self._payment(int(reference))
        if (intent.amount_minor, intent.currency) != (payment.amount_minor, payment.currency):
            raise Conflict(
                f"payment {intent.id} is {intent.amount_minor} {intent.currency}, order {reference} costs "
                f"{payment.amount_minor} {payment.currency}",
                code="amount_mismatch",
            )
        if payment.intent and intent.id != payment.intent:
            raise Conflict(f"order {reference} is paid by {payment.intent}, not by {intent.id}", code="intent_mismatch")
        if not payment.intent:  # its creation is being noted; we may be faster
            await self._store.write(lambda tx: ledger.note_intent(tx, payment.order_id, intent.id, intent.pay_url))
        return payment
