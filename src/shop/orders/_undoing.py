"""Giving orders back: stock and money by a transaction of their own, as the order itself took them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from dougong.errors import Conflict, Unavailable
from dougong.store import IdBlocks, Store, Tx
from dougong.tcc import Coordinator, NewTransaction, TransactionState
from shop.inventory import Reserve, StockHolds
from shop.orders import _ledger as ledger
from shop.orders._contract import Order, OrderState, PaymentMethod
from shop.orders._machine import WORK
from shop.orders._moves import Moves
from shop.users import Charge, WalletHolds

__all__ = ["NOT_SETTLED", "Undoing"]

_Begin = Callable[[Tx, int], Awaitable[None]]

NOT_SETTLED = (TransactionState.TRYING, TransactionState.CONFIRMING, TransactionState.PARKED_CONFIRMING)
"""Until its transaction is over, there is nothing of an order to give back."""


class Undoing:
    """Gives back what cancelled, returned and lost orders took."""

    def __init__(self, store: Store, ids: IdBlocks, transactions: Coordinator, moves: Moves) -> None:
        self._store = store
        self._ids = ids
        self._transactions = transactions
        self._moves = moves

    async def cancel(self, order: Order) -> None:
        """Take an order for cancelling and give it back. `Conflict` when it cannot be cancelled (any more).

        If a participant is away the order stays *cancelling*, and the desk goes on with it.
        """
        order_id = int(order.order_id)

        async def begin(tx: Tx, reversal: int) -> None:
            if not await self._moves.start_cancelling(tx, order_id, reversal):
                raise Conflict(
                    f"order {order_id} is {order.state} and can no longer be cancelled",
                    code="order_not_cancellable",
                    state=order.state.value,
                )

        await self._run(order, begin)

    async def work(self, order_id: int, state: str) -> None:
        """Do what an order in this state needs. Raises `Error` when it has to be done again later."""
        row = await self._store.read(lambda tx: ledger.find_any(tx, order_id))
        if row is None or row[2] != state or state not in WORK[0]:
            return
        order = ledger.to_order(row)
        if not _branches(order):
            await self._store.write(lambda tx: self._moves.undone_without_transaction(tx, order_id))
            return
        if await self._transactions.state(order_id) in NOT_SETTLED:
            raise Unavailable(f"order {order_id} is still settling", code="settling")

        async def begin(tx: Tx, reversal: int) -> None:
            if (await ledger.states(tx, [order_id])).get(order_id) != state:
                raise Conflict(f"order {order_id} is given back already", code="moved_on")
            await ledger.start_reversal(tx, order_id, reversal)

        try:
            await self._run(order, begin)
        except Conflict as conflict:
            if conflict.code not in ("unique_violated", "moved_on"):
                raise  # else somebody was faster, is at it, or recovery will be

    async def _run(self, order: Order, begin: _Begin) -> None:
        (number,) = await self._ids.take()
        reversal = ledger.reversal_id(number, int(order.order_id))
        transaction = NewTransaction(reversal, _branches(order))
        await self._transactions.run([transaction], begin=lambda tx: begin(tx, reversal))
        self._moves.orders.history.wake()


def _branches(order: Order) -> Mapping[str, msgspec.Struct]:
    """What goes back where: no goods of a lost parcel, no money that the provider has."""
    branches: dict[str, msgspec.Struct] = {}
    if order.state is not OrderState.LOST:
        branches[StockHolds.service] = Reserve(lines=[(line.sku, -line.quantity) for line in order.lines])
    if order.payment is PaymentMethod.WALLET:
        branches[WalletHolds.service] = Charge(
            user_id=int(order.user_id), amount_minor=-order.total_minor, currency=order.currency
        )
    return branches
