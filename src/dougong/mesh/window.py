"""A sliding window of counts, in buckets: what happened in the last seconds, at two additions per call.

Whole buckets fall out of it one by one, so what it knows is between `buckets - 1` and `buckets` bucket lengths old.
Only the turn of a bucket looks at more than the totals.
"""

from __future__ import annotations

__all__ = ["Window"]


class Window:
    """Counts calls, and those of them that are bad. Times are monotonic seconds."""

    __slots__ = ("_buckets", "_finished_bad", "_finished_calls", "_next", "_per_s", "_ring", "bad", "calls")

    def __init__(self, window_s: float, buckets: int) -> None:
        self._per_s = buckets / window_s
        self._buckets = buckets
        self._next = 1
        """Number of the next bucket."""
        self.clear()

    def clear(self) -> None:
        self.calls = self.bad = 0
        """As of the last `add` or `at`."""
        self._finished_calls = self._finished_bad = 0
        """Of them, those in finished buckets; the rest is the current one's."""
        self._ring = [(0, 0)] * (self._buckets - 1)
        """Finished buckets, the place of each by its number."""

    def add(self, now: float, bad: int) -> None:
        """A call, `bad` 0 or 1."""
        if now * self._per_s >= self._next:
            self._turn(now)
        self.calls += 1
        self.bad += bad

    def at(self, now: float) -> None:
        """Lets go of what is too old by now."""
        if now * self._per_s >= self._next:
            self._turn(now)

    def _turn(self, now: float) -> None:
        following = int(now * self._per_s) + 1
        size = len(self._ring)
        if following - self._next > size:
            self.clear()
        else:
            for number in range(self._next, following):
                calls, bad = self._ring[number % size]
                self._ring[number % size] = (self.calls - self._finished_calls, self.bad - self._finished_bad)
                self.calls -= calls
                self.bad -= bad
                self._finished_calls, self._finished_bad = self.calls, self.bad
        self._next = following
