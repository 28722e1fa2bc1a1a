"""What counts as settled: what the shelf's own database shows as confirmed, looked at from a third process."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from dougong.store import open_store
from dougong.tcc import BranchState

__all__ = ["Settled", "settled", "watch"]


class Settled(msgspec.Struct, frozen=True):
    """What became of acknowledged transactions."""

    delays_s: list[float]
    """From the acknowledgement until it was seen in the shelf's database."""
    unsettled: int
    """Not seen there, however long one looked."""

    @property
    def median_s(self) -> float:
        return statistics.median(self.delays_s)

    @property
    def longest_s(self) -> float:
        return max(self.delays_s)


async def watch(shelf_url: str, wanted: Sequence[range], *, bound_s: float, every_s: float) -> dict[int, float]:
    """Look until all of these are confirmed, but no longer than that: transaction → monotonic seconds when seen."""
    missing = {transaction for ids in wanted for transaction in ids}
    seen: dict[int, float] = {}
    store = await open_store(shelf_url, name="watch")
    try:
        end = time.monotonic() + bound_s
        while missing:
            rows = await store.fetch_all(
                "SELECT transaction_id FROM dougong_fence WHERE state = ?", (int(BranchState.CONFIRMED),)
            )
            now = time.monotonic()
            new = missing.intersection(cast(int, row[0]) for row in rows)
            seen.update(dict.fromkeys(new, now))
            missing -= new
            if now > end:
                break
            await asyncio.sleep(every_s)
    finally:
        await store.close()
    return seen


def settled(acknowledged: Mapping[int, float], seen: Mapping[int, float]) -> Settled:
    """Compare when it was promised with when it was seen."""
    delays_s = [seen[transaction] - at for transaction, at in acknowledged.items() if transaction in seen]
    return Settled(delays_s, len(acknowledged) - len(delays_s))
