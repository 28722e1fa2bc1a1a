"""Latencies in an HDR histogram: every value counted, three significant digits, constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
from hdrh.histogram import HdrHistogram

__all__ = ["Latencies", "Quantiles"]

_MAX_US = 120_000_000
_SIGNIFICANT_DIGITS = 3
_PENDING_MAX = 4096
"""Distinct values held back before they go into the histogram."""


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
    """Records seconds, answers in milliseconds. Values above two minutes count as two minutes."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, _MAX_US, _SIGNIFICANT_DIGITS)
        # The histogram is Python: some microseconds a value, which at 20,000 values a second is a tenth of a core taken
        # from what is measured. Equal values are gathered here first.
        self._pending: Counter[int] = Counter()

    def record(self, seconds: float, count: int = 1) -> None:
        """`count` requests took `seconds`."""
        self._pending[int(seconds * 1e6)] += count
        if len(self._pending) > _PENDING_MAX:
            self._flush()

    def record_each(self, seconds: Iterable[float]) -> None:
        """One request each took so long."""
        self._pending.update([int(s * 1e6) for s in seconds])
        if len(self._pending) > _PENDING_MAX:
            self._flush()

    def add(self, other: Latencies) -> None:
        """Take over all of another's values."""
        other._flush()
        self._flush()
        self._histogram.add(other._histogram)

    def encode(self) -> str:
        """The whole histogram as text, to keep beside a report (HdrHistogram's V2 format)."""
        self._flush()
        return str(self._histogram.encode(), "ascii")

    def quantiles(self) -> Quantiles:
        """The usual quantiles; all zero when nothing was recorded."""
        self._flush()
        h = self._histogram
        if not h.get_total_count():
            return Quantiles(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

        def at(percentile: float) -> float:
            return float(round(h.get_value_at_percentile(percentile) / 1000, 3))

        return Quantiles(
            count=h.get_total_count(),
            mean_ms=round(h.get_mean_value() / 1000, 3),
            p50_ms=at(50),
            p90_ms=at(90),
            p99_ms=at(99),
            p999_ms=at(99.9),
            max_ms=round(h.get_max_value() / 1000, 3),
        )

    def _flush(self) -> None:
        for value_us, count in self._pending.items():
            self._histogram.record_value(min(max(value_us, 1), _MAX_US), count)
        self._pending.clear()
