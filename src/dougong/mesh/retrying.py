"""Which outcome of a call is tried again by a route's `retries`: Envoy's conditions, and Istio's defaults for them.

This only says what a policy wants. Whether the call may be repeated at all (it is idempotent, or was surely not begun)
and whether the retry budget has room is decided by whoever calls.
"""

from __future__ import annotations

from enum import StrEnum
from random import Random

import msgspec

__all__ = ["DEFAULT_RETRIES", "GRPC_CONDITIONS", "RETRY_CONDITIONS", "Failure", "RetryPolicy"]

GRPC_CONDITIONS = {
    "cancelled": 1,
    "deadline-exceeded": 4,
    "resource-exhausted": 8,
    "internal": 13,
    "unavailable": 14,
}
"""Of the status in the first headers of an answer: what comes in a trailer is too late for Envoy."""
_NEVER = frozenset(["envoy-ratelimited", "http3-post-connect-failure", "retriable-headers"])
"""Istio accepts them; nothing sets what they look for."""
RETRY_CONDITIONS = frozenset(
    [
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        *_NEVER,
        *GRPC_CONDITIONS,
    ]
)
_BACKOFF_GROWTH_MAX = 10


class Failure(StrEnum):
    """Why there is no answer at all."""

    CONNECT = "connect"
    REFUSED_STREAM = "refused_stream"
    RESET = "reset"
    """Broken off, or out of time for one try."""
    RESET_BEFORE_REQUEST = "reset_before_request"
    """Broken off before anything was sent."""


_NOTHING_SENT = frozenset([Failure.CONNECT, Failure.RESET_BEFORE_REQUEST])


class RetryPolicy(msgspec.Struct, frozen=True):
    """`attempts` counts retries: a call is sent at most once more than that."""

    attempts: int = 2
    per_try_timeout_s: float = 0.0
    """0: what is left of the call's own time."""
    conditions: frozenset[str] = frozenset(
        ["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"]
    )
    statuses: frozenset[int] = frozenset([503])
    """For `retriable-status-codes`."""
    other_hosts_first: bool = True
    """A host that was tried is passed over (Istio: `retryIgnorePreviousHosts`), up to five draws.

    Not where a hash decides and the file says nothing of retries: Istio leaves calls with their host there.
    """
    remote_localities: bool = False
    backoff_s: float = 0.025
    """Base; grows to ten times that."""

    def covers(self, *, http_status: int = 200, grpc_status: int = 0, failure: Failure | None = None) -> bool:
        """Whether this outcome is one to try again."""
        conditions = self.conditions
        if failure is not None:
            if "5xx" in conditions or "gateway-error" in conditions or "reset" in conditions:
                return True
            return (
                (failure is Failure.CONNECT and "connect-failure" in conditions)
                or (failure is Failure.REFUSED_STREAM and "refused-stream" in conditions)
                or (failure in _NOTHING_SENT and "reset-before-request" in conditions)
            )
        if grpc_status and any(GRPC_CONDITIONS.get(name) == grpc_status for name in conditions):
            return True
        return (
            ("5xx" in conditions and 500 <= http_status <= 599)
            or ("gateway-error" in conditions and 502 <= http_status <= 504)
            or ("retriable-4xx" in conditions and http_status == 409)
            or ("retriable-status-codes" in conditions and http_status in self.statuses)
        )

    def wait_s(self, retry: int, random: Random) -> float:
        """Before the n-th retry, from 1: anything up to the base doubled n - 1 times, so that retries do not march."""
        growth = min(2.0 ** min(retry - 1, 10), _BACKOFF_GROWTH_MAX)
        return random.random() * self.backoff_s * growth


DEFAULT_RETRIES = RetryPolicy()
"""What Istio sets where a file says nothing."""
