"""A world on every engine in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from tests.jobs.schedules.world import World

from dougong.store import open_store


@pytest.fixture
async def world(fresh_url: Callable[[], str]) -> AsyncIterator[World]:
    store = await open_store(fresh_url())
    made = World(store)
    await made.start()
    yield made
    await store.close()
