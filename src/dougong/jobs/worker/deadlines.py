"""Deadlines of many jobs: buckets instead of a timer each.

A timer per job costs as much as a short job itself, and a heap keeps what was removed until its time comes: at 10,000
jobs a second with five minutes each that is millions of entries. Here a deadline is rounded up to a bucket, no coarser
than a part of the wait itself; adding and removing is a dictionary entry, and the heap holds buckets only.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

K = TypeVar("K")

FINEST_S = 0.05
PARTS = 128
"""A deadline that is S seconds away is kept to S / 128."""


class Deadlines(Generic[K]):
    """Keys with the time at which each falls due; never early, and late by one bucket at most."""

    def __init__(self) -> None:
        self._buckets: dict[float, dict[K, float]] = {}
        self._heap: list[float] = []
        self._bucket_of: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._bucket_of)

    def add(self, key: K, at: float, now: float) -> None:
        """Set the key's deadline, or move it."""
        if key in self._bucket_of:
            self.remove(key)
        width = max(FINEST_S, 2.0 ** math.floor(math.log2(max(at - now, FINEST_S) / PARTS)))
        end = math.ceil(at / width) * width
        end = max(end, at)  # a float's last bit must not make it early
        bucket = self._buckets.get(end)
        if bucket is None:
            bucket = self._buckets[end] = {}
            heappush(self._heap, end)
        bucket[key] = at
        self._bucket_of[key] = end

    def remove(self, key: K) -> None:
        """It has no deadline any more; not having one is no error."""
        end = self._bucket_of.pop(key, None)
        if end is not None:
            del self._buckets[end][key]

    def due(self, now: float) -> list[K]:
        """Those whose time is up, the earliest first; they are removed."""
        out: list[tuple[float, K]] = []
        while self._heap and self._heap[0] <= now:
            bucket = self._buckets.pop(heappop(self._heap))
            for key, at in bucket.items():
                del self._bucket_of[key]
                out.append((at, key))
        out.sort(key=lambda entry: entry[0])
        return [key for _, key in out]
