"""Claims: what is measured, how it is judged, and what a report says; each verdict can come out either way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from dougong.evidence import Claim, Figures, NotShown, Progress, Ratio, Setting, Threshold, prove

KEYS = ["claim", "holds", "ours", "baseline", "ratio", "machine", "commit", "tree", "seed", "why"]


class Race:
    """An experiment with made-up figures."""

    def __init__(self, ours: Sequence[float], baseline: Sequence[float], problems: Sequence[str] = ()) -> None:
        self._figures = {"ours": ours, "baseline": baseline}
        self._problems = problems
        self.calls: list[str] = []

    async def ours(self, pair: int) -> Figures:
        self.calls.append("ours")
        return {"orders_per_s": self._figures["ours"][pair]}

    async def baseline(self, pair: int) -> Figures:
        self.calls.append("baseline")
        return {"orders_per_s": self._figures["baseline"][pair]}

    async def verify(self) -> Sequence[str]:
        self.calls.append("verify")
        return self._problems


def opened(race: Race, settings: list[Setting] | None = None) -> Callable[[Setting], AbstractAsyncContextManager[Race]]:
    @asynccontextmanager
    async def open_race(setting: Setting) -> AsyncGenerator[Race]:
        if settings is not None:
            settings.append(setting)
        yield race

    return open_race


def claim_of(
    experiment: Callable[[Setting], AbstractAsyncContextManager[Race]], *thresholds: Threshold, pairs: int = 6
) -> Claim:
    return Claim(
        name="faster",
        title="Faster",
        situation="It was slow.",
        task="Make it fast.",
        action="Made it fast.",
        result="{ours[orders_per_s]:,.0f} orders/s, {ratio[orders_per_s]:.1f} times",
        experiment=experiment,
        thresholds=thresholds or (Threshold("ratio.orders_per_s", at_least=10),),
        ratios={"orders_per_s": Ratio("orders_per_s", "orders_per_s")},
        pairs=pairs,
    )


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does nothing else."""
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.0, 0.0, 0.0))


FAST, SLOW = [1000.0, 1010.0, 990.0, 1020.0, 980.0, 1000.0], [90.0, 91.0, 89.0, 90.0, 88.0, 90.0]


async def test_a_claim_that_holds(tmp_path: Path) -> None:
    race = Race(FAST, SLOW)
    report = await prove(claim_of(opened(race)), workdir=tmp_path, seed=7)
    assert report.holds is True
    assert report.why == "all 1 thresholds met"
    assert report.result == "1,000 orders/s, 11.1 times"
    shown = msgspec.json.decode(report.to_json())
    assert list(shown) == KEYS
    assert (shown["claim"], shown["holds"], shown["seed"]) == ("faster", True, 7)
    assert shown["ours"] == {"orders_per_s": 1000.0}
    assert shown["baseline"] == {"orders_per_s": 90.0}
    assert shown["ratio"]["orders_per_s"] == pytest.approx(11.11, abs=0.01)
    assert shown["machine"]["cores"] >= 1


async def test_a_table_is_filled_and_stands_in_the_report(tmp_path: Path) -> None:
    table = "| who | orders |\n| --- | --- |\n| ours | {ours[orders_per_s]:,.0f} |"
    claim = msgspec.structs.replace(claim_of(opened(Race(FAST, SLOW)), pairs=2), table=table)
    report = await prove(claim, workdir=tmp_path)
    assert f"times\n\n{report.table}\n\n| figure" in report.to_markdown()
    assert report.table.endswith("| ours | 1,005 |")


async def test_a_row_that_was_not_measured_leaves_the_others(tmp_path: Path) -> None:
    table = (
        "| who | orders |\n| --- | --- |\n| theirs | {baseline[nothing_per_s]} |\n| ours | {ours[orders_per_s]:,.0f} |"
    )
    claim = msgspec.structs.replace(claim_of(opened(Race(FAST, SLOW)), pairs=2), table=table)
    report = await prove(claim, workdir=tmp_path)
    assert report.table.splitlines()[2:] == ["| theirs | nothing_per_s was not measured |", "| ours | 1,005 |"]


