"""A database with a table of parcels, as a user of the room has it, on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from tests.statemachine.parcels import Parcels, in_memory, tables

from dougong.clock import ManualClock
from dougong.store import Migration, Store, open_store
from dougong.store._tx import SqliteTx


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def url(fresh_url: Callable[[], str]) -> str:
    """A fresh database on every engine in turn."""
    return fresh_url()


Open = Callable[[str], Awaitable[Store]]


@pytest.fixture
async def open_again(url: str) -> AsyncIterator[Open]:
    """Opens the database under a name, as another process would; all are closed in the end."""
    opened: list[Store] = []

    async def open_one(name: str) -> Store:
        opened.append(await open_store(url, name=name))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_again: Open) -> Store:
    opened = await open_again("parcels")
    await opened.migrate("parcels", [Migration(1, "parcels", tables(opened.dialect))])
    return opened


@pytest.fixture
async def parcels(store: Store, clock: ManualClock) -> AsyncIterator[Parcels]:
    machine = Parcels(store, clock=clock)
    await machine.start(keep_time=False)
    yield machine
    await machine.stop()


@pytest.fixture
def tx() -> Iterator[SqliteTx]:
    made, close = in_memory()
    yield made
    close()
