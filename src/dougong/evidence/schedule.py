"""When requests are due, and which things they ask for. Decided before the load starts, from a seed.

An open loop sends on schedule whether or not earlier answers came back, as customers do; a closed loop that waits for
answers slows down with the system it measures and hides its worst moments (coordinated omission).
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator

__all__ = ["Zipf", "fixed", "poisson"]


def fixed(rate: float, seconds: float) -> Iterator[float]:
    """Arrivals at equal distances: seconds since the start, rising, all below `seconds`."""
    for n in range(int(rate * seconds)):
        yield n / rate


def poisson(rate: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """Arrivals of independent customers, `rate` a second on average: seconds since the start, rising."""
    at = rng.expovariate(rate)
    while at < seconds:
        yield at
        at += rng.expovariate(rate)


class Zipf:
    """Numbers 0 … n-1, where number k is drawn with weight 1 / (k+1)^s: a few favourites and a long tail.

    s = 0 is uniform; at s = 1 and n = 1000 the favourite gets 13 % of the draws.
    """

    def __init__(self, n: int, s: float, rng: random.Random) -> None:
        if n < 1 or s < 0:
            raise ValueError(f"Zipf needs n ≥ 1 and s ≥ 0, not n={n}, s={s}")
        self._sums = list(itertools.accumulate((k + 1) ** -s for k in range(n)))
        self._rng = rng

    def draw(self) -> int:
        """The next number."""
        return bisect.bisect_right(self._sums, self._rng.random() * self._sums[-1], hi=len(self._sums) - 1)
