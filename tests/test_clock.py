"""Time is injected: the system's clock agrees with the machine, the manual one moves only when told."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.clock import Clock, ManualClock, SystemClock


def test_the_system_clock_is_the_machines() -> None:
    clock: Clock = SystemClock()
    before_us, before = time.time_ns() // 1000, time.monotonic()
    now_us, now = clock.now_us(), clock.monotonic()
    assert before_us <= now_us <= time.time_ns() // 1000
    assert before <= now <= time.monotonic()


def test_a_manual_clock_stands_still() -> None:
    clock: Clock = ManualClock()
    assert (clock.now_us(), clock.monotonic()) == (clock.now_us(), clock.monotonic())


def test_advancing_moves_both_clocks() -> None:
    clock = ManualClock(now_us=1_000_000)
    clock.advance(2.5)
    assert (clock.now_us(), clock.monotonic()) == (3_500_000, 2.5)


def test_the_wall_clock_jumps_alone() -> None:
    clock = ManualClock(now_us=5_000_000, monotonic=7.0)
    clock.set_now_us(1_000_000)
    assert (clock.now_us(), clock.monotonic()) == (1_000_000, 7.0)


def test_time_does_not_pass_backwards() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="set_now_us"):
        clock.advance(-0.001)
    assert clock.monotonic() == 0.0


@given(st.lists(st.integers(0, 10_000_000)))
def test_many_small_steps_lose_nothing_on_the_wall(steps_us: list[int]) -> None:
    clock = ManualClock(now_us=0)
    for step_us in steps_us:
        clock.advance(step_us / 1_000_000)
    assert clock.now_us() == sum(steps_us)
    assert clock.monotonic() == pytest.approx(sum(steps_us) / 1_000_000)
