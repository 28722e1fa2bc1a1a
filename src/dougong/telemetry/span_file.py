"""Spans as JSON lines on disk, written by one thread so that no request waits for a disk.

Between the two stands a bounded queue. When the disk is slower than the spans, or full, spans are dropped and counted:
telemetry gives way, never the work it watches.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dougong.telemetry.logs import get_logger
from dougong.telemetry.metrics import counter

if TYPE_CHECKING:
    from dougong.telemetry.spans import Span

__all__ = ["SpanFile"]

_FLUSH_S = 0.25
_QUEUE_MAX = 10_000
_CLOSE_S = 5.0
_PART = 100

_log = get_logger(__name__)
_DROPPED = counter("dougong_spans_dropped_total", "Recorded spans that the span file could not take.")


class SpanFile:
    """An append-only file of spans that is turned over to `NAME.1` when it reaches `bytes_max`."""

    def __init__(self, path: Path, *, service: str, bytes_max: int, queue_max: int = _QUEUE_MAX) -> None:
        self._path = path
        self._service = service
        self._bytes_max = bytes_max
        self._queue_max = queue_max
        self._queue: deque[Span] = deque()
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._descriptor = -1
        self._size = 0
        self._torn = False  # the last write stopped inside a line
        self._failing = False
        self.dropped = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dougong-spans", daemon=True)
        self._thread.start()

    def write(self, span: Span) -> None:
        """Queue a finished span; drops it when the queue is full."""
        if len(self._queue) >= self._queue_max:
            self._drop(1)
        else:
            self._queue.append(span)

    def close(self) -> None:
        """Write what is queued and end the thread. Waits at most a few seconds for a disk that hangs."""
        self._stop.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._stop.wait(_FLUSH_S):
            self._flush()
        self._flush()
        self._drop(len(self._queue))
        self._shut()

    def _flush(self) -> None:
        """Write what is queued, in small parts: each write lets the event loop's thread run."""
        while count := min(len(self._queue), _PART):
            # Only this thread takes, so what was counted is there.
            data = b"".join([self._line(self._queue.popleft()) for _ in range(count)])
            try:
                self._append(data)
            except OSError as error:
                self._drop(count)
                self._shut()
                if not self._failing:
                    _log.warning(
                        "spans are dropped: their file cannot be written", file=str(self._path), why=str(error)
                    )
                self._failing = True
                return  # the next turn tries again; meanwhile the queue fills, and then drops
            if self._failing:
                _log.info("spans are written again", file=str(self._path), dropped=self.dropped)
            self._failing = False

    def _drop(self, count: int) -> None:
        self.dropped += count
        _DROPPED.inc(count)

    def _append(self, data: bytes) -> None:
        if self._size >= self._bytes_max:
            self._shut()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        if self._descriptor < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._size = os.fstat(self._descriptor).st_size
        if self._torn:
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)
            self._size += written
            self._torn = written < len(rest)
            rest = rest[written:]

    def _shut(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._size = 0

    def _line(self, span: Span) -> bytes:
        record = {
            "service": self._service,
            "trace_id": span.trace_id,
            "span_id": span.span_id,
            "parent_id": span.parent_id,
            "name": span.name,
            "start_us": span.start_us,
            "duration_us": span.duration_us,
            "error": span.error,
            "attributes": span.attributes,
        }
        try:
            return self._encoder.encode(record) + b"\n"
        except (ValueError, TypeError):
            # Text with lone surrogates (a file name, a header) has no UTF-8 form.
            record["attributes"] = {key: ascii(value) for key, value in span.attributes.items()}
            record["error"], record["name"] = ascii(span.error), ascii(span.name)
            return self._encoder.encode(record) + b"\n"
