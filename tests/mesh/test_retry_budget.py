"""How many retries may be under way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.mesh.limits import Limits
from dougong.mesh.policy import NO_LIMIT, ConnectionLimits, RetryBudgetPolicy
from dougong.mesh.retry_budget import RetryBudget


@given(st.floats(0, 100), st.integers(0, 10), st.integers(0, 10_000))
def test_a_share_but_always_a_few(percent: float, least: int, active: int) -> None:
    budget = RetryBudget(RetryBudgetPolicy(percent, least))
    begun = 0
    while budget.begin(active):
        begun += 1
        if begun > active + least:
            break
    assert begun == budget.under_way == max(int(percent / 100 * active), least)


@given(st.integers(0, 50), st.integers(0, 1000))
def test_without_a_budget_a_fixed_number(most: int, active: int) -> None:
    budget = RetryBudget(None, most)
    assert [budget.begin(active) for _ in range(most + 3)] == [True] * most + [False] * 3


def test_one_that_ended_makes_room() -> None:
    budget = RetryBudget(RetryBudgetPolicy(20.0, 1))
    assert [budget.begin(4), budget.begin(4)] == [True, False]
    budget.ended()
    assert budget.begin(4)


def test_nothing_ends_that_never_began() -> None:
    with pytest.raises(AssertionError, match="never began"):
        RetryBudget(None).ended()


def test_no_limit_unless_one_is_set() -> None:
    assert RetryBudget(None).allowed(0) == NO_LIMIT


def dead_callee(limits: Limits, callers: int) -> int:
    """All calls fail and each is tried again up to three times, all at once: how many calls that makes."""
    limits.requests = callers
    made = callers
    for _ in range(3):
        retried = sum(limits.begin_retry() for _ in range(callers))
        made += retried
        for _ in range(retried):
            limits.end_retry()
    return made


def test_a_dead_callee_is_not_met_by_a_multiple_of_its_traffic() -> None:
    """Ablation: without a budget it gets four times as many calls, with one a fifth more per round."""
    assert dead_callee(Limits(ConnectionLimits(), RetryBudgetPolicy()), 100) == 160
    assert dead_callee(Limits(ConnectionLimits()), 100) == 400


def test_refused_retries_are_counted() -> None:
    limits = Limits(ConnectionLimits(max_retries=1))
    assert [limits.begin_retry(), limits.begin_retry()] == [True, False]
    assert (limits.counters.upstream_rq_retry, limits.counters.upstream_rq_retry_overflow) == (1, 1)
    assert limits.gauges()["circuit_breakers.default.rq_retry_open"] == 1
