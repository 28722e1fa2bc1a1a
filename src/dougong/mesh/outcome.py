"""What happened to a call, as whoever judges the host sees it: an HTTP status, and whose word that is.

Envoy judges by HTTP status. A failure of ours (nobody to connect to, no answer in time, a connection that broke) has
none, so it gets one. A gRPC status has one too, but Envoy only sees it where it stands in the headers of an answer
without a body; in trailers, where most of them are, it looks like 200. `Mode.ENHANCED` reads those as well.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from dougong.mesh.policy import Mode

__all__ = ["CONNECT_FAILED", "OK", "RESET", "TIMEOUT", "Origin", "Outcome", "of_grpc", "of_http"]


class Origin(Enum):
    """Whose word the status is."""

    ANSWERED = "answered"
    """The host sent it."""
    CONNECT_FAILED = "connect_failed"
    """There was no connection to be had."""
    RESET = "reset"
    """The connection broke before the answer."""
    TIMEOUT = "timeout"
    """No answer in time."""


class Outcome(msgspec.Struct, frozen=True):
    """Made once per status and shared: a call costs no allocation."""

    status: int
    """HTTP's."""
    local: bool = False
    """It is our word, not the host's."""
    origin: Origin = Origin.ANSWERED


OK = Outcome(200)
CONNECT_FAILED = Outcome(503, True, Origin.CONNECT_FAILED)
RESET = Outcome(503, True, Origin.RESET)
TIMEOUT = Outcome(504, True, Origin.TIMEOUT)

_ANSWERED = {status: Outcome(status) for status in range(100, 600)}
_ANSWERED[200] = OK

_HTTP_OF_GRPC = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
"""By gRPC code, 0 to 16, as Envoy has it; an unknown code is 500."""


def of_http(status: int) -> Outcome:
    """An answer with this status."""
    return _ANSWERED.get(status) or Outcome(status)


def of_grpc(code: int, mode: Mode = Mode.PARITY, *, in_trailers: bool = True) -> Outcome:
    """An answer with this gRPC status.

    `in_trailers` is false where it stood in the headers, because the answer is nothing but a status ("trailers only").
    """
    if in_trailers and mode is Mode.PARITY:
        return OK
    return _ANSWERED[_HTTP_OF_GRPC[code]] if 0 <= code < len(_HTTP_OF_GRPC) else _ANSWERED[500]
