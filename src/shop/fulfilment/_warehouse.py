"""Shipments in the database: every statement about them stands here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from dougong.store import Tx
from shop.fulfilment._stalls import Stalls
from shop.orders import OrderEvents, OrderState

__all__ = ["Step", "due", "move", "position", "take_in", "under_way"]


class Step(msgspec.Struct, frozen=True):
    """A shipment that is due to move on, from the state it is in to the next one."""

    order_id: int
    state: OrderState
    next: OrderState
    attempts: int = 0
    """How often it was picked in vain."""


_NOTHING_GOES_WRONG = Stalls()
_NEXT = {
    OrderState.CONFIRMED: OrderState.PICKING,
    OrderState.PICKING: OrderState.SHIPPED,
    OrderState.SHIPPED: OrderState.DELIVERED,
}


async def position(tx: Tx) -> int:
    """The number of the last event taken in."""
    row = await tx.fetch_one("SELECT seq FROM position WHERE feed = 'orders'")
    return int(row[0]) if row is not None else 0  # type: ignore[arg-type]


async def take_in(
    tx: Tx, page: OrderEvents, now_us: int, stalls: Stalls = _NOTHING_GOES_WRONG
) -> list[tuple[int, OrderState]]:
    """New shipments for confirmed orders, another try for those confirmed again, an end for cancelled and lost ones, a
    question about those traced, and the position, all at once. What was taken in before changes nothing; what was not,
    as (order_id, state)."""
    seen = await position(tx)
    events = [event for event in page.items if event.seq > seen]  # another instance may have been further
    await tx.execute_many(
        "INSERT INTO shipments (order_id, state, due_us, updated_us) VALUES (?, 'confirmed', ?, ?) "
        "ON CONFLICT (order_id) DO UPDATE SET attempts = attempts + (state = 'picking'), state = 'confirmed', "
        "due_us = excluded.due_us, updated_us = excluded.updated_us WHERE state IN ('confirmed', 'picking')",
        [(event.order_id, now_us, now_us) for event in events if event.state is OrderState.CONFIRMED],
    )
    for state, told in (("cancelled", OrderState.CANCELLED), ("lost", OrderState.LOST)):
        await tx.execute_many(
            "UPDATE shipments SET state = ?, due_us = NULL, updated_us = ? WHERE order_id = ?",
            [(state, now_us, event.order_id) for event in events if event.state is told],
        )
    await tx.execute_many(  # the courier is asked, and has an answer or not
        "UPDATE shipments SET due_us = ?, updated_us = ? WHERE order_id = ? AND state = 'shipped'",
        [
            (now_us, now_us, event.order_id)
            for event in events
            if event.state is OrderState.TRACING and not stalls.parcel_lost(event.order_id)
        ],
    )
    await tx.execute(
        "INSERT INTO position (feed, seq) VALUES ('orders', ?) "
        "ON CONFLICT (feed) DO UPDATE SET seq = max(seq, excluded.seq)",
        (page.position,),
    )
    return [(event.order_id, event.state) for event in events]


async def due(tx: Tx, now_us: int, limit: int) -> list[Step]:
    """Shipments that are to move on now, the longest overdue first."""
    rows = await tx.fetch_all(
        "SELECT order_id, state, attempts FROM shipments WHERE due_us <= ? ORDER BY due_us LIMIT ?", (now_us, limit)
    )
    return [
        Step(order_id=order_id, state=OrderState(state), next=_NEXT[OrderState(state)], attempts=attempts)  # type: ignore[arg-type]
        for order_id, state, attempts in rows
    ]


async def under_way(tx: Tx) -> list[tuple[str, int]]:
    """How many shipments are in each state that is not final; counts no more than 50,000."""
    rows = await tx.fetch_all(
        "SELECT state, count(*) FROM (SELECT state FROM shipments WHERE due_us IS NOT NULL LIMIT 50000) GROUP BY state"
    )
    return [(str(state), int(count)) for state, count in rows]  # type: ignore[arg-type]


async def move(
    tx: Tx,
    reached: Sequence[tuple[Step, OrderState]],
    now_us: int,
    stage_us: int,
    stalls: Stalls = _NOTHING_GOES_WRONG,
) -> list[tuple[int, OrderState]]:
    """Write where each order really stands now, and when it is due again; (order_id, state) of those that nobody else
    had moved on.

    An order that is being cancelled waits where it is until the feed says that it is cancelled.
    """
    if not reached:
        return []
    rows: list[tuple[str, int | None, int, int, str]] = []
    marks = ", ".join("?" * len(reached))
    here = await tx.fetch_all(
        f"SELECT order_id, state FROM shipments WHERE order_id IN ({marks})",  # noqa: S608 (question marks only)
        [step.order_id for step, _ in reached],
    )
    standing = dict(cast("list[tuple[int, str]]", here))
    moved: list[tuple[int, OrderState]] = []
    for step, answered in reached:
        if standing.get(step.order_id) != step.state.value:
            continue
        state = step.state if answered is OrderState.CANCELLING else answered
        goes_on = state in _NEXT and not _stalls_in(state, step, stalls)
        rows.append((state.value, now_us + stage_us if goes_on else None, now_us, step.order_id, step.state.value))
        if state is not step.state:
            moved.append((step.order_id, state))
    await tx.execute_many(
        "UPDATE shipments SET state = ?, due_us = ?, updated_us = ? WHERE order_id = ? AND state = ?", rows
    )
    return moved


def _stalls_in(state: OrderState, step: Step, stalls: Stalls) -> bool:
    """Whether nothing happens any more after the shipment has come to `state`."""
    if state is OrderState.PICKING:
        return stalls.picker_dies(step.order_id, step.attempts)
    if state is OrderState.SHIPPED:
        return stalls.courier_silent(step.order_id) or stalls.parcel_lost(step.order_id)
    return False
