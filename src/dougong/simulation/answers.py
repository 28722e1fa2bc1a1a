"""What the ends of a simulated connection hear: the same errors as over gRPC or in memory."""

from __future__ import annotations

from dougong.errors import DeadlineExceeded, Error, Internal, Invalid, Unavailable, error_from
from dougong.rpc import Endpoint, Lost

__all__ = ["arrived", "check_size", "connect_failed", "connection_lost"]


def connect_failed(address: str) -> Lost:
    """Nobody listens there: surely nothing was done."""
    return Lost(
        Unavailable(f"no connection to {address}: nobody listens", code="connect_failed", address=address),
        started=False,
    )


def connection_lost(address: str, reason: str) -> Lost:
    """It broke on the way: outcome unknown."""
    return Lost(
        Unavailable(
            f"connection to {address} broke before the answer came ({reason}): outcome unknown",
            code="connection_lost",
            address=address,
        ),
        started=True,
    )


def arrived(error: BaseException) -> Exception:
    """What the other side raised, as it looks after a journey: a new object with only what travels."""
    if isinstance(error, Lost):
        return Lost(_again(error.error), started=error.started)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("time ran out on the server: outcome unknown")
    return _again(error if isinstance(error, Error) else Internal("the server failed"))


def check_size(message: bytes, endpoint: Endpoint) -> None:
    """`Invalid` for a message that the endpoint neither takes nor sends."""
    limit = endpoint.max_message_bytes
    if len(message) > limit:
        raise Invalid(f"message of {len(message)} bytes, at most {limit} are taken", code="message_too_large")


def _again(error: Error) -> Error:
    return error_from(error.family, error.code, error.message, dict(error.fields), error.retry_after_s)
