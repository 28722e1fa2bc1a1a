"""The experiment about transactions: its processes run, and books that disagree are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dougong.errors import Internal
from dougong.store import open_store
from shop.proof.tcc.shelf import PLENTY, SKUS, stock_up
from shop.proof.tcc.stand import row_lock, stand

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("skus", [SKUS, 1])
async def test_a_load_is_acknowledged_settled_and_in_the_books(tmp_path: Path, skus: int) -> None:
    async with stand(f"sqlite:///{tmp_path}/shelf.db") as shelf:
        result = await shelf.load(f"sqlite:///{tmp_path}/log.db", seconds=0.3, batch=50, runs=2, skus=skus)
        assert result.acknowledged >= 100
        assert result.refused == 0
        assert 0 < result.p50_ms <= result.p99_ms
        assert 0 < result.seconds <= result.settled_s
        assert await shelf.problems() == []


async def test_books_that_disagree_are_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shelf.db"
    async with stand(url) as shelf:
        await shelf.load(f"sqlite:///{tmp_path}/log.db", seconds=0.1, batch=10, runs=1, skus=1)
        store = await open_store(url)
        await store.write(lambda tx: tx.execute("UPDATE shelf SET sold = sold - 1, frozen = frozen + 1 WHERE sku = 0"))
        found = await shelf.problems()
        assert len(found) == 2
        assert "1 are still frozen" in found[0]
        assert "were sold" in found[1]
        await store.write(lambda tx: tx.execute("UPDATE shelf SET available = -1 WHERE sku = 7"))
        await store.close()
        assert f"is not {PLENTY * SKUS}" in (await shelf.problems())[0]


async def test_the_baseline_sells_one_by_one(tmp_path: Path) -> None:
    assert await row_lock(f"sqlite:///{tmp_path}/naive.db", seconds=0.1, skus=1) > 0
    store = await open_store(f"sqlite:///{tmp_path}/naive.db")
    row = await store.fetch_one("SELECT sum(sold), (SELECT count(*) FROM orders) FROM shelf")
    await store.close()
    assert row is not None
    assert row[0] == row[1]


async def test_a_process_that_does_not_start_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Internal, match="shelf ended with exit code 1"):
        async with stand(f"sqlite:///{tmp_path}/missing/shelf.db"):
            pass
    with pytest.raises(Internal, match="row-lock ended with exit code"):
        await row_lock(f"sqlite:///{tmp_path}/missing/naive.db", seconds=0.1, skus=1)


async def test_the_shelf_on_any_engine(fresh_url: Callable[[], str]) -> None:
    """The measured participant decides alike, batch by batch and SKU by SKU."""
    from dougong.tcc import Hold
    from shop.proof.tcc.shelf import Shelf, Take

    store = await open_store(fresh_url())
    await stock_up(store, 3)
    shelf = Shelf(store.dialect)
    holds = [Hold(i, Take(sku, quantity)) for i, (sku, quantity) in enumerate([(1, 2), (1, 2), (2, 3), (1, 1)])]
    answers = await store.write(lambda tx: shelf.try_(tx, holds))
    assert [answer is None for answer in answers] == [True, False, True, True]
    await store.write(lambda tx: shelf.confirm(tx, [holds[0], holds[2]]))
    await store.write(lambda tx: shelf.cancel(tx, [holds[3]]))
    rows = await store.fetch_all("SELECT sku, available, frozen, sold FROM shelf WHERE sku IN (1, 2) ORDER BY sku")
    assert rows == [(1, 1, 0, 2), (2, 0, 0, 3)]
    await store.close()
