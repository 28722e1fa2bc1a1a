"""What becomes of a request: counted, given a line while the log has room, said to the client if it went wrong."""

from __future__ import annotations

from dougong.clock import Clock
from dougong.errors import Error, Internal
from dougong.http.access import LineBudget
from dougong.http.asgi import Reply
from dougong.http.exchange import Exchange
from dougong.http.problem import problem
from dougong.telemetry import get_logger, histogram

__all__ = ["CLIENT_GONE", "VERBS", "Account"]

VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE = 499  # never sent: what nginx's logs call a client that left
_LINES_PER_S = 20

_log = get_logger("dougong.http")
_duration = histogram(
    "http_server_request_duration_seconds",
    "How long requests took, by route.",
    labels=("method", "route", "status"),
)


class Account:
    """Of one front's requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._successes = LineBudget(_LINES_PER_S)
        self._failures = LineBudget(_LINES_PER_S * 5)
        self._faults = LineBudget(_LINES_PER_S)

    def problem(self, exchange: Exchange, error: Exception) -> Reply:
        """Note what went wrong, in full where only we read it, and say it to the client."""
        unforeseen = not isinstance(error, Error) or isinstance(error, Internal)
        if (
            unforeseen and self._faults.take(self._clock.monotonic()) >= 0
        ):  # a traceback per request would be a second fault
            _log.error("a request failed", route=exchange.template, request_id=exchange.request_id, exc_info=error)
        known = error if isinstance(error, Error) else Internal(f"{type(error).__name__}: {error}")
        exchange.error = known
        if known.http_status >= 500:
            exchange.span.fail(known)
        return Reply(*problem(known, request_id=exchange.request_id, trace_id=exchange.span.trace_id))

    def note(self, exchange: Exchange, began: float, ended: float) -> None:
        """Count the request, and give it a line if it went wrong or the log has room."""
        status = exchange.status or CLIENT_GONE
        verb = exchange.verb if exchange.verb in VERBS else "other"
        _duration.observe(ended - began, verb, exchange.template, str(status))
        error = exchange.error
        budget = self._successes if error is None else self._failures
        suppressed = budget.take(self._clock.monotonic())
        if suppressed < 0:
            return
        line = _log.warning if status >= 500 else _log.info
        line(
            "request",
            method=verb,
            route=exchange.template,
            status=status,
            ms=round((ended - began) * 1000, 2),
            request_id=exchange.request_id,
            **({"code": error.code, "reason": error.message[:200]} if error is not None else {}),
            **({"left_out": suppressed} if suppressed else {}),
        )
