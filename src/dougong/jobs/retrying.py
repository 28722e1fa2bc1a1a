"""What becomes of an attempt that failed: again, when, or never."""

from __future__ import annotations

import msgspec

__all__ = ["Backoff"]


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait before the next attempt: exponential, with jitter so that what failed together comes apart."""

    first_s: float = 1.0
    factor: float = 2.0
    max_s: float = 3600.0
    jitter: float = 0.2
    """Share of the wait that is random."""

    def __post_init__(self) -> None:
        if not (0 < self.first_s <= self.max_s and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise TypeError(f"{self} is no back-off: 0 < first_s <= max_s, factor >= 1, 0 <= jitter <= 1")

    def wait_s(self, failures: int, random: float) -> float:
        """After so many attempts that failed (1 is the first); `random` is in [0, 1)."""
        exponent = min(failures - 1, 64)  # further than any maximum, and not so far that a float overflows
        wait_s = min(self.max_s, self.first_s * self.factor**exponent)
        return wait_s * (1 - self.jitter * random)
