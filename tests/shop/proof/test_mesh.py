"""The claim about policy: all of it is on the way of the call that is timed, and ejection is worth it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from random import Random

import pytest

from dougong.evidence import NotShown, Setting, prove
from shop.proof import mesh as proof


def test_all_policy_is_on_the_way_of_each_call(tmp_path: Path) -> None:
    loaded = proof.load(tmp_path, Random(1))
    run = proof.all_policy(loaded)
    run(1000)
    (cluster,) = loaded.clusters
    counted = cluster.statistics()
    prefix = f"cluster.{cluster.name}."
    assert counted[f"{prefix}membership_total"] == proof.HOSTS
    assert counted[f"{prefix}upstream_rq_total"] == 1000
    assert counted[f"{prefix}upstream_rq_active"] == 0
    assert counted[f"{prefix}upstream_rq_retry"] == 100
    assert cluster.policy.outlier is not None
    assert cluster.policy.outlier.base_ejection_s == 60.0
    assert cluster.policy.limits.max_requests_per_connection == 10


@pytest.mark.parametrize("seed", range(5))
def test_without_ejection_calls_go_on_failing(tmp_path: Path, seed: int) -> None:
    """Who fails soon has few calls under way, so it gets more than its tenth."""
    with_it = proof.failed_share(proof.load(tmp_path, Random(seed)), seconds=20)
    without = proof.failed_share(proof.load(tmp_path, Random(seed), outlier=""), seconds=20)
    assert without > 0.1
    assert with_it < 0.005
    assert proof.failed_share(proof.load(tmp_path, Random(seed)), seconds=20) == with_it


async def test_policy_that_costs_too_much_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_us", lambda piece, calls: 2.5)
    monkeypatch.setattr(proof, "_SECONDS", 1.0)
    report = await prove(proof.mesh, quick=True, workdir=tmp_path)
    assert report.holds is False
    assert "ours.all_policy_us is 2.5, not ≤ 2" in report.why


async def test_without_the_baselines_nothing_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        assert name in {"pybreaker", "purgatory"}

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(NotShown, match="pybreaker is missing"):
        async with proof.mesh.experiment(_setting(tmp_path)):
            pass


def _setting(folder: Path) -> Setting:
    return Setting(quick=True, pairs=1, seed=1, workdir=folder, say=lambda _: None)
