"""A worker goes by the queue's time."""

from __future__ import annotations

from dougong.clock import ManualClock
from dougong.jobs.worker.queue_time import QueueTime


def test_it_goes_on_from_what_the_queue_said_last() -> None:
    clock = ManualClock(now_us=5_000_000)
    time = QueueTime(clock)
    assert time.now_us() == 5_000_000
    time.heard(2_000_000)
    clock.advance(1.5)
    assert (time.now_us(), time.monotonic()) == (3_500_000, clock.monotonic())
    clock.set_now_us(9_000_000)  # somebody sets the worker's own clock
    time.heard(None)  # a queue that does not say
    assert time.now_us() == 3_500_000
    assert time.at_us(clock.monotonic() - 0.5) == 3_000_000  # half a second ago
