"""A small shelf and a purse: participants for the tests, with mistakes showing in the books."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dougong.store import Tx
from dougong.tcc import Hold, Participant, Refusal


class Take(msgspec.Struct, frozen=True):
    sku: str
    quantity: int


SHELF = """
CREATE TABLE shelf (sku VARCHAR(50) PRIMARY KEY, available INTEGER, frozen INTEGER DEFAULT 0, sold INTEGER DEFAULT 0);
"""


class Shelf(Participant[Take], service="test.v1.Shelf", payload=Take):
    """Stock as simple as can be: no CHECK, so that a mistake shows in the books instead of failing the call."""

    poison: frozenset[int] = frozenset()
    """Transactions whose confirm fails."""

    async def try_(self, tx: Tx, holds: Sequence[Hold[Take]]) -> Sequence[Refusal | None]:
        answers: list[Refusal | None] = []
        for hold in holds:
            took = await tx.execute(
                "UPDATE shelf SET available = available - ?, frozen = frozen + ? WHERE sku = ? AND available >= ?",
                (hold.payload.quantity, hold.payload.quantity, hold.payload.sku, hold.payload.quantity),
            )
            answers.append(None if took else Refusal("insufficient_stock", f"not enough of {hold.payload.sku}"))
        return answers

    async def confirm(self, tx: Tx, holds: Sequence[Hold[Take]]) -> None:
        if any(hold.transaction in self.poison for hold in holds):
            raise RuntimeError("poison")
        await self._move(tx, "UPDATE shelf SET frozen = frozen - ?, sold = sold + ? WHERE sku = ?", holds)

    async def cancel(self, tx: Tx, holds: Sequence[Hold[Take]]) -> None:
        await self._move(tx, "UPDATE shelf SET frozen = frozen - ?, available = available + ? WHERE sku = ?", holds)

    async def _move(self, tx: Tx, sql: str, holds: Sequence[Hold[Take]]) -> None:
        await tx.execute_many(sql, [(hold.payload.quantity, hold.payload.quantity, hold.payload.sku) for hold in holds])


class Purse(Shelf, service="test.v1.Purse", payload=Take):
    """A second participant."""
