"""What a run showed, for people (Markdown: Situation, Task, Action, Result) and for machines (one JSON object)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from dougong.evidence.claim import Claim, Threshold
from dougong.evidence.machine import Machine
from dougong.evidence.statistics import Summary

__all__ = ["Judgement", "Report", "judge"]

Summaries = dict[str, Summary]


class Judgement(msgspec.Struct, frozen=True):
    """One threshold, and whether it was met."""

    figure: str
    required: str
    measured: float | None
    met: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of proving one claim."""

    claim: str
    title: str
    situation: str
    task: str
    action: str
    result: str
    """The claim's result with the measured figures in it; empty when nothing was shown."""
    table: str = ""
    """The claim's table, likewise."""
    holds: bool | None
    """None: not shown here; `why` says because of what."""
    why: str
    ours: Summaries
    baseline: Summaries
    ratio: Summaries
    judgements: tuple[Judgement, ...]
    problems: tuple[str, ...]
    pairs: int
    quick: bool
    seed: int
    commit: str
    tree: str
    """What ran, by content (`tree_of`); it outlives commits that are put together or moved."""
    machine: Machine
    started: str
    seconds: float
    kept: str = ""
    """Directory with the raw data."""

    def to_json(self) -> str:
        """One object: claim, holds, ours, baseline, ratio (medians), machine, commit, tree, seed, why."""
        shown = {
            "claim": self.claim,
            "holds": self.holds,
            "ours": _medians(self.ours),
            "baseline": _medians(self.baseline),
            "ratio": _medians(self.ratio),
            "machine": self.machine,
            "commit": self.commit,
            "tree": self.tree,
            "seed": self.seed,
            "why": self.why,
        }
        return msgspec.json.encode(shown).decode()

    def to_markdown(self) -> str:
        """A page one can hand to a colleague."""
        verdict = {True: "holds", False: "does not hold", None: "not shown here"}[self.holds]
        m = self.machine
        pairs = "one pair" if self.pairs == 1 else f"{self.pairs} interleaved pairs"
        where = (
            f"{m.cpu}, {m.cores} cores, {m.memory_gib} GiB, {m.system}, {m.python}; 4 KiB durable in {m.sync_ms} ms; "
            f"load before the run {m.load}. {self.started}, {self.seconds:.0f} s, commit `{self.commit}`, "
            f"tree `{self.tree}`, seed {self.seed}, {pairs}{' (quick)' if self.quick else ''}. "
            "Every single value is in `raw.json` beside this page, with the versions."
        )
        parts = [
            f"# {self.title}",
            f"`{self.claim}` **{verdict}**: {self.why}",
            f"**Situation.** {self.situation}",
            f"**Task.** {self.task}",
            f"**Action.** {self.action}",
            f"**Result.** {self.result or self.why}",
            self.table,
            self._figures(),
            self._thresholds(),
            self._problems(),
            f"## Where and when\n\n{where}",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def save(self, directory: Path) -> None:
        """Write `report.json`, `report.md` and `raw.json` (everything, every value)."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_text(self.to_json() + "\n")
        (directory / "report.md").write_text(self.to_markdown())
        (directory / "raw.json").write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def _figures(self) -> str:
        rows = [
            *((f"ours: {name}", s, "") for name, s in self.ours.items()),
            *((f"baseline: {name}", s, "") for name, s in self.baseline.items()),
            *((f"ratio: {name}", s, "" if s.differs_from(1.0) else " ~") for name, s in self.ratio.items()),
        ]
        if not rows:
            return ""
        lines = ["| figure | median | interval | values |", "| --- | ---: | --- | --- |"]
        for name, s, mark in rows:
            interval = f"{_number(s.low)} to {_number(s.high)} ({s.confidence:.0%})" if s.confidence else "one run"
            lines.append(f"| {name} | {_number(s.median)}{mark} | {interval} | {', '.join(map(_number, s.values))} |")
        if any(mark for *_, mark in rows):
            lines.append("\n`~`: not significantly different from 1 at 95 % with so many pairs.")
        return "\n".join(lines)

    def _thresholds(self) -> str:
        if not self.judgements:
            return ""
        lines = ["| threshold | measured | met |", "| --- | ---: | --- |"]
        for j in self.judgements:
            measured = "not measured" if j.measured is None else _number(j.measured)
            lines.append(f"| {j.figure} {j.required} | {measured} | {'yes' if j.met else '**no**'} |")
        return "\n".join(lines)

    def _problems(self) -> str:
        if not self.problems:
            return ""
        return "## What disagrees\n\n" + "\n".join(f"- {problem}" for problem in self.problems)


def judge(
    claim: Claim, figures: Mapping[str, Summaries], problems: Sequence[str]
) -> tuple[bool, tuple[Judgement, ...], str]:
    """Whether the claim holds, threshold by threshold, and the reason in words."""
    judgements = tuple(_judge(threshold, figures) for threshold in claim.thresholds)
    reasons = [
        f"{j.figure} was not measured"
        if j.measured is None
        else f"{j.figure} is {_number(j.measured)}, not {j.required}"
        for j in judgements
        if not j.met
    ]
    claimed = {t.figure for t in claim.thresholds if t.claims_difference}
    doubtful = [
        name
        for name, summary in figures["ratio"].items()
        if f"ratio.{name}" in claimed and summary.enough and not summary.differs_from(1.0)
    ]
    reasons += [f"ratio.{name} is not significantly different from 1" for name in doubtful]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        reasons.append(f"{problems[0]}{more}")
    if reasons:
        return False, judgements, "; ".join(reasons)
    why = f"all {len(judgements)} thresholds met"
    if any(not s.enough for side in figures.values() for s in side.values()):
        why += "; too few pairs for 95 % intervals, so judged by the medians alone"
    return True, judgements, why


def _judge(threshold: Threshold, figures: Mapping[str, Summaries]) -> Judgement:
    side, _, name = threshold.figure.partition(".")
    summary = figures[side].get(name)
    if summary is None:
        return Judgement(threshold.figure, str(threshold), None, met=False)
    return Judgement(threshold.figure, str(threshold), summary.median, threshold.met_by(summary.median))


def _medians(summaries: Summaries) -> dict[str, float]:
    return {name: round(s.median, 3) for name, s in summaries.items()}


def _number(value: float) -> str:
    """Three to four digits that matter."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
