"""Write a decision and the initiator's own rows in one unit, and learn who won when several decide at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from dougong.store import Tx
from dougong.tcc._protocol import TransactionState
from dougong.tcc.log import Log, LogRow
from dougong.tcc.transaction import ACCEPTED, Decision

__all__ = ["Decide", "Decider", "Raced", "decision_of"]

Decide = Callable[[Tx, Sequence[Decision]], Awaitable[None]]
"""The initiator's business rows for decisions, written in the decisions' own unit. Each transaction comes once."""


class Raced(Exception):
    """Somebody else decided some of these: undo, look, and write the rest."""


class Decider:
    """Decisions into the log, and into the initiator's tables through its callback."""

    def __init__(self, log: Log, decide: Decide | None) -> None:
        self._log = log
        self._decide = decide

    async def write(self, tx: Tx, decisions: Sequence[Decision], held: Collection[int]) -> None:
        """All of them, or `Raced`. `held`: refused transactions of which some participant may hold something."""
        accepted = [d.transaction for d in decisions if d.accepted]
        if accepted and not await self._log.accept(tx, accepted):
            raise Raced
        if len(accepted) < len(decisions):
            refused = [(d.transaction, d.transaction in held, d.code, d.message) for d in decisions if not d.accepted]
            if not await self._log.refuse(tx, refused):
                raise Raced
        if self._decide is not None:
            await self._decide(tx, decisions)

    async def write_open(self, tx: Tx, decisions: Sequence[Decision], held: Collection[int]) -> list[Decision]:
        """Those still undecided; what now stands, for all. One that is not in the log stays refused."""
        rows = await self._log.rows(tx, [d.transaction for d in decisions])
        mine = [d for d in decisions if d.transaction in rows and rows[d.transaction].state is TransactionState.TRYING]
        if mine:
            await self.write(tx, mine, held)
        stands = {d.transaction: d for d in mine}
        return [
            stands.get(d.transaction)
            or (decision_of(rows[d.transaction]) if d.transaction in rows else None)
            or Decision(d.transaction, False, "unavailable", "the transaction is gone from the log")
            for d in decisions
        ]


def decision_of(row: LogRow) -> Decision | None:
    """What was decided, or None while it is not."""
    if row.state is TransactionState.TRYING:
        return None
    if row.state in ACCEPTED:
        return Decision(row.id, True)
    return Decision(row.id, False, row.code, row.message)
