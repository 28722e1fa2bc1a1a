"""The experiment behind `prove sharding`, in small: what it counts, and that its check can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dougong.shard import (
    Answer,
    ConsistentHashRouting,
    ModuloRouting,
    Query,
    ShardedStore,
    ask,
    embedded_layout,
    open_sharded_store,
)
from shop.proof import sharding as claim
from shop.proof.sharding import ShardingExperiment, _filled, sharding


@pytest.fixture
async def experiment(tmp_path: Path) -> AsyncIterator[ShardingExperiment]:
    four = await open_sharded_store(embedded_layout(tmp_path, "four"))
    one = await open_sharded_store(embedded_layout(tmp_path, "one", databases=1))
    await _filled(four, 2560, range(128))
    await _filled(one, 640, range(0, 128, 4))
    yield ShardingExperiment(one, four, [ModuloRouting(), ConsistentHashRouting()], rounds=3, mb=1.0)
    await four.close()
    await one.close()


async def test_it_counts_what_moves(experiment: ShardingExperiment) -> None:
    ours, baseline = await experiment.ours(0), await experiment.baseline(0)
    assert (baseline["moved_5"], baseline["moved_8"]) == (0.8, 0.5)
    assert (ours["modulo_moved_5"], ours["modulo_moved_8"]) == (0.78125, 0.5)
    assert ours["consistent_hash_moved_5"] < 0.25
    assert {"page_us"} <= ours.keys() & baseline.keys()
    measured = {f"ours.{name}" for name in ours} | {"ratio.page_us"}
    missing = {t.figure for t in sharding.thresholds} - measured
    assert missing == {"ours.mapping_route_us", "ours.mapping_moved_8"}  # of the strategy left out here
    assert await experiment.verify() == []


async def test_a_row_that_pages_lose_refutes_it(
    experiment: ShardingExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def loses(store: ShardedStore, query: Query, **options: Any) -> Answer:
        answer = await ask(store, query, **options)
        return answer if query.limit < 1000 else Answer(answer.rows[1:], answer.after)

    monkeypatch.setattr(claim, "ask", loses)
    assert await experiment.verify() == ["2557 rows in all pages, but 2560 are there"]
