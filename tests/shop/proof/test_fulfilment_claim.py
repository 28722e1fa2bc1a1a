"""The claim about fulfilment can be refuted: without its deadlines, orders stay where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from dougong.evidence import Setting
from shop.proof import _fulfilment, fulfilment


def test_it_claims_what_was_promised() -> None:
    claimed = {threshold.figure: str(threshold) for threshold in fulfilment.thresholds}
    assert claimed.items() >= {"ours.unresolved": "≤ 0", "ratio.interventions": "≤ 0.24"}.items()
    assert fulfilment.pairs >= 5


@pytest.mark.processes
@pytest.mark.xdist_group("shop")
async def test_without_deadlines_it_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = {name: "1000" for name in _fulfilment._DEADLINES if name != "PAY_WITHIN_S"}
    monkeypatch.setattr(_fulfilment, "_DEADLINES", {**_fulfilment._DEADLINES, **never})
    monkeypatch.setattr(_fulfilment, "_COPE_S", 4.0)
    monkeypatch.setattr(_fulfilment, "_LAST_DEADLINE_S", 3.0)
    setting = Setting(quick=True, pairs=1, seed=1, workdir=tmp_path, say=lambda text: None)
    async with fulfilment.experiment(setting) as experiment:
        figures = {"ours": await experiment.ours(0), "baseline": await experiment.baseline(0)}
        await experiment.verify()
    assert figures["ours"]["unresolved"] > 5, figures
    assert figures["baseline"]["unresolved"] > 5, figures
    needed = {threshold.figure for threshold in fulfilment.thresholds if not threshold.figure.startswith("ratio.")}
    assert needed <= {f"{side}.{name}" for side, measured in figures.items() for name in measured}
    assert fulfilment.result.format(**figures, ratio=dict.fromkeys(fulfilment.ratios, 1.0))
    assert not (tmp_path / "data").exists()
    assert (tmp_path / "shop.log").exists()
