"""The claim about deploys says what a drill measures. The drill itself is tested in `tests/gateway/test_drill.py`."""

from __future__ import annotations

import msgspec
import pytest

from shop.proof.drill import Plan, Run, connections_drill
from shop.proof.drill.claim import plan

RUN = Run(
    sessions=1, published=2, told=2, missing=0, again=0, astray=0, gaps=0, unpublished=0, ended=0, returns=3,
    returns_peak_per_s=4, returns_over_pace=0.5, restart_s=6, lag_s=0.1, late_p50_ms=7, late_p99_ms=8, late_max_ms=9,
)  # fmt: skip


def test_all_that_is_claimed_is_measured() -> None:
    figures = msgspec.structs.asdict(RUN)
    assert connections_drill.result.format(ours=figures, baseline=figures).startswith("2 messages to 1 sessions")
    assert {threshold.figure.partition(".")[2] for threshold in connections_drill.thresholds} <= figures.keys()


@pytest.mark.parametrize(("workers", "most"), [(2, 400), (4, 237.04)])
def test_the_pace_is_that_of_the_worker_that_has_most(workers: int, most: float) -> None:
    """Each that is replaced gives its sessions to all others; the last has most of them then."""
    there = [400 / workers] * workers
    highest = 0.0
    for one in range(workers):
        highest = max(highest, there[one])
        for other in range(workers):
            if other != one:
                there[other] += there[one] / (workers - 1)
        there[one] = 0
    small = Plan(sessions=400, messages_per_s=1, workers=workers, drain_s=2, reconnect_s=1, connect_per_s=1)
    assert highest == pytest.approx(most, abs=0.01)
    assert small.pace_per_s == pytest.approx(highest)


def test_quick_is_the_same_drill_with_less() -> None:
    quick, full = plan(quick=True), plan(quick=False)
    assert (full.sessions, full.messages_per_s, full.workers) == (20_000, 1000, 4)
    assert quick.sessions < full.sessions
    assert quick.keep
    assert full.keep
