"""Light spans: one slotted object each, ids as integers, text made only when somebody reads it.

Sampling is decided at the head of a trace from the trace id itself, by the rule OpenTelemetry calls consistent
probability sampling: the id's low 56 bits are random, and a trace is kept when they are at or above
`(1 - ratio) * 2**56`. Processes with the same ratio therefore agree even where a header got lost. Errors do not ask.
"""

from __future__ import annotations

import atexit
import os
import random
import time
from contextvars import Token
from pathlib import Path
from types import TracebackType
from typing import Self

from dougong.errors import Error, Invalid
from dougong.telemetry.context import CURRENT, Position
from dougong.telemetry.metrics import PROCESS, counter
from dougong.telemetry.recorder import Recorder
from dougong.telemetry.span_file import SpanFile

__all__ = ["Span", "close_tracing", "configure_tracing", "recorder", "span"]

Scalar = str | int | float | bool

_RANDOM_BITS = (1 << 56) - 1
_ERROR_CHARS_MAX = 500

# An own generator: whoever seeds the global one (tests, simulations) must not make two processes draw the same ids.
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)
_draw = _random.getrandbits


_recorder = Recorder()
_RECORDED = counter("dougong_spans_recorded_total", "Spans recorded: sampled ones and those that ended with an error.")
PROCESS.before_render(lambda: _RECORDED.inc(max(0.0, _recorder.recorded - _RECORDED.value())))
_threshold = 0  # low 56 bits of a trace id must reach this for the trace to be sampled; 0: all are


class Span(Position):
    """Something that takes time. Made by `span(...)`, entered once with `with`, a plain record afterwards."""

    __slots__ = ("_ended_ns", "_parent", "_started_ns", "_token", "attributes", "error", "failed", "name", "start_ns")

    def __init__(self, name: str, attributes: dict[str, Scalar]) -> None:
        self.name = name
        self.attributes = attributes
        self.error = ""
        """What went wrong, or empty."""
        self.failed = False
        """Ended with an error: recorded even when its trace is not sampled."""
        self._ended_ns = 0
        self._token: Token[Position | None] | None = None

    def __enter__(self) -> Self:
        parent = CURRENT.get()
        if parent is None:
            self._trace = trace = _draw(128)
            self._parent = 0
            self.sampled = trace & _RANDOM_BITS >= _threshold
        else:
            self._trace = parent._trace
            self._parent = parent._id
            self.sampled = parent.sampled
        self._id = _draw(64)
        self._token = CURRENT.set(self)
        self.start_ns = time.time_ns()
        self._started_ns = time.perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended_ns = time.perf_counter_ns()
        token = self._token
        assert token is not None, "a span is entered once and left once"
        # The token knows the span before this one: kept, it would chain every recorded span to all of its ancestors.
        self._token = None
        try:
            CURRENT.reset(token)
        except ValueError:
            # Left in another context than entered, as when the event loop closes an abandoned async generator. The
            # context that was entered is gone; this one was never ours to change.
            pass
        if error is not None:
            self._note(error)
        if self.sampled or self.failed:
            _recorder.add(self)

    def set(self, key: str, value: Scalar) -> None:
        """Add or replace an attribute. Values that identify people or hold secrets do not belong here."""
        self.attributes[key] = value

    def fail(self, error: BaseException) -> None:
        """Mark the span as failed where the error is answered rather than raised (a reply, a batch item)."""
        self._note(error)

    def _note(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self.failed = True
            self.error = _text(error)
        else:
            # Cancelled, or the process ends: worth a word, not an error that must be kept.
            self.error = type(error).__name__

    @property
    def trace_id(self) -> str:
        return f"{self._trace:032x}"

    @property
    def span_id(self) -> str:
        return f"{self._id:016x}"

    @property
    def parent_id(self) -> str:
        """Empty for the first span of a trace."""
        return f"{self._parent:016x}" if self._parent else ""

    @property
    def start_us(self) -> int:
        """UTC, microseconds since 1970."""
        return self.start_ns // 1000

    @property
    def duration_us(self) -> int:
        """0 while the span is still open."""
        return (self._ended_ns - self._started_ns) // 1000 if self._ended_ns else 0

    def __repr__(self) -> str:
        return f"<Span {self.name!r} {self.trace_id}/{self.span_id} {self.duration_us} us{self.error and ' failed'}>"


def span(name: str, /, **attributes: Scalar) -> Span:
    """Time a piece of work: `with span("orders.place", items=3) as current: ...`.

    The span is current inside the block, also in tasks started there. An exception that leaves the block is noted, the
    span recorded, and the exception goes on. Names are few and fixed (a route, not a URL); values go into attributes.
    """
    return Span(name, attributes)


def recorder() -> Recorder:
    """Where this process's finished spans are."""
    return _recorder


def configure_tracing(
    service: str,
    *,
    ratio: float = 1.0,
    ring: int = 4096,
    file: Path | None = None,
    file_bytes_max: int = 64 * 1024 * 1024,
) -> None:
    """Say what share of traces started here is sampled (`ratio`, 0 to 1), how many spans are kept and where.

    `file` gets one JSON object per line, written by a thread of its own and turned over to `NAME.1` when it reaches
    `file_bytes_max`. What the thread cannot write is dropped and counted, never waited for. May be called again;
    `close_tracing` ends it.
    """
    global _threshold
    if not 0.0 <= ratio <= 1.0:
        raise Invalid(f"the sampling ratio is {ratio}; it must be from 0 (errors only) to 1 (all)", code="bad_ratio")
    if ring < 1:
        raise Invalid(f"the span ring has room for {ring} spans; it must have room for at least 1", code="bad_ring")
    close_tracing()
    _threshold = round((1.0 - ratio) * (_RANDOM_BITS + 1))
    _recorder.resize(ring)
    _recorder.file = None if file is None else SpanFile(file, service=service, bytes_max=file_bytes_max)


@atexit.register
def close_tracing() -> None:
    """Write what waits for the span file and close it. The ring stays readable."""
    file, _recorder.file = _recorder.file, None
    if file is not None:
        file.close()


def _text(error: Exception) -> str:
    try:
        text = str(error) if isinstance(error, Error) else f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (somebody's __str__ is broken; that must not replace the error itself)
        text = type(error).__name__
    return text[:_ERROR_CHARS_MAX]
