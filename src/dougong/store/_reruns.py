"""Whether, and when, what a database undid for a deadlock is run again.

Who runs again at once meets the same others again, so reruns wait for a random while. And who is always run again
doubles the load just when the database has too much: reruns are paid with tokens, which only successes bring back.
The idea of a retry throttle is gRPC's (A6); here a token is one unit.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["TOKENS_MAX", "Reruns"]

TOKENS_MAX = 1024
"""As many units may be run again in the first moment of a storm: two full groups, or one twice."""
RETURNED = 0.5
"""Tokens that a unit's success brings back: over time there are at most half as many reruns as successes."""
WAIT_S, WAIT_S_MAX = 0.01, 0.2
"""The longest wait before the first rerun; it doubles from one to the next, up to the second."""


class Reruns:
    """The budget of one database. `draw` gives random numbers in [0, 1)."""

    def __init__(
        self, draw: Callable[[], float], *, tokens_max: float = TOKENS_MAX, returned: float = RETURNED
    ) -> None:
        self._draw = draw
        self._max = tokens_max
        self._returned = returned
        self.tokens = tokens_max
        """Units that may be run again."""

    def spend(self, units: int) -> bool:
        """Whether so many units may be run again, all of them or none."""
        if units > self.tokens:
            return False
        self.tokens -= units
        return True

    def succeeded(self, units: int) -> None:
        """So many were committed."""
        self.tokens = min(self._max, self.tokens + units * self._returned)

    def wait_s(self, tries: int) -> float:
        """How long to wait after so many tries, from 1."""
        return self._draw() * min(WAIT_S * 2.0 ** (tries - 1), WAIT_S_MAX)
