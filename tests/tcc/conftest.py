"""Databases for a small shop: one initiator, two participants, the real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.tcc.world import SHELF, Purse, Shelf

from dougong.store import Store, Tx, open_store
from dougong.tcc import ParticipantService


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite:///{tmp_path}/orders.db", name="orders")

    async def tables(tx: Tx) -> None:
        await tx.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT NOT NULL)")

    await store.write(tables)
    yield store
    await store.close()


@pytest.fixture
async def shelf_store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await _stocked(tmp_path, "shelf")
    yield store
    await store.close()


@pytest.fixture
async def purse_store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await _stocked(tmp_path, "purse")
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


async def _stocked(tmp_path: Path, name: str) -> Store:
    store = await open_store(f"sqlite:///{tmp_path}/{name}.db", name=name)

    async def tables(tx: Tx) -> None:
        await tx.execute(SHELF)
        await tx.execute("INSERT INTO shelf (sku, available) VALUES ('a', 10), ('b', 10)")

    await store.write(tables)
    return store
