"""The participant that is measured: stock of up to a thousand SKUs, on any engine.

A batch reads the SKUs it touches once, decides in memory, and writes one delta per SKU, so that a SKU everybody wants
costs one update per batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from dougong.store import Migration, Store, Tx
from dougong.tcc import Hold, Participant, Refusal

__all__ = ["PLENTY", "SKUS", "Shelf", "Take", "stock_up"]

SKUS = 1000
PLENTY = 1_000_000_000_000

_TABLE = (
    "CREATE TABLE shelf (sku INTEGER NOT NULL PRIMARY KEY, available BIGINT NOT NULL, "
    "frozen BIGINT NOT NULL DEFAULT 0, sold BIGINT NOT NULL DEFAULT 0)"
)


class Take(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """So many of one SKU."""

    sku: int
    quantity: int


class Shelf(Participant[Take], service="proof.v1.Shelf", payload=Take):
    """Reserve on try: available → frozen. Confirm: frozen → sold. Cancel: frozen → available."""

    def __init__(self, dialect: str) -> None:
        # One statement per batch where a statement is a round trip, one per SKU where it is a function call.
        self._many_at_once = dialect == "mysql"

    async def try_(self, tx: Tx, holds: Sequence[Hold[Take]]) -> Sequence[Refusal | None]:
        wanted = _sums(holds)
        left = await _available(tx, list(wanted))
        if all(left.get(sku, 0) >= quantity for sku, quantity in wanted.items()):
            await self._move(tx, "available", "frozen", wanted)
            return [None] * len(holds)
        taken: defaultdict[int, int] = defaultdict(int)
        answers: list[Refusal | None] = []
        for hold in holds:
            sku, quantity = hold.payload.sku, hold.payload.quantity
            if left.get(sku, 0) >= quantity:
                left[sku] -= quantity
                taken[sku] += quantity
                answers.append(None)
            else:
                answers.append(Refusal("insufficient_stock", f"{quantity} of {sku} wanted, {left.get(sku, 0)} left"))
        await self._move(tx, "available", "frozen", taken)
        return answers

    async def confirm(self, tx: Tx, holds: Sequence[Hold[Take]]) -> None:
        await self._move(tx, "frozen", "sold", _sums(holds))

    async def cancel(self, tx: Tx, holds: Sequence[Hold[Take]]) -> None:
        await self._move(tx, "frozen", "available", _sums(holds))

    async def _move(self, tx: Tx, source: str, target: str, quantities: Mapping[int, int]) -> None:
        if self._many_at_once:
            await tx.execute_many(
                f"INSERT INTO shelf (sku, available, frozen, sold) VALUES (?, ?, 0, 0) ON DUPLICATE KEY UPDATE "  # noqa: S608 (our own names)
                f"{source} = {source} - VALUES(available), {target} = {target} + VALUES(available)",
                list(quantities.items()),
            )
        else:
            await tx.execute_many(
                f"UPDATE shelf SET {source} = {source} - ?, {target} = {target} + ? WHERE sku = ?",  # noqa: S608
                [(quantity, quantity, sku) for sku, quantity in quantities.items()],
            )


async def stock_up(store: Store, each: int = PLENTY) -> None:
    """Create the table and fill it, unless an earlier process has."""

    async def fill(tx: Tx) -> None:
        if await tx.fetch_one("SELECT 1 FROM shelf LIMIT 1") is None:
            await tx.execute_many("INSERT INTO shelf (sku, available) VALUES (?, ?)", [(i, each) for i in range(SKUS)])

    await store.migrate("proof.shelf", [Migration(1, "shelf", _TABLE)])
    await store.write(fill)


async def _available(tx: Tx, skus: Sequence[int]) -> dict[int, int]:
    marks = 1 << (len(skus) - 1).bit_length()  # a power of two: few statements, all of them prepared
    rows = await tx.fetch_all(
        f"SELECT sku, available FROM shelf WHERE sku IN ({', '.join('?' * marks)})",  # noqa: S608
        [*skus, *[skus[-1]] * (marks - len(skus))],
    )
    return dict(cast("list[tuple[int, int]]", rows))


def _sums(holds: Sequence[Hold[Take]]) -> dict[int, int]:
    sums: defaultdict[int, int] = defaultdict(int)
    for hold in holds:
        sums[hold.payload.sku] += hold.payload.quantity
    return sums
