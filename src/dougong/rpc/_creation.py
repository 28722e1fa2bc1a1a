"""Whether something new may be made: a token bucket against storms, and a breaker on the share of failures."""

from __future__ import annotations

from collections import deque

from dougong.rpc.pool_settings import PoolSettings

__all__ = ["CreationGate"]


class CreationGate:
    """Times are monotonic seconds, passed in.

    Half open, one attempt is let through at a time: its success closes the breaker and forgets the failures before.
    """

    def __init__(self, settings: PoolSettings, now: float) -> None:
        self._rate = settings.creations_per_s
        self._burst = float(settings.creations_burst)
        self._tokens = self._burst
        self._filled_at = now
        self._error_rate = settings.error_rate
        self._window_s = settings.error_window_s
        self._count_min = settings.error_count_min
        self._open_s = settings.open_s
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._open_until = 0.0
        self.open = False
        """Or half open."""
        self._probing_until = 0.0

    def admit(self, now: float) -> float:
        """0: make one, its outcome is to be reported. Else when to ask again."""
        if self.open:
            wait_until = max(self._open_until, self._probing_until)
            if now < wait_until:
                return wait_until
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return now + (1.0 - self._tokens) / self._rate + 1e-6
        self._tokens -= 1.0
        if self.open:
            self._probing_until = now + self._open_s
        return 0.0

    def succeeded(self, now: float) -> None:
        if self.open and now >= self._open_until:
            self.open = False
            self._outcomes.clear()
            self._failures = 0
            self._probing_until = 0.0
        self._note(now, failed=False)

    def failed(self, now: float) -> None:
        self._note(now, failed=True)
        if self.open:
            if now >= self._open_until:  # the probe, or a report of before: either way it is not well
                self._open_until = now + self._open_s
                self._probing_until = 0.0
        elif len(self._outcomes) >= self._count_min and self._failures > self._error_rate * len(self._outcomes):
            self.open = True
            self._open_until = now + self._open_s

    def _note(self, now: float, *, failed: bool) -> None:
        outcomes = self._outcomes
        outcomes.append((now, failed))
        self._failures += failed
        # Bounded by time and, as the bucket bounds what is made, by number.
        while outcomes[0][0] <= now - self._window_s:
            self._failures -= outcomes.popleft()[1]
