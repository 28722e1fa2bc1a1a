"""The price cache: fresh, stale, missing, and inventory away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest_asyncio

from dougong.contract import BoundBatched
from dougong.errors import Error, NotFound, Unavailable
from dougong.rpc import call_scope, remaining_s
from shop.inventory import GetProduct, Inventory, Product
from shop.orders._prices import Prices


class HandClock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now_us(self) -> int:
        return int(self.now_s * 1e6)

    def monotonic(self) -> float:
        return self.now_s


class FakeInventory:
    def __init__(self) -> None:
        self.price = {"bolt": 100, "nut": 50}
        self.asked: list[list[str]] = []
        self.away = False
        self.left_s: float | None = None
        """The deadline it was last called with."""
        self.open = asyncio.Event()
        self.open.set()
        self.get_product = BoundBatched(self._get_product)

    async def _get_product(self, requests: Sequence[GetProduct]) -> Sequence[Product | Error]:
        self.asked.append(sorted(request.sku for request in requests))
        self.left_s = remaining_s()
        await self.open.wait()
        return [self._answer(request.sku) for request in requests]

    def _answer(self, sku: str) -> Product | Error:
        if self.away:
            return Unavailable("inventory is away", code="connect_failed")
        if sku not in self.price:
            return NotFound(f"no {sku}", code="unknown_sku")
        return Product(sku=sku, name=sku, price_minor=self.price[sku], currency="EUR", available=1)


class Cache:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.inventory = FakeInventory()
        self.prices = Prices(cast(Inventory, self.inventory), self.clock, wait_s=0.2)

    async def get(self, *skus: str) -> list[int | str]:
        found = await self.prices.get_many(skus)
        return [p.code if isinstance(p := found[sku], Error) else p[0] for sku in skus]


@pytest_asyncio.fixture
async def cache() -> AsyncIterator[Cache]:
    made = Cache()
    yield made
    await made.prices.close()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_fresh_price_is_not_asked_for_again(cache: Cache) -> None:
    assert await cache.get("bolt", "nut") == [100, 50]
    cache.clock.now_s += 4.9
    assert await cache.get("bolt") == [100]
    assert cache.inventory.asked == [["bolt", "nut"]]


async def test_an_older_price_is_used_while_it_is_fetched_once(cache: Cache) -> None:
    await cache.get("bolt")
    cache.inventory.price["bolt"] = 120
    cache.clock.now_s += 6
    cache.inventory.open.clear()  # inventory takes its time, nobody waits for it
    assert [await cache.get("bolt") for _ in range(5)] == [[100]] * 5
    await turns()
    assert cache.inventory.asked == [["bolt"], ["bolt"]]
    cache.inventory.open.set()
    await turns()
    assert await cache.get("bolt") == [120]


async def test_a_refresh_does_not_end_with_the_call_that_began_it(cache: Cache) -> None:
    with call_scope(timeout_s=5):
        await cache.get("bolt")
        assert cache.inventory.left_s is not None
        cache.clock.now_s += 6
        await cache.get("bolt")
        await turns()
    assert cache.inventory.asked == [["bolt"], ["bolt"]]
    assert cache.inventory.left_s is None


async def test_with_inventory_away_prices_last_for_a_minute(cache: Cache) -> None:
    await cache.get("bolt")
    cache.inventory.away = True
    cache.clock.now_s += 59
    assert await cache.get("bolt", "nut") == [100, "price_unavailable"]
    await turns()
    assert await cache.get("bolt") == [100]
    cache.clock.now_s += 2
    assert await cache.get("bolt") == ["price_unavailable"]
    cache.inventory.away = False
    assert await cache.get("bolt", "nut") == [100, 50]


async def test_orders_whose_prices_are_known_do_not_wait_for_an_inventory_that_hangs(cache: Cache) -> None:
    await cache.get("bolt")
    cache.inventory.open.clear()
    async with asyncio.timeout(60):
        assert await cache.get("bolt", "nut") == [100, "price_unavailable"]
    cache.inventory.open.set()
    assert await cache.get("bolt", "nut") == [100, 50]


async def test_a_product_that_is_gone_is_forgotten(cache: Cache) -> None:
    await cache.get("bolt")
    del cache.inventory.price["bolt"]
    cache.clock.now_s += 6
    assert await cache.get("bolt") == [100]
    await turns()
    assert await cache.get("bolt") == ["unknown_sku"]
    cache.inventory.price["bolt"] = 7
    assert await cache.get("bolt") == [7]


async def test_unknown_names_take_no_memory(cache: Cache) -> None:
    for n in range(50):
        assert await cache.get(f"made-up-{n}") == ["unknown_sku"]
    assert not cache.prices._prices
    assert not cache.prices._fetched


async def test_closing_ends_a_refresh_under_way(cache: Cache) -> None:
    await cache.get("bolt")
    cache.clock.now_s += 6
    cache.inventory.open.clear()
    await cache.get("bolt")
    await turns()
    await cache.prices.close()
    assert cache.prices._refresh is not None
    assert cache.prices._refresh.cancelled()
