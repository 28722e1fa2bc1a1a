"""A circuit breaker: who fails time and again is left alone for a while, then asked once whether it is back.

    closed ──(failures in a row)──▶ open ──(time)──▶ half open ──(success)──▶ closed
                                     ▲                   └──(failure)──▶ open, for longer

It spares callers a wait that ends in failure, and the one that fails a crowd at the moment it comes back. The pattern
is Nygard's (Release It!, 2007).
"""

from __future__ import annotations

from enum import Enum

import msgspec

__all__ = ["Breaker", "BreakerPolicy", "BreakerState"]


class BreakerState(Enum):
    """What happens to calls."""

    CLOSED = "closed"
    """They are let through."""
    OPEN = "open"
    """They are refused."""
    HALF_OPEN = "half_open"
    """One at a time is let through, to find out."""


class BreakerPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When to open and for how long. Seconds."""

    failures: int = 3
    """In a row, with no success between."""
    open_s: float = 1.0
    factor: float = 2.0
    """Each time it opens again without a success, it stays open so many times longer."""
    open_s_max: float = 15.0


class Breaker:
    """The decisions for one callee. Times are monotonic seconds, passed in.

    `admit` gives a ticket, or None to refuse; the call's end is reported with that ticket. Reports of calls admitted
    before the breaker last opened say nothing about now: late failures are ignored, a success closes it all the same.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._openings = 0
        """In a row."""
        self._since = 0
        """Ticket of the first call after the last opening."""
        self._tickets = 0
        self._until = 0.0
        """While open: when the next call is let through. While half open: when its probe counts as lost."""
        self._state = BreakerState.CLOSED

    @property
    def state(self) -> BreakerState:
        return self._state

    def wait_s(self, now: float) -> float:
        """How long until a call may be let through; 0 when one is now."""
        return 0.0 if self._state is BreakerState.CLOSED else max(self._until - now, 0.0)

    def admit(self, now: float) -> int | None:
        """A ticket for a call that may be made now, or None."""
        if self._state is not BreakerState.CLOSED:
            if now < self._until:
                return None
            self._state = BreakerState.HALF_OPEN
            self._until = now + self._open_s()
        self._tickets += 1
        return self._tickets

    def succeeded(self) -> bool:
        """A call was answered, whatever the answer; whether that closed the breaker."""
        closed = self._state is not BreakerState.CLOSED
        self._state = BreakerState.CLOSED
        self._failures = self._openings = 0
        return closed

    def failed(self, ticket: int, now: float) -> bool:
        """A call was not answered; whether that opened the breaker."""
        if ticket <= self._since or self._state is BreakerState.OPEN:
            return False
        self._failures += 1
        if self._state is BreakerState.CLOSED and self._failures < self._policy.failures:
            return False
        self._until = now + self._open_s()
        self._state = BreakerState.OPEN
        self._openings += 1
        self._since = self._tickets
        return True

    def _open_s(self) -> float:
        policy = self._policy
        return min(policy.open_s * policy.factor ** min(self._openings, 64), policy.open_s_max)
