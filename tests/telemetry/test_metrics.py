"""Metrics: what is counted, what is refused, and that labels cannot eat the memory."""

from __future__ import annotations

import math
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong import telemetry
from dougong.telemetry import Metrics, render_prometheus
from dougong.telemetry.metrics import OVERFLOW, SERIES_MAX, Metric

_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """A reader of the text format, written after its description, not after our writer."""
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r'([a-zA-Z_:][\w:]*)(?:\{((?:\w+="(?:[^"\\]|\\["\\n])*",?)*)\})? (\S+)', line, re.DOTALL)
        assert match is not None, line
        labels = re.findall(r'(\w+)="((?:[^"\\]|\\["\\n])*)"', match[2] or "", re.DOTALL)
        values = tuple((k, re.sub(r'\\[n"\\]', lambda found: _ESCAPES[found[0]], v)) for k, v in labels)
        key = (match[1], values)
        assert key not in samples, f"{key} twice"
        samples[key] = float(match[3].replace("Inf", "inf"))
    return samples


def test_counters_count_by_label_values() -> None:
    requests = Metrics().counter("requests_total", "Requests.", ("route", "status"))
    requests.inc(1, "/a", "200")
    requests.inc(2.5, "/a", "200")
    requests.inc(1, "/b", "500")
    assert requests.value("/a", "200") == 3.5
    assert requests.series() == {("/a", "200"): 3.5, ("/b", "500"): 1.0}
    assert requests.value("/c", "200") == 0.0


@pytest.mark.parametrize("n", [-1, -0.001, math.nan])
def test_counters_only_grow(n: float) -> None:
    with pytest.raises(ValueError, match="gauge"):
        Metrics().counter("x_total", "").inc(n)


def test_gauges_go_up_and_down() -> None:
    depth = Metrics().gauge("depth", "", ("queue",))
    depth.inc(3, "a")
    depth.inc(-1, "a")
    depth.set(7, "b")
    depth.set(8, "b")
    assert depth.series() == {("a",): 2.0, ("b",): 8.0}


def test_a_value_counts_in_the_first_bucket_not_below_it() -> None:
    metrics = Metrics()
    latency = metrics.histogram("latency_seconds", "", buckets=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 1.01, math.inf):
        latency.observe(value)
    samples = parsed(render_prometheus(metrics))
    assert [samples["latency_seconds_bucket", (("le", bound),)] for bound in ("0.1", "1", "+Inf")] == [2, 4, 6]
    assert samples["latency_seconds_count", ()] == latency.count() == 6
    assert samples["latency_seconds_sum", ()] == math.inf


def test_nan_is_refused_before_it_spoils_the_sum() -> None:
    latency = Metrics().histogram("latency_seconds", "")
    with pytest.raises(ValueError, match="NaN"):
        latency.observe(math.nan)
    assert latency.count() == 0


def test_many_values_at_once_are_as_each_by_itself() -> None:
    one, all_ = (Metrics().histogram("latency_seconds", "", (0.1, 1.0), ("of",)) for _ in range(2))
    values = [0.05, 0.1, 0.7, 5.0]
    for value in values:
        one.observe(value, "a")
    all_.observe_all(values[:1], "a")
    all_.observe_all(values[1:], "a")
    assert all_.series() == one.series()
    with pytest.raises(ValueError, match="NaN"):
        all_.observe_all([0.5, math.nan], "a")
    assert all_.count("a") == 4


@pytest.mark.parametrize("buckets", [(), (1.0, 1.0), (2.0, 1.0), (1.0, math.nan)])
def test_bucket_bounds_must_grow(buckets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="grow"):
        Metrics().histogram("x", "", buckets=buckets)


@pytest.mark.parametrize("name", ["", "1x", "a-b", "a b", "ä"])
def test_metric_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="metric name"):
        Metrics().counter(name, "")


