"""Shipments in the database: every statement about them stands here."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dougong.store import Tx
from shop.orders import OrderEvent, OrderState

__all__ = ["Step", "due", "move", "position", "take_in", "under_way"]


class Step(msgspec.Struct, frozen=True):
    """A shipment that is due to move on, from the state it is in to the next one."""

    order_id: int
    state: OrderState
    next: OrderState


_NEXT = {
    OrderState.CONFIRMED: OrderState.PICKING,
    OrderState.PICKING: OrderState.SHIPPED,
    OrderState.SHIPPED: OrderState.DELIVERED,
}


async def position(tx: Tx) -> int:
    """The number of the last event taken in."""
    row = await tx.fetch_one("SELECT seq FROM position WHERE feed = 'orders'")
    return int(row[0]) if row is not None else 0  # type: ignore[arg-type]


async def take_in(tx: Tx, events: Sequence[OrderEvent], now_us: int) -> None:
    """New shipments for confirmed orders, an end for cancelled ones, and the position, all at once."""
    await tx.execute_many(
        "INSERT INTO shipments (order_id, state, due_us, updated_us) VALUES (?, 'confirmed', ?, ?) "
        "ON CONFLICT (order_id) DO NOTHING",
        [(event.order_id, now_us, now_us) for event in events if event.state is OrderState.CONFIRMED],
    )
    await tx.execute_many(
        "UPDATE shipments SET state = 'cancelled', due_us = NULL, updated_us = ? WHERE order_id = ?",
        [(now_us, event.order_id) for event in events if event.state is OrderState.CANCELLED],
    )
    await tx.execute(
        "INSERT INTO position (feed, seq) VALUES ('orders', ?) "
        "ON CONFLICT (feed) DO UPDATE SET seq = max(seq, excluded.seq)",  # another instance may have been further
        (events[-1].seq,),
    )


async def due(tx: Tx, now_us: int, limit: int) -> list[Step]:
    """Shipments that are to move on now, the longest overdue first."""
    rows = await tx.fetch_all(
        "SELECT order_id, state FROM shipments WHERE due_us <= ? ORDER BY due_us LIMIT ?", (now_us, limit)
    )
    return [
        Step(order_id=order_id, state=OrderState(state), next=_NEXT[OrderState(state)])  # type: ignore[arg-type]
        for order_id, state in rows
    ]


async def under_way(tx: Tx) -> list[tuple[str, int]]:
    """How many shipments are in each state that is not final; counts no more than 50,000."""
    rows = await tx.fetch_all(
        "SELECT state, count(*) FROM (SELECT state FROM shipments WHERE due_us IS NOT NULL LIMIT 50000) GROUP BY state"
    )
    return [(str(state), int(count)) for state, count in rows]  # type: ignore[arg-type]


async def move(tx: Tx, reached: Sequence[tuple[Step, OrderState]], now_us: int, stage_us: int) -> None:
    """Write where each order really stands now, and when it is due again.

    An order that is being cancelled waits where it is: the feed says when it is cancelled, and until then the
    cancellation may yet be refused.
    """
    await tx.execute_many(
        "UPDATE shipments SET state = ?, due_us = ?, updated_us = ? WHERE order_id = ? AND state = ?",
        [
            (state.value, now_us + stage_us if state in _NEXT else None, now_us, step.order_id, step.state.value)
            for step, state in (
                (step, step.state if answered is OrderState.CANCELLING else answered) for step, answered in reached
            )
        ],
    )
