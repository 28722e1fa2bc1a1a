"""The life of an order, and of its payment at the provider: two tables, and nothing that moves either stands elsewhere.

Each state that somebody else has to bring to an end (a picker, a courier, a customer, a provider, our own participants)
has a deadline, and each deadline an event that leads on: nothing waits for a person. The states at `WORK` are brought
to an end by the desk (`_desk`), which works once per version of a row; their deadline makes a new version, so what did
not succeed is tried again, and what a crash interrupted too.

How long an order waits for its payment stands in neither table: the hold on its stock ends then, and that decision,
like every other of the transaction's, is an event here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from dougong.clock import Clock
from dougong.statemachine import Deadline, Fire, Instance, Machine, Rule, State, TimekeeperSettings, Transition
from dougong.store import Store, Tx
from shop.orders import _ledger as ledger
from shop.orders._contract import OrderState, PaymentMethod
from shop.orders._settings import OrdersSettings

__all__ = ["WORK", "OrderMachine", "PaymentMachine", "PaymentState"]

S = OrderState


class PaymentState(StrEnum):
    """Where a payment stands with us."""

    WANTED = "wanted"
    """The provider has not been told yet, or its answer was lost."""
    OPEN = "open"
    ASKING = "asking"
    """Nothing was heard for long: the provider is asked."""
    PAID = "paid"
    DECLINED = "declined"
    VOIDING = "voiding"
    """Wanted no more; the provider is told, and may answer that it is too late."""
    VOIDED = "voided"
    REFUNDING = "refunding"
    """Paid, and owed back."""
    REFUNDED = "refunded"


P = PaymentState

WORK = (S.CANCELLING, S.RETURNED, S.LOST), (P.WANTED, P.ASKING, P.VOIDING, P.REFUNDING)
"""States of orders and of payments that the desk brings to an end."""

_GONE = S.CANCELLING, S.RETURNED, S.LOST
_RETRY_S = 30.0


class PaymentMachine(Machine[int], table="payments", key="order_id", version=1):
    """A payment. What the provider says is true whenever it says it: money that comes too late is owed back."""

    states = (
        State(P.WANTED, initial=True, deadline=Deadline(_RETRY_S, "retry")),
        State(P.OPEN, deadline=Deadline(120.0, "silence")),
        State(P.ASKING, deadline=Deadline(_RETRY_S, "retry")),
        State(P.PAID),
        State(P.DECLINED),
        State(P.VOIDING, deadline=Deadline(_RETRY_S, "retry")),
        State(P.VOIDED),
        State(P.REFUNDING, deadline=Deadline(_RETRY_S, "retry")),
        State(P.REFUNDED, final=True),
    )
    rules = (
        Rule(P.WANTED, "opened", P.OPEN),
        Rule(P.WANTED, "retry", P.WANTED),
        Rule(P.OPEN, "silence", P.ASKING),
        Rule(P.ASKING, "opened", P.OPEN),
        Rule(P.ASKING, "retry", P.ASKING),
        Rule((P.WANTED, P.OPEN, P.ASKING), "paid", P.PAID),
        Rule((P.WANTED, P.OPEN, P.ASKING, P.VOIDING), "declined", P.DECLINED),
        Rule((P.WANTED, P.OPEN, P.ASKING), "drop", P.VOIDING),
        Rule(P.VOIDING, "voided", P.VOIDED),
        Rule(P.VOIDING, "retry", P.VOIDING),
        Rule((P.VOIDING, P.VOIDED, P.DECLINED), "paid", P.REFUNDING),
        Rule(P.PAID, "refund", P.REFUNDING),
        Rule(P.REFUNDING, "refunded", P.REFUNDED),
        Rule(P.REFUNDING, "retry", P.REFUNDING),
    )

    def __init__(
        self, store: Store, clock: Clock, settings: OrdersSettings, timekeeper: TimekeeperSettings | None = None
    ) -> None:
        deadlines_s: dict[str, float] = dict.fromkeys(WORK[1], settings.retry_s)
        super().__init__(store, clock=clock, settings=timekeeper, deadlines_s={**deadlines_s, P.OPEN: settings.ask_s})


class OrderMachine(Machine[int], table="orders", version=1, reads=("payment",), updated="updated_us"):
    """An order. `accepted`, `held` and `refused` are the decisions of its transaction, `undone` is that of the one that
    gives it back; `pick`, `ship` and `deliver` are fulfilment's reports, which may skip steps."""

    states = (
        State(S.PLACING, initial=True),
        State(S.AWAITING_PAYMENT),
        State(S.CONFIRMED, deadline=Deadline(900.0, "announce")),
        State(S.REFUSED, final=True),
        State(S.PICKING, deadline=Deadline(3600.0, "repick")),
        State(S.SHIPPED, deadline=Deadline(7 * 86_400.0, "trace")),
        State(S.TRACING, deadline=Deadline(3 * 86_400.0, "give_up")),
        State(S.LOST, deadline=Deadline(_RETRY_S, "retry")),
        State(S.DELIVERED),
        State(S.RETURNED, deadline=Deadline(_RETRY_S, "retry")),
        State(S.CANCELLING, deadline=Deadline(_RETRY_S, "retry")),
        State(S.CANCELLED),
        State(S.REFUNDING),
        State(S.REFUNDED, final=True),
    )
    rules = (
        Rule(S.PLACING, "accepted", S.CONFIRMED),
        Rule(S.PLACING, "held", S.AWAITING_PAYMENT, action="want_payments"),
        Rule(S.PLACING, "refused", S.REFUSED),
        Rule(S.AWAITING_PAYMENT, "accepted", S.CONFIRMED),
        Rule(S.AWAITING_PAYMENT, "refused", S.CANCELLED, action="drop_payments"),
        Rule(S.CONFIRMED, "announce", S.CONFIRMED),
        Rule(S.CONFIRMED, "pick", S.PICKING),
        Rule((S.CONFIRMED, S.PICKING), "ship", S.SHIPPED),
        Rule((S.CONFIRMED, S.PICKING, S.SHIPPED, S.TRACING), "deliver", S.DELIVERED),
        Rule(S.PICKING, "repick", S.CONFIRMED),
        Rule(S.SHIPPED, "trace", S.TRACING),
        Rule(S.TRACING, "give_up", S.LOST, action="note_loss"),
        Rule((S.CONFIRMED, S.PICKING), "cancel", S.CANCELLING),
        Rule(S.DELIVERED, "return", S.RETURNED),
        *(Rule(state, "retry", state) for state in _GONE),
        Rule(_GONE, "undone", S.REFUNDING, guard="paid_elsewhere", action="refund_payments"),
        Rule(S.CANCELLING, "undone", S.CANCELLED),
        Rule((S.RETURNED, S.LOST), "undone", S.REFUNDED),
        Rule(S.CANCELLED, "paid_late", S.REFUNDING),
        Rule(S.REFUNDING, "refunded", S.REFUNDED),
    )

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: OrdersSettings,
        payments: PaymentMachine,
        timekeeper: TimekeeperSettings | None = None,
    ) -> None:
        self._payments = payments
        super().__init__(
            store,
            clock=clock,
            settings=timekeeper,
            deadlines_s={
                **dict.fromkeys(WORK[0], settings.retry_s),
                S.CONFIRMED: settings.confirmed_s,
                S.PICKING: settings.picking_s,
                S.SHIPPED: settings.shipped_s,
                S.TRACING: settings.tracing_s,
            },
        )

    def paid_elsewhere(self, order: Instance[int], data: object) -> bool:
        """Whether the provider has the money."""
        return order.columns["payment"] == PaymentMethod.EXTERNAL

    async def want_payments(self, tx: Tx, moved: Sequence[Transition[int]]) -> None:
        """What is held is to be paid."""
        await ledger.insert_payments(tx, [t.instance for t in moved], self._payments.initial())

    async def drop_payments(self, tx: Tx, moved: Sequence[Transition[int]]) -> None:
        """Nobody is to pay any more. A payment that is over already does not allow that, which is right."""
        await self._payments.fire(tx, [Fire(t.instance, "drop") for t in moved])

    async def refund_payments(self, tx: Tx, moved: Sequence[Transition[int]]) -> None:
        """What was paid is owed back."""
        await self._payments.fire(tx, [Fire(t.instance, "refund") for t in moved])

    async def note_loss(self, tx: Tx, moved: Sequence[Transition[int]]) -> None:
        """Say why it ends like this; that the goods are gone, the books know by this too."""
        for t in moved:
            await ledger.note_reason(tx, t.instance, "lost", "the parcel was lost")
