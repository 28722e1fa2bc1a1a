"""What every served call has in common: it is counted, timed, and fails only in terms of the error tree."""

from __future__ import annotations

from dougong.errors import DeadlineExceeded, Error, Internal
from dougong.telemetry import counter, get_logger, histogram

__all__ = ["as_error", "count_calls", "not_encodable", "observe"]

_log = get_logger("dougong.rpc")
count_calls = counter(
    "dougong_rpc_served_total", "Requests answered, items of batches included.", ("method", "code")
).inc
observe = histogram("dougong_rpc_served_seconds", "Time to answer a call or a batch.", labels=("method",)).observe


def as_error(path: str, error: Exception) -> Error:
    """What a caller is told about an exception nobody meant to raise: that it happened, never what it said."""
    if isinstance(error, Error):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"{path} did not finish in time: outcome unknown")
    _log.error("method_failed", method=path, exc_info=error)
    return Internal(f"{path} failed; the server's log has the reason under this trace id")


def not_encodable(path: str, error: Exception) -> Error:
    """The method returned what its contract cannot carry: our fault, whatever family the codec puts it in."""
    _log.error("reply_not_encodable", method=path, exc_info=error)
    return Internal(f"{path} answered something that cannot be sent", code="not_encodable")
