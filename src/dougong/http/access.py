"""Which requests get a line in the log: errors and a trickle of the rest, so that logging never sets the pace.

Each second so many lines are allowed; what was left out is told by the next line that is not.
"""

from __future__ import annotations

__all__ = ["LineBudget"]


class LineBudget:
    """So many lines a second, counted. Pure: the time is passed in."""

    __slots__ = ("_left", "_per_s", "_second", "_suppressed")

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._left = per_s
        self._second = -1
        self._suppressed = 0

    def take(self, now_s: float) -> int:
        """-1: no line. Otherwise write one; the number says how many were left out since the last."""
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._left = self._per_s
        if self._left <= 0:
            self._suppressed += 1
            return -1
        self._left -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
