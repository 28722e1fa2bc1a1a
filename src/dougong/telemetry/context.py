"""Where in which trace the running code is: one context variable, followed by tasks and threads started with it."""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType

import msgspec

from dougong.telemetry.w3c import format_traceparent, parse_traceparent

__all__ = ["CURRENT", "Position", "TraceContext", "continue_trace", "current_trace", "traceparent"]


class TraceContext(msgspec.Struct, frozen=True):
    """Where in which trace we are; ids in lower-case hex, 32 and 16 digits."""

    trace_id: str
    span_id: str
    sampled: bool


class Position:
    """A place in a trace: a span of ours, or one in the process that called us. Ids are numbers until read."""

    __slots__ = ("_id", "_trace", "sampled")

    def __init__(self, trace: int, id: int, sampled: bool) -> None:  # noqa: A002 (the field's own term)
        self._trace = trace
        self._id = id
        self.sampled = sampled


CURRENT: ContextVar[Position | None] = ContextVar("dougong_trace", default=None)


class _Continued:
    """Context manager behind `continue_trace`."""

    __slots__ = ("_position", "_token")

    def __init__(self, position: Position | None) -> None:
        self._position = position
        self._token: Token[Position | None] | None = None

    def __enter__(self) -> None:
        self._token = CURRENT.set(self._position)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        assert token is not None, "entered once and left once"
        try:
            CURRENT.reset(token)
        except ValueError:
            pass  # left in another context than entered: see Span.__exit__


def continue_trace(traceparent: str) -> _Continued:
    """Make spans in the block children of the caller's span.

    Text that is no valid `traceparent` (or empty) starts a new trace with the next span, whatever was current before.
    """
    parsed = parse_traceparent(traceparent) if traceparent else None
    return _Continued(None if parsed is None else Position(*parsed))


def current_trace() -> TraceContext | None:
    """Where we are, or None outside of any span."""
    position = CURRENT.get()
    if position is None:
        return None
    return TraceContext(f"{position._trace:032x}", f"{position._id:016x}", position.sampled)


def traceparent() -> str:
    """What to send along so that the next process continues this trace; empty outside of any span."""
    position = CURRENT.get()
    if position is None:
        return ""
    return format_traceparent(position._trace, position._id, position.sampled)
