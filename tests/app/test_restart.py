"""Back-off: at once the first time, then later and later up to a bound, afresh after a calm while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.app._restart import RestartPolicy


def test_a_process_that_keeps_dying_waits_longer_each_time() -> None:
    policy = RestartPolicy()
    delays: list[float] = []
    for _ in range(10):
        policy.started(0.0)
        delays.append(policy.ended(1.0))
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_one_that_ran_for_a_while_starts_afresh() -> None:
    policy = RestartPolicy(calm_s=10.0)
    for _ in range(5):
        policy.started(0.0)
        policy.ended(9.99)
    policy.started(100.0)
    assert policy.ended(110.0) == 0.0


@given(
    lives=st.lists(st.floats(0, 100), max_size=60),
    first_s=st.floats(0.01, 1),
    factor=st.floats(1, 4),
    max_s=st.floats(1, 60),
)
def test_whatever_the_lives_delays_are_bounded_and_grow_until_calm(
    lives: list[float], first_s: float, factor: float, max_s: float
) -> None:
    policy = RestartPolicy(first_s=first_s, factor=factor, max_s=max_s, calm_s=10.0)
    last: float | None = None  # none before: the next is at once
    for life in lives:
        policy.started(0.0)
        delay = policy.ended(life)
        if life >= 10.0 or last is None:
            assert delay == 0.0
        else:
            assert max(first_s, last) <= delay <= max_s
        last = delay
