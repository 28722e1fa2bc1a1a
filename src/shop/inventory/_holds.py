"""Inventory's part in an order: freeze stock, then sell it or give it back.

A batch reads the SKUs it touches once, decides every hold in memory against what earlier holds of the batch left, and
writes one delta per SKU: a hot SKU costs one update per batch however many orders want it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from dougong.store import Tx
from dougong.tcc import Hold, Participant, Refusal
from shop.inventory._contract import Reserve

__all__ = ["StockHolds"]


class StockHolds(Participant[Reserve], service="shop.v1.StockHolds", payload=Reserve):
    """Reserve on try: available → frozen. Confirm: frozen → sold. Cancel: frozen → available.

    A negative quantity is a return: nothing happens on try or cancel; on confirm sold → available.
    """

    async def try_(self, tx: Tx, holds: Sequence[Hold[Reserve]]) -> Sequence[Refusal | None]:
        left = await _available(tx, {sku for hold in holds for sku, _ in hold.payload.lines})
        taken: defaultdict[str, int] = defaultdict(int)
        answers = [_reserve(hold.payload.lines, left, taken) for hold in holds]
        await tx.execute_many(
            "UPDATE stock SET available = available - ?, frozen = frozen + ? WHERE sku = ?",
            [(quantity, quantity, sku) for sku, quantity in taken.items() if quantity],
        )
        return answers

    async def confirm(self, tx: Tx, holds: Sequence[Hold[Reserve]]) -> None:
        sold, returned = _sums(holds)
        await tx.execute_many(
            "UPDATE stock SET frozen = frozen - ?, sold = sold + ? WHERE sku = ?",
            [(quantity, quantity, sku) for sku, quantity in sold.items()],
        )
        await tx.execute_many(
            "UPDATE stock SET sold = sold - ?, available = available + ? WHERE sku = ?",
            [(quantity, quantity, sku) for sku, quantity in returned.items()],
        )

    async def cancel(self, tx: Tx, holds: Sequence[Hold[Reserve]]) -> None:
        released, _ = _sums(holds)
        await tx.execute_many(
            "UPDATE stock SET frozen = frozen - ?, available = available + ? WHERE sku = ?",
            [(quantity, quantity, sku) for sku, quantity in released.items()],
        )


def _reserve(lines: list[tuple[str, int]], left: dict[str, int], taken: defaultdict[str, int]) -> Refusal | None:
    """Take all lines of one order or none. `left` and `taken` change only when the answer is yes."""
    if len(lines) == 1:
        ((sku, quantity),) = lines
        wanted: Iterable[tuple[str, int]] = lines
        if sku in left and quantity <= left[sku]:
            if quantity > 0:
                left[sku] -= quantity
                taken[sku] += quantity
            return None
    else:
        sums: defaultdict[str, int] = defaultdict(int)
        for sku, quantity in lines:
            sums[sku] += quantity
        wanted = sums.items()
    for sku, quantity in wanted:
        if sku not in left:
            return Refusal(code="unknown_sku", message=f"there is no SKU {sku!r}")
        if quantity > left[sku]:
            return Refusal(
                code="insufficient_stock", message=f"{quantity} of SKU {sku!r} wanted, {left[sku]} available"
            )
    for sku, quantity in wanted:
        if quantity > 0:
            left[sku] -= quantity
            taken[sku] += quantity
    return None


async def _available(tx: Tx, skus: set[str]) -> dict[str, int]:
    rows = await tx.fetch_all(
        "SELECT sku, available FROM stock WHERE sku IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(sorted(skus)).decode(),),
    )
    return {str(sku): int(available) for sku, available in rows}  # type: ignore[arg-type]


def _sums(holds: Sequence[Hold[Reserve]]) -> tuple[dict[str, int], dict[str, int]]:
    """Per SKU: how many were reserved, and how many are returns."""
    reserved: defaultdict[str, int] = defaultdict(int)
    returned: defaultdict[str, int] = defaultdict(int)
    for hold in holds:
        for sku, quantity in hold.payload.lines:
            if quantity > 0:
                reserved[sku] += quantity
            else:
                returned[sku] -= quantity
    return reserved, returned