@pytest.mark.parametrize("label", ["", "le", "__x", "a-b", "1"])
def test_label_names_are_checked(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        Metrics().counter("x", "", (label,))


def test_label_values_are_checked_in_number_and_kind() -> None:
    requests = Metrics().counter("x_total", "", ("route",))
    with pytest.raises(ValueError, match="takes the labels"):
        requests.inc()
    with pytest.raises(ValueError, match="takes the labels"):
        requests.inc(1, "a", "b")
    with pytest.raises(TypeError, match="int, not str"):
        requests.inc(1, 404)  # type: ignore[arg-type]
    assert requests.series() == {}


def test_asking_again_gives_the_same_metric() -> None:
    metrics = Metrics()
    assert metrics.counter("a_total", "x", ("l",)) is metrics.counter("a_total", "other words", ("l",))
    assert metrics.gauge("b", "") is metrics.gauge("b", "")
    assert metrics.histogram("c", "") is metrics.histogram("c", "")


def test_one_name_is_one_kind_of_thing() -> None:
    metrics = Metrics()
    metrics.counter("a", "", ("l",))
    with pytest.raises(ValueError, match="exists as a counter"):
        metrics.gauge("a", "", ("l",))
    with pytest.raises(ValueError, match="exists as a counter with labels"):
        metrics.counter("a", "", ("m",))
    metrics.histogram("h", "", buckets=(1,))
    with pytest.raises(ValueError, match="exists with buckets"):
        metrics.histogram("h", "", buckets=(2,))


def fill(metrics: Metrics, n: int) -> list[Metric]:
    counter = metrics.counter("c_total", "", ("who", "what"))
    gauge = metrics.gauge("g", "", ("who",))
    histogram = metrics.histogram("h", "", (1.0,), ("who",))
    for number in range(n):
        counter.inc(1, f"user-{number}", "x")
        gauge.set(1, f"user-{number}")
        histogram.observe(1, f"user-{number}")
    return [counter, gauge, histogram]


def test_careless_labels_cost_resolution_not_memory() -> None:
    counter, gauge, histogram = fill(Metrics(), SERIES_MAX + 50)
    assert isinstance(counter, telemetry.Counter)
    assert isinstance(gauge, telemetry.Gauge)
    assert isinstance(histogram, telemetry.Histogram)
    assert len(counter.series()) == len(gauge.series()) == len(histogram.series()) == SERIES_MAX + 1
    assert counter.value(OVERFLOW, OVERFLOW) == 50
    assert histogram.count(OVERFLOW) == 50
    counter.inc(1, "user-0", "x")
    assert counter.value("user-0", "x") == 2  # those known before go on
    assert sum(counter.series().values()) == SERIES_MAX + 51  # and nothing is lost


def test_without_the_bound_the_series_would_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.telemetry.metrics.SERIES_MAX", 10**9)
    counter, _, _ = fill(Metrics(), SERIES_MAX + 50)
    assert isinstance(counter, telemetry.Counter)
    assert len(counter.series()) == SERIES_MAX + 50


def test_threads_lose_no_counts() -> None:
    metrics = Metrics()
    counter = metrics.counter("c_total", "", ("l",))
    histogram = metrics.histogram("h", "")

    def work() -> None:
        for _ in range(5_000):
            counter.inc(1, "a")
            histogram.observe(0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value("a") == histogram.count() == 20_000


# -------------------------------------------------------------------------------------------------------- exposition


def test_the_text_is_as_prometheus_describes_it() -> None:
    metrics = Metrics()
    metrics.counter("b_total", "Help with \\ and\nnew line.", ("path",)).inc(3, 'C:\\ "x"\n')
    metrics.gauge("a", "No labels: there from the start.")
    metrics.histogram("h", "H.", (0.5,), ("l",)).observe(0.25, "v")
    assert render_prometheus(metrics) == (
        "# HELP a No labels: there from the start.\n"
        "# TYPE a gauge\n"
        "a 0\n"
        "# HELP b_total Help with \\\\ and\\nnew line.\n"
        "# TYPE b_total counter\n"
        'b_total{path="C:\\\\ \\"x\\"\\n"} 3\n'
        "# HELP h H.\n"
        "# TYPE h histogram\n"
        'h_bucket{l="v",le="0.5"} 1\n'
        'h_bucket{l="v",le="+Inf"} 1\n'
        'h_sum{l="v"} 0.25\n'
        'h_count{l="v"} 1\n'
    )


@given(st.dictionaries(st.tuples(st.text(), st.text()), st.floats(0, allow_nan=False), max_size=10))
def test_any_label_value_and_number_survives(series: dict[tuple[str, str], float]) -> None:
    metrics = Metrics()
    gauge = metrics.gauge("g", "", ("a", "b"))
    for (a, b), value in series.items():
        gauge.set(value, a, b)
    assert parsed(render_prometheus(metrics)) == {
        ("g", (("a", a), ("b", b))): value for (a, b), value in series.items()
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e300, "1e+300"), (-2, "-2"), (0.1, "0.1")],
)
def test_numbers(value: float, text: str) -> None:
    metrics = Metrics()
    metrics.gauge("g", "").set(value)
    assert f"\ng {text}\n" in render_prometheus(metrics)


def test_values_may_be_read_when_asked_for() -> None:
    metrics = Metrics()
    gauge = metrics.gauge("g", "")
    undo = metrics.before_render(lambda: gauge.inc(1))
    render_prometheus(metrics)
    assert "\ng 2\n" in render_prometheus(metrics)
    undo()
    assert "\ng 2\n" in render_prometheus(metrics)


def test_who_is_forgotten_without_being_closed_is_forgotten_here_too() -> None:
    metrics, seen = Metrics(), []

    class Watching:
        def look(self) -> None:
            seen.append(1)

    watching = Watching()
    undo = metrics.before_render(watching.look)
    metrics.collect()
    del watching
    metrics.collect()
    assert seen == [1]
    undo()


def test_the_process_has_one_set() -> None:
    mine = telemetry.counter("test_process_total", "Of this test.")
    assert mine is telemetry.counter("test_process_total", "")
    mine.inc()
    assert telemetry.gauge("test_process", "").value() == 0
    assert telemetry.histogram("test_process_seconds", "").count() == 0
    assert "\ntest_process_total " in render_prometheus()
