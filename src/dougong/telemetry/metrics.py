"""Counters, gauges and histograms: one dictionary entry per combination of label values.

Own and small because it sits on every hot path, and because the number of label combinations must be bounded: past
`SERIES_MAX` the rest is counted under the label value `overflow`, so that a careless label costs resolution, never the
process's memory.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from inspect import ismethod
from threading import RLock
from typing import TypeVar
from weakref import WeakMethod

__all__ = [
    "LATENCY_BUCKETS_S",
    "PROCESS",
    "SERIES_MAX",
    "Counter",
    "Gauge",
    "Histogram",
    "Metric",
    "Metrics",
    "before_render",
    "counter",
    "gauge",
    "histogram",
]

SERIES_MAX = 1000
OVERFLOW = "overflow"
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)

Labels = tuple[str, ...]


class Metric:
    """What all three have: a name, a help text, label names, a bounded number of series."""

    __slots__ = ("_lock", "help", "label_names", "name")

    kind = ""

    def __init__(self, name: str, help: str, labels: Sequence[str]) -> None:  # noqa: A002 (Prometheus's own term)
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"metric name {name!r} is not of the form [a-zA-Z_:][a-zA-Z0-9_:]*")
        for label in labels:
            if _LABEL.fullmatch(label) is None or label == "le":
                raise ValueError(f"metric {name}: label {label!r} is not of the form [a-zA-Z_][a-zA-Z0-9_]*, or taken")
        self.name = name
        self.help = help
        self.label_names = tuple(labels)
        # Counted from executor threads too. Re-entrant, because a finalizer that counts may run inside the block.
        self._lock = RLock()

    def _admit(self, labels: Labels, series: int) -> Labels:
        """Check label values seen for the first time; what to count them under."""
        if len(labels) != len(self.label_names):
            raise ValueError(f"metric {self.name} takes the labels {self.label_names}, got the values {labels}")
        for value in labels:
            if not isinstance(value, str):
                raise TypeError(f"metric {self.name}: label value {value!r} is {type(value).__name__}, not str")
        return (OVERFLOW,) * len(labels) if series >= SERIES_MAX else labels


class _Numbers(Metric):
    __slots__ = ("_values",)

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:  # noqa: A002
        super().__init__(name, help, labels)
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}

    def value(self, *labels: str) -> float:
        """The number now; 0 for label values never seen."""
        return self._values.get(labels, 0.0)

    def series(self) -> dict[Labels, float]:
        """All numbers by their label values."""
        with self._lock:
            return dict(self._values)


class Counter(_Numbers):
    """A number that only grows. Name it for what it counts, ending in `_total`."""

    __slots__ = ()

    kind = "counter"

    def inc(self, n: float = 1, *labels: str) -> None:
        """Add `n` (not negative)."""
        if not n >= 0:  # so written, it refuses NaN as well
            raise ValueError(f"counter {self.name} cannot change by {n}; use a gauge for what goes down")
        with self._lock:
            try:
                self._values[labels] += n
            except KeyError:
                labels = self._admit(labels, len(self._values))
                self._values[labels] = self._values.get(labels, 0.0) + n


class Gauge(_Numbers):
    """A number that goes up and down."""

    __slots__ = ()

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        with self._lock:
            if labels not in self._values:
                labels = self._admit(labels, len(self._values))
            self._values[labels] = value

    def inc(self, n: float = 1, *labels: str) -> None:
        """Add `n`, which may be negative."""
        with self._lock:
            try:
                self._values[labels] += n
            except KeyError:
                labels = self._admit(labels, len(self._values))
                self._values[labels] = self._values.get(labels, 0.0) + n


class Histogram(Metric):
    """How values spread. A value counts in the first bucket whose bound is not below it."""

    __slots__ = ("_series", "buckets")

    kind = "histogram"

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002
        buckets: Sequence[float] = LATENCY_BUCKETS_S,
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__(name, help, labels)
        self.buckets = tuple(float(bound) for bound in buckets)
        if not self.buckets or any(not low < high for low, high in zip(self.buckets, self.buckets[1:], strict=False)):
            raise ValueError(f"histogram {name}: bucket bounds must be given and grow, not {self.buckets}")
        # Per series: counts per bucket, count above all bounds, sum.
        self._series: dict[Labels, list[float]] = {} if labels else {(): self._empty()}

    def observe(self, value: float, *labels: str) -> None:
        if value != value:  # noqa: PLR0124 (NaN: it would sit in the sum for ever)
            raise ValueError(f"histogram {self.name} cannot observe NaN")
        place = bisect_left(self.buckets, value)
        with self._lock:
            try:
                series = self._series[labels]
            except KeyError:
                series = self._series.setdefault(self._admit(labels, len(self._series)), self._empty())
            series[place] += 1
            series[-1] += value

    def observe_all(self, values: Sequence[float], *labels: str) -> None:
        """Many at once, for who would pay for each."""
        total = sum(values)
        if total != total:  # noqa: PLR0124 (see above)
            raise ValueError(f"histogram {self.name} cannot observe NaN")
        ordered = sorted(values)  # so that each bucket, and not each value, has to be looked for
        ends = [bisect_right(ordered, bound) for bound in self.buckets]
        with self._lock:
            series = self._series.get(labels)
            if series is None:
                series = self._series.setdefault(self._admit(labels, len(self._series)), self._empty())
            before = 0
            for place, end in enumerate((*ends, len(ordered))):
                series[place] += end - before
                before = end
            series[-1] += total

    def count(self, *labels: str) -> int:
        """How many values were observed."""
        series = self._series.get(labels)
        return int(sum(series[:-1])) if series is not None else 0

    def series(self) -> dict[Labels, tuple[tuple[int, ...], float]]:
        """By label values: the counts per bucket (one more than bounds: the last is above all), and the sum."""
        with self._lock:
            return {labels: (tuple(map(int, series[:-1])), series[-1]) for labels, series in self._series.items()}

    def _empty(self) -> list[float]:
        return [0] * (len(self.buckets) + 1) + [0.0]


M = TypeVar("M", bound=Metric)


class Metrics:
    """A set of metrics by name. A process has one (`counter`, `gauge`, `histogram` use it); tests make their own."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._before_render: list[Callable[[], Callable[[], None] | None]] = []
        self._lock = RLock()

    def counter(self, name: str, help: str, labels: Sequence[str] = ()) -> Counter:  # noqa: A002
        return self._get_or_add(Counter(name, help, labels))

    def gauge(self, name: str, help: str, labels: Sequence[str] = ()) -> Gauge:  # noqa: A002
        return self._get_or_add(Gauge(name, help, labels))

    def histogram(
        self,
        name: str,
        help: str,  # noqa: A002
        buckets: Sequence[float] = LATENCY_BUCKETS_S,
        labels: Sequence[str] = (),
    ) -> Histogram:
        made = Histogram(name, help, buckets, labels)
        kept = self._get_or_add(made)
        if kept.buckets != made.buckets:
            raise ValueError(f"histogram {name} exists with buckets {kept.buckets}, not {made.buckets}")
        return kept

    def before_render(self, refresh: Callable[[], None]) -> Callable[[], None]:
        """Call `refresh` before the metrics are read, for what is cheaper asked than followed; returns the undoing.

        A method does not keep its object alive: whoever was forgotten without being closed is forgotten here, too.
        """
        kept: Callable[[], Callable[[], None] | None] = WeakMethod(refresh) if ismethod(refresh) else lambda: refresh
        self._before_render.append(kept)

        def undo() -> None:
            if kept in self._before_render:
                self._before_render.remove(kept)

        return undo

    def collect(self) -> list[Metric]:
        """All metrics by name, refreshed."""
        for kept in tuple(self._before_render):
            refresh = kept()
            if refresh is not None:
                refresh()
            elif kept in self._before_render:
                self._before_render.remove(kept)
        with self._lock:
            return [self._metrics[name] for name in sorted(self._metrics)]

    def _get_or_add(self, made: M) -> M:
        with self._lock:
            kept = self._metrics.setdefault(made.name, made)
        if type(kept) is not type(made) or kept.label_names != made.label_names:
            raise ValueError(
                f"metric {made.name} exists as a {kept.kind} with labels {kept.label_names}; "
                f"it cannot be a {made.kind} with labels {made.label_names} too"
            )
        return kept


PROCESS = Metrics()


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:  # noqa: A002
    """The process's counter of that name, made when first asked for."""
    return PROCESS.counter(name, help, labels)


def gauge(name: str, help: str, labels: Sequence[str] = ()) -> Gauge:  # noqa: A002
    """The process's gauge of that name, made when first asked for."""
    return PROCESS.gauge(name, help, labels)


def histogram(
    name: str,
    help: str,  # noqa: A002
    buckets: Sequence[float] = LATENCY_BUCKETS_S,
    labels: Sequence[str] = (),
) -> Histogram:
    """The process's histogram of that name, made when first asked for. Bounds in seconds unless the name says else."""
    return PROCESS.histogram(name, help, buckets, labels)


def before_render(refresh: Callable[[], None]) -> Callable[[], None]:
    """Call `refresh` before the process's metrics are read, for what is cheaper asked than followed; the undoing."""
    return PROCESS.before_render(refresh)
