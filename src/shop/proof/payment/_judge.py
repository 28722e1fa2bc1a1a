"""What must be true in the end, whoever won."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import msgspec

from dougong.simulation import Database, History, Outcome, conserved, durable, one_outcome
from dougong.statemachine import Machine
from dougong.tcc import TransactionState
from shop.orders import Line, OrderState, PaymentMethod
from shop.orders._machine import OrderMachine, PaymentMachine, PaymentState
from shop.provider import Intents, Status

__all__ = ["AUDIT", "judge", "left_waiting"]

AUDIT = """
CREATE TABLE audit_moves (
    number INTEGER PRIMARY KEY, machine TEXT, instance INTEGER, version INTEGER, source TEXT, event TEXT, target TEXT
);
CREATE TRIGGER audit_moves AFTER INSERT ON dougong_transitions BEGIN
    INSERT INTO audit_moves (machine, instance, version, source, event, target)
    SELECT name, new.instance, new.version, new.source, new.event, new.target FROM dougong_machines
    WHERE number = new.machine;
END;
CREATE TABLE audit_decisions (number INTEGER PRIMARY KEY, id INTEGER, state INTEGER);
CREATE TRIGGER audit_decisions AFTER UPDATE OF state ON dougong_transactions BEGIN
    INSERT INTO audit_decisions (id, state) VALUES (new.id, new.state);
