"""Faults on purpose: which call is delayed, which is answered with an error before it is sent.

Delay and abort are independent of each other, and a call may get both: first it waits, then it fails, as in Envoy.
"""

from __future__ import annotations

from random import Random

import msgspec

__all__ = ["NOTHING", "Abort", "Fault", "Injected", "decide", "drawn", "grpc_status_of"]

_MILLION = 1_000_000
_GRPC_STATUSES = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


class Abort(msgspec.Struct, frozen=True):
    """What the caller sees instead of an answer: an HTTP status, or a gRPC status where that is 0."""

    http_status: int = 0
    grpc_status: int = 0

    @property
    def seen_as(self) -> int:
        """The gRPC status that an RPC ends with."""
        return grpc_status_of(self.http_status) if self.http_status else self.grpc_status


class Fault(msgspec.Struct, frozen=True):
    """Shares are percent of calls, down to a ten-thousandth."""

    delay_s: float = 0.0
    delay_percent: float = 0.0
    abort: Abort | None = None
    abort_percent: float = 0.0


class Injected(msgspec.Struct, frozen=True):
    """What happens to one call."""

    delay_s: float = 0.0
    abort: Abort | None = None


NOTHING = Injected()


def grpc_status_of(http_status: int) -> int:
    """What an RPC ends with when it is answered by HTTP alone: gRPC's own table, 404 (no route) among it."""
    return _GRPC_STATUSES.get(http_status, 2)


def decide(fault: Fault | None, random: Random) -> Injected:
    """For one call; a retry of it is not asked again."""
    if fault is None:
        return NOTHING
    delayed = fault.delay_s > 0.0 and drawn(fault.delay_percent, random)
    aborted = fault.abort is not None and drawn(fault.abort_percent, random)
    if not delayed and not aborted:
        return NOTHING
    return Injected(fault.delay_s if delayed else 0.0, fault.abort if aborted else None)


def drawn(percent: float, random: Random) -> bool:
    """Whether this call is among them. Istio hands Envoy whole millionths, cut off, so 0.00001 percent is nobody."""
    millionths = int(percent * 10_000)
    return millionths >= _MILLION or (millionths > 0 and random.random() * _MILLION < millionths)
