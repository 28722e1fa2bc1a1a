"""Orders in the database: every statement about them stands here.

An order is written `placing`, and moves by compare-and-set only, so that a racing cancel, a late fulfilment report and
a recovery after a crash find exactly one winner. A change that others follow writes its event in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from dougong.store import Row, Tx, Value
from dougong.tcc import Decision
from shop.orders._contract import Line, Order, OrderEvent, OrderState

__all__ = [
    "FAULT",
    "FAULTS",
    "NewOrder",
    "advance",
    "events_after",
    "find",
    "find_by_key",
    "forget_events",
    "insert",
    "latest",
    "list_before",
    "place_id",
    "reversal_id",
    "settle",
    "start_cancelling",
    "states",
    "to_order",
]

_COLUMNS = "id, user_id, state, total_minor, currency, lines, created_us, updated_us, refusal_code, refusal"
_SELECT = "SELECT " + _COLUMNS + " FROM orders "  # noqa: S608 (a constant)

# What fulfilment may report, and the states it may find; anything else is late or repeated and changes nothing.
_BEFORE = {
    OrderState.PICKING: (OrderState.CONFIRMED,),
    OrderState.SHIPPED: (OrderState.CONFIRMED, OrderState.PICKING),
    OrderState.DELIVERED: (OrderState.CONFIRMED, OrderState.PICKING, OrderState.SHIPPED),
}

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
    key: str | None


def place_id(number: int) -> int:
    """An order's id, which is also its transaction's, from a number never used before: even."""
    return number << 1


def reversal_id(number: int) -> int:
    """The id of a transaction that gives an order back, from a number never used before: odd."""
    return number << 1 | 1


async def insert(tx: Tx, orders: Sequence[NewOrder], now_us: int) -> None:
    """Write new orders, not yet decided."""
    await tx.execute_many(
        "INSERT INTO orders (id, user_id, state, total_minor, currency, lines, idempotency_key, created_us, "
        "updated_us) VALUES (?, ?, 'placing', ?, ?, ?, ?, ?, ?)",
        [(o.id, o.user_id, o.total_minor, o.currency, o.lines, o.key, now_us, now_us) for o in orders],
    )


async def settle(tx: Tx, decisions: Sequence[Decision], now_us: int) -> None:
    """Write what transactions were decided to: of orders, and of reversals.

    An order refused because somebody could not be asked loses its idempotency key: the answer said to send it again,
    and sent again it must be tried again.
    """
    confirmed = [(now_us, d.transaction) for d in decisions if d.accepted and not d.transaction & 1]
    if confirmed:
        await tx.execute_many(
            "UPDATE orders SET state = 'confirmed', updated_us = ? WHERE id = ? AND state = 'placing'", confirmed
        )
        await _record(tx, [order_id for _, order_id in confirmed], OrderState.CONFIRMED)
    refused = [
        (d.code, d.message, now_us, d.code, d.transaction)
        for d in decisions
        if not d.accepted and not d.transaction & 1
    ]
    if refused:
        await tx.execute_many(
            "UPDATE orders SET state = 'refused', refusal_code = ?, refusal = ?, updated_us = ?, "
            "idempotency_key = CASE WHEN ? <> 'unavailable' THEN idempotency_key END "
            "WHERE id = ? AND state = 'placing'",
            refused,
        )
    reversals = {d.transaction: d.accepted for d in decisions if d.transaction & 1}
    if reversals:
        await _settle_reversals(tx, reversals, now_us)


async def _settle_reversals(tx: Tx, accepted: dict[int, bool], now_us: int) -> None:
    """Reversal → whether it was accepted. After a no the order stands as before, and may be cancelled again."""
    rows = await tx.fetch_all(
        "SELECT id, order_id FROM reversals WHERE id IN (SELECT value FROM json_each(?))",
        (_encode(list(accepted)).decode(),),
    )
    orders = {cast(int, order_id): accepted[cast(int, reversal)] for reversal, order_id in rows}
    await tx.execute_many(
        "UPDATE orders SET state = ?, updated_us = ? WHERE id = ? AND state = 'cancelling'",
        [("cancelled" if done else "confirmed", now_us, order_id) for order_id, done in orders.items()],
    )
    await _record(tx, [order_id for order_id, done in orders.items() if done], OrderState.CANCELLED)


async def start_cancelling(tx: Tx, order_id: int, reversal: int, now_us: int) -> bool:
    """Take the order for a cancellation by a transaction; False when it is past that, or another one has it."""
    taken = await tx.execute(
        "UPDATE orders SET state = 'cancelling', updated_us = ? WHERE id = ? AND state IN ('confirmed', 'picking')",
        (now_us, order_id),
    )
    if taken:
        await tx.execute("INSERT INTO reversals (id, order_id) VALUES (?, ?)", (reversal, order_id))
    return bool(taken)


async def advance(tx: Tx, reports: Sequence[tuple[int, OrderState]], now_us: int) -> None:
    """Move orders on as fulfilment reports."""
    for state, before in _BEFORE.items():
        ids = [order_id for order_id, reported in reports if reported is state]
        if ids:
            allowed = ", ".join(f"'{b.value}'" for b in before)  # our own constants, never input
            await tx.execute_many(
                f"UPDATE orders SET state = ?, updated_us = ? WHERE id = ? AND state IN ({allowed})",  # noqa: S608
                [(state.value, now_us, order_id) for order_id in ids],
            )


async def states(tx: Tx, ids: Sequence[int]) -> dict[int, OrderState]:
    """The states of those orders that exist."""
    rows = await tx.fetch_all(
        "SELECT id, state FROM orders WHERE id IN (SELECT value FROM json_each(?))", (_encode(ids).decode(),)
    )
    return {int(order_id): OrderState(state) for order_id, state in rows}  # type: ignore[arg-type]


async def find(tx: Tx, order_id: int, user_id: int) -> Row | None:
    """One order of a user's, as a row for `to_order`."""
    return await tx.fetch_one(_SELECT + "WHERE id = ? AND user_id = ?", (order_id, user_id))


