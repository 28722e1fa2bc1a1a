"""What things cost, remembered for a few seconds.

Every order needs prices, few change: a price younger than `fresh_s` is used as it is, an older one is used while it is
fetched again in the background, and one older than `stale_s` is waited for, but no longer than `wait_s`: a whole batch
of orders waits with it, and most of them have their prices.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable

from dougong.clock import Clock
from dougong.errors import Error, Unavailable
from shop.inventory import GetProduct, Inventory

__all__ = ["Price", "Prices"]

Price = tuple[int, str]
"""Minor units and currency."""


class Prices:
    """A cache in front of `Inventory.get_product`, bounded by the size of the catalogue."""

    def __init__(
        self,
        inventory: Inventory,
        clock: Clock,
        *,
        fresh_s: float = 5.0,
        stale_s: float = 60.0,
        wait_s: float = 1.0,
    ) -> None:
        self._inventory = inventory
        self._clock = clock
        self._fresh_s = fresh_s
        self._stale_s = stale_s
        self._wait_s = wait_s
        self._prices: dict[str, Price] = {}
        self._fetched: dict[str, float] = {}
        self._refresh: asyncio.Task[object] | None = None

    async def get_many(self, skus: Iterable[str]) -> dict[str, Price | Error]:
        """The price of each SKU, or why there is none."""
        now, prices, fetched = self._clock.monotonic(), self._prices, self._fetched
        missing: list[str] = []
        stale: list[str] = []
        answer: dict[str, Price | Error] = {}
        for sku in skus:
            age = now - fetched.get(sku, float("-inf"))
            if age > self._stale_s:
                missing.append(sku)
                continue
            answer[sku] = prices[sku]
            if age > self._fresh_s:
                stale.append(sku)
        if stale and (self._refresh is None or self._refresh.done()):
            # An empty context: the refresh outlives this call, and must not end with its deadline.
            self._refresh = asyncio.get_running_loop().create_task(
                self._fetch(stale), name="prices-refresh", context=contextvars.Context()
            )
        if missing:
            try:
                async with asyncio.timeout(self._wait_s):
                    answer.update(await self._fetch(missing))
            except TimeoutError:
                answer.update((sku, _unavailable(sku, "inventory does not answer")) for sku in missing)
        return answer

    async def close(self) -> None:
        """End the refresh under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

    async def _fetch(self, skus: list[str]) -> dict[str, Price | Error]:
        products = await self._inventory.get_product.many([GetProduct(sku=sku) for sku in skus])
        now = self._clock.monotonic()
        answer: dict[str, Price | Error] = {}
        for sku, product in zip(skus, products, strict=True):
            if isinstance(product, Error) and product.code == "unknown_sku":
                answer[sku] = product
                self._prices.pop(sku, None)
                self._fetched.pop(sku, None)
            elif isinstance(product, Error):
                answer[sku] = _unavailable(sku, str(product))
            else:
                answer[sku] = self._prices[sku] = (product.price_minor, product.currency)
                self._fetched[sku] = now
        return answer


def _unavailable(sku: str, why: str) -> Unavailable:
    """Nothing of the order was begun, whatever became of the question."""
    return Unavailable(f"the price of {sku!r} cannot be had: {why}", code="price_unavailable", retry_after_s=1.0)
