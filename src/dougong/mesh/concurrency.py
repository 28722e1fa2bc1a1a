"""Concurrency limits that find themselves: as many calls at once as a callee works on, and few more that wait.

By Little's law a callee of c workers that take s seconds is busy with c calls at once; what is above that only waits
and makes latency grow. So latency that grows with the limit says that the limit is above c. The two algorithms are
those of Netflix's concurrency-limits, which took them from TCP:

- `Gradient2` compares latency now with its long-term average: no minimum to be wrong about, the choice for calls whose
  work varies.
- `Vegas` estimates the queue from the smallest latency of a window: `limit * (1 - smallest / now)`. Sharper where calls
  are alike; the smallest is measured anew now and then.

A `ConcurrencyLimiter` counts, gathers a window of calls and asks one of them for the next limit. It refuses at once
what is over the limit: the caller turns that into `Overloaded`.
"""

from __future__ import annotations

from math import ceil, inf, log10
from random import Random
from typing import Protocol

import msgspec

__all__ = ["ConcurrencyLimiter", "Gradient2", "Gradient2Policy", "LimitAlgorithm", "Sample", "Vegas", "VegasPolicy"]


class Sample(msgspec.Struct, frozen=True):
    """What a window of calls showed."""

    mean_s: float
    in_flight: int
    """The most at once."""
    dropped: bool
    """Whether one timed out, or was refused by the callee."""


class LimitAlgorithm(Protocol):
    """From one limit to the next."""

    @property
    def limit(self) -> float:
        """How many calls may be under way; the whole part counts."""

    def update(self, sample: Sample) -> None:
        """A window of calls has ended."""


class Gradient2Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    initial: int = 20
    min: int = 20
    """Below, nothing could be learnt about a callee with many workers."""
    max: int = 200
    queue: int = 4
    """How many calls may wait at the callee while latency is steady: the room in which a limit grows."""
    smoothing: float = 0.2
    tolerance: float = 1.2
    """Latency up to this many times its long-term average is no sign of a queue. With 1.0 the noise of calls whose work
    varies keeps a large callee half idle; with Netflix's 1.5 as many calls wait at a small one as it works on."""
    long_windows: int = 6000
    """Over how many windows the long-term average goes: ten minutes of a tenth of a second. While an overload lasts the
    average follows latency up, and the limit with it; the longer, the slower."""


class Gradient2:
    """`limit * gradient + queue`, smoothed; the gradient is long-term latency over latency now, from 0.5 to 1."""

    _WARM_UP = 10

    def __init__(self, policy: Gradient2Policy | None = None) -> None:
        self._policy = policy if policy is not None else Gradient2Policy()
        self._limit = float(self._policy.initial)
        self._long_s = 0.0
        self._seen = 0

    @property
    def limit(self) -> float:
        return self._limit

    def update(self, sample: Sample) -> None:
        policy = self._policy
        self._seen += 1
        # A plain mean of the first ones, then exponential.
        share = 1.0 / self._seen if self._seen <= self._WARM_UP else 2.0 / (policy.long_windows + 1)
        self._long_s += (sample.mean_s - self._long_s) * share
        if self._long_s > 2 * sample.mean_s:
            self._long_s *= 0.9  # after long overload: sooner back than the average would be
        if sample.in_flight < self._limit / 2:
            return  # callers want less than this: latency says nothing about a higher limit
        gradient = 0.5 if sample.dropped else max(0.5, min(1.0, policy.tolerance * self._long_s / sample.mean_s))
        goal = self._limit * gradient + policy.queue
        limit = self._limit * (1 - policy.smoothing) + goal * policy.smoothing
        self._limit = max(float(policy.min), min(float(policy.max), limit))


class VegasPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    initial: int = 20
    max: int = 1000
    smoothing: float = 1.0
    probe_windows: int = 30
    """After about so many windows times the limit the smallest latency is measured anew."""


class Vegas:
    """Up by 6 log(limit) where no queue is seen, up by log(limit) at a short one, down by log(limit) at a long one."""

    def __init__(self, random: Random, policy: VegasPolicy | None = None) -> None:
        self._policy = policy if policy is not None else VegasPolicy()
        self._random = random
        self._limit = float(self._policy.initial)
        self._smallest_s = inf
        self._windows = 0
        self._jitter = 0.5 + random.random() / 2
        """Or all clients of one callee measure at the same time, in each other's queue."""

    @property
    def limit(self) -> float:
        return self._limit

    def update(self, sample: Sample) -> None:
        policy = self._policy
        self._windows += 1
        if self._windows >= self._jitter * policy.probe_windows * self._limit:
            self._windows = 0
            self._jitter = 0.5 + self._random.random() / 2
            self._smallest_s = sample.mean_s
            return
        self._smallest_s = min(self._smallest_s, sample.mean_s)
        step = max(1.0, log10(self._limit))
        queue = ceil(self._limit * (1.0 - self._smallest_s / sample.mean_s))
        if sample.dropped:
            limit = self._limit - step
        elif sample.in_flight * 2 < self._limit:
            return
        elif queue <= step:
            limit = self._limit + 6 * step
        elif queue < 3 * step:
            limit = self._limit + step
        elif queue > 6 * step:
            limit = self._limit - step
        else:
            return
        limit = max(1.0, min(float(policy.max), limit))
        self._limit += (limit - self._limit) * policy.smoothing


class ConcurrencyLimiter:
    """Counts calls under way and refuses those over the limit. Times are monotonic seconds.

    Every admitted call ends with exactly one of `ended`, `dropped`, `ignored`.
    """

    __slots__ = (
        "_algorithm",
        "_calls",
        "_dropped",
        "_min_calls",
        "_peak",
        "_sum_s",
        "_until",
        "_window_s",
        "in_flight",
        "limit",
    )

    def __init__(self, algorithm: LimitAlgorithm, *, window_s: float = 0.1, min_calls: int = 10) -> None:
        self._algorithm = algorithm
        self._window_s = window_s
        self._min_calls = min_calls
        self.limit = int(algorithm.limit)
        self.in_flight = 0
        self._until = 0.0
        self._peak = 0
        self._clear()

    def admit(self) -> bool:
        """Whether a call may be made; if so it is under way."""
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak += 1
        return True

    def ended(self, latency_s: float, now: float) -> None:
        """A call was answered."""
        self.in_flight -= 1
        self._calls += 1
        self._sum_s += latency_s
        if now >= self._until and self._calls >= self._min_calls:
            self._update(now)

    def dropped(self, latency_s: float, now: float) -> None:
        """A call timed out, or the callee refused it for its load."""
        self._dropped = True
        self.ended(latency_s, now)

    def ignored(self) -> None:
        """A call ended in a way that says nothing about load: cancelled, or refused before it was sent."""
        self.in_flight -= 1

    def _update(self, now: float) -> None:
        mean_s = self._sum_s / self._calls
        if mean_s > 0.0:
            self._algorithm.update(Sample(mean_s=mean_s, in_flight=self._peak, dropped=self._dropped))
            self.limit = max(1, int(self._algorithm.limit))
        # Two latencies long at least, so that what the new limit did is seen before the next.
        self._until = now + max(self._window_s, 2 * mean_s)
        self._clear()

    def _clear(self) -> None:
        self._calls = 0
        self._sum_s = 0.0
        self._dropped = False
        self._peak = self.in_flight
