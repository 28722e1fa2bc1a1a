"""The two tables: drawn as they are, no state that waits for a person, and never out of step with each other."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.clock import ManualClock
from dougong.statemachine import Fire
from dougong.store import Tx, migrations_from, open_store
from dougong.tcc import Decision
from shop.orders import OrdersSettings, OrderState, PaymentMethod
from shop.orders import _ledger as ledger
from shop.orders._machine import WORK, OrderMachine, PaymentMachine, PaymentState
from shop.orders._moves import Moves

S, P = OrderState, PaymentState
PAGE = Path(__file__).parents[2] / "docs" / "path-of-an-order.md"

IN_STEP = {
    S.AWAITING_PAYMENT: {P.WANTED, P.OPEN, P.ASKING},
    S.CANCELLED: {P.DECLINED, P.VOIDING, P.VOIDED},
    S.REFUNDING: {P.REFUNDING},
    S.REFUNDED: {P.REFUNDED},
}
"""Where the payment of an order may stand; of any other order that was held it is paid."""


def test_the_page_shows_them_as_they_are() -> None:
    page = PAGE.read_text()
    assert OrderMachine.mermaid() in page
    assert PaymentMachine.mermaid() in page


def test_no_state_waits_for_a_person() -> None:
    """Who has no deadline is at rest, or is ended by something that has one."""
    by_transaction = {S.PLACING, S.AWAITING_PAYMENT}  # its Try, or its hold, has an end
    by_payment = {S.REFUNDING}
    orders_at_rest = {S.REFUSED, S.DELIVERED, S.CANCELLED, S.REFUNDED}
    assert {s.name for s in OrderMachine.states if not s.deadline} == orders_at_rest | by_transaction | by_payment
    payments_at_rest = {P.PAID, P.DECLINED, P.VOIDED, P.REFUNDED}
    assert {s.name for s in PaymentMachine.states if not s.deadline} == payments_at_rest


def test_what_the_desk_ends_is_tried_again() -> None:
    deadlines = {s.name: s.deadline for s in OrderMachine.states}, {s.name: s.deadline for s in PaymentMachine.states}
    for declared, at_work in zip(deadlines, WORK, strict=True):
        for state in at_work:
            deadline = declared[state]
            assert deadline is not None
            assert deadline.event == "retry"


EVENTS = [
    "paid", "declined", "expired", "voided", "refunded", "cancel", "undone", "refused", "return", "opened", "silence",
    "retry", "retry_payment", "announce", "repick", "trace", "give_up", "picking", "shipped", "delivered",
]  # fmt: skip


@given(st.lists(st.sampled_from(EVENTS), max_size=25))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_in_whatever_order_they_stay_in_step(events: Sequence[str]) -> None:
    asyncio.run(_happen(events))


async def _happen(events: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = await open_store(f"sqlite:///{directory}/orders.db", name="orders")
        try:
            await store.migrate("orders", migrations_from("shop.orders.migrations"))
            clock, of_orders = ManualClock(), OrdersSettings()
            payments = PaymentMachine(store, clock, of_orders)
            orders = OrderMachine(store, clock, of_orders, payments)
            for machine in (payments, orders):
                await machine.start(keep_time=False)
            moves, id_ = Moves(orders, payments), ledger.place_id(1, 1)
            order = ledger.NewOrder(id_, 1, 250, "EUR", "[]", [], None, PaymentMethod.EXTERNAL)
            await store.write(lambda tx: ledger.insert(tx, [order], 1))
            await store.write(lambda tx: moves.settle(tx, [Decision(id_, True, held=True)]))
            for n, event in enumerate(events):
                await store.write(lambda tx, n=n, event=event: _one(tx, moves, id_, n, event))  # type: ignore[misc]
                state = (await orders.find([id_]))[id_].state
                payment = (await payments.find([id_]))[id_].state
                assert payment in IN_STEP.get(S(state), {P.PAID}), (events[: n + 1], state, payment)
        finally:
            await store.close()


async def _one(tx: Tx, moves: Moves, id_: int, n: int, event: str) -> None:
    """One thing that may happen, as the shop's code lets it happen: a decision comes once, with what it is about."""
    waits = (await ledger.states(tx, [id_]))[id_] is S.AWAITING_PAYMENT
    if event == "paid":
        if waits:
            await moves.settle(tx, [Decision(id_, True)])
        await moves.paid(tx, id_, f"evt_{n}")
    elif event == "declined":
        if waits:
            await moves.settle(tx, [Decision(id_, False, "declined", "no")])
        await moves.declined(tx, id_, f"evt_{n}")
    elif event == "expired" and waits:
        await moves.settle(tx, [Decision(id_, False, "expired", "late")])
    elif event in {"voided", "refunded"}:
        await getattr(moves, event)(tx, id_, f"evt_{n}")
    elif event == "cancel":
        await moves.start_cancelling(tx, id_, ledger.reversal_id(100 + n, id_))
    elif event in {"undone", "refused"}:
        rows = await tx.fetch_all("SELECT id FROM reversals WHERE undecided = 1")
        await moves.settle(tx, [Decision(int(str(row[0])), event == "undone") for row in rows])
        if not rows and event == "undone":
            await moves.undone_without_transaction(tx, id_)
    elif event in {"picking", "shipped", "delivered"}:
        await moves.advance(tx, [(id_, S(event))])
    elif event in {"opened", "silence", "retry_payment"}:
        await moves.payments.fire(tx, [Fire(id_, event.removesuffix("_payment"))])
    elif event != "expired":
        await moves.orders.fire(tx, [Fire(id_, event)])
