"""Databases for a small shop: one initiator, two participants, the real store on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.tcc.world import SHELF, Purse, Shelf

from dougong.store import Migration, Store, Tx, open_store
from dougong.tcc import ParticipantService


@pytest.fixture
async def books(fresh_url: Callable[[], str]) -> AsyncIterator[Store]:
    store = await open_store(fresh_url(), name="orders")
    await store.migrate(
        "test", [Migration(1, "orders", "CREATE TABLE orders (id BIGINT PRIMARY KEY, state VARCHAR(50) NOT NULL)")]
    )
    yield store
    await store.close()


@pytest.fixture
async def shelf_store(fresh_url: Callable[[], str]) -> AsyncIterator[Store]:
    store = await _stocked(fresh_url(), "shelf")
    yield store
    await store.close()


@pytest.fixture
async def purse_store(fresh_url: Callable[[], str]) -> AsyncIterator[Store]:
    store = await _stocked(fresh_url(), "purse")
    yield store
    await store.close()


@pytest.fixture
async def shelf(shelf_store: Store) -> ParticipantService[Any]:
    service = ParticipantService(Shelf(), shelf_store)
    await service.start()
    return service


@pytest.fixture
async def purse(purse_store: Store) -> ParticipantService[Any]:
    service = ParticipantService(Purse(), purse_store)
    await service.start()
    return service


async def _stocked(url: str, name: str) -> Store:
    store = await open_store(url, name=name)
    await store.migrate("test", [Migration(1, "shelf", SHELF)])

    async def tables(tx: Tx) -> None:
        await tx.execute("INSERT INTO shelf (sku, available) VALUES ('a', 10), ('b', 10)")

    await store.write(tables)
    return store
