"""The claim about pools can fail: without its sweep nobody is named before the pool is dry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest
from tests import engines

from dougong.store import Pool
from shop.proof import db_pool

pytestmark = pytest.mark.processes

Leaking = Callable[[Pool, db_pool.Kept], Awaitable[None]]


@pytest.fixture
def url() -> Iterator[str]:
    with engines.server("mysql").database() as url:
        yield url


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db_pool, "PACE_S", 0.1)


@pytest.mark.parametrize("kind", db_pool.KINDS, ids=lambda kind: str(kind.__name__))
async def test_each_kind_of_leak_is_named(url: str, kind: Leaking) -> None:
    count, problem = await db_pool.leaked_until_named(url, kind)
    assert problem == ""
    assert count < db_pool.PLACES


async def test_without_the_sweep_the_pool_runs_dry_first(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "sweep", lambda self: None)
    count, problem = await db_pool.leaked_until_named(url, db_pool.forgotten)
    assert (count, problem) == (db_pool.PLACES, "forgotten: the pool was dry before anybody was named")
