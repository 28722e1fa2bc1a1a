"""The time as the queue has it. A worker's own clock may be seconds off that of the database: then a retry would come
that much later or at once, and a worker that believes that a job is due would ask for it in a busy loop.
"""

from __future__ import annotations

from dougong.clock import Clock

__all__ = ["QueueTime"]


class QueueTime:
    """A `Clock` that goes on from what the queue said last; the worker's own until it said something."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic = clock.monotonic
        self._heard: tuple[int, float] | None = None

    def heard(self, now_us: int | None) -> None:
        """The queue says that it is so late; None from one that does not say."""
        if now_us is not None:
            self._heard = now_us, self.monotonic()

    def now_us(self) -> int:
        return self.at_us(self.monotonic())

    def at_us(self, monotonic: float) -> int:
        """What it is at a time of `monotonic`, for who has just asked for that."""
        if self._heard is None:
            return self._clock.now_us()
        now_us, heard_at = self._heard
        return now_us + int((monotonic - heard_at) * 1e6)
