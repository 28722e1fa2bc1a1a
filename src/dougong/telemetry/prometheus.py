"""Metrics as text for Prometheus to fetch.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from dougong.telemetry.metrics import PROCESS, Counter, Gauge, Histogram, Metric, Metrics

__all__ = ["PROMETHEUS_CONTENT_TYPE", "render_prometheus"]

PROMETHEUS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render_prometheus(metrics: Metrics = PROCESS) -> str:
    """All metrics of the process, or of `metrics`, in name order."""
    return "".join(line for metric in metrics.collect() for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help.replace(chr(92), chr(92) * 2).replace(chr(10), chr(92) + 'n')}\n"
    yield f"# TYPE {metric.name} {metric.kind}\n"
    if isinstance(metric, Counter | Gauge):
        for values, number in sorted(metric.series().items()):
            yield f"{metric.name}{_labels(metric.label_names, values)} {_number(number)}\n"
    elif isinstance(metric, Histogram):
        names = (*metric.label_names, "le")
        bounds = [*map(_number, metric.buckets), "+Inf"]
        for values, (counts, total) in sorted(metric.series().items()):
            reached = list(accumulate(counts))
            for bound, count in zip(bounds, reached, strict=True):
                yield f"{metric.name}_bucket{_labels(names, (*values, bound))} {count}\n"
            labels = _labels(metric.label_names, values)
            yield f"{metric.name}_sum{labels} {_number(total)}\n"
            yield f"{metric.name}_count{labels} {reached[-1]}\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
