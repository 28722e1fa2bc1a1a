"""What becomes of a fire while the job of an earlier one is not finished."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

__all__ = ["Overlap", "Overlapped", "overlap"]


class Overlap(enum.StrEnum):
    QUEUE = "queue"
    """It waits: jobs of the schedule run one after the other."""
    SKIP = "skip"
    """It does not run."""
    REPLACE = "replace"
    """The earlier one is cancelled; the new one begins when it has ended."""
    PARALLEL = "parallel"
    """Both run."""

    @property
    def asks(self) -> bool:
        """Whether it depends on what is unfinished."""
        return self in {Overlap.SKIP, Overlap.REPLACE}


class Overlapped(msgspec.Struct, frozen=True):
    put: tuple[int, ...]
    passed: tuple[int, ...]
    cancel: bool = False


def overlap(policy: Overlap, fires: Sequence[int], busy: bool) -> Overlapped:
    """Which of these fires, rising, are put. One that is put is unfinished for those after it."""
    if not fires or not policy.asks:
        return Overlapped(tuple(fires), ())
    if policy is Overlap.REPLACE:
        return Overlapped((fires[-1],), tuple(fires[:-1]), cancel=busy)
    if busy:
        return Overlapped((), tuple(fires))
    return Overlapped((fires[0],), tuple(fires[1:]))
