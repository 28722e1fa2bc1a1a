"""Orders in the database: every statement about them stands here, but for those that move one: see `_machine`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from dougong.shard import BUCKETS
from dougong.store import Row, Store, Tx
from dougong.tcc import Decision
from shop.orders._contract import Line, Order, OrderState, PaymentMethod

__all__ = [
    "FAULT",
    "FAULTS",
    "AtWork",
    "NewOrder",
    "Payment",
    "at_work",
    "customers",
    "find",
    "find_any",
    "find_by_key",
    "insert",
    "insert_payments",
    "is_reversal",
    "items_sold",
    "latest",
    "list_before",
    "note_intent",
    "note_reason",
    "note_refusals",
    "payment",
    "place_id",
    "reversal_id",
    "reversed_orders",
    "start_reversal",
    "states",
    "to_order",
    "unpaid",
]

_COLUMNS = (
    "id, user_id, state, total_minor, currency, lines, created_us, updated_us, refusal_code, refusal, payment, "
    "CASE WHEN state = 'awaiting_payment' THEN (SELECT pay_url FROM payments WHERE order_id = orders.id) END"
)
_SELECT = "SELECT " + _COLUMNS + " FROM orders "  # noqa: S608 (a constant)

_STRETCH_BITS = 23
"""The index of customers' orders has a stretch of its own for every 32,768 numbers: see its migration."""
_REVERSAL = BUCKETS
"""The bit above the bucket."""

FAULTS = frozenset({"internal", "participant_failed", "bad_reply", "bad_batch"})
"""Refusal codes that are no answer of a participant's but its failure. The logs have the reason, customers do not."""
FAULT = "a fault on our side stopped this order; it is in our logs"

_decode_lines = msgspec.json.Decoder(list[Line]).decode
_encode = msgspec.json.encode


class NewOrder(msgspec.Struct, frozen=True, gc=False):
    """An order about to be written. `lines` is its JSON, which also tells whether two requests mean the same."""

    id: int
    user_id: int
    total_minor: int
    currency: str
    lines: str
    stock: list[tuple[str, int]]
    """SKUs and quantities, as inventory is asked for them."""
    key: str | None
    payment: PaymentMethod = PaymentMethod.WALLET


class Payment(msgspec.Struct, frozen=True, gc=False):
    """A payment at the provider."""

    order_id: int
    state: str
    amount_minor: int
    currency: str
    intent: str
    pay_url: str


class AtWork(msgspec.Struct, frozen=True, gc=False):
    """Something the desk is to bring to an end: worked on once per version."""

    id: int
    state: str
    version: int


def place_id(number: int, user_id: int) -> int:
    """An order's id, which is also its transaction's, from a number never used before.

    It ends with the customer's bucket, in which users keep the wallet: `id % 128 == user_id % 128`.
    """
    return number << 8 | user_id % BUCKETS


def reversal_id(number: int, order_id: int) -> int:
    """The id of a transaction that gives an order back, from a number never used before."""
    return number << 8 | _REVERSAL | order_id % BUCKETS


def is_reversal(transaction: int) -> bool:
    """Which of the two a transaction is."""
    return bool(transaction & _REVERSAL)


async def insert(tx: Tx, orders: Sequence[NewOrder], now_us: int) -> None:
    """Write new orders, not yet decided."""
    await tx.execute_many(
        "INSERT INTO orders (id, user_id, state, total_minor, currency, lines, idempotency_key, created_us, "
        "updated_us, payment) VALUES (?, ?, 'placing', ?, ?, ?, ?, ?, ?, ?)",
        [(o.id, o.user_id, o.total_minor, o.currency, o.lines, o.key, now_us, now_us, o.payment) for o in orders],
    )


async def note_refusals(tx: Tx, refused: Sequence[Decision]) -> None:
    """Say why orders end like this, to their customers and to repeats of their requests.

    An order refused because somebody could not be asked loses its idempotency key: the answer said to send it again,
    and sent again it must be tried again.
    """
    await tx.execute_many(
        "UPDATE orders SET refusal_code = ?, refusal = ?, "
        "idempotency_key = CASE WHEN ? <> 'unavailable' THEN idempotency_key END WHERE id = ?",
        [(d.code, d.message, d.code, d.transaction) for d in refused],
    )


