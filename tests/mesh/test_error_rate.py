"""The breaker by error rate: when it opens, whom it lets through to find out, and what each safeguard is for."""

from __future__ import annotations

from collections import Counter
from random import Random

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dougong.breaker import BreakerState
from dougong.mesh.error_rate import ErrorRateBreaker, ErrorRatePolicy

POLICY = ErrorRatePolicy()


def call(breaker: ErrorRateBreaker, now: float, ok: bool) -> bool:
    """Whether it was let through."""
    ticket = breaker.admit(now)
    if ticket is None:
        return False
    if ok:
        breaker.succeeded(ticket, now)
    else:
        breaker.failed(ticket, now)
    return True


def opened(policy: ErrorRatePolicy = POLICY, now: float = 0.0) -> ErrorRateBreaker:
    breaker = ErrorRateBreaker(policy)
    while breaker.state is BreakerState.CLOSED:
        call(breaker, now, ok=False)
    return breaker


def test_five_percent_open_it_and_less_does_not() -> None:
    for every, state in ((20, BreakerState.OPEN), (21, BreakerState.CLOSED)):
        breaker = ErrorRateBreaker(POLICY)
        for number in range(1, 2000):
            if not call(breaker, number / 1000, ok=number % every != 0):
                break
        assert breaker.state is state


def test_a_busy_callee_that_fails_one_call_in_five_never_fails_in_a_row() -> None:
    """Why there are two breakers."""
    from dougong.breaker import Breaker, BreakerPolicy

    in_a_row, by_rate = Breaker(BreakerPolicy()), ErrorRateBreaker(POLICY)
    for number in range(1000):
        ticket = in_a_row.admit(number / 100)
        assert ticket is not None
        if number % 5:
            in_a_row.succeeded()
        else:
            in_a_row.failed(ticket, number / 100)
        call(by_rate, number / 100, ok=number % 5 != 0)
    assert in_a_row.state is BreakerState.CLOSED
    assert by_rate.state is not BreakerState.CLOSED


def test_one_error_is_no_rate() -> None:
    """The ablation: without a minimum count the first call decides."""
    careful, hasty = ErrorRateBreaker(POLICY), ErrorRateBreaker(msgspec.structs.replace(POLICY, min_calls=1))
    call(careful, 0.0, ok=False)
    call(hasty, 0.0, ok=False)
    assert careful.state is BreakerState.CLOSED
    assert hasty.state is BreakerState.OPEN


def test_old_errors_are_forgotten() -> None:
    breaker = ErrorRateBreaker(POLICY)
    for _ in range(19):
        call(breaker, 0.0, ok=False)
    for number in range(100):
        call(breaker, 11.0 + number / 100, ok=True)
    call(breaker, 12.0, ok=False)
    assert breaker.state is BreakerState.CLOSED


def flood(policy: ErrorRatePolicy) -> int:
    """How many of 1,000 callers that come at once reach the callee when it is time to ask again."""
    breaker = opened(policy)
    return sum(breaker.admit(1.0) is not None for _ in range(1000))


def test_a_few_probes_reach_the_sick_and_no_flood() -> None:
    """The ablation: without a limit on probes all of them do."""
    assert flood(POLICY) == 3
    assert flood(msgspec.structs.replace(POLICY, probes=10**9)) == 1000


def test_probes_that_succeed_close_it_and_the_past_is_forgotten() -> None:
    breaker = opened()
    assert breaker.admit(0.5) is None
    assert breaker.wait_s(0.5) == 0.5
    tickets = [breaker.admit(1.0) for _ in range(4)]
    assert tickets[3] is None
    states = [breaker.state]
    assert [breaker.succeeded(ticket, 1.1) for ticket in tickets[:3] if ticket] == [False, False, True]
    states.append(breaker.state)
    for _ in range(19):
        call(breaker, 1.2, ok=False)
    states.append(breaker.state)
    assert states == [BreakerState.HALF_OPEN, BreakerState.CLOSED, BreakerState.CLOSED]


