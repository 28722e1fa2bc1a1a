"""The claim about orders can be shown, and can be refuted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("fastapi")

from dougong.evidence import Setting
from shop.proof import _claim, orders


def test_it_claims_what_was_promised() -> None:
    promised = {
        "ours.stream_orders_per_s": "≥ 20,000",
        "ours.http_orders_per_s": "≥ 1,500",
        "ours.p99_ms_at_1800_per_s": "≤ 86",
        "ratio.orders_per_s": "≥ 20",
        "ours.p99_ms_at_11700_per_s": "≤ 89",
        "ours.idle_mb_max": "≤ 90",
        "ours.ready_s": "≤ 5",
    }
    claimed = {threshold.figure: str(threshold) for threshold in orders.thresholds}
    assert claimed.items() >= promised.items()
    assert orders.pairs >= 5


@pytest.mark.processes
@pytest.mark.xdist_group("shop")
async def test_it_is_measured_and_its_books_can_refute_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_CALM", "_BUSY"):  # what tests share a machine with is busy
        monkeypatch.setattr(_claim, name, {"rate": 200.0, "transport": "grpc"})
    setting = Setting(quick=True, pairs=1, seed=1, workdir=tmp_path, say=lambda text: None)
    async with orders.experiment(setting) as experiment:
        monkeypatch.setattr(experiment, "_seconds", 0.5)
        figures = {"baseline": await experiment.baseline(0), "ours": await experiment.ours(0)}
        assert await experiment.verify() == []
        with closing(sqlite3.connect(tmp_path / "data" / "inventory.db", timeout=10)) as inventory, inventory:
            inventory.execute("UPDATE stock SET available = available - 1, sold = sold + 1 WHERE sku = 'sku-0001'")
        problems = await experiment.verify()
    assert len(problems) == 1
    assert problems[0].startswith("books: stock_sold: SKU sku-0001: ")
    needed = {threshold.figure for threshold in orders.thresholds if not threshold.figure.startswith("ratio.")}
    assert needed <= {f"{side}.{name}" for side, measured in figures.items() for name in measured}
    assert orders.result.format(**figures, ratio=dict.fromkeys(orders.ratios, 1.0))
    assert all(value > 0 for name, value in figures["ours"].items() if not name.startswith("not_acknowledged"))
    runs = [msgspec.json.decode(line) for line in (tmp_path / "runs.jsonl").read_bytes().splitlines()]
    assert len(runs) == 9  # four to warm up, one of the baseline, four of ours
    assert not (tmp_path / "data").exists()
    assert (tmp_path / "shop.log").exists()