async def note_reason(tx: Tx, order_id: int, code: str, reason: str) -> None:
    """Say why an order ends as it does, after it was accepted."""
    await tx.execute("UPDATE orders SET refusal_code = ?, refusal = ? WHERE id = ?", (code, reason, order_id))


async def start_reversal(tx: Tx, order_id: int, reversal: int) -> None:
    """Note the transaction that gives an order back. `Conflict` (`unique_violated`) while another one is undecided."""
    await tx.execute("INSERT INTO reversals (id, order_id, undecided) VALUES (?, ?, 1)", (reversal, order_id))


async def reversed_orders(tx: Tx, decisions: Sequence[Decision]) -> list[int]:
    """Orders whose reversals were accepted, of those just decided. After a no another one follows."""
    accepted = {d.transaction: d.accepted for d in decisions}
    ids = _encode(list(accepted)).decode()
    rows = await tx.fetch_all("SELECT id, order_id FROM reversals WHERE id IN (SELECT value FROM json_each(?))", (ids,))
    await tx.execute(
        "UPDATE reversals SET undecided = 0 WHERE id IN (SELECT value FROM json_each(?))",
        (ids,),
    )
    return [cast(int, order_id) for id_, order_id in rows if accepted[cast(int, id_)]]


async def insert_payments(tx: Tx, ids: Sequence[int], initial: tuple[str, int, int, int | None]) -> None:
    """Payments wanted for orders, at their price; `initial` is what the payments' machine says."""
    await tx.execute_many(
        "INSERT INTO payments (order_id, state, state_version, definition, due_us, amount_minor, currency) "
        "SELECT id, ?, ?, ?, ?, total_minor, currency FROM orders WHERE id = ?",
        [(*initial, order_id) for order_id in ids],
    )


async def note_intent(tx: Tx, order_id: int, intent: str, pay_url: str) -> None:
    """What the provider calls a payment, and where it is paid."""
    await tx.execute(
        "UPDATE payments SET intent = ?, pay_url = coalesce(nullif(?, ''), pay_url) WHERE order_id = ?",
        (intent, pay_url, order_id),
    )


async def payment(tx: Tx, order_id: int) -> Payment | None:
    """The payment of an order."""
    row = await tx.fetch_one(
        "SELECT order_id, state, amount_minor, currency, coalesce(intent, ''), coalesce(pay_url, '') FROM payments "
        "WHERE order_id = ?",
        (order_id,),
    )
    return Payment(*row) if row is not None else None  # type: ignore[arg-type]


async def at_work(tx: Tx, table: str, key: str, states: Sequence[str], limit: int) -> list[AtWork]:
    """Rows in states that the desk brings to an end, those that came there last first."""
    found: list[AtWork] = []
    for state in states:
        rows = await tx.fetch_all(
            f"SELECT {key}, state, state_version FROM {table} "  # noqa: S608 (our own constants)
            "WHERE state = ? AND due_us IS NOT NULL ORDER BY due_us DESC LIMIT ?",
            (state, limit),
        )
        found += [AtWork(*row) for row in rows]  # type: ignore[arg-type]
    return found


async def states(tx: Tx, ids: Sequence[int]) -> dict[int, OrderState]:
    """The states of those orders that exist."""
    rows = await tx.fetch_all(
        "SELECT id, state FROM orders WHERE id IN (SELECT value FROM json_each(?))", (_encode(ids).decode(),)
    )
    return {int(order_id): OrderState(state) for order_id, state in rows}  # type: ignore[arg-type]


async def unpaid(tx: Tx, before_us: int, limit: int) -> list[int]:
    """Orders that await their payment since before that time. The provider's webhook may come for one at any moment."""
    rows = await tx.fetch_all(
        "SELECT o.id FROM payments p JOIN orders o ON o.id = p.order_id WHERE p.state IN ('wanted', 'open', 'asking') "
        "AND p.due_us IS NOT NULL AND o.state = 'awaiting_payment' AND o.updated_us < ? LIMIT ?",
        (before_us, limit),
    )
    return [cast(int, row[0]) for row in rows]


