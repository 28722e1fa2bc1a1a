"""A node's clocks: the wall clock may be off, run fast or slow, and be set; the monotonic one is the world's."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["NodeClock"]

_BEGAN_US = 1_750_000_000_000_000
"""The world's first moment, UTC."""


class NodeClock:
    """A `Clock`."""

    def __init__(self, now: Callable[[], float], *, skew_s: float = 0.0, drift: float = 0.0) -> None:
        self._now = now
        self.skew_s = skew_s
        """How far the wall clock is ahead of the true time, apart from its drift."""
        self.drift = drift
        """Seconds gained per second."""

    def now_us(self) -> int:
        now = self._now()
        return _BEGAN_US + int((now * (1.0 + self.drift) + self.skew_s) * 1e6)

    def monotonic(self) -> float:
        return self._now()

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.skew_s += seconds