END;
"""
"""What happened, for us to see when the shop has forgotten it: its own histories end with what others have stored."""

S, P, T = OrderState, PaymentState, TransactionState

_KEPT = (S.CONFIRMED, S.PICKING, S.SHIPPED, S.TRACING, S.DELIVERED)
"""The customer has the goods, or will; we, or the provider, have the money."""
_ENDS: Mapping[OrderState, Collection[PaymentState]] = {
    **dict.fromkeys(_KEPT, (P.PAID,)),
    S.CANCELLED: (P.VOIDED, P.DECLINED),
    S.REFUNDED: (P.REFUNDED,),
}
"""Where an order that was held may end, and its payment with it."""
_ACCEPTED = (T.CONFIRMING, T.CONFIRMED, T.PARKED_CONFIRMING)


class _Order(msgspec.Struct, frozen=True):
    id: int
    user_id: int
    state: OrderState
    version: int
    total_minor: int
    lines: str
    payment: PaymentMethod
    key: str | None
    reason: str | None

    @property
    def sold(self) -> Mapping[str, int]:
        """What left the stock for good."""
        lost = self.state is S.REFUNDED and self.reason == "lost"
        sold: Counter[str] = Counter()
        if self.state in _KEPT or lost:
            for line in msgspec.json.decode(self.lines, type=list[Line]):
                sold[line.sku] += line.quantity
        return sold

    @property
    def kept_minor(self) -> int:
        """What it should have brought in."""
        return self.total_minor if self.state in _KEPT else 0


def left_waiting(books: Database) -> list[str]:
    """What somebody has still to decide, pay, give back or take back."""
    over = ", ".join(f"'{state}'" for state in (*_ENDS, S.REFUSED))
    orders = f"SELECT id, state FROM orders WHERE state NOT IN ({over})"  # noqa: S608 (our own constants)
    payments = "SELECT order_id, state FROM payments WHERE state NOT IN ('paid', 'declined', 'voided', 'refunded')"
    transactions = "SELECT id, state FROM dougong_transactions WHERE state NOT IN (3, 5)"
    return [
        *(f"order {id_} is left {state}" for id_, state in books.rows_as(tuple[int, str], orders)),
        *(f"the payment of order {id_} is left {state}" for id_, state in books.rows_as(tuple[int, str], payments)),
        *(
            f"transaction {id_} is left {state.name.lower()}"
            for id_, state in books.rows_as(tuple[int, TransactionState], transactions)
        ),
    ]


def judge(books: Database, stock: Database, wallets: Database, provider: Intents, history: History) -> list[str]:
    """Everything that is wrong."""
    rows = books.rows(
        "SELECT id, user_id, state, state_version, total_minor, lines, payment, idempotency_key, refusal_code "
        "FROM orders ORDER BY id"
    )
    orders = [msgspec.convert(dict(zip(_Order.__struct_fields__, row, strict=True)), _Order) for row in rows]
    payments = {
        id_: (state, version)
        for id_, state, version in books.rows_as(
            tuple[int, PaymentState, int], "SELECT order_id, state, state_version FROM payments"
        )
    }
    return [
        *left_waiting(books),
        *_paths(books, OrderMachine, {o.id: (o.state, o.version) for o in orders}),
        *_paths(books, PaymentMachine, payments),
        *_pairs(orders, {id_: state for id_, (state, _) in payments.items()}),
        *_decided_once(books, orders),
        *_stock(stock, orders),
        *_wallets(wallets, orders),
        *_money_elsewhere(provider, orders),
        *_acknowledged(history, orders),
    ]


def _paths(books: Database, machine: type[Machine[int]], stand: Mapping[int, tuple[str, int]]) -> Iterable[str]:
    """Each went a legal way without gaps, and stands where its way led."""
    table, name = machine.declaration.table, machine.declaration.name
    legal = {
        (source, event, move.target)
        for source, ways in table.moves.items()
        for event, moves in ways.items()
        for move in moves
    }
    led: dict[int, tuple[str, int]] = dict.fromkeys(stand, (table.initial, 0))
    made = books.rows_as(
        tuple[int, int, str, str, str],
        f"SELECT instance, version, source, event, target FROM audit_moves WHERE machine = '{name}' ORDER BY number",  # noqa: S608
    )
    for id_, version, source, event, target in made:
        state, last = led.get(id_, ("nowhere", 0))
        if (source, version) != (state, last + 1):
            yield f"{name} {id_}: version {version} from {source} after version {last}, {state}"
        if (source, event, target) not in legal:
            yield f"{name} {id_}: {event} led from {source} to {target}"
        led[id_] = target, version
    for id_, where in stand.items():
        if led[id_] != where:
            yield f"{name} {id_} is {where}, its history ends with {led[id_]}"


def _pairs(orders: Iterable[_Order], payments: Mapping[int, PaymentState]) -> Iterable[str]:
    """An order and its payment are in step."""
    for order in orders:
        payment = payments.get(order.id)
        held = order.payment is PaymentMethod.EXTERNAL and order.state not in (S.PLACING, S.REFUSED)
        if payment is None and not held:
            continue
        if payment is None or not held or payment not in _ENDS.get(order.state, ()):
            yield f"order {order.id} is {order.state}, and its payment {payment}"
    for id_ in payments.keys() - {order.id for order in orders}:
        yield f"there is a payment for order {id_}, which is not there"


def _decided_once(books: Database, orders: Iterable[_Order]) -> Iterable[str]:
    """Each hold, and each other transaction, was decided once, and its order went that way."""
    decided = [
        (id_, "accepted" if state in _ACCEPTED else "refused")
        for id_, state in books.rows_as(
            tuple[int, TransactionState], "SELECT id, state FROM audit_decisions ORDER BY number"
        )
        if state is not T.HELD
    ]
    yield from one_outcome("transaction", decided, keys=[order.id for order in orders])
    accepted = {id_ for id_, outcome in decided if outcome == "accepted"}
    went = {id_ for (id_,) in books.rows_as(tuple[int], _ACCEPTED_ORDERS)}
    for order in orders:
        if (order.id in accepted) != (order.id in went):
            yield f"order {order.id} is {order.state}, and its transaction was not decided so"


_ACCEPTED_ORDERS = "SELECT instance FROM audit_moves WHERE machine = 'orders' AND target = 'confirmed'"


def _stock(stock: Database, orders: Iterable[_Order]) -> Iterable[str]:
    sold: Counter[str] = Counter()
    for order in orders:
        sold.update(order.sold)
    rows = stock.rows_as(tuple[str, int, int, int, int], "SELECT sku, available, frozen, sold, total FROM stock")
    for sku, available, frozen, gone, total in rows:
        yield from conserved(f"stock of {sku}", total, {"available": available, "frozen": frozen, "sold": gone})
        if frozen or gone != sold[sku]:
            yield f"stock of {sku}: {frozen} frozen and {gone} sold; orders took {sold[sku]}"


def _wallets(wallets: Database, orders: Iterable[_Order]) -> Iterable[str]:
    spent: Counter[int] = Counter()
    for order in orders:
        if order.payment is PaymentMethod.WALLET:
            spent[order.user_id] += order.kept_minor
    rows = wallets.rows_as(
        tuple[int, int, int, int, int], "SELECT user_id, available, frozen, spent, deposited FROM wallets"
    )
    for user, available, frozen, gone, deposited in rows:
        parts = {"available": available, "frozen": frozen, "spent": gone}
        yield from conserved(f"wallet of user {user}", deposited, parts)
        if frozen or gone != spent[user]:
            yield f"wallet of user {user}: {frozen} frozen and {gone} spent; orders cost {spent[user]}"


def _money_elsewhere(provider: Intents, orders: Iterable[_Order]) -> Iterable[str]:
    """The provider has the price of what was sold, once, and nothing else of anybody's."""
    intents = dict(provider.by_reference())
    for order in orders:
        of_order = intents.pop(str(order.id), [])
        if len(of_order) > 1:
            yield f"order {order.id} is to be paid {len(of_order)} times"
        for intent in of_order:
            if intent.refunded_minor not in (0, intent.amount_minor):
                yield f"order {order.id} was refunded {intent.refunded_minor} of {intent.amount_minor}"
        if order.payment is PaymentMethod.EXTERNAL:
            has = sum(i.amount_minor for i in of_order if i.status is Status.PAID)
            has -= sum(i.refunded_minor for i in of_order)
            if has != order.kept_minor:
                yield f"order {order.id} is {order.state}, and the provider has {has} of its {order.total_minor}"
    for reference in intents:
        yield f"the provider knows of an order {reference}, which is not there"


def _acknowledged(history: History, orders: Iterable[_Order]) -> Iterable[str]:
    """Whoever was told that an order stands has one, just one, and whoever was told that it is cancelled has none."""
    live: dict[str, list[_Order]] = {}
    by_id = {order.id: order for order in orders}
    for order in by_id.values():
        if order.key is not None and order.state is not S.REFUSED:
            live.setdefault(order.key, []).append(order)
    for key, some in live.items():
        if len(some) > 1:
            yield f"{key} ordered once and has {len(some)} orders"
    placed = [call for call in history.calls if call.what == "place"]
    yield from durable("order", placed, lambda call: live[str(call.key)][0].id if str(call.key) in live else None)
    for call in history.calls:
        if call.what == "cancel" and call.outcome is Outcome.OK and isinstance(call.key, int):
            state = by_id[call.key].state if call.key in by_id else "gone"
            if state not in (S.CANCELLED, S.REFUNDED):
                yield f"order {call.key} was acknowledged as {call.result}, and is {state}"
