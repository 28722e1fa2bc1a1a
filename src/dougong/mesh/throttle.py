"""Adaptive throttling: a client sends a struggling callee little more than it takes, and nobody tells it how much.

From Google's SRE book (Handling Overload), as go-zero does it. Of the calls of the last seconds `requests` were tried
and `accepts` answered; the next is refused on the spot with probability

    max(0, (requests - protection - k * accepts) / (requests + 1))

A healthy callee accepts nearly all and nothing is refused. One that accepts a share gets at most about k times what it
accepts: refusing costs it work, too. One that accepts nothing still gets a few calls per window, so its recovery shows.
There are no states and no threshold, hence nothing that flaps.
"""

from __future__ import annotations

from random import Random

import msgspec

from dougong.mesh.window import Window

__all__ = ["Throttle", "ThrottlePolicy"]


class ThrottlePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    k: float = 1.5
    """Tries per accepted call. The book says 2, go-zero 1.5; nearer to 1 is stricter and slower to notice recovery."""
    window_s: float = 10.0
    buckets: int = 40
    protection: int = 5
    """So many failures are never held against a callee: a first failed call is no reason to refuse the second."""


class Throttle:
    """One per callee. Times are monotonic seconds."""

    __slots__ = ("_k", "_protection", "_random", "_window")

    def __init__(self, policy: ThrottlePolicy, random: Random) -> None:
        self._k = policy.k
        self._protection = policy.protection
        self._random = random
        self._window = Window(policy.window_s, policy.buckets)

    def admit(self, now: float) -> bool:
        """Whether to make a call. A refusal counts as a try that was not accepted; `record` is for calls made."""
        window = self._window
        window.at(now)
        requests = window.calls
        excess = requests - self._protection - self._k * (requests - window.bad)
        if excess <= 0.0 or self._random.random() >= excess / (requests + 1):
            return True
        window.add(now, 1)
        return False

    def record(self, accepted: bool, now: float) -> None:
        """How a call ended. Calls under way do not count yet: a first burst must not refuse its own second half."""
        self._window.add(now, 0 if accepted else 1)

    def refusal(self, now: float) -> float:
        """The probability that the next call is refused."""
        self._window.at(now)
        requests, accepts = self._window.calls, self._window.calls - self._window.bad
        return max(0.0, (requests - self._protection - self._k * accepts) / (requests + 1))