async def find_by_key(tx: Tx, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Row]:
    """Orders that were placed under idempotency keys, by (user, key)."""
    found: dict[tuple[int, str], Row] = {}
    for user_id, key in keys:
        row = await tx.fetch_one(_SELECT + "WHERE user_id = ? AND idempotency_key = ?", (user_id, key))
        if row is not None:
            found[user_id, key] = row
    return found


async def list_before(tx: Tx, user_id: int, before: int, limit: int) -> list[Row]:
    """A page of a user's orders, newest first."""
    return await tx.fetch_all(
        _SELECT + "WHERE user_id = ? AND id < ? AND state <> 'placing' ORDER BY id DESC LIMIT ?",
        (user_id, before, limit),
    )


async def latest(tx: Tx) -> list[Row]:
    """The ten newest orders of all."""
    return await tx.fetch_all(_SELECT + "WHERE state <> 'placing' ORDER BY id DESC LIMIT 10")


async def events_after(tx: Tx, after: int, limit: int) -> list[OrderEvent]:
    """Events with numbers above `after`, in order."""
    rows = await tx.fetch_all(
        "SELECT seq, order_id, state FROM order_events WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
    )
    return [OrderEvent(seq=seq, order_id=order_id, state=OrderState(state)) for seq, order_id, state in rows]  # type: ignore[arg-type]


async def forget_events(tx: Tx, up_to: int) -> None:
    """Remove events that their follower has stored."""
    await tx.execute("DELETE FROM order_events WHERE seq <= ?", (up_to,))


async def _record(tx: Tx, ids: Sequence[int], state: OrderState) -> None:
    rows: list[Sequence[Value]] = [(order_id, state.value) for order_id in ids]
    await tx.execute_many("INSERT INTO order_events (order_id, state) VALUES (?, ?)", rows)


def to_order(row: Row) -> Order:
    """The wire form of a row."""
    order_id, user_id, state, total_minor, currency, lines, created_us, updated_us, code, refusal = row
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
    )
