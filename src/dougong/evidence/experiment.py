"""Rerun the experiment behind a claim and say whether it holds."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from dougong.evidence.claim import Claim, Experiment, Figures, NotShown, Setting
from dougong.evidence.machine import commit_of, describe_machine, tree_of
from dougong.evidence.report import Report, Summaries, judge
from dougong.evidence.statistics import summarize

__all__ = ["Progress", "prove"]

_BUSY_PER_CORE = 0.5


class Progress(msgspec.Struct, frozen=True):
    """How far a proof has come."""

    done: int
    """Runs measured, of `total`; each pair is two."""
    total: int
    text: str


async def prove(
    claim: Claim,
    *,
    quick: bool = False,
    seed: int = 1,
    workdir: Path = Path("evidence"),
    progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Measure baseline and ours in turn, pair by pair, judge the medians, and keep report and raw data.

    They are kept in a new directory `workdir/CLAIM/TIME`. A claim this machine cannot show gives a report with
    `holds` None; a system that breaks raises what it raised.
    """
    now = dt.datetime.now(dt.UTC)
    kept = workdir / claim.name / now.strftime("%Y%m%dT%H%M%S")
    kept.mkdir(parents=True, exist_ok=True)
    pairs = claim.pairs_quick if quick else claim.pairs
    runs = _Runs(pairs, progress)
    setting = Setting(quick=quick, pairs=pairs, seed=seed, workdir=kept, say=runs.say)
    machine = await asyncio.to_thread(describe_machine, kept)
    start = time.monotonic()
    problems: Sequence[str] = ()
    not_shown = ""
    try:
        async with claim.experiment(setting) as experiment:
            await runs.measure(experiment, alone_will_do=all(t.figure.startswith("ours.") for t in claim.thresholds))
            runs.say("checking")
            problems = await experiment.verify()
    except NotShown as reason:
        not_shown = reason.message
    ours, baseline = _summaries(runs.ours), _summaries(runs.baseline)
    figures = {"ours": ours, "baseline": baseline, "ratio": _ratios(claim, runs)}
    holds: bool | None
    holds, judgements, why = judge(claim, figures, tuple(problems))
    if runs.without_baseline:
        why += f"; the baseline is not shown here, because {runs.without_baseline}"
    if not_shown:
        holds, judgements, why = None, (), f"not shown here, because {not_shown}"
    if machine.load > _BUSY_PER_CORE * machine.cores:
        why += f"; this machine was busy in the minute before the run (load {machine.load})"
    report = Report(
        claim=claim.name,
        title=claim.title,
        situation=claim.situation,
        task=claim.task,
        action=claim.action,
        result="" if not_shown else _filled(claim.result, figures),
        table="" if not_shown else "\n".join(_filled_row(row, figures) for row in claim.table.splitlines()),
        holds=holds,
        why=why,
        ours=ours,
        baseline=baseline,
        ratio=figures["ratio"],
        judgements=judgements,
        problems=tuple(problems),
        pairs=pairs,
        quick=quick,
        seed=seed,
        commit=await asyncio.to_thread(commit_of, _sources(claim)),
        tree=await asyncio.to_thread(tree_of, _sources(claim)),
        machine=machine,
        started=now.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - start, 1),
        kept=str(kept),
    )
    report.save(kept)
    return report


class _Runs:
    """The figures so far."""

    def __init__(self, pairs: int, progress: Callable[[Progress], None]) -> None:
        self.ours: list[Figures] = []
        self.baseline: list[Figures] = []
        self.without_baseline = ""
        """Because of what it cannot be shown."""
        self._pairs = pairs
        self._progress = progress

    def say(self, text: str) -> None:
        self._progress(Progress(len(self.ours) + len(self.baseline), 2 * self._pairs, text))

    async def measure(self, experiment: Experiment, *, alone_will_do: bool) -> None:
        """All pairs. Where ours `alone_will_do`, a baseline that cannot be shown here is left out."""
        for pair in range(self._pairs):
            # Who goes first changes from pair to pair, so that what drifts (heat, a neighbour, a growing database)
            # favours neither.
            for which in ("baseline", "ours") if pair % 2 == 0 else ("ours", "baseline"):
                self.say(f"pair {pair + 1} of {self._pairs}: {which}")
                if which == "ours":
                    self.ours.append(await experiment.ours(pair))
                elif not self.without_baseline:
                    try:
                        self.baseline.append(await experiment.baseline(pair))
                    except NotShown as reason:
                        if not alone_will_do:
                            raise
                        self.without_baseline = reason.message


def _summaries(runs: Sequence[Figures]) -> Summaries:
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: summarize([run[name] for run in runs if name in run]) for name in names}


def _ratios(claim: Claim, runs: _Runs) -> Summaries:
    """Pair by pair, so that what disturbed a pair disturbs both sides of its ratio."""
    ratios: Summaries = {}
    for name, ratio in claim.ratios.items():
        values = [
            ours[ratio.ours] / baseline[ratio.baseline]
            for ours, baseline in zip(runs.ours, runs.baseline, strict=False)
            if ours.get(ratio.ours) is not None and baseline.get(ratio.baseline)
        ]
        if values:
            ratios[name] = summarize(values)
    return ratios


def _filled(text: str, figures: dict[str, Summaries]) -> str:
    medians = {side: {name: s.median for name, s in summaries.items()} for side, summaries in figures.items()}
    try:
        return text.format(**medians)
    except KeyError as missing:
        return f"{missing.args[0]} was not measured"


def _filled_row(row: str, figures: dict[str, Summaries]) -> str:
    """Of a table: what a run left out (a quick one, a library that is not there) leaves the others."""
    filled = _filled(row, figures)
    return filled if filled.startswith("|") or not row.startswith("|") else f"{row[: row.index('|', 1)]}| {filled} |"


def _sources(claim: Claim) -> Path:
    """Where the experiment is written: its commit and tree are the ones that count."""
    module = sys.modules.get(getattr(claim.experiment, "__module__", ""))
    file = getattr(module, "__file__", None)
    return Path(file).parent if file else Path.cwd()
