"""The experiment behind `prove move`, in small: what it measures, and that its check can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dougong.shard import ShardedStore
from shop.proof.moving import BUCKET, MovingExperiment, _filled, move


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ShardedStore]:
    names = ("db-0", "db-1", "db-2", "db-3")
    listed = "".join(f'{name} = "sqlite:///{tmp_path}/{name}.db"\n' for name in names)
    layout = tmp_path / "layout.toml"
    layout.write_text(f'name = "carts"\nmetadata = "sqlite:///{tmp_path}/map.db"\n[databases]\n{listed}')
    opened = await _filled(layout, 500)
    yield opened
    await opened.close()


@pytest.fixture
def experiment(store: ShardedStore, tmp_path: Path) -> MovingExperiment:
    return MovingExperiment(store, tmp_path / "layout.toml", rows=500, rate=100, seconds=0.2)


async def test_it_moves_while_it_writes(experiment: MovingExperiment, store: ShardedStore) -> None:
    baseline, ours = await experiment.baseline(0), await experiment.ours(0)
    assert ours["rows"] == 500
    assert (await store.why(BUCKET)).shard == "db-3"
    measured = {f"ours.{name}" for name in ours} | {f"ratio.{name}" for name in ours.keys() & baseline.keys()}
    assert {threshold.figure for threshold in move.thresholds} <= measured
    assert experiment._written
    assert await experiment.verify() == []
    await experiment.ours(1)
    assert (await store.why(BUCKET)).shard == "db-1"
    assert await experiment.verify() == []


async def test_a_write_that_got_lost_refutes_it(experiment: MovingExperiment, store: ShardedStore) -> None:
    await experiment.baseline(0)
    id_ = next(iter(experiment._written))
    await store.store_at(BUCKET).write(
        lambda tx: tx.execute("UPDATE carts SET writes = writes - 1 WHERE id = ?", (id_,))
    )
    (problem,) = await experiment.verify()
    assert f"row {id_} shows" in problem
