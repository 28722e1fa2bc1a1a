"""Time is injected: nothing in Dougong that decides reads a clock by itself.

`now_us` is UTC in integer microseconds, the form in which times are stored. `monotonic` is seconds that never go back,
for durations and deadlines. Tests pass a `ManualClock` and move it by hand.
"""

from __future__ import annotations

import sys
import time
from typing import Protocol

__all__ = ["BootClock", "Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """What the time is."""

    def now_us(self) -> int:
        """UTC as integer microseconds since 1970; may jump when the machine's clock is set."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()


class BootClock(SystemClock):
    """Counts the time, too, in which the machine was suspended, where the machine can tell (Linux).

    For what others measure meanwhile: a lease goes on ending while its holder's machine sleeps.
    """

    if sys.platform == "linux":

        def monotonic(self) -> float:
            return time.clock_gettime(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that moves only when told to.

    >>> clock = ManualClock(now_us=1_000_000)
    >>> clock.advance(2.5)
    >>> clock.now_us(), clock.monotonic()
    (3500000, 2.5)
    """

    def __init__(self, *, now_us: int = 1_750_000_000_000_000, monotonic: float = 0.0) -> None:
        self._now_us = now_us
        self._monotonic = monotonic

    def now_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` (not negative) pass on both clocks."""
        if seconds < 0:
            raise ValueError(f"time does not pass backwards: {seconds} s; use set_now_us to jump the wall clock")
        self._monotonic += seconds
        self._now_us += round(seconds * 1_000_000)

    def set_now_us(self, now_us: int) -> None:
        """Jump the wall clock, as an operator or NTP would; the monotonic clock stays."""
        self._now_us = now_us
