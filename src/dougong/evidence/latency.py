"""Latencies in an HDR histogram: every value counted, three significant digits, constant memory."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterable

import msgspec
from hdrh.histogram import HdrHistogram

__all__ = ["Latencies", "Quantiles"]

_MAX_US = 120_000_000
_KEPT_BITS = 11  # three significant digits
_SIGNIFICANT_DIGITS = 3


class Quantiles(msgspec.Struct, frozen=True):
    """Milliseconds."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Latencies:
    """Records seconds, answers in milliseconds. Values above two minutes count as two minutes.

    The buckets are HDR's, in a dict: reading quantiles off the library's histogram takes 20 ms, which four times a
    second during a rush would be measured as the system's latency. The library writes its format when the run is over.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        """Microseconds, rounded to three digits: how often."""

    def record(self, seconds: float, count: int = 1) -> None:
        """`count` requests took `seconds`."""
        self._counts[_bucket(seconds)] += count

    def record_each(self, seconds: Iterable[float]) -> None:
        """One request each took so long."""
        self._counts.update(map(_bucket, seconds))

    def add(self, other: Latencies) -> None:
        """Take over all of another's values."""
        self._counts.update(other._counts)

    def buckets(self) -> list[tuple[int, int]]:
        """(µs, how often), to hand to another process."""
        return list(self._counts.items())

    def add_buckets(self, buckets: Iterable[tuple[int, int]]) -> None:
        """Take over what another process's `buckets` were."""
        for value_us, count in buckets:
            self._counts[value_us] += count

    def encode(self) -> str:
        """The whole histogram as text, to keep beside a report (HdrHistogram's V2 format, microseconds)."""
        histogram = HdrHistogram(1, _MAX_US, _SIGNIFICANT_DIGITS)
        for value_us, count in self._counts.items():
            histogram.record_value(value_us, count)
        return str(histogram.encode(), "ascii")

    def quantiles(self) -> Quantiles:
        """The usual quantiles; all zero when nothing was recorded."""
        total = self._counts.total()
        if not total:
            return Quantiles(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        ordered = sorted(self._counts.items())
        reached = list(itertools.accumulate(count for _, count in ordered))

        def at(share: float) -> float:
            return ordered[bisect.bisect_left(reached, math.ceil(share * total))][0] / 1000

        return Quantiles(
            count=total,
            mean_ms=round(sum(value_us * count for value_us, count in ordered) / total / 1000, 3),
            p50_ms=at(0.5),
            p90_ms=at(0.9),
            p99_ms=at(0.99),
            p999_ms=at(0.999),
            max_ms=ordered[-1][0] / 1000,
        )


def _bucket(seconds: float) -> int:
    """The middle of the bucket that holds so many seconds."""
    value_us = min(max(int(seconds * 1e6), 1), _MAX_US)
    shift = value_us.bit_length() - _KEPT_BITS
    return value_us if shift <= 0 else (value_us >> shift << shift) | (1 << shift >> 1)
