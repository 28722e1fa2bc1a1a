"""A sliding window against a plain list of everything that happened."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.mesh.window import Window

STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 1)), max_size=60)


@given(STEPS, st.integers(2, 12), st.sampled_from([1.0, 2.5, 10.0]), st.floats(0, 1e6))
def test_it_counts_what_lies_in_its_buckets(
    steps: list[tuple[float, int]], buckets: int, window_s: float, start: float
) -> None:
    window, happened, now = Window(window_s, buckets), [], start
    for wait_s, bad in steps:
        now += wait_s
        window.add(now, bad)
        happened.append((int(now * (buckets / window_s)), bad))
        newest = happened[-1][0]
        inside = [bad for tick, bad in happened if tick > newest - buckets]
        assert (window.calls, window.bad) == (len(inside), sum(inside))
    window.at(now + 2 * window_s)
    assert (window.calls, window.bad) == (0, 0)


def test_a_clock_that_stands_or_steps_back_loses_nothing() -> None:
    window = Window(10.0, 10)
    window.add(100.0, 1)
    window.add(99.0, 0)
    window.at(100.0)
    assert (window.calls, window.bad) == (2, 1)