async def test_runs_are_interleaved_and_the_first_changes(tmp_path: Path) -> None:
    race = Race(FAST, SLOW)
    await prove(claim_of(opened(race), pairs=3), workdir=tmp_path)
    assert race.calls == ["baseline", "ours", "ours", "baseline", "baseline", "ours", "verify"]


async def test_a_claim_that_does_not_hold_says_by_how_much(tmp_path: Path) -> None:
    thresholds = Threshold("ours.orders_per_s", at_least=2000), Threshold("baseline.orders_per_s", at_most=50)
    report = await prove(claim_of(opened(Race(FAST, SLOW)), *thresholds), workdir=tmp_path)
    assert report.holds is False
    assert report.why == "ours.orders_per_s is 1,000, not ≥ 2,000; baseline.orders_per_s is 90, not ≤ 50"


async def test_what_disagrees_refutes_a_claim_whatever_the_figures(tmp_path: Path) -> None:
    race = Race(FAST, SLOW, ["lost_order: order 7", "lost_order: order 8"])
    report = await prove(claim_of(opened(race)), workdir=tmp_path)
    assert report.holds is False
    assert report.why == "lost_order: order 7 (and 1 more)"
    assert "- lost_order: order 8" in report.to_markdown()


async def test_a_difference_that_may_be_chance_does_not_hold(tmp_path: Path) -> None:
    ours = [100.0, 80.0, 130.0, 70.0, 120.0, 105.0]
    claim = claim_of(opened(Race(ours, [95.0] * 6)), Threshold("ratio.orders_per_s", at_least=1.01))
    report = await prove(claim, workdir=tmp_path)
    assert report.holds is False
    assert report.why == "ratio.orders_per_s is not significantly different from 1"
    assert "| ratio: orders_per_s | 1.08 ~ |" in report.to_markdown()


async def test_that_something_costs_no_more_needs_no_difference(tmp_path: Path) -> None:
    ours = [100.0, 80.0, 130.0, 70.0, 120.0, 105.0]
    for threshold, holds in (
        (Threshold("ratio.orders_per_s", at_most=1.25), True),
        (Threshold("ratio.orders_per_s", at_least=0.8), True),
        (Threshold("ours.orders_per_s", at_least=90), True),  # a ratio that nothing is claimed of
        (Threshold("ratio.orders_per_s", at_most=0.99), False),
        (Threshold("ratio.orders_per_s", at_most=1.05), False),
    ):
        report = await prove(claim_of(opened(Race(ours, [95.0] * 6)), threshold), workdir=tmp_path)
        assert report.holds is holds, threshold
        assert "| ratio: orders_per_s | 1.08 ~ |" in report.to_markdown(), "and it is marked as chance"


async def test_quick_runs_fewer_pairs_and_says_so(tmp_path: Path) -> None:
    settings: list[Setting] = []
    race = Race(FAST, SLOW)
    report = await prove(claim_of(opened(race, settings)), workdir=tmp_path, quick=True)
    assert (report.pairs, settings[0].quick, settings[0].pairs) == (2, True, 2)
    assert report.holds is True
    assert report.why == "all 1 thresholds met; too few pairs for 95 % intervals, so judged by the medians alone"


async def test_a_busy_machine_is_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "getloadavg", lambda: (99.0, 0.0, 0.0))
    report = await prove(claim_of(opened(Race(FAST, SLOW))), workdir=tmp_path)
    assert report.why == "all 1 thresholds met; this machine was busy in the minute before the run (load 99.0)"


