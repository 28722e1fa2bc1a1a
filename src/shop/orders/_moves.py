"""What moves orders and their payments together: each move in one unit, so that the two never disagree."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.errors import Conflict, Error
from dougong.statemachine import Fire, Outcome, Transition
from dougong.store import Tx
from dougong.tcc import Decision
from shop.orders import _ledger as ledger
from shop.orders._contract import OrderState
from shop.orders._machine import OrderMachine, PaymentMachine, PaymentState

__all__ = ["Moves"]

_NEW = OrderState.PLACING.value, 0
"""Where every order begins."""

# What fulfilment may report: the event it is, and where an order that never stalled stands then.
_REPORTS = {
    OrderState.PICKING: ("pick", (OrderState.CONFIRMED.value, 1)),
    OrderState.SHIPPED: ("ship", (OrderState.PICKING.value, 2)),
    OrderState.DELIVERED: ("deliver", (OrderState.SHIPPED.value, 3)),
}


class Moves:
    """Compound moves over both machines."""

    def __init__(self, orders: OrderMachine, payments: PaymentMachine) -> None:
        self.orders = orders
        self.payments = payments

    async def settle(self, tx: Tx, decisions: Sequence[Decision]) -> None:
        """Write what transactions were decided to: of orders, and of those that give an order back."""
        of_orders = [d for d in decisions if not ledger.is_reversal(d.transaction)]
        await self._straight(tx, "accepted", [d.transaction for d in of_orders if d.accepted and not d.held])
        await self._straight(tx, "held", [d.transaction for d in of_orders if d.held])
        refused = [d for d in of_orders if not d.accepted]
        if refused:
            moved = set(await self._straight(tx, "refused", [d.transaction for d in refused]))
            await ledger.note_refusals(tx, [d for d in refused if d.transaction in moved])
        reversals = [d for d in decisions if ledger.is_reversal(d.transaction)]
        if reversals:
            undone = await ledger.reversed_orders(tx, reversals)
            await self.orders.fire(tx, [Fire(order_id, "undone") for order_id in undone])

    async def start_cancelling(self, tx: Tx, order_id: int, reversal: int) -> bool:
        """Take the order for a cancellation by a transaction; False when it is past that, or another one has it."""
        (outcome,) = await self.orders.fire(tx, [Fire(order_id, "cancel")])
        if isinstance(outcome, Error):
            return False
        await ledger.note_reason(tx, order_id, "cancelled", "cancelled by the customer")
        await ledger.start_reversal(tx, order_id, reversal)
        return True

    async def advance(self, tx: Tx, reports: Sequence[tuple[int, OrderState]]) -> dict[int, OrderState]:
        """Move orders on as fulfilment reports; what is late, repeated or none of its business changes nothing.

        Where the orders stand then, of those that exist.
        """
        reached: dict[int, OrderState] = {}
        for state, (event, expecting) in _REPORTS.items():
            ids = list(dict.fromkeys(order_id for order_id, reported in reports if reported is state))
            if ids:
                reached.update(dict.fromkeys(await self._straight(tx, event, ids, expecting), state))
        unmoved = list({order_id for order_id, _ in reports}.difference(reached))
        if unmoved:
            reached.update(await ledger.states(tx, unmoved))
        return reached

    async def paid(self, tx: Tx, order_id: int, event_id: str | None) -> bool:
        """The provider has the money. If nobody waits for it any more, it is owed back. Whether that was new."""
        return await self._heard(tx, Fire(order_id, "paid", event_id))

    async def declined(self, tx: Tx, order_id: int, event_id: str | None) -> bool:
        """The provider will not get the money. Whether that was new."""
        return await self._heard(tx, Fire(order_id, "declined", event_id))

    async def voided(self, tx: Tx, order_id: int, event_id: str | None = None) -> bool:
        """The provider takes the money no more. Whether that was new."""
        return await self._heard(tx, Fire(order_id, "voided", event_id))

    async def refunded(self, tx: Tx, order_id: int, event_id: str | None = None) -> bool:
        """The provider gave the money back. Whether that was new."""
        return await self._heard(tx, Fire(order_id, "refunded", event_id))

    async def undone_without_transaction(self, tx: Tx, order_id: int) -> None:
        """There was nothing to give back that is ours."""
        await self.orders.fire(tx, [Fire(order_id, "undone")])

    async def _heard(self, tx: Tx, fire: Fire[int]) -> bool:
        """Move a payment, and the order as far as that concerns it."""
        (outcome,) = await self.payments.fire(tx, [fire])
        if not isinstance(outcome, Transition) or outcome.repeated:
            return False
        if fire.event == "paid" and outcome.target == PaymentState.REFUNDING:
            await self._together(tx, Fire(fire.instance, "paid_late"))
        elif fire.event == "refunded":
            await self._together(tx, Fire(fire.instance, "refunded"))
        return True

    async def _together(self, tx: Tx, fire: Fire[int]) -> None:
        """Move an order with its payment, or neither."""
        (outcome,) = await self.orders.fire(tx, [fire])
        if isinstance(outcome, Error):
            raise Conflict(f"order {fire.instance} is not where its payment is: {outcome.message}", code="out_of_step")

    async def _straight(
        self, tx: Tx, event: str, ids: Sequence[int], expecting: tuple[str, int] = _NEW
    ) -> Sequence[int]:
        """Fire at orders that most likely stand as expected, which saves reading them; those that were moved."""
        if not ids:
            return ids
        fires = [Fire(order_id, event) for order_id in ids]
        outcomes: Sequence[Outcome[int]] = await self.orders.fire(tx, fires, expecting=expecting)
        elsewhere = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Error)]
        if not elsewhere:
            return ids
        again = await self.orders.fire(tx, [fires[i] for i in elsewhere])
        stay = {ids[i] for i, outcome in zip(elsewhere, again, strict=True) if isinstance(outcome, Error)}
        return [order_id for order_id in ids if order_id not in stay]
