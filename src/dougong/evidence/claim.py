"""A claim: what somebody says a system does, with the experiment that can refute it.

The experiment measures a baseline and ours in turn, in one run, so that what disturbs one disturbs the other. It states
figures; what they must come to stands in the claim as thresholds, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from dougong.errors import Unavailable

__all__ = ["Claim", "Experiment", "Figures", "NotShown", "Ratio", "Setting", "Threshold"]

Figures = Mapping[str, float]
"""What one run measured: `stream_orders_per_s`, `p99_ms`. Units last."""


class NotShown(Unavailable):
    """This machine, now, cannot show the claim; the message completes "not shown here, because …"."""

    def __init__(self, because: str) -> None:
        super().__init__(because, code="not_shown")


class Setting(msgspec.Struct, frozen=True):
    """What an experiment may use."""

    quick: bool
    """All of it, start to end, is to take under 30 s."""
    pairs: int
    seed: int
    workdir: Path
    """A directory of this run's own, kept. Databases belong under it too, where durability is real, but are not to be
    left behind."""
    say: Callable[[str], None]
    """Tell the person who waits what is going on."""


class Experiment(Protocol):
    """One baseline and one ours, both running. Called in turn, never at once."""

    async def baseline(self, pair: int) -> Figures:
        """Measure what people start from. `NotShown` leaves ours to be judged alone, where that says something."""

    async def ours(self, pair: int) -> Figures:
        """Measure what is claimed."""

    async def verify(self) -> Sequence[str]:
        """After the last pair: what refutes the claim whatever the figures say (a lost order, books that disagree)."""


class Ratio(msgspec.Struct, frozen=True):
    """`ours` figure divided by `baseline` figure, pair by pair."""

    ours: str
    baseline: str


class Threshold(msgspec.Struct, frozen=True):
    """What the median of a figure must come to, e.g. `Threshold("ours.p99_ms", at_most=86)`."""

    figure: str
    """`ours.NAME`, `baseline.NAME` or `ratio.NAME`."""
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        side, _, name = self.figure.partition(".")
        if side not in {"ours", "baseline", "ratio"} or not name:
            raise ValueError(
                f"threshold figure {self.figure!r} is not of the form ours.NAME, baseline.NAME or ratio.NAME"
            )
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"threshold on {self.figure!r} needs either at_least or at_most")

    @property
    def claims_difference(self) -> bool:
        """Of a ratio: that there is one, so that it must not be chance. `at_most=1.25` claims that there is none worth
        speaking of."""
        return self.at_least >= 1 if self.at_least is not None else self.at_most is not None and self.at_most < 1

    def met_by(self, value: float) -> bool:
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most

    def __str__(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:,.10g}"
        return f"≤ {self.at_most:,.10g}"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Situation, task, action, result; how it is measured; what it must come to.

    Declared in a module and named under the entry point group `dougong.claims`; `dougong prove NAME` finds it there.
    """

    name: str
    title: str
    situation: str
    task: str
    action: str
    result: str
    """A format string over the medians, e.g. `"{ours[orders_per_s]:,.0f}/s, {ratio[orders_per_s]:.1f} × as many"`."""
    table: str = ""
    """For what takes more than a sentence: Markdown of the report, a format string like `result`."""
    experiment: Callable[[Setting], AbstractAsyncContextManager[Experiment]]
    thresholds: tuple[Threshold, ...]
    ratios: dict[str, Ratio] = {}
    pairs: int = 6
    """Interleaved pairs of runs: six are the fewest that carry a 95 % interval."""
    pairs_quick: int = 2