async def test_not_shown_is_neither_true_nor_false(tmp_path: Path) -> None:
    @asynccontextmanager
    async def nowhere(setting: Setting) -> AsyncGenerator[Race]:
        if setting.pairs:
            raise NotShown("there is no etcd on this machine")
        yield Race(FAST, SLOW)

    report = await prove(claim_of(nowhere), workdir=tmp_path)
    assert report.holds is None
    assert report.why == "not shown here, because there is no etcd on this machine"
    assert msgspec.json.decode(report.to_json())["holds"] is None
    assert "**not shown here**" in report.to_markdown()


async def test_a_run_that_turns_void_half_way_keeps_what_was_measured(tmp_path: Path) -> None:
    class Tired(Race):
        async def ours(self, pair: int) -> Figures:
            if pair == 1:
                raise NotShown("the generator lagged")
            return await super().ours(pair)

    report = await prove(claim_of(opened(Tired(FAST, SLOW))), workdir=tmp_path)
    assert report.holds is None
    assert report.ours["orders_per_s"].values == (1000.0,)
    assert report.result == ""


@pytest.mark.parametrize("figure", ["ours.orders_per_s", "ratio.orders_per_s"])
async def test_without_its_baseline_a_claim_is_judged_where_ours_alone_says_something(
    tmp_path: Path, figure: str
) -> None:
    class Alone(Race):
        async def baseline(self, pair: int) -> Figures:
            self.calls.append("baseline")
            raise NotShown("the other engine is not installed")

    race = Alone([12, 12], [])
    report = await prove(claim_of(opened(race), Threshold(figure, at_least=10), pairs=2), workdir=tmp_path)
    assert "not shown here, because the other engine is not installed" in report.why
    if figure.startswith("ours"):
        assert report.holds
        assert race.calls == ["baseline", "ours", "ours", "verify"]
    else:
        assert report.holds is None
        assert race.calls == ["baseline"]


async def test_a_threshold_on_what_was_not_measured_is_not_met(tmp_path: Path) -> None:
    claim = claim_of(opened(Race(FAST, SLOW)), Threshold("ours.p99_ms", at_most=86))
    report = await prove(claim, workdir=tmp_path)
    assert (report.holds, report.why) == (False, "ours.p99_ms was not measured")


async def test_the_ratio_is_taken_pair_by_pair(tmp_path: Path) -> None:
    """A disturbance that halves both sides of one pair leaves its ratio alone."""
    report = await prove(claim_of(opened(Race([100, 100, 50], [10, 10, 5])), pairs=3), workdir=tmp_path)
    assert report.ratio["orders_per_s"].values == (10.0, 10.0, 10.0)


async def test_report_and_raw_data_are_kept(tmp_path: Path) -> None:
    steps: list[Progress] = []
    report = await prove(claim_of(opened(Race(FAST, SLOW))), workdir=tmp_path, progress=steps.append)
    kept = Path(report.kept)
    assert kept.parent == tmp_path / "faster"
    assert (kept / "report.json").read_text() == report.to_json() + "\n"
    assert "**Situation.** It was slow." in (kept / "report.md").read_text()
    raw = msgspec.json.decode((kept / "raw.json").read_bytes())
    assert raw["ours"]["orders_per_s"]["values"] == FAST
    assert "msgspec" in raw["machine"]["versions"]
    assert [s.done for s in steps[:12]] == list(range(12))
    assert all(s.total == 12 for s in steps)


async def test_a_system_that_breaks_is_no_verdict(tmp_path: Path) -> None:
    class Broken(Race):
        async def baseline(self, pair: int) -> Figures:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await prove(claim_of(opened(Broken(FAST, SLOW))), workdir=tmp_path)


@pytest.mark.parametrize("figure", ["orders_per_s", "theirs.orders_per_s", "ours."])
def test_a_threshold_names_side_and_figure(figure: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        Threshold(figure, at_least=1)


def test_a_threshold_has_one_bound() -> None:
    with pytest.raises(ValueError, match="either at_least or at_most"):
        Threshold("ours.p99_ms")
    with pytest.raises(ValueError, match="either at_least or at_most"):
        Threshold("ours.p99_ms", at_least=1, at_most=2)
