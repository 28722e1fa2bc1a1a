"""Concurrency limits in front of a simulated server of known capacity."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.mesh.concurrency import (
    ConcurrencyLimiter,
    Gradient2,
    Gradient2Policy,
    LimitAlgorithm,
    Sample,
    Vegas,
    VegasPolicy,
)


class Server:
    """`workers` calls at once, each `work_s` long on average, the rest in a queue."""

    def __init__(self, limiter: ConcurrencyLimiter, *, workers: int, work_s: float, seed: int) -> None:
        self.limiter, self.workers, self.work_s = limiter, workers, work_s
        self.random = Random(seed)
        self.now = 0.0
        self.queue: deque[float] = deque()
        self.ends: list[tuple[float, float]] = []
        self.limits: list[int] = []
        self.latencies: list[float] = []
        self.served = 0

    def run(self, seconds: float, per_s: float) -> None:
        """Calls arrive by chance, `per_s` of them, whether they are let in or not."""
        self.limits, self.latencies, self.served = [], [], 0
        until, arrival = self.now + seconds, self.now
        while self.now < until:
            if not self.ends or arrival <= self.ends[0][0]:
                self.now = arrival
                if self.limiter.admit():
                    self._begin(arrival) if len(self.ends) < self.workers else self.queue.append(arrival)
                arrival += self.random.expovariate(per_s)
            else:
                self.now, began = heappop(self.ends)
                self.limiter.ended(self.now - began, self.now)
                self.latencies.append(self.now - began)
                self.served += 1
                if self.queue:
                    self._begin(self.queue.popleft())
            self.limits.append(self.limiter.limit)

    def _begin(self, arrived: float) -> None:
        heappush(self.ends, (self.now + self.work_s * self.random.uniform(0.8, 1.2), arrived))


def algorithms() -> list[LimitAlgorithm]:
    return [Gradient2(Gradient2Policy(min=4)), Vegas(Random(1))]


@pytest.mark.parametrize("workers", [10, 40])
@pytest.mark.parametrize("index", [0, 1], ids=["gradient2", "vegas"])
def test_under_overload_the_limit_settles_a_little_above_the_workers(index: int, workers: int) -> None:
    """Three times what the server can do: it is kept busy, and callers wait less than one more call's time."""
    limiter = ConcurrencyLimiter(algorithms()[index])
    server = Server(limiter, workers=workers, work_s=0.02, seed=3)
    capacity = workers / 0.02
    server.run(5.0, per_s=0.5 * capacity)
    server.run(30.0, per_s=3 * capacity)
    settled = mean(server.limits[len(server.limits) // 2 :])
    assert workers <= settled <= 1.5 * workers + 8
    assert server.served / 30 > 0.95 * capacity
    assert mean(server.latencies) < 2 * server.work_s


def test_without_a_limit_the_queue_grows_for_as_long_as_the_overload_lasts() -> None:
    """The ablation."""

    class NoLimit:
        limit = 1e9

        def update(self, sample: Sample) -> None:
            pass

    server = Server(ConcurrencyLimiter(NoLimit()), workers=10, work_s=0.02, seed=3)
    server.run(10.0, per_s=1500)
    assert mean(server.latencies) > 100 * server.work_s


@pytest.mark.parametrize("index", [0, 1], ids=["gradient2", "vegas"])
def test_a_server_that_grows_is_found_out(index: int) -> None:
    limiter = ConcurrencyLimiter(algorithms()[index])
    server = Server(limiter, workers=10, work_s=0.02, seed=4)
    server.run(5.0, per_s=250)
    server.run(10.0, per_s=5000)
    before = mean(server.limits[-1000:])
    server.workers = 40
    server.run(30.0, per_s=5000)
    assert mean(server.limits[-1000:]) > 1.5 * before
    assert server.served / 30 > 0.8 * 40 / 0.02


@pytest.mark.parametrize("index", [0, 1], ids=["gradient2", "vegas"])
def test_nobody_wants_more_so_nothing_is_learnt(index: int) -> None:
    """A limit that grew while it was not reached would be none when it is needed."""
    algorithm = algorithms()[index]
    before = algorithm.limit
    for _ in range(1000):
        algorithm.update(Sample(mean_s=0.01, in_flight=3, dropped=False))
    assert algorithm.limit == before


@pytest.mark.parametrize("index", [0, 1], ids=["gradient2", "vegas"])
def test_drops_lower_it(index: int) -> None:
    algorithm = algorithms()[index]
    for _ in range(5):
        algorithm.update(Sample(mean_s=0.01, in_flight=20, dropped=False))
    before = algorithm.limit
    algorithm.update(Sample(mean_s=0.01, in_flight=200, dropped=True))
    assert algorithm.limit < before


samples = st.builds(
    Sample,
    mean_s=st.floats(1e-6, 100),
    in_flight=st.integers(0, 3000),
    dropped=st.booleans(),
)


@given(st.lists(samples, max_size=80), st.integers())
def test_limits_stay_within_bounds(given_samples: list[Sample], seed: int) -> None:
    gradient, vegas = Gradient2(Gradient2Policy(min=7, max=90)), Vegas(Random(seed), VegasPolicy(max=90))
    for sample in given_samples:
        gradient.update(sample)
        vegas.update(sample)
        assert 7 <= gradient.limit <= 90
        assert 1 <= vegas.limit <= 90


@given(st.lists(st.sampled_from(["admit", "ended", "dropped", "ignored"]), max_size=200))
def test_never_more_under_way_than_the_limit_allowed(steps: list[str]) -> None:
    limiter, under_way, now = ConcurrencyLimiter(Gradient2(Gradient2Policy(initial=5, min=2)), min_calls=3), 0, 0.0
    for step in steps:
        now += 0.06
        if step == "admit":
            room = under_way < limiter.limit
            assert limiter.admit() is room
            under_way += room
        elif under_way:
            under_way -= 1
            if step == "ended":
                limiter.ended(0.01, now)
            elif step == "dropped":
                limiter.dropped(0.01, now)
            else:
                limiter.ignored()
        assert limiter.in_flight == under_way


def test_vegas_measures_its_smallest_latency_anew() -> None:
    """Otherwise one lucky call, or a callee that has got slower for good, would press the limit down for ever."""
    vegas = Vegas(Random(1), VegasPolicy(probe_windows=4))
    vegas.update(Sample(mean_s=0.001, in_flight=20, dropped=False))
    limits = []
    for _ in range(300):
        vegas.update(Sample(mean_s=0.02, in_flight=1000, dropped=False))
        limits.append(vegas.limit)
    assert min(limits) < 10
    assert limits[-1] > 40


def test_a_window_takes_enough_calls_and_time() -> None:
    seen: list[Sample] = []

    class Record:
        limit = 10.0

        def update(self, sample: Sample) -> None:
            seen.append(sample)

    limiter = ConcurrencyLimiter(Record(), window_s=1.0, min_calls=10)
    for number in range(40):
        limiter.admit()
        limiter.ended(0.01 * (1 + number % 2), number * 0.05)
    assert len(seen) == 2
    assert seen[0].mean_s == pytest.approx(0.015)
    assert (seen[0].in_flight, seen[0].dropped) == (1, False)
