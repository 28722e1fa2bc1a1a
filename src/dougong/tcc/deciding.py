"""Write a decision and the initiator's own rows in one unit, and learn who won when several decide at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from dougong.store import Tx
from dougong.tcc._protocol import TransactionState
from dougong.tcc.log import Log, LogRow
from dougong.tcc.transaction import ACCEPTED, OPEN, Decision

__all__ = ["Announce", "Decide", "Decider", "Raced", "decision_of"]

Decide = Callable[[Tx, Sequence[Decision]], Awaitable[None]]
"""The initiator's business rows for decisions, written in the decisions' own unit. Each transaction comes once."""


Announce = Callable[[Tx, Sequence[int]], Awaitable[None]]
"""Puts a message about transactions whose participants have to be told, in the unit that decides them."""


class Raced(Exception):
    """Somebody else decided some of these: undo, look, and write the rest."""


class Decider:
    """Decisions into the log, and into the initiator's tables through its callback."""

    def __init__(self, log: Log, decide: Decide | None, announce: Announce | None) -> None:
        self._log = log
        self._decide = decide
        self._announce = announce

    async def write(
        self, tx: Tx, decisions: Sequence[Decision], held: Collection[int], *, expires_us: int | None = None
    ) -> None:
        """Of transactions being tried, all of them or `Raced`.

        `held`: refused transactions of which some participant may hold something. With `expires_us`, accepted ones are
        held until then.
        """
        accepted = [d.transaction for d in decisions if d.accepted]
        if accepted:
            if expires_us is None:
                moved = await self._log.accept(tx, accepted)
            else:
                moved = await self._log.hold(tx, accepted, expires_us)
            if not moved:
                raise Raced
        if len(accepted) < len(decisions):
            refused = [(d.transaction, d.transaction in held, d.code, d.message) for d in decisions if not d.accepted]
            if not await self._log.refuse(tx, refused):
                raise Raced
        if self._decide is not None:
            await self._decide(tx, decisions)
        if self._announce is not None:
            told = accepted if expires_us is None else []
            await self._announce(tx, [*told, *held] if held else told)

    async def write_open(
        self, tx: Tx, decisions: Sequence[Decision], held: Collection[int], *, expires_us: int | None = None
    ) -> list[Decision]:
        """Those still being tried; what now stands, for all. One that is not in the log stays refused."""
        rows = await self._log.rows(tx, [d.transaction for d in decisions])
        mine = [d for d in decisions if d.transaction in rows and rows[d.transaction].state is TransactionState.TRYING]
        if mine:
            await self.write(tx, mine, held, expires_us=expires_us)
        stands = {d.transaction: d for d in mine}
        return [
            stands.get(d.transaction)
            or (decision_of(rows[d.transaction]) if d.transaction in rows else None)
            or Decision(d.transaction, False, "unavailable", "the transaction is gone from the log")
            for d in decisions
        ]

    async def release(
        self, tx: Tx, decisions: Sequence[Decision], due_us: int
    ) -> tuple[dict[int, LogRow], list[Decision]]:
        """Decide what is held; the log's rows as they were, and the decisions that are this call's."""
        decisions = list({d.transaction: d for d in decisions}.values())
        rows = await self._log.rows(tx, [d.transaction for d in decisions])
        mine = [d for d in decisions if d.transaction in rows and rows[d.transaction].state is TransactionState.HELD]
        if mine:
            if not await self._log.release(tx, mine, due_us):
                raise Raced
            if self._decide is not None:
                await self._decide(tx, mine)
            if self._announce is not None:
                await self._announce(tx, [d.transaction for d in mine])
        return rows, mine

    async def expire(
        self, tx: Tx, overdue: Sequence[LogRow], decisions: Sequence[Decision], due_us: int
    ) -> list[Decision]:
        """Refuse what is open and stands as it was found overdue; the decisions that are this call's.

        What was being tried and is held by now has a time of its own: its run was slow, or our clock is ahead. Only an
        operator's word reaches it there.
        """
        rows = await self._log.rows(tx, [row.id for row in overdue])
        still = {row.id for row in overdue if row.id in rows and (row.code or rows[row.id].state is row.state)}
        tried = [
            d for d in decisions if d.transaction in still and rows[d.transaction].state is TransactionState.TRYING
        ]
        if tried:
            await self.write(tx, tried, {d.transaction for d in tried})
        held = [d for d in decisions if d.transaction in still and rows[d.transaction].state is TransactionState.HELD]
        _, released = await self.release(tx, held, due_us)
        return [*tried, *released]


def decision_of(row: LogRow) -> Decision | None:
    """What was decided or is held, or None while it is tried."""
    if row.state in OPEN:
        return Decision(row.id, True, held=True) if row.state is TransactionState.HELD else None
    if row.state in ACCEPTED:
        return Decision(row.id, True)
    return Decision(row.id, False, row.code, row.message)
