"""What a process did: spans, metrics and logs that name each other.

The one idea: **recording must be too cheap to switch off.** A span is one small slotted object that knows its parent
through a context variable; finishing it appends it to a bounded ring. A metric is one dictionary entry. A log line
carries the ids of the span it was written in. So every request is followed everywhere, and the price is microseconds.

    requests = counter("shop_requests_total", "Requests by route.", labels=("route",))
    log = get_logger(__name__)

    with continue_trace(headers.get("traceparent", "")), span("POST /v1/orders", customer="u-1") as current:
        requests.inc(1, "/v1/orders")
        log.info("order placed", order=order.id)          # the line carries trace_id and span_id
        await call(metadata=(("traceparent", traceparent()),))  # the next process continues the trace

A trace is sampled or not where it starts, by its id, so that all processes agree without asking each other; a span that
ends with an error is recorded either way.

What it does not do: it sends nothing anywhere. Spans stay in the ring (`recorder()`) and, if asked, in a JSON-lines
file; metrics are text for Prometheus to fetch; logs go to standard error.
"""

from dougong.telemetry.context import TraceContext, continue_trace, current_trace, traceparent
from dougong.telemetry.logs import also_log, configure_logging, get_logger
from dougong.telemetry.metrics import Counter, Gauge, Histogram, Metrics, before_render, counter, gauge, histogram
from dougong.telemetry.process import ProcessMetrics
from dougong.telemetry.prometheus import PROMETHEUS_CONTENT_TYPE, render_prometheus
from dougong.telemetry.recorder import Recorder
from dougong.telemetry.spans import Span, close_tracing, configure_tracing, recorder, span

__all__ = [
    "PROMETHEUS_CONTENT_TYPE",
    "Counter",
    "Gauge",
    "Histogram",
    "Metrics",
    "ProcessMetrics",
    "Recorder",
    "Span",
    "TraceContext",
    "also_log",
    "before_render",
    "close_tracing",
    "configure_logging",
    "configure_tracing",
    "continue_trace",
    "counter",
    "current_trace",
    "gauge",
    "get_logger",
    "histogram",
    "recorder",
    "render_prometheus",
    "span",
    "traceparent",
]
