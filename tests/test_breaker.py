"""The breaker's rules, one by one and against a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.breaker import Breaker, BreakerPolicy, BreakerState

POLICY = BreakerPolicy(failures=3, open_s=1.0, factor=2.0, open_s_max=5.0)


def fail(breaker: Breaker, now: float, times: int = 1) -> list[bool]:
    return [breaker.failed(_admitted(breaker, now), now) for _ in range(times)]


def _admitted(breaker: Breaker, now: float) -> int:
    ticket = breaker.admit(now)
    assert ticket is not None
    return ticket


def test_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    breaker = Breaker(POLICY)
    assert fail(breaker, 0.0, 2) == [False, False]
    breaker.succeeded()
    assert fail(breaker, 0.0, 3) == [False, False, True]
    assert breaker.state is BreakerState.OPEN
    assert breaker.admit(0.5) is None
    assert breaker.wait_s(0.25) == 0.75


def test_one_probe_at_a_time_and_its_success_closes() -> None:
    breaker = Breaker(POLICY)
    fail(breaker, 0.0, 3)
    assert breaker.admit(1.0) is not None
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admit(1.0) is None, "the probe is under way"
    assert breaker.succeeded(), "that closed it"
    assert breaker.admit(1.0) is not None
    assert not breaker.succeeded(), "it was closed already"


def test_it_stays_open_longer_each_time_up_to_a_limit() -> None:
    breaker = Breaker(POLICY)
    fail(breaker, 0.0, 3)
    now, waits = 0.0, []
    for _ in range(5):
        now += breaker.wait_s(now)
        assert fail(breaker, now) == [True]
        waits.append(breaker.wait_s(now))
    assert waits == [2.0, 4.0, 5.0, 5.0, 5.0]


def test_a_probe_that_nobody_hears_of_is_followed_by_another() -> None:
    breaker = Breaker(POLICY)
    fail(breaker, 0.0, 3)
    assert breaker.admit(1.0) is not None
    assert breaker.admit(2.9) is None
    assert breaker.admit(3.0) is not None


def test_late_failures_of_calls_made_before_it_opened_are_no_news() -> None:
    breaker = Breaker(POLICY)
    early = [_admitted(breaker, 0.0) for _ in range(5)]
    assert [breaker.failed(ticket, 0.0) for ticket in early[:3]] == [False, False, True]
    probe = _admitted(breaker, 1.0)
    assert not breaker.failed(early[3], 1.0)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.succeeded()
    assert not breaker.failed(early[4], 1.0)
    assert probe > early[4]


@given(st.lists(st.tuples(st.sampled_from(["call", "yes", "no"]), st.floats(0, 3))))
def test_it_never_refuses_before_enough_failures_and_never_for_ever(steps: list[tuple[str, float]]) -> None:
    breaker, now, in_a_row, under_way = Breaker(POLICY), 0.0, 0, list[int]()
    for what, pause in steps:
        now += pause
        if what == "call":
            ticket = breaker.admit(now)
            if ticket is None:
                assert in_a_row >= POLICY.failures
            else:
                under_way.append(ticket)
        elif under_way and what == "yes":
            under_way.pop()
            breaker.succeeded()
            in_a_row = 0
            assert breaker.state is BreakerState.CLOSED
        elif under_way:
            in_a_row += 1
            breaker.failed(under_way.pop(), now)
        assert breaker.wait_s(now) <= POLICY.open_s_max
    assert breaker.admit(now + POLICY.open_s_max) is not None
