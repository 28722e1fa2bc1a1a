"""What repeated measurements say: the median, and an interval for it that assumes nothing about their distribution.

Six runs are the fewest that carry a 95 % interval without assumptions: the true median lies outside the range of n
independent values with probability 2·(1/2)^n, which is 3.1 % for six and still 6.3 % for five. With fewer runs the
range is shown for what it is, with its confidence beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

__all__ = ["LEVEL", "Summary", "median", "summarize"]

LEVEL = 0.95


class Summary(msgspec.Struct, frozen=True):
    """One figure over all runs."""

    median: float
    low: float
    high: float
    confidence: float
    """How sure it is that the true median lies between `low` and `high`: at least 0.95, or less for want of runs."""
    values: tuple[float, ...]
    """In the order in which they were measured."""

    @property
    def enough(self) -> bool:
        """Whether there were runs enough for a 95 % interval."""
        return self.confidence >= LEVEL

    def differs_from(self, value: float) -> bool:
        """Whether the interval leaves `value` out. With too few runs nothing does."""
        return self.enough and not self.low <= value <= self.high


def median(values: Sequence[float]) -> float:
    """The middle value; the mean of the two middle ones when there is none."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def summarize(values: Sequence[float]) -> Summary:
    """Median and interval by the sign test (order statistics). Raises ValueError without values."""
    if not values:
        raise ValueError("nothing was measured, so there is nothing to summarize")
    ordered, n = sorted(values), len(values)
    rank, confidence = 0, _confidence(n, 0)
    while rank + 1 < n - 1 - (rank + 1) and _confidence(n, rank + 1) >= LEVEL:
        rank += 1
        confidence = _confidence(n, rank)
    return Summary(median(ordered), ordered[rank], ordered[n - 1 - rank], round(confidence, 4), tuple(values))


def _confidence(n: int, rank: int) -> float:
    """That the median lies between the `rank`-th smallest and the `rank`-th largest of n values (counted from 0)."""
    outside: float = 2.0 * sum(math.comb(n, k) for k in range(rank + 1)) / 2.0**n
    return 1 - outside
