from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.evidence import median, summarize

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def test_median_of_odd_and_even() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5


def test_six_runs_are_the_fewest_for_95_percent() -> None:
    five, six = summarize([1.0, 2.0, 3.0, 4.0, 5.0]), summarize([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (five.enough, five.confidence) == (False, 0.9375)
    assert (six.enough, six.confidence, six.low, six.high) == (True, 0.9688, 1.0, 6.0)


def test_more_runs_narrow_the_interval() -> None:
    nine = summarize([float(n) for n in range(1, 10)])
    assert (nine.low, nine.high) == (2.0, 8.0)  # the textbook's sign test interval for n = 9: 96.1 %
    assert nine.confidence == 0.9609


def test_few_runs_differ_from_nothing() -> None:
    assert not summarize([10.0, 11.0]).differs_from(1.0)
    assert summarize([10.0, 11.0, 10.0, 12.0, 11.0, 10.5]).differs_from(1.0)
    assert not summarize([0.9, 1.1, 1.0, 1.2, 0.8, 1.0]).differs_from(1.0)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        summarize([])


@given(values)
def test_the_interval_holds_the_median_and_lies_within_the_values(measured: list[float]) -> None:
    summary = summarize(measured)
    assert min(measured) <= summary.low <= summary.median <= summary.high <= max(measured)
    assert list(summary.values) == measured
    assert 0 <= summary.confidence <= 1
