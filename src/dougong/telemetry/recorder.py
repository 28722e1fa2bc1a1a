"""The ring of finished spans: always there, never larger than agreed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dougong.telemetry.span_file import SpanFile
    from dougong.telemetry.spans import Span

__all__ = ["Recorder"]


class Recorder:
    """Keeps the last `limit` finished spans, oldest first."""

    __slots__ = ("_ring", "file", "recorded")

    def __init__(self, limit: int = 4096) -> None:
        self._ring: deque[Span] = deque(maxlen=limit)
        self.recorded = 0
        """How many spans were ever recorded."""
        self.file: SpanFile | None = None

    def add(self, span: Span) -> None:
        self._ring.append(span)
        self.recorded += 1
        if self.file is not None:
            self.file.write(span)

    def spans(self, trace_id: str = "") -> list[Span]:
        """What is kept, in the order in which it ended; with `trace_id`, of that trace only."""
        kept = list(self._ring)
        if not trace_id:
            return kept
        return [span for span in kept if span.trace_id == trace_id]

    def clear(self) -> None:
        self._ring.clear()

    def resize(self, limit: int) -> None:
        """Keep up to `limit` spans from now on; the newest of those already here stay."""
        self._ring = deque(self._ring, maxlen=limit)

    @property
    def limit(self) -> int:
        limit = self._ring.maxlen
        assert limit is not None
        return limit

    @property
    def dropped(self) -> int:
        """Spans the current file could not take; 0 without a file."""
        return self.file.dropped if self.file is not None else 0

    def __len__(self) -> int:
        return len(self._ring)
