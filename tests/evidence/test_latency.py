from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.evidence import Latencies

seconds = st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=300)


def test_nothing_recorded() -> None:
    quantiles = Latencies().quantiles()
    assert (quantiles.count, quantiles.p99_ms, quantiles.max_ms) == (0, 0.0, 0.0)


@given(seconds)
def test_three_digits_of_every_quantile(measured: list[float]) -> None:
    latencies = Latencies()
    latencies.record_each(measured)
    quantiles = latencies.quantiles()
    exact = sorted(measured)[max(-(-len(measured) * 99 // 100) - 1, 0)]
    assert quantiles.count == len(measured)
    assert quantiles.p99_ms == pytest.approx(exact * 1000, rel=2e-3, abs=2e-3)


@given(seconds)
def test_one_by_one_all_at_once_and_added_up_are_the_same(measured: list[float]) -> None:
    single, together, halves = Latencies(), Latencies(), Latencies()
    for value in measured:
        single.record(value)
    together.record_each(measured)
    rest = Latencies()
    halves.record_each(measured[::2])
    rest.record_each(measured[1::2])
    halves.add(rest)
    assert single.quantiles() == together.quantiles() == halves.quantiles()


def test_more_distinct_values_than_are_held_back() -> None:
    latencies = Latencies()
    for n in range(10_000):
        latencies.record(n * 1e-5)
    assert latencies.quantiles().count == 10_000


def test_very_long_counts_as_two_minutes() -> None:
    latencies = Latencies()
    latencies.record(1e9)
    assert latencies.quantiles().max_ms == pytest.approx(120_000, rel=1e-3)
    assert latencies.encode()
