"""A breaker by error rate: opens when more than a few percent of the calls of the last seconds failed.

    closed ──(rate over a window of enough calls)──▶ open ──(time)──▶ half open ──(probes succeed)──▶ closed
                                                       ▲                  └──(a probe fails)──▶ open, for longer

`dougong.breaker` counts failures in a row, which is right for what is either there or not (a database, a port). A busy
callee that fails one call in five never fails three in a row for long; its rate shows it. The states, the growing time
and the tickets are the same.
"""

from __future__ import annotations

import msgspec

from dougong.breaker import BreakerState
from dougong.mesh.window import Window

__all__ = ["ErrorRateBreaker", "ErrorRatePolicy"]


class ErrorRatePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When to open and for how long. Seconds."""

    error_percent: float = 5.0
    """Opens at this share of failures."""
    min_calls: int = 20
    """With fewer in the window it stays closed: one failure of one call is no rate."""
    window_s: float = 10.0
    buckets: int = 10
    open_s: float = 1.0
    factor: float = 2.0
    """Each time it opens again without having closed, it stays open so many times longer."""
    open_s_max: float = 30.0
    probes: int = 3
    """How many calls may be under way at once while half open."""
    probes_to_close: int = 3
    """How many of them must succeed in a row."""


class ErrorRateBreaker:
    """The decisions for one callee. Times are monotonic seconds, passed in.

    `admit` gives a ticket, or None to refuse; the call's end is reported with that ticket, exactly once. Reports of
    calls admitted before the state last changed say nothing about now and are ignored.
    """

    __slots__ = (
        "_min_calls",
        "_openings",
        "_percent",
        "_policy",
        "_probing",
        "_since",
        "_state",
        "_successes",
        "_tickets",
        "_until",
        "_window",
    )

    def __init__(self, policy: ErrorRatePolicy) -> None:
        self._policy = policy
        self._min_calls = policy.min_calls
        self._percent = policy.error_percent
        self._window = Window(policy.window_s, policy.buckets)
        self._state = BreakerState.CLOSED
        self._tickets = 0
        self._since = 0
        """The last ticket before the state changed."""
        self._openings = 0
        """In a row."""
        self._until = 0.0
        """While open: when the first probe is let through. While half open: when probes not heard of count as lost."""
        self._probing = 0
        self._successes = 0

    @property
    def state(self) -> BreakerState:
        return self._state

    def wait_s(self, now: float) -> float:
        """How long until a call may be let through; 0 when one may be now, or as soon as a probe has ended."""
        return max(self._until - now, 0.0) if self._state is BreakerState.OPEN else 0.0

    def admit(self, now: float) -> int | None:
        """A ticket for a call that may be made now, or None."""
        if self._state is not BreakerState.CLOSED and not self._probe(now):
            return None
        self._tickets += 1
        return self._tickets

    def succeeded(self, ticket: int, now: float) -> bool:
        """A call was answered; whether that closed the breaker."""
        if ticket <= self._since:
            return False
        if self._state is BreakerState.CLOSED:
            self._window.add(now, 0)
            return False
        self._probing -= 1
        self._successes += 1
        if self._successes < self._policy.probes_to_close:
            return False
        self._turn(BreakerState.CLOSED)
        self._openings = 0
        self._window.clear()
        return True

    def failed(self, ticket: int, now: float) -> bool:
        """A call was not answered, or with an error of the callee's; whether that opened the breaker."""
        if ticket <= self._since:
            return False
        if self._state is BreakerState.CLOSED:
            window = self._window
            window.add(now, 1)
            if window.calls < self._min_calls or window.bad * 100.0 < self._percent * window.calls:
                return False
        self._until = now + self._open_s()
        self._openings += 1
        self._turn(BreakerState.OPEN)
        return True

    def dropped(self, ticket: int) -> None:
        """A call was given up by its caller, which says nothing about the callee: only its place is free again."""
        if ticket > self._since and self._state is BreakerState.HALF_OPEN:
            self._probing -= 1

    def _probe(self, now: float) -> bool:
        """Whether one more call may find out."""
        if now >= self._until:
            # From open, or half open for so long that whoever probed will not report any more.
            self._turn(BreakerState.HALF_OPEN)
            self._until = now + self._open_s()
        if self._state is BreakerState.OPEN or self._probing >= self._policy.probes:
            return False
        self._probing += 1
        return True

    def _turn(self, state: BreakerState) -> None:
        self._state = state
        self._since = self._tickets
        self._probing = self._successes = 0

    def _open_s(self) -> float:
        policy = self._policy
        return min(policy.open_s * policy.factor ** min(self._openings, 64), policy.open_s_max)