def test_a_probe_that_fails_opens_it_for_longer() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(7):
        waits.append(breaker.wait_s(now))
        now += waits[-1]
        call(breaker, now, ok=False)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_probe_that_is_never_heard_of_does_not_hold_the_door_for_ever() -> None:
    breaker = opened()
    assert [breaker.admit(1.0) is not None for _ in range(4)] == [True, True, True, False]
    assert breaker.admit(2.9) is None
    assert breaker.admit(3.0) is not None


def test_a_probe_its_caller_gave_up_makes_room_for_another() -> None:
    breaker = opened()
    tickets = [breaker.admit(1.0) for _ in range(3)]
    assert breaker.admit(1.0) is None
    assert tickets[0] is not None
    breaker.dropped(tickets[0])
    assert breaker.admit(1.0) is not None
    assert breaker.admit(1.0) is None


def test_calls_from_before_it_opened_say_nothing_about_now() -> None:
    breaker = ErrorRateBreaker(POLICY)
    early = [breaker.admit(0.0) for _ in range(30)]
    while breaker.state is BreakerState.CLOSED:
        call(breaker, 0.0, ok=False)
    probe = breaker.admit(1.0)
    for ticket in early:
        assert ticket is not None
        assert not breaker.succeeded(ticket, 1.0)
        assert not breaker.failed(ticket, 1.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert probe is not None


class Rules(RuleBasedStateMachine):
    """Every order of calls, reports and time."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = ErrorRatePolicy(min_calls=4, error_percent=50.0, probes=2, probes_to_close=2)
        self.breaker = ErrorRateBreaker(self.policy)
        self.now = 0.0
        self.under_way: list[int] = []
        self.probes: set[int] = set()
        self.tickets: Counter[int] = Counter()
        self.opened_at = 0.0

    @rule(seconds=st.floats(0.01, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        before = self.breaker.state
        ticket = self.breaker.admit(self.now)
        if before is BreakerState.CLOSED:
            assert ticket is not None
        if ticket is None:
            return
        self.tickets[ticket] += 1
        assert self.tickets[ticket] == 1
        self.under_way.append(ticket)
        if self.breaker.state is BreakerState.HALF_OPEN:
            if before is BreakerState.OPEN:
                assert self.now >= self.opened_at + self.policy.open_s
            self.probes.add(ticket)

    @rule(which=st.integers(0, 100), end=st.sampled_from(["ok", "bad", "dropped"]))
    def report(self, which: int, end: str) -> None:
        if not self.under_way:
            return
        ticket = self.under_way.pop(which % len(self.under_way))
        before = self.breaker.state
        if end == "ok":
            assert self.breaker.succeeded(ticket, self.now) == (
                before is not BreakerState.CLOSED and self.breaker.state is BreakerState.CLOSED
            )
        elif end == "bad":
            if self.breaker.failed(ticket, self.now):
                assert before is not BreakerState.OPEN
                assert self.breaker.state is BreakerState.OPEN
                self.opened_at = self.now
        else:
            self.breaker.dropped(ticket)
            assert self.breaker.state is before

    @invariant()
    def an_open_breaker_says_how_long(self) -> None:
        wait_s = self.breaker.wait_s(self.now)
        assert 0.0 <= wait_s <= self.policy.open_s_max
        if wait_s > 0:
            assert self.breaker.admit(self.now) is None

    @invariant()
    def it_lets_nobody_wait_for_ever(self) -> None:
        assert self.breaker._probing >= 0
        assert self.breaker._probing <= self.policy.probes


TestRules = Rules.TestCase
TestRules.settings = settings(stateful_step_count=40)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sick_callee_is_spared_and_found_again(seed: int) -> None:
    """100 calls a second; sick (80 % errors) from 10 to 40 s."""
    random, breaker = Random(seed), ErrorRateBreaker(POLICY)
    reached: Counter[str] = Counter()
    for number in range(10_000):
        now = number / 100
        sick = 10 <= now < 40
        ok = random.random() > (0.8 if sick else 0.001)
        if call(breaker, now, ok):
            reached["sick" if sick else "well" if now < 10 else "after"] += 1
    assert reached["well"] == 1000
    assert reached["sick"] < 300  # of 3,000
    assert reached["after"] > 2500  # of 6,000, though it waits up to 30 s at first
    assert breaker.state is BreakerState.CLOSED