async def items_sold(store: Store) -> int:
    """Items in orders whose goods are the customer's, or are gone. Step by step: the loop is others' too."""
    sold = after = 0
    while True:
        page = await store.fetch_all(
            "SELECT id, lines, state IN ('confirmed', 'picking', 'shipped', 'tracing', 'delivered', 'cancelling', "
            "'returned', 'lost') OR state IN ('refunding', 'refunded') AND refusal_code = 'lost' FROM orders "
            "WHERE id > ? ORDER BY id LIMIT 5000",
            (after,),
        )
        if not page:
            return sold
        after = cast(int, page[-1][0])
        sold += sum(line.quantity for _, lines, kept in page if kept for line in _decode_lines(cast(str, lines)))


async def find(tx: Tx, order_id: int, user_id: int) -> Row | None:
    """One order of a user's, as a row for `to_order`."""
    return await tx.fetch_one(_SELECT + "WHERE id = ? AND user_id = ?", (order_id, user_id))


async def customers(tx: Tx, order_ids: Sequence[int]) -> dict[int, int]:
    """Whose orders these are."""
    rows = await tx.fetch_all(
        "SELECT id, user_id FROM orders WHERE id IN (SELECT value FROM json_each(?))", (_encode(order_ids).decode(),)
    )
    return dict(cast("list[tuple[int, int]]", rows))


async def find_any(tx: Tx, order_id: int) -> Row | None:
    """One order, whosever it is."""
    return await tx.fetch_one(_SELECT + "WHERE id = ?", (order_id,))


async def find_by_key(tx: Tx, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Row]:
    """Orders that were placed under idempotency keys, by (user, key)."""
    found: dict[tuple[int, str], Row] = {}
    for user_id, key in keys:
        row = await tx.fetch_one(_SELECT + "WHERE user_id = ? AND idempotency_key = ?", (user_id, key))
        if row is not None:
            found[user_id, key] = row
    return found


async def list_before(tx: Tx, user_id: int, before: int, limit: int) -> list[Row]:
    """A page of a user's orders, newest first; by stretches of ids, as they are indexed."""
    found: list[Row] = []
    while len(found) < limit:
        last = await tx.fetch_one("SELECT max(id) FROM orders WHERE id < ?", (before,))
        if last is None or last[0] is None:
            break
        stretch = cast(int, last[0]) >> _STRETCH_BITS
        found += await tx.fetch_all(
            f"{_SELECT}WHERE id >> {_STRETCH_BITS} = ? AND user_id = ? AND id < ? AND state <> 'placing' "
            "ORDER BY id DESC LIMIT ?",
            (stretch, user_id, before, limit - len(found)),
        )
        before = stretch << _STRETCH_BITS
    return found


async def latest(tx: Tx) -> list[Row]:
    """The ten newest orders of all."""
    return await tx.fetch_all(_SELECT + "WHERE state <> 'placing' ORDER BY id DESC LIMIT 10")


def to_order(row: Row) -> Order:
    """The wire form of a row."""
    order_id, user_id, state, total_minor, currency, lines, created_us, updated_us, code, refusal, payment, url = row
    return Order(
        order_id=str(order_id),
        user_id=str(user_id),
        state=OrderState(state),  # type: ignore[arg-type]
        lines=_decode_lines(lines),  # type: ignore[arg-type]
        total_minor=total_minor,  # type: ignore[arg-type]
        currency=currency,  # type: ignore[arg-type]
        created_us=created_us,  # type: ignore[arg-type]
        updated_us=updated_us,  # type: ignore[arg-type]
        refusal=FAULT if code in FAULTS else refusal or "",  # type: ignore[arg-type]
        payment=PaymentMethod(payment),  # type: ignore[arg-type]
        pay_url=url or "",  # type: ignore[arg-type]
    )
