"""Adaptive throttling: how much reaches a callee that takes only some of it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.mesh.throttle import Throttle, ThrottlePolicy


def run(share: float, *, seconds: int = 60, per_s: int = 200, k: float = 1.5, seed: int = 1) -> tuple[float, float]:
    """Sent and accepted per second in the second half, with a callee that accepts `share` of full load, by capacity."""
    random = Random(seed)
    throttle = Throttle(ThrottlePolicy(k=k), random)
    sent = accepted = room = 0.0
    for number in range(seconds * per_s):
        now = number / per_s
        room = min(room + share, 20.0)
        if not throttle.admit(now):
            continue
        ok = room >= 1.0
        room -= ok
        throttle.record(ok, now)
        if now >= seconds / 2:
            sent += 1
            accepted += ok
    return sent / (seconds / 2), accepted / (seconds / 2)


def test_a_healthy_callee_gets_everything() -> None:
    assert run(1.0) == (200.0, 200.0)


@pytest.mark.parametrize("k", [1.5, 2.0])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_an_overloaded_one_gets_k_times_what_it_takes(share: float, k: float) -> None:
    sent, accepted = run(share, k=k)
    assert accepted == pytest.approx(200 * share, rel=0.1)  # it is kept busy
    assert sent == pytest.approx(min(200.0, k * accepted), rel=0.1)


def test_without_throttling_it_would_get_everything() -> None:
    """The ablation: a factor that nothing reaches."""
    assert run(0.1, k=1e9)[0] == 200.0


def test_a_dead_one_is_asked_now_and_then_and_found_when_it_is_back() -> None:
    random = Random(1)
    throttle = Throttle(ThrottlePolicy(), random)
    sent = [0, 0, 0]
    for number in range(360 * 200):
        now = number / 200
        if throttle.admit(now):
            sent[int(now // 120)] += 1
            throttle.record(now >= 120, now)
    assert 20 < sent[0] < 500  # of 24,000
    assert sent[2] > 23_900  # back in full within two minutes


def test_the_first_failures_are_held_against_nobody() -> None:
    careful, hasty = Throttle(ThrottlePolicy(), Random(1)), Throttle(ThrottlePolicy(protection=0), Random(1))
    for throttle in (careful, hasty):
        for _ in range(5):
            throttle.record(False, 1.0)
    assert careful.refusal(1.0) == 0.0
    assert hasty.refusal(1.0) > 0.8


@given(st.integers(0, 500), st.integers(0, 500), st.floats(1.0, 3.0))
def test_the_formula(accepted: int, refused: int, k: float) -> None:
    throttle = Throttle(ThrottlePolicy(k=k), Random(1))
    for _ in range(accepted):
        throttle.record(True, 1.0)
    for _ in range(refused):
        throttle.record(False, 1.0)
    requests = accepted + refused
    assert throttle.refusal(1.0) == max(0.0, (requests - 5 - k * accepted) / (requests + 1))
    assert throttle.refusal(1.0) < 1.0
    assert throttle.refusal(100.0) == 0.0


def test_a_refusal_counts_as_a_try() -> None:
    """Otherwise the rate at which callers come would not show, and a crowd would get through as a crowd."""
    throttle = Throttle(ThrottlePolicy(), Random(1))
    for _ in range(20):
        throttle.record(False, 1.0)
    before = throttle.refusal(1.0)
    while throttle.admit(1.0):
        pass
    assert throttle.refusal(1.0) > before
