from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.evidence import Zipf, fixed, poisson


def test_fixed_is_evenly_spaced() -> None:
    assert list(fixed(4, 1.0)) == [0.0, 0.25, 0.5, 0.75]


@given(st.integers(0, 1000))
def test_poisson_rises_stays_within_and_repeats_by_seed(seed: int) -> None:
    due = list(poisson(200, 2.0, random.Random(seed)))
    assert all(a < b for a, b in itertools.pairwise(due))
    assert all(0 < at < 2.0 for at in due)
    assert due == list(poisson(200, 2.0, random.Random(seed)))


def test_poisson_has_its_rate_and_its_spread() -> None:
    due = list(poisson(1000, 50.0, random.Random(1)))
    gaps = [b - a for a, b in itertools.pairwise(due)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(0.001, rel=0.03)
    assert variance**0.5 == pytest.approx(mean, rel=0.05)  # exponential: deviation = mean


def test_zipf_favours_the_first() -> None:
    zipf = Zipf(1000, 1.0, random.Random(1))
    drawn = Counter(zipf.draw() for _ in range(50_000))
    assert drawn[0] / 50_000 == pytest.approx(0.1336, abs=0.01)  # 1 / H(1000)
    assert drawn[0] / drawn[9] == pytest.approx(10, rel=0.2)


@given(st.integers(1, 50), st.floats(0, 3))
def test_zipf_stays_in_range(n: int, s: float) -> None:
    zipf = Zipf(n, s, random.Random(1))
    assert all(0 <= zipf.draw() < n for _ in range(50))


def test_zipf_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="n=0"):
        Zipf(0, 1.0, random.Random(1))
